//! The fusion of steps: a fixed list of patterns whose steps share a dispatch.
//!
//! | steps | dispatch |
//! |---|---|
//! | int8 linear, lookup table | linear with the lookup table in its epilogue |
//! | int8 linear, int8 sum with a value of the same shape | linear with the sum in its epilogue |
//! | int8 linear to float, unary function, cast to f16 | linear with both in its epilogue, each if it is there |
//! | float linear, unary function | matmul with the function in its epilogue |
//! | float sum, layer norm, quantize | layer norm that adds first and quantizes last, each if it is there |
//! | qparams of each row, quantize with them | a kernel that does both |
//! | qparams of all rows, quantize with them | the ranges of rows, and a kernel that does both |
//! | transpose, matmul, transpose | matmul that reads its operands and writes its result in that order, each if it is there |
//! | product with a number, sum with a mask, softmax of rows | softmax that does both first, each if it is there |
//! | float matmul, those, float matmul with the values, transposes of all operands and of the result | attention of up to 128 or 384 keys |
//!
//! A reshape that moves no element has no dispatch: its result lies where its operand does ([`Plan`](super::plan::Plan)).
//!
//! A value that only steps of the same dispatch read is never written. If others read it too, the kernel writes it as a second
//! result, or the steps are not fused. A sum that is kept lives together with both operands and the norm; if that costs too much
//! memory, [`Plan`](super::plan::Plan) asks for other fusions.

use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::fused_step::{Attention, FusedStep};
use crate::gpu::kernels::strided::MAX_AXES;
use crate::gpu::kernels::{attention, norm};
use crate::numerics::QuantizeRule;
use crate::ops::{Add, ChooseQParams, Mul, Op, Quantize, QuantizeDynamic, Softmax, Transpose};
use crate::program::{Epilogue, Program, StepOp, ValueId, ValueType};

/// A set of patterns to fuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fusions {
    /// All patterns of the list.
    All,
    /// All patterns, except sums before a layer norm that other steps read too.
    AllButKeptSums,
    /// No pattern.
    None,
}

/// The fused steps of a program, in an order in which they can be executed.
pub(crate) fn fuse(program: &Program, config: &Config, fusions: Fusions) -> Vec<FusedStep> {
    let unfused = fusions == Fusions::None;
    let fusion = Fusion::new(program, config, fusions);
    let mut all: Vec<FusedStep> = Vec::with_capacity(program.steps().len());
    let mut done = vec![false; program.steps().len()];
    for main in 0..program.steps().len() {
        if done[main] {
            continue;
        }
        let single = FusedStep::single(main);
        let fused = if unfused { single } else { fusion.fuse(single) };
        // A sum of two layers is fused with the first of them.
        let fused = if fused.steps().any(|step| done[step]) { single } else { fused };
        for step in fused.steps() {
            done[step] = true;
        }
        all.push(fused);
    }
    // A transpose comes before its matmul, so it is in the list as a single step.
    let mut transposes = vec![false; program.steps().len()];
    all.iter().flat_map(FusedStep::all_transposes).for_each(|step| transposes[step] = true);
    all.retain(|fused| !transposes[fused.main]);
    all.sort_by_key(|fused| fused.last);
    all
}

struct Fusion<'p> {
    program: &'p Program,
    /// The steps that read each value, with repetition.
    readers: Vec<Vec<usize>>,
    /// The step that writes each value, if one does.
    writers: Vec<Option<usize>>,
    is_output: Vec<bool>,
    config: &'p Config,
    fusions: Fusions,
}

impl<'p> Fusion<'p> {
    fn new(program: &'p Program, config: &'p Config, fusions: Fusions) -> Self {
        let values = program.values().len();
        let (mut readers, mut writers, mut is_output) =
            (vec![Vec::new(); values], vec![None; values], vec![false; values]);
        for (at, step) in program.steps().iter().enumerate() {
            step.inputs.iter().for_each(|input| readers[input.index()].push(at));
            writers[step.output.index()] = Some(at);
        }
        program.outputs().iter().for_each(|id| is_output[id.index()] = true);
        Self { program, readers, writers, is_output, config, fusions }
    }

