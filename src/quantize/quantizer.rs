//! The extension point: who decides what is quantized, and how.

use super::annotation::Annotations;
use super::prepare::PrepareError;
use crate::graph::Graph;

/// Annotates graphs. Implement it for a backend of your own; nothing else needs to change.
pub trait Quantizer {
    /// Rewrites the graph before annotation, where a pattern needs it.
    ///
    /// # Errors
    /// Whatever keeps it from being rewritten.
    fn transform_for_annotation(&self, graph: &Graph) -> Result<Graph, PrepareError> {
        Ok(graph.clone())
    }

    /// Says which points are quantized, and how.
    ///
    /// # Errors
    /// Whatever keeps it from being annotated.
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError>;

    /// Adds to the annotations of other quantizers, for [`ComposableQuantizer`](super::ComposableQuantizer): by default, all of
    /// [`annotate`](Self::annotate). A quantizer whose patterns leave alone what is annotated already overrides it.
    ///
    /// # Errors
    /// Whatever keeps it from being annotated.
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
    /// Whatever is wrong with them.
    fn validate(&self, _graph: &Graph, _annotations: &Annotations) -> Result<(), PrepareError> {
        Ok(())
    }
}
