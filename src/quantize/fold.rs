//! Folding: the quantize node of a constant becomes an int8 constant.

use crate::graph::{Graph, Op, Rewriter};
use crate::interp::Interpreter;

use super::convert::ConvertError;

/// Replaces every quantize node whose input depends on constants only by its int8 value, under the same name. What fed it
/// disappears; dequantize nodes and other constants stay as they are.
pub(super) fn fold_quantize(graph: &Graph) -> Result<Graph, ConvertError> {
    let interpreter = Interpreter::new(graph);
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        let value = match node.op {
            Op::Quantize { .. } => interpreter.constant_value(id)?,
            _ => None,
        };
        match value {
            Some(value) => {
                let new = rewriter.add(&node.name, Op::Constant(value), Vec::new(), &node.origin)?;
                rewriter.replace(id, new);
            }
            None => {
                rewriter.copy(id)?;
            }
        }
    }
    Ok(rewriter.finish()?)
}
