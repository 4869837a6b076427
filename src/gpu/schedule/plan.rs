//! The dispatches of a program, and where its values lie between them.

use super::alias::alias;
use super::arena::{Arenas, Lifetime, Place};
use super::fuse::{Fusions, fuse};
use crate::gpu::device::error::GpuError;
use crate::gpu::device::pipeline::PipelineKey;
use crate::gpu::kernels;
use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::dispatch::{Bound, Operand, PlannedDispatch, Planning};
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::layout::{dense_bytes, needs_padding, padded_bytes};
use crate::gpu::kernels::linear::layers;
use crate::gpu::kernels::linear::weights::WeightPart;
use crate::gpu::kernels::movement::{self, MovementKernel};
use crate::program::{Program, ValueId, ValueType};

/// Memory that sums and norms which are kept may take beyond a tenth.
const KEPT_SUM_BYTES: u64 = 256 * 1024;

/// The dispatches of a program, and the memory that its values share.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) dispatches: Vec<PlannedDispatch>,
    /// The arenas, and the place of each scratch value in them.
    pub(crate) arenas: Arenas,
    lives: Vec<Lifetime>,
}

/// The input of a plan, besides the program and the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanOptions<'o> {
    pub(crate) max_rows: usize,
    /// For each step the parts of its weight.
    pub(crate) weights: &'o [&'o [WeightPart]],
    /// Inputs that share memory with an earlier one; they are copied, because no dispatch may bind it twice.
    pub(crate) copied: &'o [bool],
    /// The alignment of a binding's offset, and the most bytes of a buffer.
    pub(crate) alignment: u64,
    pub(crate) max_bytes: u64,
}

impl Plan {
    pub(crate) fn new(program: &Program, config: &Config, options: PlanOptions<'_>) -> Result<Self, GpuError> {
        let plan = |fused: &[FusedStep]| Self::placed(program, config, options, fused);
        if config.unfused {
            return plan(&fuse(program, config, Fusions::None));
        }
        let all = fuse(program, config, Fusions::All);
        let fastest = plan(&all)?;
        if !all.iter().any(|fused| fused.keeps_sum || fused.keeps_norm) {
            return Ok(fastest);
        }
        // A dispatch saved is worth some memory, but not much.
        let smallest = plan(&fuse(program, config, Fusions::AllButKept))?;
        let allowed = smallest.arenas.bytes().saturating_mul(11) / 10;
        let too_large = fastest.arenas.bytes() > allowed.saturating_add(KEPT_SUM_BYTES);
        Ok(if too_large { smallest } else { fastest })
    }

    /// The parameters of all dispatches, each at a multiple of `stride`.
    pub(crate) fn params(&self, stride: usize) -> Vec<u8> {
        let mut params = vec![0; self.dispatches.len() * stride];
        for (planned, slot) in self.dispatches.iter().zip(params.chunks_exact_mut(stride)) {
            slot[..planned.params.len()].copy_from_slice(&planned.params);
        }
        params
    }

    /// The place of a scratch value.
    pub(crate) fn place(&self, scratch: usize) -> Place {
        self.arenas.places[scratch]
    }

    fn placed(
        program: &Program,
        config: &Config,
        options: PlanOptions<'_>,
        fused: &[FusedStep],
    ) -> Result<Self, GpuError> {
        let mut plan = Self::without_places(program, config, options, fused)?;
        // Whole vectors, so that those of a value are whole too.
        plan.arenas = Arenas::plan(&plan.lives, options.alignment.max(16), options.max_bytes);
        Ok(plan)
    }

    fn without_places(
        program: &Program,
        config: &Config,
        options: PlanOptions<'_>,
        fused: &[FusedStep],
    ) -> Result<Self, GpuError> {
        let PlanOptions { max_rows, weights, copied, .. } = options;
        let planning = Planning { program, config, max_rows, weights };
        let values = program.values().len();
        let (places, output_of) = (vec![None; values], vec![None; values]);
        let mut planner = Planner { planning, plan: Self::default(), places, output_of };
        for (at, id) in program.outputs().iter().enumerate() {
            planner.output_of[id.index()] = Some(at);
        }
        for (at, (id, _)) in program.constants().iter().enumerate() {
            planner.places[id.index()] = Some(Operand::Constant(at));
        }
        for (at, &id) in program.inputs().iter().enumerate() {
            planner.input(at, id, copied.get(at).is_some_and(|&copied| copied));
        }
        for fused in fused {
            planner.step(fused)?;
        }
        Ok(planner.plan)
    }

