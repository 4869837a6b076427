//! The engine: packed weights, and the order and the memory of a run.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
use std::time::{Duration, Instant};

use super::buffer_pool::BufferPool;
use super::conv::taps;
use super::error::CpuError;
use super::fusion::{Before, Fused, Fusions};
use super::int8_layer::{Int8Layer, Weight};
use super::options::Options;
use super::step_run::StepRun;
use crate::numerics::FloatProducts;
use crate::numerics::float::products::transposed_factors;
use crate::numerics::gemm::PackedWeight;
use crate::ops::{Linear, Op, Transpose};
use crate::parallel::{in_region, keep_awake};
use crate::program::{Program, QConv, StepOp, ValueId};
use crate::values::Tensor;
use crate::values::slices::{CHECKED, f32s};

/// A value that is another one with its axes in another order: axis `i` is axis `perm[i]` of the other.
#[derive(Debug, Clone)]
struct View {
    of: ValueId,
    perm: Vec<usize>,
}

impl View {
    /// For each value, its view: transposed values that only products read, since products read any order of axes.
    fn of_products(program: &Program) -> Vec<Option<Self>> {
        let mut is_view = vec![true; program.values().len()];
        program.outputs().iter().for_each(|id| is_view[id.index()] = false);
        for step in program.steps().iter().rev() {
            let may_be_view = |input: usize| match &step.op {
                StepOp::QMatMul(_) | StepOp::Op(Op::MatMul(_)) => true,
                // The qparams of rows follow the order of the left factor.
                StepOp::Op(Op::IntegerMatMulDynamic(_)) => input == 1,
                StepOp::Op(Op::Transpose(_)) => is_view[step.output.index()],
                _ => false,
            };
            let others = step.inputs.iter().enumerate().filter(|(input, _)| !may_be_view(*input));
            let others: Vec<&ValueId> = others.map(|(_, id)| id).collect();
            others.iter().for_each(|id| is_view[id.index()] = false);
        }
        let mut views: Vec<Option<Self>> = vec![None; program.values().len()];
        for step in program.steps() {
            if let StepOp::Op(Op::Transpose(Transpose { perm })) = &step.op
                && is_view[step.output.index()]
            {
                let (of, under) = (step.inputs[0], views[step.inputs[0].index()].as_ref());
                views[step.output.index()] = Some(match under {
                    Some(under) => Self { of: under.of, perm: perm.iter().map(|&axis| under.perm[axis]).collect() },
                    None => Self { of, perm: perm.clone() },
                });
            }
        }
        views
    }
}

/// Multiply-adds of floats that are worth a thread of a region: to wake one takes some ten microseconds.
const WORTH_A_THREAD: usize = 1 << 22;
/// Rows for which it takes as long to read a weight as to multiply by it.
const ROWS_OF_A_READ: usize = 4;
/// Multiply-adds of int8 that take the time of one of floats.
const INT8_OF_A_FLOAT: usize = 4;

/// An engine that runs one program on the CPU. Threads may share it.
///
/// It shares the weights of the program, and holds int8 weights once more in the order in which its kernel reads them.
///
/// ```
/// use enfold::cpu::{Engine, GemmBackend, Options};
/// use enfold::lower::lower;
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let y = g.linear("fc", x, Tensor::from_f32(&[1, 2], vec![2.0, -1.0])?, None)?;
/// let program = lower(&g.finish([y])?)?;
///
/// let engine = Engine::new(&program)?;
/// let outputs = engine.run(&[Tensor::from_f32(&[2, 2], vec![1.0, 0.5, 3.0, 4.0])?])?;
/// assert_eq!(outputs[0].shape(), [2, 1]);
/// assert_eq!(outputs[0].as_f32(), Some(&[1.5, 2.0][..]));
///
/// // Plain loops for int8 products.
/// let options = Options { gemm: GemmBackend::Portable };
/// let exact = Engine::with_options(&program, &options)?;
/// # let _ = exact;
/// # Ok::<(), enfold::Error>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    program: Program,
    /// For each step, its packed weight, if it has one.
    pub(super) weights: Vec<Option<Weight>>,
    /// For each value that no step computes, since products read another one in its order of axes: that value.
    views: Vec<Option<View>>,
    fusions: Fusions,
    /// For each value, the last step that reads it; `None` for outputs.
    last_read: Vec<Option<usize>>,
    /// Multiply-adds of floats that take the time of the products, for one row of the batch.
    multiply_adds: usize,
    /// Number of rows of the last run, and its buffers.
    buffer_pool: Mutex<Option<(usize, BufferPool)>>,
}

