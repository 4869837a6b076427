//! The union of all errors, for callers that run several stages.

use crate::archive::ArchiveError;
use crate::compare::CompareError;
use crate::cpu::CpuError;
#[cfg(feature = "gpu")]
use crate::gpu::GpuError;
use crate::graph::GraphError;
use crate::interp::InterpError;
use crate::lower::LowerError;
#[cfg(feature = "onnx")]
use crate::onnx::{ExportError, OnnxError};
use crate::program::ProgramError;
use crate::qat::QatError;
use crate::quantize::accuracy::AccuracyError;
use crate::quantize::{ConvertError, ObserverError, PrepareError, ToIntegerError};
use crate::values::{QParamsError, TensorError};

/// The union of the errors of all stages. A message is that of the stage.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[error(transparent)]
pub enum Error {
    /// The error of making a tensor.
    Tensor(#[from] TensorError),
    /// The error of quantization parameters that are not usable.
    QParams(#[from] QParamsError),
    /// The error of building or checking a graph.
    Graph(#[from] GraphError),
    /// The error of running a graph.
    Interp(#[from] InterpError),
    /// The error of an observer.
    Observer(#[from] ObserverError),
    /// The error of preparing and calibrating.
    Prepare(#[from] PrepareError),
    /// The error of converting.
    Convert(#[from] ConvertError),
    /// The error of rewriting a graph into its integer form.
    ToInteger(#[from] ToIntegerError),
    /// The error of training.
    Qat(#[from] QatError),
    /// The error of a pass for accuracy.
    Accuracy(#[from] AccuracyError),
    /// The error of comparing two graphs.
    Compare(#[from] CompareError),
    /// The error of saving and loading.
    Archive(#[from] ArchiveError),
    /// The error of importing from ONNX.
    #[cfg(feature = "onnx")]
    Onnx(#[from] OnnxError),
    /// The error of lowering.
    Lower(#[from] LowerError),
    /// The error of checking a program.
    Program(#[from] ProgramError),
    /// The error of the CPU engine.
    Cpu(#[from] CpuError),
    /// The error of exporting to ONNX.
    #[cfg(feature = "onnx")]
    Export(#[from] ExportError),
    /// The error of the GPU engine.
    #[cfg(feature = "gpu")]
    Gpu(#[from] GpuError),
}
