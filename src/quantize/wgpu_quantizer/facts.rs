//! What a graph's values are for: masks, and the scores of a softmax.

use crate::graph::{Graph, NodeId};
use crate::ops::{Add, Div, Input, Mul, Op, Where};
use crate::values::DType;

/// For each node, whether it is computed from integers and constants only: then it is a mask, or a count, and not a quantity.
/// Rows of an embedding table are none of these, though ids choose them.
pub(super) fn masks(graph: &Graph) -> Vec<bool> {
    #[derive(Clone, Copy, PartialEq)]
    enum From {
        Constants,
        Integers,
        Floats,
    }
    let mut from: Vec<From> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let inputs = || node.inputs.iter().map(|input| from[input.index()]);
        from.push(match node.op {
            Op::Input(Input) if matches!(node.dtype, DType::I32 | DType::I64) => From::Integers,
            Op::Input(Input) | Op::Embedding(_) => From::Floats,
            _ if inputs().any(|input| input == From::Floats) => From::Floats,
            _ if inputs().any(|input| input == From::Integers) => From::Integers,
            _ => From::Constants,
        });
    }
    from.into_iter().map(|from| from == From::Integers).collect()
}

/// For each node, whether its value is only used to compute the scores of a softmax, by elementwise operators and operators that move
/// elements.
pub(super) fn scores(graph: &Graph, users: &[Vec<NodeId>], outputs: &[bool]) -> Vec<bool> {
    let mut scores = vec![false; graph.nodes().len()];
    for (at, users) in users.iter().enumerate().rev() {
        let makes = |user: &NodeId| match graph.node(*user).op {
            Op::Softmax(_) => true,
            Op::Add(Add) | Op::Mul(Mul) | Op::Div(Div) | Op::AddScalar(_) | Op::MulScalar(_) => scores[user.index()],
            Op::Where(Where) | Op::Binary(_) | Op::Reshape(_) | Op::Transpose(_) => scores[user.index()],
            _ => false,
        };
        scores[at] = !users.is_empty() && !outputs[at] && users.iter().all(makes);
    }
    scores
}
