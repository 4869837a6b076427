//! What no device may be given: a GPU has no way to refuse it.

use anyhow::{Result, bail};
use enfold::Tensor;
use enfold::graph::{Graph, NodeId, Op};

/// Refuses ids that a table lacks and, for models with codes, floats that are no numbers. The engines of the CPU refuse both, a
/// GPU computes something.
pub(super) fn check(graph: &Graph, inputs: &[Tensor]) -> Result<()> {
    let users = graph.users();
    let codes = graph
        .nodes()
        .iter()
        .any(|node| matches!(node.op, Op::Quantize { .. } | Op::QuantizeDynamic { .. } | Op::ChooseQParams { .. }));
    for (&id, input) in graph.inputs().iter().zip(inputs) {
        let name = &graph.node(id).name;
        if let (Some(ids), Some(rows)) = (input.as_i32(), smallest_table(graph, &users, id))
            && let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| !(0..rows).contains(*id))
        {
            bail!("input {name}: element {at} is id {id}, and its table has rows 0 to {}", rows - 1);
        }
        if let Some(at) = input.as_f32().filter(|_| codes).and_then(|values| values.iter().position(|v| v.is_nan())) {
            bail!("input {name}: element {at} is NaN, which has no code");
        }
    }
    Ok(())
}

/// The rows of the smallest table that ids of an input reach, if they reach one.
pub(super) fn smallest_table(graph: &Graph, users: &[Vec<NodeId>], id: NodeId) -> Option<i32> {
    let (mut pending, mut smallest) = (vec![id], None::<usize>);
    while let Some(at) = pending.pop() {
        for &user in &users[at.index()] {
            let node = graph.node(user);
            match node.op {
                Op::Embedding if node.inputs[0] == at => {
                    let table = graph.node(node.inputs[1]).shape.dims().first().copied().unwrap_or(1);
                    smallest = Some(smallest.map_or(table, |other| other.min(table)));
                }
                // Ids that are moved are ids.
                _ if node.dtype == graph.node(id).dtype => pending.push(user),
                _ => {}
            }
        }
    }
    smallest.map(|rows| i32::try_from(rows).unwrap_or(i32::MAX).max(1))
}
