//! What only the engine's own parts tell.

use super::*;
use crate::graph::{Graph, GraphBuilder, Op};
use crate::lower::lower;
use crate::qparams::QParams;
use crate::tensor::{DType, Shape};

/// Layers that read the same weight, each from a constant of its own, but for the last one if it is `changed`.
fn layers(int8: bool, changed: bool) -> Graph {
    let mut g = GraphBuilder::new();
    let dtype = if int8 { DType::I8 } else { DType::F32 };
    let mut x = g.typed_input("x", Shape::rows(4), dtype).expect("an input");
    for at in 0..16 {
        let mut w: Vec<i8> = (0..16).map(|i| i * 7 % 11 - 5).collect();
        w[3] += i8::from(changed && at == 15);
        let mut constant = |what: &str, tensor: Tensor| g.constant(&format!("{what}{at}"), tensor).expect("a constant");
        if !int8 {
            let w = Tensor::from_f32(&[4, 4], w.iter().map(|&w| f32::from(w) * 0.1).collect()).expect("fits");
            let w = constant("w", w);
            x = g.linear_nodes(&format!("fc{at}"), x, w, None).expect("a layer");
            continue;
        }
        let w = constant("w", Tensor::from_i8(&[4, 4], w).expect("fits"));
        let bias = constant("bias", Tensor::from_i32(&[4], vec![at; 4]).expect("fits"));
        let factors = constant("factors", Tensor::from_f32(&[4], vec![0.1; 4]).expect("fits"));
        let acc = g.node(&format!("fc{at}"), Op::IntegerLinear { fraction_bits: 0 }, &[x, w, bias]).expect("sums");
        let qparams = QParams::new(1.0, 0).expect("valid");
        x = g.node(&format!("y{at}"), Op::Requantize { qparams, lo: -128, hi: 127 }, &[acc, factors]).expect("codes");
    }
    g.finish([x]).expect("a graph")
}

/// In programs and in the engine: one weight, however many layers read it.
#[test]
fn a_weight_that_layers_share_is_packed_once() {
    for (changed, expected) in [(false, 1), (true, 2)] {
        let codes = lower(&layers(true, changed)).expect("lowered");
        let of_program: std::collections::HashSet<*const i8> = codes
            .steps()
            .iter()
            .filter_map(|step| match &step.op {
                StepOp::Linear(linear) => Some(linear.weight.as_ptr()),
                _ => None,
            })
            .collect();
        assert_eq!(of_program.len(), expected);
        let floats = lower(&layers(false, changed)).expect("lowered");
        assert_eq!(floats.constants().len(), expected);
        for program in [codes, floats] {
            let engine = Engine::new(&program).expect("an engine");
            let packed: std::collections::HashSet<*const ()> = engine
                .weights
                .iter()
                .flatten()
                .map(|weight| match weight {
                    Weight::Int8(layer) => Arc::as_ptr(&layer.weight).cast(),
                    Weight::F32(packed) => Arc::as_ptr(packed).cast(),
                })
                .collect();
            assert_eq!(packed.len(), expected);
        }
    }
}
