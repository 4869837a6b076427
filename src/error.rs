//! One error for callers that run all stages.

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
use crate::quantize::{ConvertError, ObserverError, PrepareError, ToIntegerError};
use crate::values::{QParamsError, TensorError};

/// The union of the stage errors; every message is that of its stage.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[error(transparent)]
pub enum Error {
    /// A tensor of the wrong length.
    Tensor(#[from] TensorError),
    /// Quantization parameters that are not usable.
    QParams(#[from] QParamsError),
    /// A graph that is not valid.
    Graph(#[from] GraphError),
    /// A run of a graph.
    Interp(#[from] InterpError),
    /// Observing one tensor.
    Observer(#[from] ObserverError),
    /// Preparing and calibrating.
    Prepare(#[from] PrepareError),
    /// Converting.
    Convert(#[from] ConvertError),
    /// Rewriting into integers.
    ToInteger(#[from] ToIntegerError),
    /// Training.
    Qat(#[from] QatError),
    /// Comparing two graphs.
    Compare(#[from] CompareError),
    /// Saving and loading.
    Archive(#[from] ArchiveError),
    /// Importing.
    #[cfg(feature = "onnx")]
    Onnx(#[from] OnnxError),
    /// Lowering.
    Lower(#[from] LowerError),
    /// A program that is not valid.
    Program(#[from] ProgramError),
    /// The CPU engine.
    Cpu(#[from] CpuError),
    /// Exporting to ONNX.
    #[cfg(feature = "onnx")]
    Export(#[from] ExportError),
    /// The GPU engine.
    #[cfg(feature = "gpu")]
    Gpu(#[from] GpuError),
}
