//! Convert: replaces observers by quantize and dequantize nodes, and weights by int8 constants.

use std::collections::HashMap;

use super::fold;
use super::observer::{Observer, ObserverError};
use super::prepare::PreparedGraph;
use super::spec::{ObservedSpec, QuantizationSpec};
use super::to_integer::{ToIntegerError, to_integer};
use crate::graph::{Graph, GraphError, NodeId, Rewriter};
use crate::ops::{ChooseQParams, Dequantize, DequantizeDynamic, Observe, ObserverId, Op, Quantize, QuantizeDynamic};
use crate::values::{QuantRange, TensorQParams};

/// Options of [`convert`].
///
/// ```
/// use enfold::ConvertOptions;
///
/// // Integers at once, as PyTorch's flag of this name: `to_integer` does the same afterwards.
/// let options = ConvertOptions { use_reference_representation: true, ..ConvertOptions::default() };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Whether the quantize node of a constant is replaced by an int8 constant. On by default.
    pub fold_quantize: bool,
    /// Whether the result is rewritten into integers by [`to_integer()`]. Off by default.
    pub use_reference_representation: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { fold_quantize: true, use_reference_representation: false }
    }
}

/// A prepared graph could not be converted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// An observer has observed nothing, or its statistics give no usable qparams.
    #[error("{node}: {source} ({batches} batches observed)")]
    Observer {
        /// The observed node.
        node: String,
        /// The problem.
        source: ObserverError,
        /// The number of batches that were observed.
        batches: u64,
    },
    /// The converted graph is not valid.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The integer form could not be made.
    #[error(transparent)]
    ToInteger(#[from] ToIntegerError),
}

/// Replaces every observer by a quantize and a dequantize node (Q/DQ). Each annotated consumer gets a dequantize node of its own, so that
/// a layer and its dequantize nodes can be matched without looking at other layers.
///
/// ```
/// # use enfold::{GraphBuilder, Shape, Tensor};
/// # use enfold::quantize::{QuantizationConfig, WgpuQuantizer, prepare};
/// # let mut g = GraphBuilder::new();
/// # let x = g.input("x", Shape::rows(2))?;
/// # let y = g.linear("fc", x, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
/// # let graph = g.finish([y])?;
/// # let batch = Tensor::from_f32(&[2, 2], vec![1.0, -1.0, 0.3, 0.7])?;
/// use enfold::interp::Interpreter;
/// use enfold::quantize::{ConvertOptions, convert};
///
/// let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric()))?;
/// prepared.observe(&[&batch])?;
/// let quantized = convert(&prepared, &ConvertOptions::default())?;
/// // The graph still takes and gives floats, and runs in the interpreter.
/// let y = Interpreter::new(&quantized).run(&[&batch])?;
/// # assert_eq!(y[0].shape(), [2, 2]);
/// # Ok::<(), enfold::Error>(())
/// ```
///
/// # Errors
/// [`ConvertError::Observer`] names the first value that was never observed or whose range is not usable;
/// [`ConvertError::ToInteger`] with `use_reference_representation`, for a constant that cannot be evaluated.
pub fn convert(prepared: &PreparedGraph, options: &ConvertOptions) -> Result<Graph, ConvertError> {
    let conversions = conversions(prepared)?;
    let mut graph = quantize_dequantize(prepared, &conversions)?;
    if options.fold_quantize {
        graph = fold::fold_quantize(&graph)?;
    }
    if options.use_reference_representation {
        graph = to_integer(&graph)?;
    }
    Ok(graph)
}

/// The quantization of an observed value.
#[derive(Debug, Clone)]
enum Conversion {
    Static(TensorQParams, QuantRange),
    Dynamic(ObservedSpec),
}