    /// Adds a dispatch, which lengthens the lives of the values that it uses.
    fn push(&mut self, dispatch: PlannedDispatch) {
        let at = self.dispatches.len();
        let bound = || dispatch.reads.iter().chain(&dispatch.writes).enumerate();
        debug_assert!(
            bound().all(|(at, own)| bound().all(|(other, bound)| other == at || bound.operand != own.operand)),
            "{}: no two bindings of a dispatch are in one place",
            dispatch.name
        );
        for bound in dispatch.reads.iter().chain(&dispatch.writes) {
            if let (Operand::Scratch { at: scratch, offset }, Some(bytes)) = (bound.operand, bound.bytes) {
                let life = &mut self.lives[scratch];
                life.last = at;
                life.bytes = life.bytes.max(offset.saturating_add(bytes));
            }
        }
        self.dispatches.push(dispatch);
    }

    /// Memory that the next dispatch writes first.
    fn scratch(&mut self, bytes: Option<u64>) -> Operand {
        let at = self.dispatches.len();
        self.lives.push(Lifetime { bytes: bytes.unwrap_or(0), first: at, last: at });
        Operand::Scratch { at: self.lives.len() - 1, offset: 0 }
    }
}

/// The pipelines whose known answers a program needs. Refuses steps that no number of rows makes possible.
///
/// # Errors
/// Returns [`GpuError::Limit`] for a step that walks through too many axes in different orders.
pub(crate) fn needed(program: &Program, config: &Config) -> Result<Vec<PipelineKey>, GpuError> {
    let planning = Planning { program, config, max_rows: 1, weights: &[] };
    let fusions = if config.unfused { Fusions::None } else { Fusions::All };
    let mut needed = Vec::new();
    // The value in whose place each value lies.
    let mut places: Vec<ValueId> = (0..program.values().len()).map(ValueId::new).collect();
    for fused in fuse(program, config, fusions) {
        match alias(&planning, &fused, |id| program.outputs().contains(&id)) {
            Some((x, y)) => places[y.index()] = places[x.index()],
            None => needed.extend(kernels::needed(&planning, &fused, |id| places[id.index()])?),
        }
    }
    Ok(needed)
}

struct Planner<'p> {
    planning: Planning<'p>,
    plan: Plan,
    /// The place of each value, once it is written.
    places: Vec<Option<Operand>>,
    /// The number of the output that each value is, if it is one.
    output_of: Vec<Option<usize>>,
}

/// The memory of one step.
#[derive(Default)]
struct StepMemory {
    temporary: Option<Operand>,
    /// Copies of values.
    copies: Vec<(ValueId, Operand)>,
}