impl Engine {
    /// Makes an engine with default options, and packs the weights of `program`.
    ///
    /// # Errors
    /// Returns no error: [`GemmBackend::Auto`](super::GemmBackend::Auto) has a backend on every processor. See
    /// [`Engine::with_options`].
    pub fn new(program: &Program) -> Result<Self, CpuError> {
        Self::with_options(program, &Options::default())
    }

    /// Creates an engine with options, like [`Engine::new`].
    ///
    /// # Errors
    /// Returns [`CpuError::Inexact`] if [`GemmBackend::Rten`](super::GemmBackend::Rten) is requested and its sums may saturate or
    /// overflow, and [`CpuError::Unavailable`] if [`GemmBackend::Avx2`](super::GemmBackend::Avx2) is requested on a processor without
    /// AVX2.
    pub fn with_options(program: &Program, options: &Options) -> Result<Self, CpuError> {
        // A weight that several steps read is packed once.
        let values = program.values().len();
        let (mut int8, mut float, mut factors) = (HashMap::new(), vec![None; values], vec![None; values]);
        let weights = program.steps().iter().map(|step| match &step.op {
            StepOp::QLinear(linear) => {
                let groups =
                    linear.groups.as_ref().map(|groups| (groups.multipliers.as_ptr(), groups.zero_points.as_ptr()));
                let packed = int8.entry((linear.weight.as_ptr(), linear.n, linear.k, groups));
                Int8Layer::new(&step.name, linear, options.gemm, packed).map(Weight::Int8).map(Some)
            }
            StepOp::QConv(conv) if conv.groups > 1 => Ok(Some(taps(conv).map_or(Weight::Unpacked, Weight::Taps))),
            StepOp::QConv(QConv { layer, .. }) => {
                let packed = int8.entry((layer.weight.as_ptr(), layer.n, layer.k, None));
                Int8Layer::new(&step.name, layer, options.gemm, packed).map(Weight::Int8).map(Some)
            }
            StepOp::Op(Op::Linear(Linear { products })) => Ok(program.constant(step.inputs[1]).map(|weight| {
                let (n, k) = (weight.shape()[0], weight.shape()[1]);
                if *products == FloatProducts::Reproducible {
                    let all: &mut Option<Arc<_>> = &mut factors[step.inputs[1].index()];
                    let all = all.get_or_insert_with(|| transposed_factors(f32s(weight), n, k).into());
                    return Weight::Factors(Arc::clone(all));
                }
                let packed: &mut Option<Arc<_>> = &mut float[step.inputs[1].index()];
                let packed = packed.get_or_insert_with(|| PackedWeight::new(f32s(weight), n, k).into());
                Weight::F32(Arc::clone(packed))
            })),
            _ => Ok(None),
        });
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let mut last_read = vec![None; program.values().len()];
        for (at, step) in program.steps().iter().enumerate() {
            step.inputs.iter().for_each(|input| last_read[input.index()] = Some(at));
        }
        let views = View::of_products(program);
        for (value, view) in views.iter().enumerate() {
            // Views of one value may be read in any order.
            if let Some(View { of, .. }) = view {
                last_read[of.index()] = last_read[of.index()].max(last_read[value]);
            }
        }
        let fusions = Fusions::of(program, |id| views[id.index()].is_some());
        for (at, before) in fusions.before.iter().enumerate() {
            if let Some(before) = before {
                let x = program.steps()[*before].inputs[0].index();
                last_read[x] = last_read[x].max(Some(at));
            }
        }
        program.outputs().iter().for_each(|id| last_read[id.index()] = None);
        let multiply_adds = program.steps().iter().map(|step| {
            let outputs = program.value(step.output).len(1).unwrap_or(usize::MAX);
            let inner = |input: usize| program.value(step.inputs[input]).shape.last().unwrap_or(1);
            match &step.op {
                StepOp::QLinear(layer) | StepOp::QConv(QConv { layer, .. }) => {
                    outputs.saturating_mul(layer.k) / INT8_OF_A_FLOAT
                }
                StepOp::Op(Op::Linear(_) | Op::MatMul(_) | Op::IntegerMatMulDynamic(_)) | StepOp::QMatMul(_) => {
                    outputs.saturating_mul(inner(0))
                }
                _ => outputs,
            }
        });
        let multiply_adds = multiply_adds.fold(0, usize::saturating_add);
        let program = program.clone();
        Ok(Self { program, weights, views, fusions, last_read, multiply_adds, buffer_pool: Mutex::default() })
    }