fn conversions(prepared: &PreparedGraph) -> Result<Vec<Conversion>, ConvertError> {
    let qparams = prepared.calculate_qparams().map_err(|(at, source)| {
        let node = prepared.observed(ObserverId(at)).to_owned();
        ConvertError::Observer { node, source, batches: prepared.batches() }
    })?;
    let conversion = |(observer, qparams): (&Observer, Option<TensorQParams>)| match (observer.spec(), qparams) {
        (QuantizationSpec::Observed(spec), None) => Conversion::Dynamic(*spec),
        (_, Some(qparams)) => Conversion::Static(qparams, observer.range()),
        // Derived qparams are known, or an error.
        (_, None) => unreachable!("only observed specs may be dynamic"),
    };
    Ok(prepared.observers().iter().zip(qparams).map(conversion).collect())
}

/// A quantized value, from which consumers make their dequantize.
struct Quantized {
    /// The value before it was quantized.
    value: NodeId,
    quantized: NodeId,
    /// The dynamic qparams of a dynamically quantized value, which has one dequantize node.
    dynamic: Option<NodeId>,
}

fn quantize_dequantize(prepared: &PreparedGraph, conversions: &[Conversion]) -> Result<Graph, ConvertError> {
    let graph = prepared.graph();
    let mut rewriter = Rewriter::new(graph);
    let mut quantized: HashMap<NodeId, (Quantized, &Conversion)> = HashMap::new();
    let (users, outputs) = (graph.users(), graph.output_flags());
    for (id, node) in graph.iter() {
        if let Op::Observe(Observe { observer }) = node.op {
            let conversion = &conversions[observer.0];
            let value = rewriter.get(node.inputs[0])?;
            let name = &graph.node(node.inputs[0]).name;
            let stem = name.strip_suffix(".observe").unwrap_or(name);
            let mut add =
                |suffix: &str, op, inputs| rewriter.add(&format!("{stem}.{suffix}"), op, inputs, &node.origin);
            let entry = match conversion {
                Conversion::Static(qparams, range) => {
                    let op = Op::Quantize(Quantize::new(qparams.clone(), *range));
                    Quantized { value, quantized: add("quantize", op, vec![value])?, dynamic: None }
                }
                Conversion::Dynamic(ObservedSpec { qscheme, range, eps, .. }) => {
                    let op = Op::ChooseQParams(ChooseQParams { qscheme: *qscheme, range: *range, eps: *eps });
                    let qparams = add("choose_qparams", op, vec![value])?;
                    let quantized =
                        add("quantize", Op::QuantizeDynamic(QuantizeDynamic { range: *range }), vec![value, qparams])?;
                    Quantized { value, quantized, dynamic: Some(qparams) }
                }
            };
            let dq = dequantize(&mut rewriter, stem, &node.origin, &entry, conversion)?;
            rewriter.replace(id, dq);
            quantized.insert(id, (entry, conversion));
            continue;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            let read_elsewhere = users[input.index()].len() > 1 || outputs[input.index()];
            let own = prepared.is_annotated(id) && read_elsewhere;
            inputs.push(match quantized.get(&input) {
                Some((entry, conversion)) if own && entry.dynamic.is_none() => {
                    let (name, origin) = (rewriter.node(entry.value).name.clone(), graph.node(input).origin.clone());
                    let stem = name.strip_suffix(".dequantize").unwrap_or(&name);
                    dequantize(&mut rewriter, stem, &origin, entry, conversion)?
                }
                _ => rewriter.get(input)?,
            });
        }
        rewriter.copy_with(id, inputs)?;
    }
    Ok(rewriter.finish()?)
}

fn dequantize(
    rewriter: &mut Rewriter<'_>,
    stem: &str,
    origin: &str,
    quantized: &Quantized,
    conversion: &Conversion,
) -> Result<NodeId, GraphError> {
    let mut inputs = vec![quantized.quantized];
    inputs.extend(quantized.dynamic);
    let op = match conversion {
        Conversion::Static(qparams, _) => Op::Dequantize(Dequantize { qparams: qparams.clone() }),
        Conversion::Dynamic(_) => Op::DequantizeDynamic(DequantizeDynamic),
    };
    rewriter.add(&format!("{stem}.dequantize"), op, inputs, origin)
}
