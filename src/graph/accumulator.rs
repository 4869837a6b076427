//! A check of the constants of dynamically quantized layers. The dynamic form of equation 7 requires no bias in the sum, no fraction
//! bits, and the true sums of the weights.
//!
//! Engines rely on it and ignore such a bias, so a graph that has one is refused when it is built or loaded.

use super::{GraphError, Node, NodeId};
use crate::ops::{Constant, IntegerLinear, IntegerLinearGroups, Op, OpError};
use crate::values::Tensor;

/// Checks the constants of one node. Lowering checks those that are computed.
///
/// # Errors
/// Returns [`OpError::Parameter`] with the first number that is wrong.
pub(super) fn check(nodes: &[Node], name: &str, op: &Op, inputs: &[NodeId]) -> Result<(), GraphError> {
    let (Op::ScaleAccumulatorDynamic(_), &[acc, _, sums, ..]) = (op, inputs) else { return Ok(()) };
    let acc = &nodes[acc.index()];
    let (fraction_bits, groups, weight, bias) = match (&acc.op, acc.inputs.as_slice()) {
        (Op::IntegerLinear(IntegerLinear { fraction_bits }), &[_, weight, bias]) => (fraction_bits, None, weight, bias),
        (
            Op::IntegerLinearGroups(IntegerLinearGroups { fraction_bits, group_size }),
            &[_, weight, bias, multipliers, zero_points],
        ) => (fraction_bits, Some((*group_size, multipliers, zero_points)), weight, bias),
        _ => return Ok(()),
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
    let groups = match groups {
        None => None,
        Some((size, multipliers, zero_points)) => {
            let multipliers = constant(multipliers).and_then(Tensor::as_i32);
            let zero_points = constant(zero_points).and_then(Tensor::as_i8);
            let Some((multipliers, zero_points)) = multipliers.zip(zero_points) else { return Ok(()) };
            Some((size, multipliers, zero_points))
        }
    };
    let k = weight.shape()[1].max(1);
    let sum_of = |(channel, row): (usize, &[i8])| match groups {
        None => row.iter().map(|&w| i64::from(w)).sum::<i64>(),
        Some((size, multipliers, zero_points)) => {
            let of_group = |(group, w): (usize, &[i8])| {
                let at = channel * k.div_ceil(size) + group;
                let differences = w.iter().map(|&w| i64::from(w) - i64::from(zero_points[at])).sum::<i64>();
                i64::from(multipliers[at]) * differences
            };
            row.chunks(size).enumerate().map(of_group).sum()
        }
    };
    let rows = quantized.chunks_exact(k).enumerate().map(sum_of);
    for (channel, (expected, &sum)) in rows.zip(sums).enumerate() {
        if i64::from(sum) != expected {
            let value = format!("{sum} of channel {channel}, whose weights sum to {expected},");
            return refuse("weight sum", value, "must be the sum of the channel's weights (equation 7)");
        }
    }
    Ok(())
}