    /// The numbers of values that are views and of steps that run with another one.
    #[cfg(all(test, feature = "flow", feature = "threads"))]
    pub(crate) fn views_and_fused(&self) -> [usize; 2] {
        [self.views.iter().flatten().count(), self.fusions.is_fused.iter().filter(|is_fused| **is_fused).count()]
    }

    /// Returns the program that the engine runs.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Runs the program on inputs `[rows, dims…]`, in the order of [`Program::inputs`], and returns its outputs. All inputs have the
    /// same number of rows, at least one.
    ///
    /// # Errors
    /// Returns [`CpuError`], which names the input that does not fit, or the step that has no result for its values, such as NaN or
    /// an id outside the embedding table.
    pub fn run<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<Vec<Tensor>, CpuError> {
        self.run_with(inputs, |_| ())
    }

    /// Runs the program like [`Engine::run`], and returns the duration of each step of [`Program::steps`], in order, by the clock. A step that
    /// runs with a product before or after it has no time of its own.
    ///
    /// A single run is noisy: take the median of several, after one that is not counted.
    ///
    /// ```
    /// # use enfold::cpu::Engine;
    /// # use enfold::lower::lower;
    /// # use enfold::{GraphBuilder, Shape, Tensor};
    /// # let mut g = GraphBuilder::new();
    /// # let x = g.input("x", Shape::rows(2))?;
    /// # let y = g.relu("relu", x)?;
    /// # let engine = Engine::new(&lower(&g.finish([y])?)?)?;
    /// # let x = Tensor::from_f32(&[1, 2], vec![1.0, -1.0])?;
    /// let times = engine.timings(&[x])?;
    /// for (step, time) in engine.program().steps().iter().zip(&times) {
    ///     println!("{} ({}): {time:?}", step.name, step.op.name());
    /// }
    /// # assert_eq!(times.len(), engine.program().steps().len());
    /// # Ok::<(), enfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Engine::run`].
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))] // It has no clock.
    pub fn timings<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<Vec<Duration>, CpuError> {
        let (mut times, mut started) = (vec![Duration::ZERO; self.program.steps().len()], Instant::now());
        self.run_with(inputs, |at| {
            let now = Instant::now();
            times[at] = now - started;
            started = now;
        })?;
        Ok(times)
    }

    /// Runs the program, and calls `after` with the index of each step when it is done.
    fn run_with<T: Borrow<Tensor>>(
        &self,
        inputs: &[T],
        after: impl FnMut(usize) + Send,
    ) -> Result<Vec<Tensor>, CpuError> {
        let rows = self.rows(inputs)?;
        let inputs: Vec<&Tensor> = inputs.iter().map(Borrow::borrow).collect();
        let worth = self.multiply_adds.saturating_mul(rows.max(ROWS_OF_A_READ)) / WORTH_A_THREAD;
        in_region(worth, || self.run_steps(&inputs, rows, after))
    }

    fn run_steps(
        &self,
        inputs: &[&Tensor],
        rows: usize,
        mut after: impl FnMut(usize),
    ) -> Result<Vec<Tensor>, CpuError> {
        // A run at the same time as another, or with other rows than the last, starts with an empty pool.
        let last = self.buffer_pool.lock().ok().and_then(|mut last| last.take());
        let mut pool = last.filter(|(of_rows, _)| *of_rows == rows).map(|(_, pool)| pool).unwrap_or_default();
        let mut values: Vec<Option<Cow<'_, Tensor>>> = vec![None; self.program.values().len()];
        for (id, tensor) in self.program.inputs().iter().zip(inputs) {
            values[id.index()] = Some(Cow::Borrowed(*tensor));
        }
        for (id, tensor) in self.program.constants() {
            values[id.index()] = Some(Cow::Borrowed(tensor));
        }
        for (at, (step, weight)) in self.program.steps().iter().zip(&self.weights).enumerate() {
            keep_awake();
            let is_last_read = |input: &ValueId| self.last_read[input.index()] == Some(at);
            if self.views[step.output.index()].is_some() || self.fusions.is_fused[at] {
                for input in step.inputs.iter().filter(|input| is_last_read(input)) {
                    pool.give(values[input.index()].take());
                }
                after(at);
                continue;
            }
            let view = |input: usize| step.inputs.get(input).and_then(|id| self.views[id.index()].as_ref());
            let views = [0, 1].map(|input| view(input).map(|view| &view.perm[..]));
            let inputs: Vec<ValueId> = match views {
                [None, None] => Vec::new(),
                _ => step.inputs.iter().map(|id| self.views[id.index()].as_ref().map_or(*id, |view| view.of)).collect(),
            };
            let mut inputs = if inputs.is_empty() { Cow::Borrowed(&step.inputs) } else { Cow::Owned(inputs) };
            let before = self.fusions.before[at].map(|before| &self.program.steps()[before]);
            if let Some(before) = before {
                inputs.to_mut()[0] = before.inputs[0];
            }
            let (first, rest) = inputs.split_first().expect(CHECKED);
            // A step may work in the buffer of an input that nothing else reads.
            let owned = match &mut values[first.index()] {
                value @ Some(Cow::Owned(_)) if is_last_read(first) && !rest.contains(first) => value.take(),
                _ => None,
            };
            let read = |id: &ValueId| values[id.index()].as_deref().expect(CHECKED);
            let first = Some(owned.unwrap_or_else(|| Cow::Borrowed(read(first))));
            let rest: Vec<&Tensor> = rest.iter().map(read).collect();
            let shape = self.program.value(step.output).shape.with_rows(rows);
            let weight = weight.as_ref();
            let mut last = step.output;
            let fused: Vec<Fused<'_>> = self.fusions.after[at]
                .iter()
                .map(|&at| {
                    let step = &self.program.steps()[at];
                    let others: Vec<&Tensor> = step.inputs.iter().filter(|id| **id != last).map(read).collect();
                    last = step.output;
                    Fused::new(step, &shape, &others)
                })
                .collect();
            // A value may be gone, since the step that was to read it is over, but constants stay.
            let before = before.map(|before| Before::new(before, self.program.constant(before.inputs[1])));
            let run = StepRun {
                step,
                first,
                rest: &rest,
                views,
                before,
                fused: &fused,
                weight,
                shape: &shape,
                pool: &mut pool,
            };
            let y = run.run()?;
            for input in inputs.iter().filter(|input| is_last_read(input)) {
                pool.give(values[input.index()].take());
            }
            values[last.index()] = Some(Cow::Owned(y));
            after(at);
        }
        let output = |id: &ValueId| values[id.index()].take().expect(CHECKED).into_owned();
        let outputs = self.program.outputs().iter().map(output).collect();
        pool.end_run();
        if let Ok(mut last) = self.buffer_pool.lock() {
            *last = Some((rows, pool));
        }
        Ok(outputs)
    }

    /// Checks the inputs, and returns the number of rows of the batch: 1 if no input is batched.
    fn rows<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<usize, CpuError> {
        let (actual, expected) = (inputs.len(), self.program.inputs().len());
        if actual != expected {
            return Err(CpuError::InputCount { actual, expected });
        }
        let mut rows = None;
        for (id, tensor) in self.program.inputs().iter().zip(inputs) {
            let (value, tensor) = (self.program.value(*id), tensor.borrow());
            let input = || value.name.clone();
            let expected = value.value_type.dtype();
            if tensor.dtype() != expected {
                return Err(CpuError::DType { input: input(), actual: tensor.dtype(), expected });
            }
            if !value.shape.admits(tensor.shape()) {
                let (actual, expected) = (tensor.shape().to_vec(), value.shape.clone());
                return Err(CpuError::Shape { input: input(), actual, expected });
            }
            if !value.shape.is_batched() {
                continue;
            }
            let actual = tensor.shape()[0];
            match rows {
                _ if actual == 0 => return Err(CpuError::NoRows { input: input() }),
                Some(expected) if actual != expected => {
                    return Err(CpuError::Rows { input: input(), actual, expected });
                }
                _ => rows = Some(actual),
            }
        }
        let rows = rows.unwrap_or(1);
        match self.program.values().iter().find(|value| !value.shape.fits(rows)) {
            None => Ok(rows),
            Some(value) => Err(CpuError::Elements { value: value.name.clone(), shape: value.shape.clone(), rows }),
        }
    }
}
