//! Folding: the quantize node of a constant becomes an int8 constant.

use crate::graph::{Graph, GraphError, Rewriter};
use crate::interp::Interpreter;
use crate::ops::{Constant, Op};

/// Replaces every quantize node whose input depends on constants only by its int8 value, under the same name. What fed it
/// disappears; dequantize nodes and other constants stay as they are.
pub(super) fn fold_quantize(graph: &Graph) -> Result<Graph, GraphError> {
    let interpreter = Interpreter::new(graph);
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        let value = match node.op {
            // Only a NaN has no code, and observers refuse it.
            Op::Quantize(_) => interpreter.constant_value(id).ok().flatten(),
            _ => None,
        };
        match value {
            Some(value) => {
                let new =
                    rewriter.add(&node.name, Op::Constant(Constant { tensor: value }), Vec::new(), &node.origin)?;
                rewriter.replace(id, new);
            }
            None => {
                rewriter.copy(id)?;
            }
        }
    }
    rewriter.finish()
}
