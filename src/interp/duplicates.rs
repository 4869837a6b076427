//! Constant nodes with equal values. Layers that share a weight each have quantize and dequantize nodes of their own for it.

use std::collections::HashMap;

use crate::graph::{Graph, NodeId};
use crate::ops::{Constant, Op};
use crate::values::Contents;

/// Returns, for each node that depends on constants only (`constant`), the first node with the same value, and each other node itself.
pub(super) fn first_duplicates(graph: &Graph, constant: &[bool]) -> Vec<NodeId> {
    let mut contents = Contents::default();
    let mut computed: HashMap<(String, Vec<NodeId>), NodeId> = HashMap::new();
    let mut first_duplicate: Vec<NodeId> = Vec::with_capacity(constant.len());
    for (id, node) in graph.iter() {
        let first = match &node.op {
            Op::Constant(Constant { tensor, .. }) => NodeId::new(contents.first(tensor, id.index()).1),
            op if constant[id.index()] => {
                let inputs: Vec<NodeId> = node.inputs.iter().map(|input| first_duplicate[input.index()]).collect();
                // The key contains all parameters, since slices of one constant have the same operator and input.
                *computed.entry((format!("{op:?}"), inputs)).or_insert(id)
            }
            _ => id,
        };
        first_duplicate.push(first);
    }
    first_duplicate
}

#[cfg(test)]
mod tests {
    use crate::graph::GraphBuilder;
    use crate::interp::Interpreter;
    use crate::ops::Dequantize;
    use crate::ops::Op;
    use crate::values::{QParams, Shape, Tensor, TensorQParams};

    /// Sixteen layers share a weight. Each has nodes of its own for the quantized and the dequantized weight.
    #[test]
    fn a_weight_is_computed_and_packed_once() {
        let packed = |scale_of_last: f32| {
            let mut g = GraphBuilder::new();
            let mut x = g.input("x", Shape::rows(3)).expect("an input");
            for at in 0..16 {
                let scale = if at == 15 { scale_of_last } else { 0.5 };
                let qparams = TensorQParams::PerTensor(QParams::new(scale, 0).expect("valid"));
                let quantized = Tensor::from_i8(&[3, 3], vec![1, 0, 0, 0, 2, 0, 0, 0, 1]).expect("fits");
                let quantized = g.constant(&format!("q{at}"), quantized).expect("a constant");
                let w =
                    g.node(&format!("w{at}"), Op::Dequantize(Dequantize { qparams }), &[quantized]).expect("a weight");
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
        assert_eq!(packed(0.5), (2, 1), "the quantized and the dequantized weight");
        assert_eq!(packed(0.25), (3, 2), "a weight with another scale is another constant");
    }
}
