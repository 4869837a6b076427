//! Which steps share a dispatch: a fixed list.
//!
//! | steps | dispatch |
//! |---|---|
//! | int8 linear, table | linear with a table behind it |
//! | int8 linear, sum of codes with a value of the same shape | linear that adds |
//! | int8 linear to float, function of each element, halves | linear with the function, and halves, behind it |
//! | float linear, function of each element | matmul with the function behind it |
//! | float sum, layer norm, quantize | layer norm that adds before and quantizes behind, each if it is there |
//! | scales of each row, quantize with them | one look at each row |
//! | transpose, matmul | matmul that walks through its operand in that order |
//!
//! A value that only joined steps read is never written; one that others read too is a second result where the kernel can give
//! it, else its steps stay apart. A sum that is kept lives together with both operands and the norm; where that costs too much
//! memory, [`Plan`](super::plan::Plan) asks for it to stay apart.

use crate::numerics::UnaryOp;
use crate::ops::{Add, ChooseQParams, Linear, MatMul, Op, QuantizeDynamic, Transpose, Unary};
use crate::program::{Epilogue, Program, StepOp, ValueId, ValueType};

/// Steps that share a dispatch, or a step of its own. Indices are those of [`Program::steps`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Group {
    /// The step that gives the dispatch its kernel.
    pub(super) main: usize,
    /// The last step, whose output the group writes.
    pub(super) last: usize,
    /// The table that follows.
    pub(super) table: Option<usize>,
    /// The sum that follows.
    pub(super) sum: Option<usize>,
    /// The function that follows.
    pub(super) function: Option<usize>,
    /// Whether halves are written.
    pub(super) halves: bool,
    /// The sum before a layer norm.
    pub(super) before: Option<usize>,
    /// Whether that sum is read by others, or by the caller.
    pub(super) keeps_sum: bool,
    /// The quantization after a layer norm, or with the scales that the main step chooses.
    pub(super) quantize: Option<usize>,
    /// The transposes of a matmul's operands.
    pub(super) transposes: [Option<usize>; 2],
}

/// Which steps may share a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joined {
    /// Those of the list.
    All,
    /// The same, but for sums before a layer norm that others read too.
    AllButKeptSums,
    /// None.
    Nothing,
}

/// The groups of a program, in an order in which they can be executed.
pub(super) fn groups(program: &Program, joined: Joined) -> Vec<Group> {
    let unfused = joined == Joined::Nothing;
    let fusion = Fusion::new(program, joined);
    let mut groups: Vec<Group> = Vec::with_capacity(program.steps().len());
    let mut joined = vec![false; program.steps().len()];
    for main in 0..program.steps().len() {
        if joined[main] {
            continue;
        }
        let alone = Group { main, last: main, ..Group::default() };
        let group = if unfused { alone } else { fusion.group(alone) };
        // A sum of two layers joins the first of them.
        let group = if group.steps().any(|step| joined[step]) { alone } else { group };
        for step in group.steps() {
            joined[step] = true;
        }
        groups.push(group);
    }
    // A transpose is met before its matmul.
    let mut transposes = vec![false; program.steps().len()];
    groups.iter().flat_map(|group| group.transposes).flatten().for_each(|step| transposes[step] = true);
    groups.retain(|group| !transposes[group.main]);
    groups.sort_by_key(|group| group.last);
    groups
}

impl Group {
    /// Which function follows.
    pub(super) fn unary(&self, program: &Program) -> Option<UnaryOp> {
        match program.steps()[self.function?].op {
            StepOp::Op(Op::Unary(Unary { op })) => Some(op),
            _ => None,
        }
    }

    fn steps(&self) -> impl Iterator<Item = usize> {
        let others = [self.table, self.sum, self.function, self.before, self.quantize];
        [Some(self.main), Some(self.last)].into_iter().chain(others).flatten()
    }
}

struct Fusion<'p> {
    program: &'p Program,
    /// The steps that read each value, with repetition.
    readers: Vec<Vec<usize>>,
    /// The step that writes each value, if one does.
    writers: Vec<Option<usize>>,
    is_output: Vec<bool>,
    joined: Joined,
}

impl<'p> Fusion<'p> {
    fn new(program: &'p Program, joined: Joined) -> Self {
        let values = program.values().len();
        let (mut readers, mut writers, mut is_output) =
            (vec![Vec::new(); values], vec![None; values], vec![false; values]);
        for (at, step) in program.steps().iter().enumerate() {
            step.inputs.iter().for_each(|input| readers[input.index()].push(at));
            writers[step.output.index()] = Some(at);
        }
        program.outputs().iter().for_each(|id| is_output[id.index()] = true);
        Self { program, readers, writers, is_output, joined }
    }

