//! Combines several quantizers into one.

use super::annotation::Annotations;
use super::prepare::PrepareError;
use super::quantizer::Quantizer;
use crate::graph::Graph;

/// A quantizer that runs quantizers one after another; put the more special ones first. A node that one of them has annotated
/// belongs to it: a later one that changes the annotation is [`PrepareError::Overwritten`].
///
/// ```
/// use enfold::{ComposableQuantizer, QuantizationConfig, WgpuQuantizer, prepare};
/// # use enfold::{GraphBuilder, Shape, Tensor};
/// # let mut g = GraphBuilder::new();
/// # let x = g.input("x", Shape::rows(2))?;
/// # let y = g.linear("fc", x, Tensor::from_f32(&[3, 2], vec![0.5, -1.0, 0.25, 0.75, -0.5, 1.0])?, None)?;
/// # let graph = g.finish([y])?;
///
/// let special = WgpuQuantizer::new().set_module_name("fc", QuantizationConfig::symmetric().dynamic());
/// let general = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric());
/// let prepared = prepare(&graph, &ComposableQuantizer::new(vec![Box::new(special), Box::new(general)]))?;
/// # let _ = prepared;
/// # Ok::<(), enfold::Error>(())
/// ```
#[derive(Default)]
pub struct ComposableQuantizer {
    quantizers: Vec<Box<dyn Quantizer>>,
}

impl std::fmt::Debug for ComposableQuantizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ComposableQuantizer of {}", self.quantizers.len())
    }
}

impl ComposableQuantizer {
    /// Combines these quantizers, in this order.
    #[must_use]
    pub fn new(quantizers: Vec<Box<dyn Quantizer>>) -> Self {
        Self { quantizers }
    }
}

impl Quantizer for ComposableQuantizer {
    fn transform_for_annotation(&self, graph: &Graph) -> Result<Graph, PrepareError> {
        self.quantizers.iter().try_fold(graph.clone(), |graph, quantizer| quantizer.transform_for_annotation(&graph))
    }

    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        let mut owners = vec![None; graph.nodes().len()];
        for (quantizer, each) in self.quantizers.iter().enumerate() {
            let before = annotations.clone();
            each.annotate_more(graph, &mut annotations)?;
            for (id, node) in graph.iter() {
                match (before.get(id), annotations.get(id)) {
                    (Some(old), new) if new != Some(old) => {
                        let (node, owner) =
                            (node.name.clone(), owners[id.index()].expect("an annotated node has an owner"));
                        return Err(PrepareError::Overwritten { quantizer, node, owner });
                    }
                    (None, Some(_)) => owners[id.index()] = Some(quantizer),
                    _ => {}
                }
            }
        }
        Ok(annotations)
    }

    fn validate(&self, graph: &Graph, annotations: &Annotations) -> Result<(), PrepareError> {
        self.quantizers.iter().try_for_each(|quantizer| quantizer.validate(graph, annotations))
    }
}
