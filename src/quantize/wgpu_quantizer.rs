//! The quantizer for the engines of this crate, with the rules of the XNNPACK quantizer.

mod facts;
mod filter;
mod islands;
mod patterns;

use std::fmt;
use std::sync::Arc;

use self::filter::{Scope, Scopes};
use self::patterns::{Marks, Rules};
use super::annotation::Annotations;
use super::config::QuantizationConfig;
use super::prepare::PrepareError;
use super::quantizer::Quantizer;
use crate::graph::{Graph, Node, Rewriter};
use crate::ops::{Add, AddScalar, Constant, Input, Mul, MulScalar, Op};
use crate::values::Tensor;

type Filter = Arc<dyn Fn(&Node) -> bool + Send + Sync>;

/// A quantizer that annotates linear layers, sums, products and concatenations, with or without a ReLU after them. Operators that
/// move or clip quantized values share their qparams.
///
/// ```
/// use enfold::quantize::{QuantizationConfig, WgpuQuantizer, prepare};
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let weight = || Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9]);
/// let h = g.linear("blocks.0.fc", x, weight()?, None)?;
/// let h = g.relu("blocks.0.relu", h)?;
/// let y = g.linear("head", h, weight()?, None)?;
/// let graph = g.finish([y])?;
///
/// // 8 bits everywhere, 4 bits for the weights of the first block, and a head in float.
/// let config = QuantizationConfig::symmetric().per_channel();
/// let range = enfold::values::QuantRange::new(-7, 7).map_err(|e| e.to_string())?;
/// let quantizer = WgpuQuantizer::new()
///     .set_global(config.clone())
///     .set_module_name("blocks.0", config.weight_range(range))
///     .set_module_name("head", None);
/// let summary = prepare(&graph, &quantizer)?.summary().clone();
/// assert_eq!(summary.quantized.len(), 2);
/// assert_eq!(summary.float[0].name, "head");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **Configurations.** A node gets the configuration of the first module name that it belongs to, else of the first module type, else of
/// its operator type, else the global one. Nodes in a named module or type never fall through to the latter two. `None` instead of a
/// configuration leaves the nodes in float. A name covers the node or module of that name and all below it: "blocks.0" covers
/// "blocks.0.fc1".
///
/// A node that has a reason to stay in float already ([`Node::float_reason`](crate::graph::Node)), as smoothing gives, stays in float whatever
/// covers it.
///
/// **Patterns.** They are tried in this order, and none changes a node that an earlier one has annotated:
/// - linear + ReLU: inputs are annotated on the linear node, the output on the ReLU, so that nothing is rounded between them.
///   The ReLU must be the only reader of the layer, and both must belong to the module.
/// - linear.
/// - convolution + ReLU or another clamp, convolution, and both of transposed convolutions. The operator types are `"conv"` and
///   `"conv_transpose"`, the module types PyTorch's: `"Conv1d"`, `"Conv2d"`, `"ConvTranspose1d"` and `"ConvTranspose2d"`. Scales per channel
///   are those of output channels, unless a transposed convolution has groups: then it has one scale.
/// - average pool.
/// - matmul of two activations, if [asked for](Self::quantize_matmul). A dynamic configuration applies no further pattern.
/// - add + ReLU, add, mul + ReLU, mul.
/// - concat: its inputs and its output share one observer.
/// - ReLU, max pool and operators that move elements (reshape, transpose, slice, pad, index select and others) after any quantized output,
///   whose observer they share.
///
/// **Sums and products that stay float**: those with a one-element constant that is out of all proportion, those with an input that is
/// computed from integers and constants only, which is a mask, and those that only compute the scores of a softmax. Beside a mask of
/// −10⁹, the scores themselves would be quantized to 0.
#[derive(Clone, Default)]
pub struct WgpuQuantizer {
    global: Option<QuantizationConfig>,
    scopes: Scopes,
    filter: Option<Filter>,
    rules: Rules,
    float_islands: bool,
}

impl fmt::Debug for WgpuQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WgpuQuantizer")
            .field("global", &self.global)
            .field("scopes", &self.scopes)
            .field("filter", &self.filter.is_some())
            .field("rules", &self.rules)
            .field("float_islands", &self.float_islands)
            .finish()
    }
}

impl WgpuQuantizer {
    /// Creates a quantizer without a configuration, which quantizes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the configuration for every node that no other covers.
    #[must_use]
    pub fn set_global(mut self, config: QuantizationConfig) -> Self {
        self.global = Some(config);
        self
    }

    /// Sets the configuration for a node or module by name, and all below it; `None` leaves it in float.
    #[must_use]
    pub fn set_module_name(mut self, name: &str, config: impl Into<Option<QuantizationConfig>>) -> Self {
        self.scopes.push(Scope::Name(name.to_owned()), config.into());
        self
    }

    /// Sets the configuration for all modules of a type (see [`GraphBuilder::module`](crate::GraphBuilder::module)); `None` leaves
    /// them in float.
    #[must_use]
    pub fn set_module_type(mut self, module_type: &str, config: impl Into<Option<QuantizationConfig>>) -> Self {
        self.scopes.push(Scope::Type(module_type.to_owned()), config.into());
        self
    }