    fn group(&self, group: Group) -> Group {
        let step = &self.program.steps()[group.main];
        match &step.op {
            StepOp::QLinear(linear) => match linear.epilogue {
                Epilogue::Requantize { .. } => self.after_codes(group),
                Epilogue::Scale { .. } | Epilogue::Dynamic { .. } => self.after_floats(group),
            },
            StepOp::Op(Op::Linear(Linear)) => self.with_unary(group),
            StepOp::Op(Op::Add(Add)) => self.add_and_norm(group).unwrap_or(group),
            StepOp::Op(Op::LayerNorm(_)) => self.with_quantize(group),
            StepOp::Op(Op::ChooseQParams(ChooseQParams { qscheme, .. })) if qscheme.is_per_token() => {
                self.per_token(group)
            }
            StepOp::QMatMul(_) | StepOp::Op(Op::MatMul(MatMul)) => self.with_transposes(group),
            _ => group,
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

    fn after_codes(&self, group: Group) -> Group {
        let Some(reader) = self.only_reader(group.main) else { return group };
        match self.op(reader) {
            StepOp::QLut(_) => Group { table: Some(reader), last: reader, ..group },
            StepOp::Op(Op::IntegerAdd(_)) if self.adds_apart(group.main, reader) => {
                Group { sum: Some(reader), last: reader, ..group }
            }
            _ => group,
        }
    }

    /// Whether a sum is of values of one shape, of which the other is not what the layer reads: a buffer cannot be bound twice.
    fn adds_apart(&self, linear: usize, sum: usize) -> bool {
        let (x, own) = (self.program.steps()[linear].inputs[0], self.program.steps()[linear].output);
        let sum = &self.program.steps()[sum];
        let shape = |id: ValueId| &self.program.value(id).shape;
        let same_shapes = sum.inputs.iter().all(|&input| shape(input) == shape(sum.output));
        same_shapes && sum.inputs.iter().any(|&input| input != own) && !sum.inputs.contains(&x)
    }

    fn with_unary(&self, group: Group) -> Group {
        let reader = self.only_reader(group.main);
        match reader.map(|reader| (reader, self.op(reader))) {
            Some((reader, StepOp::Op(Op::Unary(_)))) => Group { function: Some(reader), last: reader, ..group },
            _ => group,
        }
    }

    fn after_floats(&self, group: Group) -> Group {
        let group = self.with_unary(group);
        let Some(reader) = self.only_reader(group.last) else { return group };
        let even = self.program.value(self.program.steps()[reader].output).cols().is_multiple_of(2);
        match self.op(reader) {
            // Rows of odd length share words, which threads of different rows would write.
            StepOp::ToF16 if even => Group { halves: true, last: reader, ..group },
            _ => group,
        }
    }

    /// A sum and the layer norm that reads it, unless another reads it first.
    fn add_and_norm(&self, group: Group) -> Option<Group> {
        let sum = &self.program.steps()[group.main];
        let &norm = self.readers[sum.output.index()].first()?;
        let StepOp::Op(Op::LayerNorm(_)) = self.op(norm) else { return None };
        let shape = |id: ValueId| &self.program.value(id).shape;
        let same = sum.inputs.iter().all(|&input| shape(input) == shape(sum.output));
        let twice = sum.inputs[0] == sum.inputs[1];
        let as_weight = self.program.steps()[norm].inputs[1..].contains(&sum.output);
        if !same || twice || as_weight {
            return None;
        }
        let readers = &self.readers[sum.output.index()];
        let keeps_sum = self.is_output[sum.output.index()] || readers.iter().any(|&reader| reader != norm);
        if self.joined != Joined::All && keeps_sum {
            return None;
        }
        let group = Group { main: norm, last: norm, before: Some(group.main), keeps_sum, ..group };
        // The group runs where its last step stands, and what reads the sum before that would find none.
        let quantized = self.with_quantize(group);
        let early = readers.iter().any(|&reader| reader != norm && reader < quantized.last);
        Some(if early { group } else { quantized })
    }

    fn with_quantize(&self, group: Group) -> Group {
        match self.only_reader(group.main).map(|reader| (reader, self.op(reader))) {
            Some((reader, StepOp::Op(Op::Quantize(_)))) if self.norms_last_axis(group.main) => {
                Group { quantize: Some(reader), last: reader, ..group }
            }
            _ => group,
        }
    }

    /// Whether a line of a layer norm is a row of its codes.
    fn norms_last_axis(&self, norm: usize) -> bool {
        let norm = &self.program.steps()[norm];
        self.program.value(norm.inputs[1]).shape.rank() == 1
    }

    fn per_token(&self, group: Group) -> Group {
        let choose = &self.program.steps()[group.main];
        let Some(&reader) = self.readers[choose.output.index()].first() else { return group };
        let quantize = &self.program.steps()[reader];
        let same = quantize.inputs.first() == choose.inputs.first();
        let StepOp::Op(Op::ChooseQParams(ChooseQParams { range: chosen, .. })) = &choose.op else { return group };
        match &quantize.op {
            StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range })) if same && range == chosen => {
                Group { quantize: Some(reader), last: reader, ..group }
            }
            _ => group,
        }
    }

    /// A matmul's operands before their transposes, where the kernel can walk through them so.
    fn with_transposes(&self, group: Group) -> Group {
        let matmul = &self.program.steps()[group.main];
        let mut group = group;
        for (at, slot) in group.transposes.iter_mut().enumerate() {
            let operand = matmul.inputs[at];
            let Some(transpose) = self.writers[operand.index()] else { continue };
            let StepOp::Op(Op::Transpose(Transpose { perm })) = self.op(transpose) else { continue };
            let alone = self.only_reader(transpose) == Some(group.main);
            // The other operand must not lie in the same place.
            let source = self.program.steps()[transpose].inputs[0];
            let apart = matmul.inputs.iter().all(|&input| input != source);
            let codes = self.program.value(operand).value_type == ValueType::I8;
            if alone && apart && walkable(perm, at, codes) {
                *slot = Some(transpose);
            }
        }
        if group.transposes.iter().all(Option::is_some) {
            let source = |step: Option<usize>| step.map(|step| self.program.steps()[step].inputs[0]);
            if source(group.transposes[0]) == source(group.transposes[1]) {
                group.transposes[1] = None;
            }
        }
        group
    }
}

/// Whether a matmul can read an operand through a permutation: features of `a` lie side by side, and of codes of `b` either its
/// features or its columns.
fn walkable(perm: &[usize], operand: usize, codes: bool) -> bool {
    let [.., row, column] = perm[..] else { return false };
    let innermost = perm.len() - 1;
    match operand {
        0 => column == innermost,
        _ => !codes || row == innermost || column == innermost,
    }
}