    fn fuse(&self, fused: FusedStep) -> FusedStep {
        let step = &self.program.steps()[fused.main];
        match &step.op {
            StepOp::QLinear(linear) => match linear.epilogue {
                Epilogue::Requantize { .. } => self.after_int8(fused),
                Epilogue::Scale { .. } | Epilogue::Dynamic { .. } => self.after_floats(fused),
            },
            StepOp::Op(Op::Linear(_)) => self.with_unary(fused),
            StepOp::Op(Op::Add(Add)) => {
                let softmax = || self.before_softmax(FusedStep { mask: Some(fused.main), ..fused }, fused.main);
                self.add_and_norm(fused).or_else(softmax).unwrap_or(fused)
            }
            StepOp::Op(Op::Mul(Mul)) => self.scale_and_mask(fused).unwrap_or(fused),
            op if norm::adds_and_quantizes(op) => self.with_quantize(fused),
            StepOp::Op(Op::ChooseQParams(_)) => self.chosen_and_quantized(fused),
            StepOp::QMatMul(_) | StepOp::Op(Op::MatMul(_)) => {
                self.attention(fused.main).unwrap_or_else(|| self.with_result_transpose(self.with_transposes(fused)))
            }
            _ => fused,
        }
    }

    /// The only reader of what a step writes, if the caller does not read it.
    fn only_reader(&self, step: usize) -> Option<usize> {
        let output = self.program.steps()[step].output;
        match self.readers[output.index()].as_slice() {
            [reader] if !self.is_output[output.index()] => Some(*reader),
            _ => None,
        }
    }

