//! Lowering: the conversion of an integer graph to a [`Program`].
//!
//! A node becomes a step. An accumulator and the node that requantizes or scales it become one step together. `lower` never looks for
//! quantize/dequantize patterns: [`to_integer()`](crate::quantize::to_integer()) has decided which nodes have no integer form, and
//! those become float steps. Float graphs can be lowered, too. Graph passes first decompose operators that have no step, and give images
//! the layout of programs, with the channels last. Values that
//! depend on constants only are computed once.

mod constants;
mod decompose;
mod error;
mod layout;
mod lowering;

use crate::graph::{Graph, NodeId};
use crate::program::Program;

use self::lowering::Lowering;

pub use self::error::LowerError;

/// The element types of a program's inputs and outputs.
///
/// ```
/// use enfold::lower::{LowerOptions, lower_with};
/// use enfold::ops::Quantize;
/// use enfold::program::ValueType;
/// use enfold::values::{QParams, QuantRange};
/// use enfold::{GraphBuilder, Shape};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(4))?;
/// let quantize = Quantize::new(QParams::new(0.1, 0)?, QuantRange::INT8);
/// let q = g.node("q", quantize, &[x])?;
/// let y = g.reshape("y", q, &[2, 2])?;
/// let graph = g.finish([y])?;
///
/// // By default, the program quantizes its float input.
/// let program = lower_with(&graph, &LowerOptions::default())?;
/// assert_eq!(program.value(program.inputs()[0]).value_type, ValueType::F32);
/// // The caller can provide quantized values instead.
/// let program = lower_with(&graph, &LowerOptions { int8_inputs: true, ..LowerOptions::default() })?;
/// assert_eq!(program.value(program.inputs()[0]).value_type, ValueType::I8);
/// # Ok::<(), enfold::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LowerOptions {
    /// Whether an input that all its readers quantize with the same qparams is int8, so that chained models skip a round trip through
    /// float. By default, inputs are float.
    pub int8_inputs: bool,
    /// Whether an output that is dequantized for the caller only is int8. By default, outputs are float.
    pub int8_outputs: bool,
    /// Whether float outputs are f16, rounded to nearest with ties to even, which halves their size. By default, they are `f32`.
    pub f16_outputs: bool,
    /// Whether float inputs are f16, which halves their size. Each is converted to `f32` first, exactly. By default, they are `f32`.
    pub f16_inputs: bool,
}

/// Lowers an integer graph to a program with float inputs and outputs.
///
/// ```
/// use enfold::lower::lower;
/// use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let h = g.linear("fc", x, Tensor::from_f32(&[3, 2], vec![0.5, -1.0, 0.25, 0.75, -0.5, 1.0])?, None)?;
/// let y = g.relu("y", h)?;
/// let graph = g.finish([y])?;
///
/// let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
/// let mut prepared = prepare(&graph, &quantizer)?;
/// prepared.observe(&[Tensor::from_f32(&[2, 2], vec![1.0, 0.2, -0.4, 0.9])?])?;
/// let integers = to_integer(&convert(&prepared, &ConvertOptions::default())?)?;
///
/// let program = lower(&integers)?;
/// let steps: Vec<&str> = program.steps().iter().map(|step| step.op.name()).collect();
/// // The ReLU is fused into the requantization of the layer.
/// assert_eq!(steps, ["quantize_per_tensor", "linear_i8_i8", "dequantize_per_tensor"]);
/// # Ok::<(), enfold::Error>(())
/// ```
///
/// # Errors
/// Returns [`LowerError::Unsupported`], which lists all nodes that no step can compute, each with the reason.
pub fn lower(graph: &Graph) -> Result<Program, LowerError> {
    lower_with(graph, &LowerOptions::default())
}

/// Lowers an integer graph to a program, with a choice of the types of inputs and outputs.
///
/// # Errors
/// Returns the errors of [`lower`].
pub fn lower_with(graph: &Graph, options: &LowerOptions) -> Result<Program, LowerError> {
    let total = graph.nodes().len();
    let graph = &layout::channels_last(&decompose::decompose(graph)?)?;
    let all: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
    let known = constants::known(graph, &all)?;
    let mut lowering = Lowering::new(graph, *options, known);
    for (id, node) in graph.iter() {
        lowering.node(id, node);
    }
    lowering.finish(total)
}
