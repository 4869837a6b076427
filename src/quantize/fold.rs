//! Folding: the quantize node of a constant becomes an int8 constant.

use crate::graph::{Graph, GraphError, Rewriter};
use crate::interp::Interpreter;
use crate::ops::{Constant, Op, Quantize};
use crate::values::{QuantRange, QuantizedTensor};

/// Replaces every quantize node whose input depends on constants only by its quantized value, under the same name and with the bits of
/// its range. The nodes that it read disappear; dequantize nodes and other constants stay as they are.
pub(super) fn fold_quantize(graph: &Graph) -> Result<Graph, GraphError> {
    let interpreter = Interpreter::new(graph);
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        let value = match node.op {
            // Only NaN has no quantized value, and observers refuse it.
            Op::Quantize(_) => interpreter.constant_value(id).ok().flatten(),
            _ => None,
        };
        let (Some(value), Op::Quantize(Quantize { qparams, range, .. })) = (value, &node.op) else {
            rewriter.copy(id)?;
            continue;
        };
        let constant = if *range == QuantRange::INT32 {
            Constant::new(value)
        } else {
            let quantized = QuantizedTensor::new(value, qparams.clone(), range.bits());
            Constant::from(
                &quantized.expect("a quantize node has values of its range, and the channels of its qparams"),
            )
        };
        let new = rewriter.add(&node.name, constant, Vec::new(), &node.origin)?;
        rewriter.replace(id, new);
    }
    rewriter.finish()
}