    fn op(&self, step: usize) -> &'p StepOp {
        &self.program.steps()[step].op
    }

    fn after_int8(&self, fused: FusedStep) -> FusedStep {
        let Some(reader) = self.only_reader(fused.main) else { return fused };
        match self.op(reader) {
            StepOp::QLut(_) => FusedStep { lut: Some(reader), last: reader, ..fused },
            StepOp::Op(Op::IntegerAdd(_)) if self.adds_apart(fused.main, reader) => {
                FusedStep { add: Some(reader), last: reader, ..fused }
            }
            _ => fused,
        }
    }

    /// Whether a sum has operands of one shape, of which the other is not the input of the layer: a buffer cannot be bound twice.
    fn adds_apart(&self, linear: usize, sum: usize) -> bool {
        let (x, own) = (self.program.steps()[linear].inputs[0], self.program.steps()[linear].output);
        let sum = &self.program.steps()[sum];
        let shape = |id: ValueId| &self.program.value(id).shape;
        let same_shapes = sum.inputs.iter().all(|&input| shape(input) == shape(sum.output));
        same_shapes && sum.inputs.iter().any(|&input| input != own) && !sum.inputs.contains(&x)
    }

    fn with_unary(&self, fused: FusedStep) -> FusedStep {
        let reader = self.only_reader(fused.main);
        match reader.map(|reader| (reader, self.op(reader))) {
            Some((reader, StepOp::Op(Op::Unary(_)))) => FusedStep { function: Some(reader), last: reader, ..fused },
            _ => fused,
        }
    }

    fn after_floats(&self, fused: FusedStep) -> FusedStep {
        let fused = self.with_unary(fused);
        let Some(reader) = self.only_reader(fused.last) else { return fused };
        let even = self.program.value(self.program.steps()[reader].output).cols().is_multiple_of(2);
        match self.op(reader) {
            // Rows of odd length share words, which threads of different rows would write.
            StepOp::ToF16 if even => FusedStep { to_f16: true, last: reader, ..fused },
            _ => fused,
        }
    }

    /// A sum and the layer norm that reads it, unless another reads it first.
    fn add_and_norm(&self, fused: FusedStep) -> Option<FusedStep> {
        let sum = &self.program.steps()[fused.main];
        let &norm = self.readers[sum.output.index()].first()?;
        if !norm::adds_and_quantizes(self.op(norm)) {
            return None;
        }
        let shape = |id: ValueId| &self.program.value(id).shape;
        let same = sum.inputs.iter().all(|&input| shape(input) == shape(sum.output));
        let twice = sum.inputs[0] == sum.inputs[1];
        let as_weight = self.program.steps()[norm].inputs[1..].contains(&sum.output);
        if !same || twice || as_weight {
            return None;
        }
        let readers = &self.readers[sum.output.index()];
        let keeps_sum = self.is_output[sum.output.index()] || readers.iter().any(|&reader| reader != norm);
        if self.fusions != Fusions::All && keeps_sum {
            return None;
        }
        let fused = FusedStep { main: norm, last: norm, add_before: Some(fused.main), keeps_sum, ..fused };
        // The dispatch runs in place of the last step, and a step that reads the sum earlier would not find it.
        let quantized = self.with_quantize(fused);
        let early = readers.iter().any(|&reader| reader != norm && reader < quantized.last);
        Some(if early { fused } else { quantized })
    }

    /// A product with a number that only a sum with a mask or a softmax reads.
    fn scale_and_mask(&self, fused: FusedStep) -> Option<FusedStep> {
        norm::softmax::scaled(self.program, &self.program.steps()[fused.main])?;
        let scaled = FusedStep { scale: Some(fused.main), ..fused };
        let reader = self.only_reader(fused.main)?;
        match self.op(reader) {
            // The mask is not the product itself.
            StepOp::Op(Op::Add(Add)) if self.masks(reader, fused.main) => {
                self.before_softmax(FusedStep { mask: Some(reader), ..scaled }, reader)
            }
            _ => self.before_softmax(scaled, fused.main),
        }
    }

    /// Whether a sum adds a mask to what a step writes.
    fn masks(&self, sum: usize, step: usize) -> bool {
        let own = norm::softmax::masked(self.program, &self.program.steps()[sum]).map(|(own, _)| own);
        own == Some(self.program.steps()[step].output)
    }

    /// The softmax of rows that alone reads what step `before` writes, with what is fused before it.
    fn before_softmax(&self, fused: FusedStep, before: usize) -> Option<FusedStep> {
        let reader = self.only_reader(before)?;
        let StepOp::Op(Op::Softmax(Softmax { axis })) = self.op(reader) else { return None };
        let y = self.program.value(self.program.steps()[reader].output);
        let operands = fused.mask.map(|mask| norm::softmax::masked(self.program, &self.program.steps()[mask]));
        // A buffer cannot be bound twice, and the kernel walks through rows.
        let apart = operands.is_none_or(|operands| operands.is_some_and(|(own, mask)| own != mask));
        let whole =
            axis + 1 == y.shape.rank() && self.program.value(self.program.steps()[before].output).shape == y.shape;
        (apart && whole).then_some(FusedStep { main: reader, last: reader, ..fused })
    }

    /// The steps of attention, of which step `scores` is the first matmul.
    fn attention(&self, scores: usize) -> Option<FusedStep> {
        let reader = self.only_reader(scores)?;
        let softmax = match self.op(reader) {
            StepOp::Op(Op::Mul(Mul)) => self.scale_and_mask(FusedStep::single(reader))?,
            StepOp::Op(Op::Add(Add)) if self.masks(reader, scores) => {
                self.before_softmax(FusedStep { mask: Some(reader), ..FusedStep::single(reader) }, reader)?
            }
            StepOp::Op(Op::Softmax(_)) => self.before_softmax(FusedStep::single(reader), scores)?,
            _ => return None,
        };
        let main = self.only_reader(softmax.main)?;
        let [first, second] = [scores, main].map(|step| &self.program.steps()[step]);
        let (StepOp::Op(Op::MatMul(a)), StepOp::Op(Op::MatMul(b))) = (&first.op, &second.op) else { return None };
        let shape = |id: ValueId| &self.program.value(id).shape;
        let [weights, result] = [second.inputs[0], second.output].map(shape);
        let (Some(keys), false) = (weights.last(), second.inputs[0] == second.inputs[1]) else { return None };
        let rank = weights.rank();
        // The rows of a matrix are not the batch, and each matrix of scores meets one matrix of values.
        let is_stack = (3..=MAX_AXES + 2).contains(&rank)
            && result.rank() == rank
            && result.dims()[..rank - 2] == weights.dims()[..rank - 2];
        let has_features = shape(first.inputs[0]).last().is_some_and(|depth| depth > 0);
        let scaled = softmax.scale.is_none_or(|scale| {
            let own = norm::softmax::scaled(self.program, &self.program.steps()[scale]);
            own.is_some_and(|(own, _)| own == first.output)
        });
        let weighs = self.program.steps()[softmax.main].output == second.inputs[0];
        let m = weights.axis(rank.saturating_sub(2)).unwrap_or(0);
        if a != b || !is_stack || !has_features || !scaled || !weighs || !attention::suits(m, keys, self.config) {
            return None;
        }
        let transposes = self.with_transposes(FusedStep::single(scores)).transposes;
        let of_values = self.with_transposes(FusedStep::single(main)).transposes[1];
        let attention = Some(Attention { scores, softmax: softmax.main, transposes });
        let FusedStep { scale, mask, .. } = softmax;
        let fused = FusedStep { attention, scale, mask, transposes: [None, of_values], ..FusedStep::single(main) };
        Some(self.with_result_transpose(fused))
    }

    fn with_quantize(&self, fused: FusedStep) -> FusedStep {
        match self.only_reader(fused.main).map(|reader| (reader, self.op(reader))) {
            Some((reader, StepOp::Op(Op::Quantize(Quantize { rule: QuantizeRule::Multiply, .. }))))
                if self.norms_last_axis(fused.main) =>
            {
                FusedStep { quantize: Some(reader), last: reader, ..fused }
            }
            _ => fused,
        }
    }

    /// Whether a layer norm normalizes rows, so that it can write int8 rows.
    fn norms_last_axis(&self, norm: usize) -> bool {
        let norm = &self.program.steps()[norm];
        self.program.value(norm.inputs[1]).shape.rank() == 1
    }

    /// The choice of qparams, and the quantization with them.
    fn chosen_and_quantized(&self, fused: FusedStep) -> FusedStep {
        let choose = &self.program.steps()[fused.main];
        let Some(&reader) = self.readers[choose.output.index()].first() else { return fused };
        let quantize = &self.program.steps()[reader];
        let same = quantize.inputs.first() == choose.inputs.first();
        let StepOp::Op(Op::ChooseQParams(ChooseQParams { range: chosen, .. })) = &choose.op else { return fused };
        match &quantize.op {
            StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range })) if same && range == chosen => {
                FusedStep { quantize: Some(reader), last: reader, ..fused }
            }
            _ => fused,
        }
    }

    /// Fuses the transposes of a matmul's operands if the kernel can read through them.
    fn with_transposes(&self, fused: FusedStep) -> FusedStep {
        let matmul = &self.program.steps()[fused.main];
        let mut fused = fused;
        for (at, slot) in fused.transposes.iter_mut().enumerate() {
            let operand = matmul.inputs[at];
            let Some(transpose) = self.writers[operand.index()] else { continue };
            let StepOp::Op(Op::Transpose(Transpose { perm })) = self.op(transpose) else { continue };
            let alone = self.only_reader(transpose) == Some(fused.main);
            // The other operand must not lie in the same place.
            let source = self.program.steps()[transpose].inputs[0];
            let apart = matmul.inputs.iter().all(|&input| input != source);
            let is_int8 = self.program.value(operand).value_type == ValueType::I8;
            if alone && apart && readable(perm, at, is_int8) {
                *slot = Some(transpose);
            }
        }
        if fused.transposes.iter().all(Option::is_some) {
            let source = |step: Option<usize>| step.map(|step| self.program.steps()[step].inputs[0]);
            if source(fused.transposes[0]) == source(fused.transposes[1]) {
                fused.transposes[1] = None;
            }
        }
        fused
    }
}

