//! Tests of private parts of the engine.

use std::collections::HashSet;
use std::sync::Arc;

use super::Engine;
use super::int8_layer::Weight;
use crate::ops::{Linear, Op};
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, Value, ValueId, ValueType};
use crate::values::{QParams, Shape, Tensor};

/// Sixteen layers in int8 or in float that share a weight. If `changed`, the last layer has another one.
fn layers(int8: bool, changed: bool) -> Program {
    let shared: Arc<[i8]> = vec![1; 16].into();
    let floats = || Arc::new(Tensor::from_f32(&[4, 4], vec![0.5; 16]).expect("fits"));
    let (value_type, qparams) = if int8 { (ValueType::I8, QParams::new(1.0, 0).ok()) } else { (ValueType::F32, None) };
    let value = |name: String, shape, qparams| Value { name, value_type, shape, qparams };
    let mut values: Vec<Value> = (0..17).map(|at| value(format!("x{at}"), Shape::rows(4), qparams)).collect();
    let mut constants = Vec::new();
    if !int8 {
        for at in 0..2 {
            values.push(value(format!("w{at}"), Shape::fixed(&[4, 4]), None));
            constants.push((ValueId::new(17 + at), floats()));
        }
    }
    let step = |at: usize| {
        let other = changed && at == 15;
        let (x, y) = (ValueId::new(at), ValueId::new(at + 1));
        let (op, inputs) = if int8 {
            let (multiplier, zero_point) = (vec![0.1; 4].into(), 0);
            let linear = QLinear {
                weight: if other { vec![1; 16].into() } else { Arc::clone(&shared) },
                bits: 8,
                groups: None,
                n: 4,
                k: 4,
                bias: vec![at as i32; 4].into(),
                fraction_bits: 0,
                epilogue: Epilogue::Requantize { multiplier, zero_point, lo: -128, hi: 127 },
            };
            (StepOp::QLinear(linear), vec![x])
        } else {
            (StepOp::Op(Op::Linear(Linear::default())), vec![x, ValueId::new(17 + usize::from(other))])
        };
        Step { name: format!("fc{at}"), op, inputs, output: y }
    };
    let steps = (0..16).map(step).collect();
    Program::new(values, constants, vec![ValueId::new(0)], vec![ValueId::new(16)], steps).expect("valid")
}

#[test]
fn a_weight_that_layers_share_is_packed_once() {
    for (int8, changed, expected) in [(true, false, 1), (true, true, 2), (false, false, 1), (false, true, 2)] {
        let engine = Engine::new(&layers(int8, changed)).expect("an engine");
        let place = |weight: &Weight| -> *const () {
            match weight {
                Weight::Int8(layer) => Arc::as_ptr(&layer.weight).cast(),
                Weight::F32(packed) => Arc::as_ptr(packed).cast(),
                Weight::Factors(factors) => Arc::as_ptr(factors).cast(),
                Weight::Taps(_) | Weight::Unpacked => unreachable!("no layer is a convolution"),
            }
        };
        let places: HashSet<*const ()> = engine.weights.iter().flatten().map(place).collect();
        assert_eq!(places.len(), expected, "int8: {int8}, changed: {changed}");
    }
}
