//! The union of all errors, for callers that run several stages.

use crate::archive::ArchiveError;
#[cfg(feature = "flow")]
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
#[cfg(feature = "flow")]
use crate::qat::QatError;
#[cfg(feature = "flow")]
use crate::quantize::accuracy::AccuracyError;
#[cfg(feature = "flow")]
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
    #[cfg(feature = "flow")]
    Observer(#[from] ObserverError),
    /// The error of preparing and calibrating.
    #[cfg(feature = "flow")]
    Prepare(#[from] PrepareError),
    /// The error of converting.
    #[cfg(feature = "flow")]
    Convert(#[from] ConvertError),
    /// The error of rewriting a graph into its integer form.
    #[cfg(feature = "flow")]
    ToInteger(#[from] ToIntegerError),
    /// The error of training.
    #[cfg(feature = "flow")]
    Qat(#[from] QatError),
    /// The error of a pass for accuracy.
    #[cfg(feature = "flow")]
    Accuracy(#[from] AccuracyError),
    /// The error of comparing two graphs.
    #[cfg(feature = "flow")]
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
