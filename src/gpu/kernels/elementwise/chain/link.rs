//! The steps of a chain, and the WGSL that computes them.

use super::super::super::function::expression;
use crate::numerics::{BinaryOp, UnaryOp};
use crate::ops::{Add, Binary, Clamp, Div, Embedding, Mask, Mul, Op, ToFloat, Unary};

/// The operand of a step besides the result before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    /// A number, or nothing.
    Number,
    /// The result before it, once more.
    Itself,
    /// What the chain begins with.
    First,
    B,
    C,
}

/// A step of a chain.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Link {
    pub(super) operation: Operation,
    pub(super) other: Other,
    /// Whether the result before it is the second operand.
    pub(super) swapped: bool,
    /// The bits of the other operand, if it is a number, or of the bounds of a clamp.
    pub(super) numbers: [u32; 2],
}

/// An operation on one or two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Mul,
    Div,
    Binary(BinaryOp),
    Mask {
        inverted: bool,
    },
    Clamp,
    ToFloat,
    Function(UnaryOp),
    /// Rows of an embedding table, only as the first.
    LookUp,
}

impl Operation {
    pub(super) fn of(op: &Op) -> Option<Self> {
        Some(match *op {
            Op::Add(Add) => Self::Add,
            Op::Mul(Mul) => Self::Mul,
            Op::Div(Div) => Self::Div,
            Op::Binary(Binary { op }) => Self::Binary(op),
            Op::Mask(Mask { inverted }) => Self::Mask { inverted },
            Op::Clamp(_) => Self::Clamp,
            Op::ToFloat(ToFloat) => Self::ToFloat,
            Op::Unary(Unary { op }) => Self::Function(op),
            Op::Embedding(_) => Self::LookUp,
            _ => return None,
        })
    }

    /// The operator, for the known answers.
    pub(super) fn op(self, numbers: [u32; 2]) -> Op {
        let [min, max] = numbers.map(f32::from_bits);
        match self {
            Self::Add => Add.into(),
            Self::Mul => Mul.into(),
            Self::Div => Div.into(),
            Self::Binary(op) => Binary { op }.into(),
            Self::Mask { inverted } => Mask { inverted }.into(),
            Self::Clamp => Clamp { min, max }.into(),
            Self::ToFloat => ToFloat.into(),
            Self::Function(op) => Unary { op }.into(),
            Self::LookUp => Embedding { from_end: true }.into(),
        }
    }

    /// Whether it reads integers.
    pub(super) fn reads_integers(self) -> bool {
        matches!(self, Self::ToFloat | Self::LookUp)
    }

    pub(super) fn has_two_operands(self) -> bool {
        matches!(self, Self::Add | Self::Mul | Self::Div | Self::Binary(_) | Self::Mask { .. })
    }
}

impl Link {
    /// The line of WGSL that computes it as step `at`.
    pub(super) fn wgsl(&self, at: usize) -> String {
        let other = match self.other {
            Other::Number => format!("params.numbers[{at}].x"),
            Other::Itself => "bits".to_owned(),
            Other::First => "operands.a".to_owned(),
            Other::B => "operands.b".to_owned(),
            Other::C => "operands.c".to_owned(),
        };
        let (left, right) = if self.swapped { (other.as_str(), "bits") } else { ("bits", other.as_str()) };
        let expression = match self.operation {
            Operation::Add => format!("sum_of({left}, {right})"),
            Operation::Mul => format!("product_of({left}, {right})"),
            Operation::Div => format!("quotient_of({left}, {right})"),
            Operation::Binary(op) => format!("compared({}u, {left}, {right})", op as u32),
            Operation::Mask { inverted } => format!("masked_by({left}, {right}, {inverted})"),
            Operation::Clamp => format!("limited(bits, params.numbers[{at}].x, params.numbers[{at}].y)"),
            Operation::ToFloat => "float_of_integer(bits)".to_owned(),
            Operation::Function(op) => expression(op).to_owned(),
            Operation::LookUp => "looked_up(bits, operands.column)".to_owned(),
        };
        format!("    bits = {expression};\n")
    }
}
