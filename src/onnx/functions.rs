//! The functions of one element that ONNX has as operators of one input and one output, without attributes.

use crate::ops::UnaryOp;

/// The ONNX operator of each function. Import and export read this table.
const FUNCTIONS: &[(&str, UnaryOp)] = &[
    ("Abs", UnaryOp::Abs),
    ("Ceil", UnaryOp::Ceil),
    ("Cos", UnaryOp::Cos),
    ("Erf", UnaryOp::Erf),
    ("Exp", UnaryOp::Exp),
    ("Floor", UnaryOp::Floor),
    ("Log", UnaryOp::Log),
    ("Relu", UnaryOp::Relu),
    ("Round", UnaryOp::Round),
    ("Sigmoid", UnaryOp::Sigmoid),
    ("Sign", UnaryOp::Sign),
    ("Sin", UnaryOp::Sin),
    ("Sqrt", UnaryOp::Sqrt),
    ("Tanh", UnaryOp::Tanh),
];

/// The function that an ONNX operator computes.
pub(super) fn function(op_type: &str) -> Option<UnaryOp> {
    FUNCTIONS.iter().find(|(name, _)| *name == op_type).map(|(_, op)| *op)
}

/// The ONNX operator that computes a function, if one does.
pub(super) fn op_type(function: UnaryOp) -> Option<&'static str> {
    FUNCTIONS.iter().find(|(_, op)| *op == function).map(|(name, _)| *name)
}
