//! A check of the constants of dynamically quantized layers. The dynamic form of equation 7 requires no bias in the sum, no fraction
//! bits, and the true sums of the weights.
//!
//! Engines rely on it and ignore such a bias, so a graph that has one is refused when it is built or loaded.

use super::{GraphError, Node, NodeId};
use crate::ops::{Constant, IntegerLinear, Op, OpError};
use crate::values::Tensor;

/// Checks the constants of one node. Lowering checks those that are computed.
///
/// # Errors
/// Returns [`OpError::Parameter`] with the first number that is wrong.
pub(super) fn check(nodes: &[Node], name: &str, op: &Op, inputs: &[NodeId]) -> Result<(), GraphError> {
    let (Op::ScaleAccumulatorDynamic(_), &[acc, _, sums, ..]) = (op, inputs) else { return Ok(()) };
    let acc = &nodes[acc.index()];
    let (Op::IntegerLinear(IntegerLinear { fraction_bits }), &[_, weight, bias]) = (&acc.op, acc.inputs.as_slice())
    else {
        return Ok(());
    };
    let refuse = |what, value: String, rule| {
        Err(GraphError::Op { node: name.to_owned(), source: OpError::Parameter { what, value, rule } })
    };
    if *fraction_bits != 0 {
        let rule = "must be 0 where the scale is found at run time (equation 7)";
        return refuse("fraction_bits of the accumulator", fraction_bits.to_string(), rule);
    }
    let constant = |id: NodeId| match &nodes[id.index()].op {
        Op::Constant(Constant { tensor, .. }) => Some(&**tensor),
        _ => None,
    };
    if let Some((channel, b)) =
        constant(bias).and_then(Tensor::as_i32).and_then(|bias| bias.iter().enumerate().find(|(_, b)| **b != 0))
    {
        let rule = "must be 0 where the scale is found at run time (equation 7)";
        return refuse("bias of the accumulator", format!("{b} of channel {channel}"), rule);
    }
    let (Some(weight), Some(sums)) = (constant(weight), constant(sums).and_then(Tensor::as_i32)) else { return Ok(()) };
    let Some(quantized) = weight.as_i8() else { return Ok(()) };
    let rows =
        quantized.chunks_exact(weight.shape()[1].max(1)).map(|row| row.iter().map(|&w| i64::from(w)).sum::<i64>());
    for (channel, (expected, &sum)) in rows.zip(sums).enumerate() {
        if i64::from(sum) != expected {
            let value = format!("{sum} of channel {channel}, whose weights sum to {expected},");
            return refuse("weight sum", value, "must be the sum of the channel's weights (equation 7)");
        }
    }
    Ok(())
}
