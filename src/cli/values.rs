//! Checks the values of inputs. A GPU cannot refuse wrong ones, so they are checked for all devices.

use std::ops::Range;

use anyhow::{Result, bail};
use enfold::Tensor;
use enfold::graph::Graph;
use enfold::ops::{Embedding, GatherNd, Op, ScatterNd};

/// Refuses ids that an embedding table lacks and, for quantized models, NaN. The interpreter and the CPU engine would refuse both; a GPU
/// would compute something.
pub(super) fn check(graph: &Graph, inputs: &[Tensor]) -> Result<()> {
    let valid = valid_ids(graph);
    let quantizes = graph
        .nodes()
        .iter()
        .any(|node| matches!(node.op, Op::Quantize(_) | Op::QuantizeDynamic(_) | Op::ChooseQParams(_)));
    for (&id, input) in graph.inputs().iter().zip(inputs) {
        let name = &graph.node(id).name;
        if let (Some(ids), Some(valid)) = (input.as_i32(), &valid[id.index()])
            && let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| !valid.contains(id))
        {
            let counted = if valid.start < 0 { ", or counted from its end" } else { "" };
            bail!("input {name}: element {at} is id {id}, and its table has rows 0 to {}{counted}", valid.end - 1);
        }
        if let Some(at) = input.as_f32().filter(|_| quantizes).and_then(|values| values.iter().position(|v| v.is_nan()))
        {
            bail!("input {name}: element {at} is NaN, which cannot be quantized");
        }
    }
    Ok(())
}

/// Finds, for each node, the ids that are in each embedding table that reads its values as ids, if there is one.
pub(super) fn valid_ids(graph: &Graph) -> Vec<Option<Range<i32>>> {
    let mut valid = vec![None::<Range<i32>>; graph.nodes().len()];
    // Readers come later in a graph, so walking backwards visits each node once, after all its readers.
    for (at, node) in graph.nodes().iter().enumerate().rev() {
        for (position, &input) in node.inputs.iter().enumerate() {
            let reached = match node.op {
                Op::Embedding(Embedding { from_end }) if position == 0 => {
                    let rows = graph.node(node.inputs[1]).shape.fixed_dims().first().copied().unwrap_or(1);
                    let rows = i32::try_from(rows).unwrap_or(i32::MAX).max(1);
                    Some(if from_end { -rows } else { 0 }..rows)
                }
                Op::GatherNd(GatherNd { batch_dims }) | Op::ScatterNd(ScatterNd { batch_dims, .. })
                    if position == 1 =>
                {
                    // Several coordinates belong to axes of different lengths.
                    let is_one = graph.node(input).shape.last() == Some(1);
                    let length = graph.node(node.inputs[0]).shape.axis(batch_dims).filter(|_| is_one);
                    length.and_then(|length| i32::try_from(length).ok()).map(|length| -length..length)
                }
                // Operators that only move values keep ids as they are. The result of arithmetic on ids need not be an id.
                Op::Reshape(_) | Op::Flatten(_) | Op::Transpose(_) | Op::Concat(_) | Op::Slice(_) => valid[at].clone(),
                _ => None,
            };
            let own = &mut valid[input.index()];
            let both = |a: Range<i32>, b: Range<i32>| a.start.max(b.start)..a.end.min(b.end);
            *own = own.take().into_iter().chain(reached).reduce(both);
        }
    }
    valid
}

#[cfg(test)]
mod tests {
    use enfold::ops::{Int32, ToInteger};
    use enfold::values::DType;
    use enfold::{GraphBuilder, Shape};

    use super::*;

