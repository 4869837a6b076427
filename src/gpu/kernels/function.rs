//! The WGSL of unary functions, of which a module holds the one that its pipelines apply.

use crate::gpu::device::shader::Piece;
use crate::numerics::UnaryOp;

/// `apply_bits`, which takes and gives the bits of a number, and `apply_to_four`.
macro_rules! function {
    ($name:literal, $expression:literal) => {
        Piece {
            name: $name,
            wgsl: concat!(
                "fn apply_bits(bits: u32) -> u32 {\n    return ",
                $expression,
                ";\n}\n",
                include_str!("../../../shaders/shared/apply.wgsl")
            ),
        }
    };
}

/// The WGSL of a function, for shaders that have `shared/functions.wgsl`; of `None`, the number itself.
pub(crate) fn function(op: Option<UnaryOp>) -> Piece {
    let Some(op) = op else { return function!("identity", "bits") };
    match op {
        UnaryOp::Relu => function!("relu", "relu_of(bits)"),
        UnaryOp::Sigmoid => function!("sigmoid", "sigmoid_of(canonical_bits(bits))"),
        UnaryOp::Tanh => function!("tanh", "tanh_of(canonical_bits(bits))"),
        UnaryOp::Gelu => function!("gelu", "gelu_of(canonical_bits(bits))"),
        UnaryOp::GeluTanh => function!("gelu_tanh", "gelu_tanh_of(canonical_bits(bits))"),
        UnaryOp::Silu => function!("silu", "silu_of(canonical_bits(bits))"),
        UnaryOp::Sqrt => function!("sqrt", "sqrt_of(bits)"),
        UnaryOp::Exp => function!("exp", "exp_of(canonical_bits(bits))"),
        UnaryOp::Log => function!("log", "log_of(bits)"),
        UnaryOp::Erf => function!("erf", "erf_of(canonical_bits(bits))"),
        UnaryOp::Abs => function!("abs", "bits & MAGNITUDE"),
        UnaryOp::Step => function!("step", "step_of(bits)"),
        UnaryOp::Sign => function!("sign", "sign_of(bits)"),
        UnaryOp::RoundF16 => function!("round_f16", "f32_bits(f16_bits(bitcast<f32>(bits)))"),
        UnaryOp::RoundBf16 => function!("round_bf16", "round_bf16(bits)"),
        UnaryOp::Sin => function!("sin", "sine_of(bits, 0u)"),
        UnaryOp::Cos => function!("cos", "sine_of(bits, 1u)"),
        UnaryOp::Round => function!("round", "whole_of(ROUND, bits)"),
        UnaryOp::Floor => function!("floor", "whole_of(FLOOR, bits)"),
        UnaryOp::Ceil => function!("ceil", "whole_of(CEIL, bits)"),
        UnaryOp::IsNan => function!("is_nan", "select(0u, ONE, is_nan(bits))"),
    }
}