impl Fusion<'_> {
    /// Whether a matmul reads what a step writes, and may be fused with it.
    fn is_factor(&self, step: usize) -> bool {
        let is_matmul = |&reader: &usize| matches!(self.op(reader), StepOp::QMatMul(_) | StepOp::Op(Op::MatMul(_)));
        self.readers[self.program.steps()[step].output.index()].iter().any(is_matmul)
    }

    /// Fuses the transpose of a matmul's result if rows stay rows and are not the batch.
    fn with_result_transpose(&self, fused: FusedStep) -> FusedStep {
        let shape = &self.program.value(self.program.steps()[fused.main].output).shape;
        let last = shape.rank() - 1;
        match self.only_reader(fused.main).map(|reader| (reader, self.op(reader))) {
            Some((reader, StepOp::Op(Op::Transpose(Transpose { perm }))))
                if perm[last] == last && !(shape.is_batched() && last == 1) && !self.is_factor(reader) =>
            {
                FusedStep { last: reader, ..fused }
            }
            _ => fused,
        }
    }
}

/// Whether a matmul can read an operand through a permutation: the features of `a` must be contiguous, and of an int8 `b` either its
/// features or its columns.
fn readable(perm: &[usize], operand: usize, is_int8: bool) -> bool {
    let [.., row, column] = perm[..] else { return false };
    let innermost = perm.len() - 1;
    match operand {
        0 => column == innermost,
        _ => !is_int8 || row == innermost || column == innermost,
    }
}