    /// Each of 64 values in a row reads the one before it twice, so 2⁶⁴ paths lead through them.
    #[test]
    fn each_node_is_looked_at_once() {
        let mut g = GraphBuilder::new();
        let ids = g.typed_input("ids", Shape::fixed(&[2]), DType::I32).expect("an input");
        let x = g.input("x", Shape::fixed(&[2])).expect("an input");
        let (mut moved, mut sum) = (ids, x);
        for i in 0..64 {
            let [first, second] =
                [0, 1].map(|at| g.slice(&format!("s{i}.{at}"), moved, 0, at..at + 1).expect("a part"));
            moved = g.concat(&format!("c{i}"), &[second, first], 0).expect("joined");
            let relu = g.relu(&format!("r{i}"), sum).expect("a relu");
            sum = g.add(&format!("a{i}"), sum, relu).expect("a sum");
        }
        let table = |rows: usize| enfold::Tensor::from_f32(&[rows, 1], vec![0.0; rows]).expect("lengths fit");
        let far = g.embedding("far", moved, table(5)).expect("rows");
        let near = g.embedding("near", ids, table(7)).expect("rows");
        let graph = g.finish([far, near, sum]).expect("a graph");
        let valid = valid_ids(&graph);
        assert_eq!([ids, moved, x].map(|id| valid[id.index()].clone()), [Some(0..5), Some(0..5), None]);
    }

    /// The result of arithmetic on ids may be a row of the table although the ids are not.
    #[test]
    fn ids_that_are_moved_are_ids_and_others_are_not() {
        use enfold::graph::NodeId;
        use enfold::ops::{Int32Op, IntegerType};
        type Build = fn(&mut GraphBuilder, NodeId) -> Result<NodeId, enfold::graph::GraphError>;
        let members: [(Build, Option<i32>); 9] = [
            (|g, ids| g.reshape("m", ids, &[3, 2]), Some(5)),
            (|g, ids| g.flatten("m", ids, 1), Some(5)),
            (|g, ids| g.transpose("m", ids, &[0, 2, 1]), Some(5)),
            (|g, ids| g.concat("m", &[ids, ids], 1), Some(5)),
            (|g, ids| g.slice("m", ids, 1, 0..1), Some(5)),
            (|g, ids| g.node("m", Op::Int32(Int32 { op: Int32Op::Sub, checked: true }), &[ids, ids]), None),
            (|g, ids| g.node("m", Op::ToInteger(ToInteger { to: IntegerType::U8 }), &[ids]), None),
            (|g, ids| g.max("m", ids, 1), None),
            (|g, ids| g.sum("m", ids, 1), None),
        ];
        for (build, expected) in members {
            let mut g = GraphBuilder::new();
            let ids = g.typed_input("ids", Shape::batched(&[2, 3]), DType::I32).expect("an input");
            let made = build(&mut g, ids).expect("a node");
            let table = enfold::Tensor::from_f32(&[5, 1], vec![0.0; 5]).expect("lengths fit");
            let rows = g.embedding("rows", made, table).expect("rows");
            let graph = g.finish([rows]).expect("a graph");
            assert_eq!(valid_ids(&graph)[ids.index()], expected.map(|rows| 0..rows), "{graph}");
        }
    }

    /// Ids below 0 must be in every table too.
    #[test]
    fn ids_from_the_end_are_valid_where_all_tables_count_from_their_end() {
        let of = |tables: &[(usize, bool)]| {
            let mut g = GraphBuilder::new();
            let ids = g.typed_input("ids", Shape::rows(2), DType::I32).expect("an input");
            let rows = |(at, &(rows, from_end)): (usize, &(usize, bool))| {
                let table = enfold::Tensor::from_f32(&[rows, 1], vec![0.0; rows]).expect("lengths fit");
                let table = g.constant(&format!("table{at}"), table).expect("a constant");
                g.node(&format!("rows{at}"), Embedding { from_end }, &[ids, table]).expect("rows")
            };
            let outputs: Vec<_> = tables.iter().enumerate().map(rows).collect();
            let graph = g.finish(outputs).expect("a graph");
            valid_ids(&graph)[ids.index()].clone()
        };
        assert_eq!(of(&[(5, true)]), Some(-5..5));
        assert_eq!(of(&[(5, true), (3, true)]), Some(-3..3));
        assert_eq!(of(&[(5, true), (7, false)]), Some(0..5));
    }
}
