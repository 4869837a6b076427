//! The fusion of steps: a fixed list of patterns whose steps share a dispatch.
//!
//! | steps | dispatch |
//! |---|---|
//! | int8 linear, lookup table | linear with the lookup table in its epilogue |
//! | int8 linear, int8 sum with a value of the same shape | linear with the sum in its epilogue |
//! | int8 linear to float, unary function, cast to f16 | linear with both in its epilogue, each if it is there |
//! | int8 linear layers that read the same value | one product with the weights of up to four |
//! | up to eight float steps that compute each element from one other, or from two | a chain, whose intermediate results stay in registers |
//! | casts of integers, product, sum along an axis, unary function | sum of products and its function, each if it is there |
//! | the same, sum of one factor, clamp, division of both sums | sum of products that divides by the sum of its weights |
//! | lookup in an embedding table, and a chain | the chain, which begins with the lookup |
//! | float linear, unary function | matmul with the function in its epilogue |
//! | float sum, layer norm, qparams of each row, quantize | layer norm that adds first and quantizes last, each if it is there |
//! | qparams of each row, quantize with them | a kernel that does both |
//! | qparams of all rows, quantize with them | the ranges of rows, and a kernel that does both |
//! | transpose, matmul, transpose | matmul that reads its operands and writes its result in that order, each if it is there |
//! | product with a number, sum with a mask, softmax of rows | softmax that does both first, each if it is there |
//! | float matmul, those, float matmul with the values, transposes of all operands and of the result | attention of up to 64 keys on GPUs, 128 or 384 elsewhere |
//! | attention, reshape, quantize | attention that writes int8 values, if its columns are a multiple of 4 |
//!
//! A reshape that moves no element has no dispatch: its result lies where its operand does ([`Plan`](super::plan::Plan)).
//!
//! A value that only steps of the same dispatch read is never written. If others read it too, the kernel writes it as a second
//! result, or the steps are not fused. A sum that is kept lives together with both operands and the norm; if that costs too much
//! memory, [`Plan`](super::plan::Plan) asks for other fusions.

mod attention;
mod mean;

use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::elementwise::chain::Chain;
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::linear::layers;
use crate::gpu::kernels::norm;
use crate::ops::{Add, ChooseQParams, Mul, Op, QuantizeDynamic, Softmax};
use crate::program::{Epilogue, Program, QConv, StepOp, ValueId, ValueType};

/// A set of patterns to fuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fusions {
    /// All patterns of the list.
    All,
    /// All patterns, except sums before a norm and quantized norms whose floats other steps read too.
    AllButKept,
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
        let fused = if fused == single && !unfused { fusion.chain(main) } else { fused };
        // A sum of two layers is fused with the first of them.
        let fused = if fused.steps().any(|step| done[step]) { single } else { fused };
        for step in fused.steps() {
            done[step] = true;
        }
        all.push(fused);
    }
    // A transpose comes before its matmul, and a cast before its sum, so it is in the list as a single step.
    let mut read_through = vec![false; program.steps().len()];
    all.iter().flat_map(FusedStep::read_through).for_each(|step| read_through[step] = true);
    all.retain(|fused| !read_through[fused.main]);
    if !unfused {
        layers::share(&mut all, program, config);
    }
    all.sort_by_key(|fused| fused.last);
    all
}