impl Planner<'_> {
    fn input(&mut self, at: usize, id: ValueId, copied: bool) {
        let value = self.planning.value(id);
        let mut place = Operand::Input(at);
        if needs_padding(value) {
            let dense = dense_bytes(value, self.planning.max_rows);
            place = self.moved(id, MovementKernel::Pad, (place, dense), self.padded(id));
        } else if copied && value.value_type != ValueType::F16 {
            // f16 has one reader, which binds nothing else that it reads.
            place = self.copy(id, place);
        }
        self.places[id.index()] = Some(place);
    }

    fn padded(&self, id: ValueId) -> u64 {
        padded_bytes(self.planning.value(id), self.planning.max_rows)
    }

    /// A dispatch that moves a value to scratch memory; its new place.
    fn moved(
        &mut self,
        id: ValueId,
        kernel: MovementKernel,
        (from, from_bytes): (Operand, u64),
        bytes: u64,
    ) -> Operand {
        let to = self.plan.scratch(Some(bytes));
        let a = Bound { binding: movement::A, operand: from, bytes: Some(from_bytes) };
        let y = Bound { binding: movement::Y, operand: to, bytes: Some(bytes) };
        self.plan.push(movement::layout(&self.planning, self.planning.value(id), kernel, a, y));
        to
    }

    /// A copy of a value, for a dispatch that would otherwise bind it twice.
    fn copy(&mut self, id: ValueId, from: Operand) -> Operand {
        let bytes = self.padded(id);
        self.moved(id, MovementKernel::CopyWords, (from, bytes), bytes)
    }

    fn step(&mut self, fused: &FusedStep) -> Result<(), GpuError> {
        let is_output = |id: ValueId| self.output_of[id.index()].is_some();
        if let Some((x, y)) = alias(&self.planning, fused, is_output) {
            self.places[y.index()] = self.places[x.index()];
            return Ok(());
        }
        self.place_layers(fused);
        let mut memory = StepMemory::default();
        let mut written: Vec<(ValueId, Bound)> = Vec::new();
        for mut dispatch in kernels::plan(&self.planning, fused)? {
            for at in 0..dispatch.reads.len() {
                let (earlier, rest) = dispatch.reads.split_at_mut(at);
                let Some(read) = rest.first_mut() else { break };
                read.operand = self.read(read.operand, earlier, &mut memory);
            }
            for write in &mut dispatch.writes {
                let value = write.operand;
                write.operand = self.write(*write, &mut memory);
                if let Operand::Value(id) = value
                    && written.iter().all(|(other, _)| *other != id)
                {
                    written.push((id, *write));
                }
            }
            self.plan.push(dispatch);
        }
        for (id, bound) in written {
            self.unpad(id, bound);
        }
        Ok(())
    }

    /// Memory for the results of layers that share a dispatch, one after the other.
    fn place_layers(&mut self, fused: &FusedStep) {
        if !layers::has_shared_result(&self.planning, fused) {
            return;
        }
        let steps = self.planning.program.steps();
        let stride = layers::stride_bytes(self.planning.output(fused), self.planning.max_rows);
        let Operand::Scratch { at, .. } = self.plan.scratch(None) else { return };
        for (number, layer) in (0..).zip(fused.layers()) {
            let place = Operand::Scratch { at, offset: stride.saturating_mul(number) };
            self.places[steps[layer].output.index()] = Some(place);
        }
    }

    /// The place of an operand. The bindings of one dispatch may not overlap, so it is a copy if `earlier` has the place too.
    fn read(&mut self, operand: Operand, earlier: &[Bound], memory: &mut StepMemory) -> Operand {
        let id = match operand {
            Operand::Value(id) => id,
            Operand::Temporary(_) => return memory.temporary.unwrap_or(operand),
            other => return other,
        };
        // `Program::new` checks the order, and fusion keeps it. Any other place would belong to another value.
        let place = self.places[id.index()]
            .unwrap_or_else(|| unreachable!("{} is read before it is written", self.planning.value(id).name));
        if earlier.iter().all(|bound| bound.operand != place) {
            return place;
        }
        // All dispatches of a step share the copies.
        let is_free = |copy: Operand| earlier.iter().all(|bound| bound.operand != copy);
        let free = memory.copies.iter().find(|(of, copy)| *of == id && is_free(*copy));
        free.map(|(_, copy)| *copy).unwrap_or_else(|| {
            let copy = self.copy(id, place);
            memory.copies.push((id, copy));
            copy
        })
    }

    /// The place where a value is written: where the caller wants it, unless in another layout.
    fn write(&mut self, write: Bound, memory: &mut StepMemory) -> Operand {
        match write.operand {
            Operand::Value(id) => {
                let place = match (self.places[id.index()], self.output_of[id.index()]) {
                    (Some(place), _) => place,
                    (None, Some(output)) if !needs_padding(self.planning.value(id)) => Operand::Output(output),
                    _ => self.plan.scratch(write.bytes),
                };
                self.places[id.index()] = Some(place);
                place
            }
            Operand::Temporary(_) => *memory.temporary.get_or_insert_with(|| self.plan.scratch(write.bytes)),
            other => other,
        }
    }

    /// Moves an output that has another layout to the caller's buffer, after the last dispatch of a step.
    fn unpad(&mut self, id: ValueId, written: Bound) {
        if let (Some(output), Operand::Scratch { .. }) = (self.output_of[id.index()], written.operand) {
            let value = self.planning.value(id);
            let dense = Some(dense_bytes(value, self.planning.max_rows));
            let y = Bound { binding: movement::Y, operand: Operand::Output(output), bytes: dense };
            let a = Bound { binding: movement::A, ..written };
            self.plan.push(movement::layout(&self.planning, value, MovementKernel::Unpad, a, y));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernels::dispatch::Work;
    use crate::ops::{Dequantize, MatMul, Quantize, Transpose};
    use crate::program::{Step, StepOp, Value, ValueType};
    use crate::values::{QParams, QuantRange, Shape};

    /// x → q0 → f0 → q1 → f1 → …, floats and int8 values in turn.
    fn chain(links: usize, cols: usize) -> Program {
        let qparams = QParams::new(0.1, 0).expect("valid");
        let value = |at: usize| {
            let is_int8 = at % 2 == 1;
            Value {
                name: format!("v{at}"),
                value_type: if is_int8 { ValueType::I8 } else { ValueType::F32 },
                shape: Shape::rows(cols),
                qparams: is_int8.then_some(qparams),
            }
        };
        let step = |at: usize| {
            let (name, inputs, output) = (format!("s{at}"), vec![ValueId::new(at)], ValueId::new(at + 1));
            let op = match at % 2 {
                0 => StepOp::from(Quantize::new(qparams, QuantRange::INT8)),
                _ => StepOp::from(Dequantize { qparams: qparams.into() }),
            };
            Step { name, op, inputs, output }
        };
        let values = (0..=links).map(value).collect();
        let outputs = vec![ValueId::new(links)];
        let steps = (0..links).map(step).collect();
        Program::new(values, Vec::new(), vec![ValueId::new(0)], outputs, steps).expect("valid")
    }

    const OPTIONS: PlanOptions<'static> =
        PlanOptions { max_rows: 4, weights: &[], copied: &[], alignment: 16, max_bytes: u64::MAX };

    fn plan(program: &Program) -> Plan {
        Plan::new(program, &Config::for_tests(), OPTIONS).expect("fits")
    }

    #[test]
    fn values_take_turns_in_one_arena() {
        let plan = plan(&chain(10, 16));
        // Nine values lie between input and output; two live at a time: one of int8 values and one of floats.
        assert_eq!(plan.arenas.sizes, [64 + 256]);
        assert_eq!(plan.dispatches[0].reads[0].operand, Operand::Input(0));
        assert_eq!(plan.dispatches[9].writes[0].operand, Operand::Output(0));
        for (at, dispatch) in plan.dispatches.iter().enumerate().skip(1) {
            let (read, written) = (dispatch.reads[0].operand, dispatch.writes[0].operand);
            assert_ne!(read, written);
            assert_eq!(read, plan.dispatches[at - 1].writes[0].operand, "each dispatch reads what the last wrote");
        }
    }

    /// 100,000 products of transposed values, each an output: looking through the steps or the outputs for each is 10¹⁰ looks, in
    /// several places, which is minutes in each.
    #[test]
    fn steps_are_found_without_a_search() {
        const PRODUCTS: usize = 100_000;
        let value = |at: usize| Value {
            name: format!("v{at}"),
            value_type: ValueType::F32,
            shape: Shape::fixed(&[4, 4]),
            qparams: None,
        };
        let [a, b] = [0, 1].map(ValueId::new);
        let steps = (0..PRODUCTS).flat_map(|at| {
            let [turned, product] = [2 + 2 * at, 3 + 2 * at].map(ValueId::new);
            let transpose = StepOp::from(Transpose { perm: vec![1, 0] });
            let step =
                |op, inputs: &[ValueId], output| Step { name: String::new(), op, inputs: inputs.to_vec(), output };
            [step(transpose, &[a], turned), step(StepOp::from(MatMul::default()), &[b, turned], product)]
        });
        let outputs = (0..PRODUCTS).map(|at| ValueId::new(3 + 2 * at)).collect();
        let values = (0..2 + 2 * PRODUCTS).map(value).collect();
        let program = Program::new(values, Vec::new(), vec![a, b], outputs, steps.collect()).expect("valid");
        let fused = fuse(&program, &Config::for_tests(), Fusions::All);
        assert!(fused.len() == PRODUCTS && fused.iter().all(|fused| fused.transposes[1].is_some()));
        let plan = Plan::without_places(&program, &Config::for_tests(), OPTIONS, &fused).expect("fits");
        let written = |dispatch: &PlannedDispatch| dispatch.writes[0].operand;
        assert!(plan.dispatches.iter().enumerate().all(|(at, dispatch)| written(dispatch) == Operand::Output(at)));
    }

    #[test]
    fn int8_outputs_of_odd_width_are_unpadded() {
        let program = chain(3, 5);
        let plan = plan(&program);
        let last = plan.dispatches.last().expect("dispatches");
        assert!(matches!(&last.work, Work::Single { pipeline, .. } if pipeline.entry == "unpad_i8_i8"));
        assert_eq!(last.writes[0].operand, Operand::Output(0));
        assert_eq!(plan.dispatches.len(), 4);
        let y = program.value(program.outputs()[0]);
        assert_eq!((padded_bytes(y, 4), dense_bytes(y, 4), dense_bytes(y, 3)), (64, 20, 16));
    }
}
