//! The WGSL of unary functions, of which a module holds the one that its pipelines apply.

use crate::gpu::device::shader::{Piece, text};
use crate::numerics::UnaryOp;

/// The functions, each with its name and its WGSL: an expression of the `bits` of a number, for shaders that have
/// `shared/functions.wgsl`.
macro_rules! functions {
    ($($op:ident: $name:literal, $expression:literal;)*) => {
        /// The bits of a function of the number whose bits are `bits`.
        pub(super) fn expression(op: UnaryOp) -> &'static str {
            match op {
                $(UnaryOp::$op => $expression,)*
            }
        }

        /// The WGSL of a function; of `None`, the number itself.
        pub(crate) fn function(op: Option<UnaryOp>) -> Piece {
            match op {
                None => function!("identity", "bits"),
                $(Some(UnaryOp::$op) => function!($name, $expression),)*
            }
        }
    };
}

/// `apply_bits`, which takes and gives the bits of a number, and `apply_to_four`.
macro_rules! function {
    ($name:literal, $expression:literal) => {
        Piece {
            name: $name,
            wgsl: concat!(
                "fn apply_bits(bits: u32) -> u32 {\n    return ",
                $expression,
                ";\n}\n",
                text!("shared/apply")
            ),
        }
    };
}

functions! {
    Relu: "relu", "relu_of(bits)";
    Sigmoid: "sigmoid", "sigmoid_of(canonical_bits(bits))";
    Tanh: "tanh", "tanh_of(canonical_bits(bits))";
    Gelu: "gelu", "gelu_of(canonical_bits(bits))";
    GeluTanh: "gelu_tanh", "gelu_tanh_of(canonical_bits(bits))";
    Silu: "silu", "silu_of(canonical_bits(bits))";
    Sqrt: "sqrt", "sqrt_of(bits)";
    Exp: "exp", "exp_of(canonical_bits(bits))";
    Log: "log", "log_of(bits)";
    Erf: "erf", "erf_of(canonical_bits(bits))";
    Abs: "abs", "bits & MAGNITUDE";
    Step: "step", "step_of(bits)";
    Sign: "sign", "sign_of(bits)";
    RoundF16: "round_f16", "f32_bits(f16_bits(bitcast<f32>(bits)))";
    RoundBf16: "round_bf16", "round_bf16(bits)";
    Sin: "sin", "sine_of(bits, 0u)";
    Cos: "cos", "sine_of(bits, 1u)";
    Round: "round", "whole_of(ROUND, bits)";
    Floor: "floor", "whole_of(FLOOR, bits)";
    Ceil: "ceil", "whole_of(CEIL, bits)";
    IsNan: "is_nan", "select(0u, ONE, is_nan(bits))";
}