/// The fused steps of layers that share a dispatch. They are the same in every plan of a program.
pub(crate) fn shared_layers(program: &Program, config: &Config) -> Vec<FusedStep> {
    let fusions = if config.unfused { Fusions::None } else { Fusions::All };
    fuse(program, config, fusions).into_iter().filter(FusedStep::shares).collect()
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
            StepOp::QLinear(layer) | StepOp::QConv(QConv { layer, .. }) => match layer.epilogue {
                Epilogue::Requantize { .. } => self.after_int8(fused),
                Epilogue::Scale { .. } | Epilogue::Dynamic { .. } => self.after_floats(fused),
            },
            StepOp::Op(Op::Linear(_)) => self.with_unary(fused),
            StepOp::Op(Op::Add(Add)) => {
                let softmax = || self.before_softmax(FusedStep { mask: Some(fused.main), ..fused }, fused.main);
                self.add_and_norm(fused).or_else(softmax).unwrap_or(fused)
            }
            StepOp::Op(Op::Mul(Mul)) => {
                self.scale_and_mask(fused).or_else(|| self.product_and_sum(fused)).unwrap_or(fused)
            }
            StepOp::Op(Op::Sum(_)) => self.mean_with_weights(fused.main).unwrap_or_else(|| self.around_sum(fused)),
            op if norm::adds_and_quantizes(op) => self.with_quantize(fused),
            StepOp::Op(Op::ChooseQParams(_)) => self.chosen_and_quantized(fused),
            StepOp::QMatMul(_) | StepOp::Op(Op::MatMul(_)) => {
                self.attention(fused.main).unwrap_or_else(|| self.with_result_transpose(self.with_transposes(fused)))
            }
            _ => fused,
        }
    }

    /// A chain of elementwise steps from one on, as long as no other pattern wants the next.
    fn chain(&self, first: usize) -> FusedStep {
        let mut steps = vec![first];
        let Some(mut chain) = Chain::of(self.program, &steps) else { return FusedStep::single(first) };
        while let Some(next) = steps.last().and_then(|&last| self.only_reader_of_all(last)) {
            let single = FusedStep::single(next);
            steps.push(next);
            match Chain::of(self.program, &steps).filter(|_| self.fuse(single) == single) {
                Some(longer) => chain = longer,
                None => {
                    steps.pop();
                    break;
                }
            }
        }
        let last = steps[steps.len() - 1];
        let mut fused = FusedStep { last, ..FusedStep::single(first) };
        if chain.is_worthwhile() {
            fused.chain.iter_mut().zip(steps).for_each(|(slot, step)| *slot = Some(step));
            return fused;
        }
        FusedStep::single(first)
    }

    /// The only step that reads what a step writes, as one operand or several, if the caller does not read it.
    fn only_reader_of_all(&self, step: usize) -> Option<usize> {
        let output = self.program.steps()[step].output;
        let (first, others) = self.readers[output.index()].split_first()?;
        (others.iter().all(|other| other == first) && !self.is_output[output.index()]).then_some(*first)
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

    /// A product that only a sum along an axis reads.
    fn product_and_sum(&self, fused: FusedStep) -> Option<FusedStep> {
        let sum = self.sum_of_product(fused.main)?;
        let fused = self.around_sum(FusedStep { main: sum, last: sum, product: Some(fused.main), ..fused });
        Some(self.weighted_mean(&fused).map_or(fused, |mean| FusedStep {
            mean: Some(mean),
            last: mean.division,
            ..fused
        }))
    }

    /// The sum along an axis that alone reads a product.
    fn sum_of_product(&self, product: usize) -> Option<usize> {
        self.only_reader(product).filter(|&reader| matches!(self.op(reader), StepOp::Op(Op::Sum(_))))
    }

    /// The casts of the operands of a sum of floats, and the function that follows.
    fn around_sum(&self, fused: FusedStep) -> FusedStep {
        if self.program.value(self.program.steps()[fused.main].output).value_type != ValueType::F32 {
            return fused;
        }
        let mut fused = self.with_unary(fused);
        let operands = &self.program.steps()[fused.product.unwrap_or(fused.main)].inputs;
        for (cast, operand) in fused.casts.iter_mut().zip(operands) {
            *cast = self.writers[operand.index()].filter(|&writer| self.is_cast_for_sums(writer));
        }
        fused
    }

    /// Whether a step casts integers that only sums along an axis read, or products before them.
    fn is_cast_for_sums(&self, step: usize) -> bool {
        let output = self.program.steps()[step].output.index();
        let reads = |&reader: &usize| match self.op(reader) {
            StepOp::Op(Op::Sum(_)) => true,
            StepOp::Op(Op::Mul(Mul)) => {
                self.scale_and_mask(FusedStep::single(reader)).is_none() && self.sum_of_product(reader).is_some()
            }
            _ => false,
        };
        let is_cast = matches!(self.op(step), StepOp::Op(Op::ToFloat(_)));
        is_cast && !self.is_output[output] && self.readers[output].iter().all(reads)
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

    /// The quantization of a layer norm's result, with static qparams or with those of each row. Other steps may read the floats later.
    fn with_quantize(&self, fused: FusedStep) -> FusedStep {
        let output = self.program.steps()[fused.main].output;
        let readers = &self.readers[output.index()];
        let (Some(&first), true) = (readers.first(), self.norms_last_axis(fused.main)) else { return fused };
        let quantized = match self.op(first) {
            StepOp::Op(Op::Quantize(_)) => FusedStep { quantize: Some(first), last: first, ..fused },
            StepOp::Op(Op::ChooseQParams(choose)) if choose.qscheme.is_per_token() => {
                let chosen = self.chosen_and_quantized(FusedStep::single(first));
                FusedStep { quantize: chosen.quantize, choose: Some(first), last: chosen.last, ..fused }
            }
            _ => return fused,
        };
        let own = [quantized.choose, quantized.quantize];
        let mut others = readers.iter().filter(|&&reader| !own.contains(&Some(reader))).peekable();
        let keeps_norm = self.is_output[output.index()] || others.peek().is_some();
        // The dispatch runs in place of the last step, and a step that reads the floats earlier would not find them.
        let in_time = quantized.quantize.is_some() && others.all(|&reader| reader > quantized.last);
        let may_keep = self.fusions == Fusions::All || !keeps_norm;
        if in_time && may_keep { FusedStep { keeps_norm, ..quantized } } else { fused }
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
}