    /// Sets the configuration for all operators with this [`Op::name`], such as "linear" or "add"; `None` leaves them in float.
    #[must_use]
    pub fn set_operator_type(mut self, op: &str, config: impl Into<Option<QuantizationConfig>>) -> Self {
        self.scopes.push(Scope::Operator(op.to_owned()), config.into());
        self
    }

    /// Sets a filter: only patterns whose nodes all pass it are quantized.
    #[must_use]
    pub fn set_filter_function(mut self, filter: impl Fn(&Node) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Sets whether convolutions and their neighbours are quantized as PyTorch's XNNPACK quantizer does. Off by default. With it, a
    /// transposed convolution without a ReLU, means over sliding windows, linear resizes, and the second convolution with a shared weight stay float; the
    /// weight of a transposed convolution has a scale for each *input* channel if scales are per channel (then it has no integer form);
    /// a mean shares the observer of its image; the inputs of a concatenation and its result share one observer; and clamps but ReLU share the observer of their input instead of being part of a layer.
    /// Scales are those of the configuration: XNNPACK's smallest one of weights is
    /// [`smallest_weight_scale(EPS)`](crate::quantize::QuantizationConfig::smallest_weight_scale).
    /// Operators that PyTorch's quantizer does not know, such as pads and selected elements, share observers as without it.
    #[must_use]
    pub fn xnnpack_compatible(mut self, compatible: bool) -> Self {
        self.rules.as_xnnpack = compatible;
        self
    }

    /// Sets whether products of two activations are quantized too, statically or dynamically as their configuration says. Off by
    /// default.
    #[must_use]
    pub fn quantize_matmul(mut self, matmul: bool) -> Self {
        self.rules.matmul = matmul;
        self
    }

    /// Sets whether values that only float nodes read stay float, such as the sum before a layer norm or the output of a layer before a
    /// softmax. No integer step is lost, since the value would be dequantized at once, and the accuracy is kept; transformers need it.
    /// Values that only pass through to an output, such as a cache that is concatenated with new rows, stay float too. Off by default,
    /// since PT2E quantizes every output.
    #[must_use]
    pub fn float_islands(mut self, float_islands: bool) -> Self {
        self.float_islands = float_islands;
        self
    }
}

impl Quantizer for WgpuQuantizer {
    /// Replaces the numbers of `add_scalar` and `mul_scalar` by constants, so that they can be quantized too.
    fn transform_for_annotation(&self, graph: &Graph) -> Result<Graph, PrepareError> {
        let mut rewriter = Rewriter::new(graph);
        for (id, node) in graph.iter() {
            let (op, value) = match node.op {
                Op::AddScalar(AddScalar { value }) => (Op::Add(Add), value),
                Op::MulScalar(MulScalar { value }) => (Op::Mul(Mul), value),
                _ => {
                    rewriter.copy(id)?;
                    continue;
                }
            };
            let name = format!("{}.scalar", node.name);
            let constant = Constant::new(Tensor::from(ndarray::arr0(value)));
            let constant = rewriter.add(&name, constant, Vec::new(), &node.origin)?;
            let input = rewriter.get(node.inputs[0])?;
            let new = rewriter.add(&node.name, op, vec![input, constant], &node.origin)?;
            rewriter.replace(id, new);
        }
        Ok(rewriter.finish()?)
    }

    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        self.annotate_more(graph, &mut annotations)?;
        Ok(annotations)
    }

    fn annotate_more(&self, graph: &Graph, annotations: &mut Annotations) -> Result<(), PrepareError> {
        if let Some(global) = &self.global {
            global.check("the global configuration")?;
        }
        self.scopes.check()?;
        self.scopes.check_matches(graph)?;
        let passes = |node: &Node| self.filter.as_ref().is_none_or(|filter| filter(node));
        let computes = |node: &&Node| !matches!(node.op, Op::Input(Input) | Op::Constant(_));
        if self.filter.is_some() && !graph.nodes().iter().filter(computes).any(passes) {
            let (filter, near_names) = ("the filter function".to_owned(), Vec::new());
            return Err(PrepareError::NoMatch { filter, near_names });
        }
        let passes = |id| passes(graph.node(id));
        let there: Vec<bool> = graph.iter().map(|(id, _)| annotations.get(id).is_some()).collect();
        let mut marks = Marks::new(graph, annotations, self.rules);
        for (id, node) in graph.iter() {
            if let Some(reason) = &node.float_reason {
                marks.leave_float(id, reason);
            }
        }
        for (scope, config) in self.scopes.in_order() {
            match config {
                Some(config) => {
                    let covers = |id| passes(id) && self.scopes.covers(graph, scope, id);
                    // A ReLU after a covered operator need not be of that type itself.
                    let relu_covers = |id| if scope.is_operator() { passes(id) } else { covers(id) };
                    marks.patterns(config, &covers, &relu_covers);
                }
                None => {
                    for (id, _) in graph.iter().filter(|(id, _)| self.scopes.covers(graph, scope, *id)) {
                        marks.leave_float(id, &format!("{scope} is left in float"));
                    }
                }
            }
        }
        if let Some(global) = &self.global {
            let covers = |id| passes(id) && !self.scopes.in_any_module(graph, id);
            marks.patterns(global, &covers, &covers);
        }
        marks.propagate();
        marks.reasons(self.global.is_some(), &passes);
        if self.float_islands {
            islands::keep_float(graph, annotations, &there);
        }
        Ok(())
    }
}
