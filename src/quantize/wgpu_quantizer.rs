//! The quantizer for the engines of this crate, with the rules of XNNPACK's.

mod filter;
mod islands;
mod patterns;

use std::fmt;
use std::sync::Arc;

use self::filter::{Scope, Scopes};
use self::patterns::Marks;
use super::annotation::Annotations;
use super::config::QuantizationConfig;
use super::prepare::PrepareError;
use super::quantizer::Quantizer;
use crate::graph::{Graph, Node, Rewriter};
use crate::ops::{Add, AddScalar, Constant, Input, Mul, MulScalar, Op};
use crate::values::Tensor;

type Filter = Arc<dyn Fn(&Node) -> bool + Send + Sync>;

/// Annotates linear layers, sums, products and concatenations, each with a ReLU behind it or not, and lets what only moves
/// or clips quantized values share their parameters.
///
/// **Which configuration a node gets**: that of the first module name that it lies in, else of the first module type, else
/// of its operator type, else the global one. Nodes in a named module or type never fall through to the latter two. `None`
/// instead of a configuration leaves the nodes in float. A name stands for the node or module of that name and all below it:
/// "blocks.0" covers "blocks.0.fc1".
///
/// **Patterns**, in this order, each leaving alone what an earlier one has taken:
/// - linear + ReLU: inputs are annotated on the linear node, the output on the ReLU, so that nothing is rounded between them.
///   The ReLU must be the layer's only reader, and both must lie in the module.
/// - linear.
/// - matmul of two activations, if [asked for](Self::quantize_matmul). A dynamic configuration ends here.
/// - add + ReLU, add, mul + ReLU, mul.
/// - concat: its inputs and its output share one observer.
/// - last, behind any quantized output: ReLU, reshape, flatten, transpose, slice and max, which share it.
///
/// **What stays float**, of sums and products: those with a one-element constant that is out of all proportion, those with an
/// input that is computed from integers and constants only, which is a mask, and those whose result is only made scores of for a
/// softmax. What is left of scores beside a mask of −10⁹ would be nothing.
#[derive(Clone, Default)]
pub struct WgpuQuantizer {
    global: Option<QuantizationConfig>,
    scopes: Scopes,
    filter: Option<Filter>,
    matmul: bool,
    float_islands: bool,
}

impl fmt::Debug for WgpuQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WgpuQuantizer")
            .field("global", &self.global)
            .field("scopes", &self.scopes)
            .field("filter", &self.filter.is_some())
            .field("matmul", &self.matmul)
            .field("float_islands", &self.float_islands)
            .finish()
    }
}

impl WgpuQuantizer {
    /// Quantizes nothing until it is given a configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The configuration for every node that no other covers.
    #[must_use]
    pub fn set_global(mut self, config: QuantizationConfig) -> Self {
        self.global = Some(config);
        self
    }

    /// The configuration for a node or module by name, and all below it; `None` leaves it in float.
    #[must_use]
    pub fn set_module_name(mut self, name: &str, config: impl Into<Option<QuantizationConfig>>) -> Self {
        self.scopes.push(Scope::Name(name.to_owned()), config.into());
        self
    }

    /// The configuration for all modules of a type (see [`GraphBuilder::module`](crate::GraphBuilder::module)); `None` leaves
    /// them in float.
    #[must_use]
    pub fn set_module_type(mut self, module_type: &str, config: impl Into<Option<QuantizationConfig>>) -> Self {
        self.scopes.push(Scope::Type(module_type.to_owned()), config.into());
        self
    }

    /// The configuration for all ops with this [`Op::name`], such as "linear" or "add"; `None` leaves them in float.
    #[must_use]
    pub fn set_operator_type(mut self, op: &str, config: impl Into<Option<QuantizationConfig>>) -> Self {
        self.scopes.push(Scope::Operator(op.to_owned()), config.into());
        self
    }

    /// Only patterns whose nodes all pass are quantized, whatever the configurations say.
    #[must_use]
    pub fn set_filter_function(mut self, filter: impl Fn(&Node) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Whether products of two activations are quantized too, statically or dynamically as their configuration says; they are
    /// not by default.
    #[must_use]
    pub fn quantize_matmul(mut self, matmul: bool) -> Self {
        self.matmul = matmul;
        self
    }

    /// Whether what only float nodes read stays float: the sum before a layer norm, the layer before a softmax. It costs no
    /// integer step, since the value would be dequantized at once, and keeps its accuracy; transformers need it. So does what
    /// only passes through to an output, such as a cache that is joined with new rows. Off by default, as PT2E quantizes every
    /// output.
    #[must_use]
    pub fn float_islands(mut self, float_islands: bool) -> Self {
        self.float_islands = float_islands;
        self
    }
}

impl Quantizer for WgpuQuantizer {
    /// The numbers of `add_scalar` and `mul_scalar` become constants, so that they can be quantized too.
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
        let mut marks = Marks::new(graph, annotations, self.matmul);
        for (scope, config) in self.scopes.in_order() {
            match config {
                Some(config) => {
                    let covers = |id| passes(id) && self.scopes.covers(graph, scope, id);
                    // A ReLU behind a covered operator need not be of that type itself.
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
