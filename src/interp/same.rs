//! Constants that several nodes compute alike: layers that share a weight quantize it each for itself.

use std::collections::HashMap;

use crate::graph::{Graph, NodeId};
use crate::ops::{Constant, Op};
use crate::values::Contents;

/// Per node, the first node that has the same value, of those that depend on constants only (`constant`); itself for others.
pub(super) fn constants(graph: &Graph, constant: &[bool]) -> Vec<NodeId> {
    let mut contents = Contents::default();
    let mut computed: HashMap<(String, Vec<NodeId>), NodeId> = HashMap::new();
    let mut same: Vec<NodeId> = Vec::with_capacity(constant.len());
    for (id, node) in graph.iter() {
        let first = match &node.op {
            Op::Constant(Constant { tensor, .. }) => NodeId::new(contents.first(tensor, id.index()).1),
            op if constant[id.index()] => {
                let inputs: Vec<NodeId> = node.inputs.iter().map(|input| same[input.index()]).collect();
                // With all parameters, so that many parts of one constant are told apart at once.
                *computed.entry((format!("{op:?}"), inputs)).or_insert(id)
            }
            _ => id,
        };
        same.push(first);
    }
    same
}

#[cfg(test)]
mod tests {
    use crate::graph::GraphBuilder;
    use crate::interp::Interpreter;
    use crate::ops::Dequantize;
    use crate::ops::Op;
    use crate::values::{QParams, Shape, Tensor, TensorQParams};

    /// Sixteen layers, each with nodes of its own for one weight: its codes, and the floats that they stand for.
    #[test]
    fn a_weight_is_computed_and_packed_once() {
        let packed = |scale_of_last: f32| {
            let mut g = GraphBuilder::new();
            let mut x = g.input("x", Shape::rows(3)).expect("an input");
            for at in 0..16 {
                let scale = if at == 15 { scale_of_last } else { 0.5 };
                let qparams = TensorQParams::PerTensor(QParams::new(scale, 0).expect("valid"));
                let codes = Tensor::from_i8(&[3, 3], vec![1, 0, 0, 0, 2, 0, 0, 0, 1]).expect("fits");
                let codes = g.constant(&format!("codes{at}"), codes).expect("a constant");
                let w = g.node(&format!("w{at}"), Op::Dequantize(Dequantize { qparams }), &[codes]).expect("a weight");
                x = g.linear_nodes(&format!("fc{at}"), x, w, None).expect("a layer");
            }
            let interpreter = Interpreter::new(&g.finish([x]).expect("a graph"));
            let y = interpreter.run(&[Tensor::from_f32(&[2, 3], vec![1.0; 6]).expect("fits")]).expect("run");
            let last = 0.5f32.powi(15) * scale_of_last;
            assert_eq!(y[0].as_f32().map(|y| &y[..3]), Some(&[last, last * 65536.0, last][..]));
            let made = |places: &mut dyn Iterator<Item = bool>| places.filter(|made| *made).count();
            let values = made(&mut interpreter.values.iter().map(|value| value.get().is_some()));
            (values, made(&mut interpreter.packed.iter().map(|packed| packed.get().is_some())))
        };
        assert_eq!(packed(0.5), (2, 1), "the codes and the weight");
        assert_eq!(packed(0.25), (3, 2), "another weight is another one");
    }
}
