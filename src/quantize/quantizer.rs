//! The trait of quantizers, which decide what is quantized, and how.

use super::annotation::Annotations;
use super::prepare::error::PrepareError;
use crate::graph::Graph;

/// A quantizer, which annotates graphs. Implement it for a backend of your own; nothing else needs to change.
///
/// ```
/// use enfold::numerics::EPS;
/// use enfold::ops::Op;
/// use enfold::quantize::{
///     Annotations, ConvertOptions, ObservedSpec, ObserverKind, PrepareError, QuantizationAnnotation, Quantizer, convert,
///     prepare,
/// };
/// use enfold::values::{QScheme, QuantRange};
/// use enfold::{Graph, GraphBuilder, Shape, Tensor};
///
/// /// Quantizes the input and the weight of every linear layer. Outputs stay float.
/// struct Linears;
///
/// impl Quantizer for Linears {
///     fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
///         let (range, observer) = (QuantRange::INT8, ObserverKind::MinMax);
///         let input = ObservedSpec { range, qscheme: QScheme::per_tensor_affine(), observer, eps: EPS };
///         let qscheme = QScheme::per_channel_symmetric(0);
///         let weight = ObservedSpec { range: QuantRange::INT8_NARROW, qscheme, ..input };
///         let mut annotations = Annotations::new(graph);
///         for (id, node) in graph.iter().filter(|(_, node)| matches!(node.op, Op::Linear(_))) {
///             let input_qspec_map =
///                 vec![(node.inputs[0], Some(input.into())), (node.inputs[1], Some(weight.into()))];
///             annotations.set(id, QuantizationAnnotation { input_qspec_map, ..Default::default() });
///         }
///         Ok(annotations)
///     }
/// }
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let y = g.linear("fc", x, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
/// let mut prepared = prepare(&g.finish([y])?, &Linears)?;
/// assert_eq!(prepared.observers().len(), 2);
/// prepared.observe(&[Tensor::from_f32(&[1, 2], vec![1.0, -1.0])?])?;
/// let quantized = convert(&prepared, &ConvertOptions::default())?;
/// # Ok::<(), enfold::Error>(())
/// ```
pub trait Quantizer {
    /// Rewrites the graph before annotation, where a pattern needs it.
    ///
    /// # Errors
    /// The graph cannot be rewritten.
    fn transform_for_annotation(&self, graph: &Graph) -> Result<Graph, PrepareError> {
        Ok(graph.clone())
    }

    /// Annotates the points that are to be quantized with their specs.
    ///
    /// # Errors
    /// The graph cannot be annotated.
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError>;

    /// Adds to the annotations of other quantizers, for [`ComposableQuantizer`](super::ComposableQuantizer): by default, all of
    /// [`annotate`](Self::annotate). A quantizer whose patterns leave alone what is annotated already overrides it.
    ///
    /// # Errors
    /// The graph cannot be annotated.
    fn annotate_more(&self, graph: &Graph, annotations: &mut Annotations) -> Result<(), PrepareError> {
        let own = self.annotate(graph)?;
        for (id, _) in graph.iter() {
            if let Some(annotation) = own.get(id) {
                annotations.set(id, annotation.clone());
            } else if let Some(reason) = own.float_reason(id) {
                if own.is_kept_float(id) {
                    annotations.keep_float(id, reason);
                } else {
                    annotations.leave_float(id, reason);
                }
            }
        }
        Ok(())
    }

    /// Refuses annotations that the backend could not honour.
    ///
    /// # Errors
    /// The annotations cannot be honoured.
    fn validate(&self, _graph: &Graph, _annotations: &Annotations) -> Result<(), PrepareError> {
        Ok(())
    }
}
