//! Values that lie where another does.

use crate::gpu::kernels::dispatch::Planning;
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::layout::padded_rows;
use crate::ops::Op;
use crate::program::{StepOp, ValueId, ValueType};

/// The input and the output of a reshape whose elements stay where they are: floats and int32 values are dense, and so are rows of int8
/// values without padding. Rows of the same length have the same padding.
pub(super) fn alias(
    planning: &Planning<'_>,
    fused: &FusedStep,
    is_output: impl Fn(ValueId) -> bool,
) -> Option<(ValueId, ValueId)> {
    let step = fused.step(planning.program);
    let (x, y) = (*step.inputs.first()?, step.output);
    let [x_cols, y_cols] = [x, y].map(|id| planning.value(id).cols());
    let is_int8 = planning.value(y).value_type == ValueType::I8;
    let moves = is_int8 && x_cols != y_cols && (padded_rows(x_cols) || padded_rows(y_cols));
    let is_reshape = matches!(step.op, StepOp::Op(Op::Reshape(_)));
    // The caller's buffer needs a copy.
    (is_reshape && !moves && !is_output(y) && !planning.config.unfused).then_some((x, y))
}
