//! The ONNX operators that are imported. Each family has a table of its own; this module asks the families.

use super::importer::Importer;
use super::operator::Operator;
use super::{
    attention, constant, conv, dynamic, einsum, elementwise, embedding, grid_sample, integer, linear, loss, matmul,
    movement, norm, pool, quantize, quantized, recurrent, reduce, rotary, scatter, trigonometry, unary,
};
#[cfg(test)]
use super::{blocks, contrib};
#[cfg(test)]
use crate::onnx::functions;

/// The operator of one name, if a family has it.
pub(super) fn operator(op_type: &str) -> Option<Operator> {
    let of_elements = [elementwise::operator, trigonometry::operator, unary::operator, unary::function];
    if let Some(operator) = of_elements.iter().find_map(|family| family(op_type)) {
        return Some(operator.behind(Importer::elements_behind));
    }
    let families = [
        attention::operator,
        constant::operator,
        conv::operator,
        einsum::operator,
        dynamic::operator,
        embedding::operator,
        grid_sample::operator,
        integer::operator,
        linear::operator,
        loss::operator,
        matmul::operator,
        movement::operator,
        norm::operator,
        pool::operator,
        quantize::operator,
        quantized::operator,
        recurrent::operator,
        reduce::operator,
        rotary::operator,
        scatter::operator,
    ];
    families.iter().find_map(|family| family(op_type))
}

/// The names of all operators.
#[cfg(test)]
pub(in crate::onnx) fn names() -> Vec<&'static str> {
    let families = [
        attention::NAMES,
        blocks::NAMES,
        constant::NAMES,
        contrib::NAMES,
        conv::NAMES,
        einsum::NAMES,
        dynamic::NAMES,
        elementwise::NAMES,
        embedding::NAMES,
        grid_sample::NAMES,
        integer::NAMES,
        linear::NAMES,
        loss::NAMES,
        matmul::NAMES,
        movement::NAMES,
        norm::NAMES,
        pool::NAMES,
        quantize::NAMES,
        quantized::NAMES,
        recurrent::NAMES,
        reduce::NAMES,
        rotary::NAMES,
        scatter::NAMES,
        trigonometry::NAMES,
        unary::NAMES,
    ];
    let functions = crate::ops::UnaryOp::ALL.iter().filter_map(|&op| functions::op_type(op));
    families.concat().into_iter().chain(functions).collect()
}
