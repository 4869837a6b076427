//! A program on a device with buffers of its own, for the series that compare programs.

use anyhow::{Context as _, Result, ensure};
use enfold::Tensor;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Model, Run};
use enfold::program::Program;
use pollster::block_on;
use wgpu::{BufferUsages, ComputePass};

use crate::Runner;
use crate::device::{buffer, calls, empty, timed};

/// A program whose outputs were checked.
pub(crate) struct BoundProgram {
    _model: Model,
    run: Run,
    rows: usize,
    /// The number of output elements that were compared.
    pub(crate) compared: usize,
}

impl BoundProgram {
    /// Runs a program once, fails unless its outputs are `expected`, to within `tolerance` of the largest for floats, and binds it to
    /// buffers with the same inputs.
    pub(crate) fn new(
        context: &Context,
        engine: &Engine,
        (name, program): (&str, &Program),
        inputs: &[&Tensor],
        expected: &[Tensor],
        tolerance: f32,
    ) -> Result<Self> {
        let rows = inputs.first().map_or(1, |x| x.shape()[0]);
        let model = block_on(engine.load(program))?;
        let got = block_on(model.run(inputs))?;
        ensure!(got.len() == expected.len(), "{name}: {} outputs, expected {}", got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            match (got.as_f32(), expected.as_f32()) {
                (Some(got), Some(expected)) => near(name, got, expected, tolerance)?,
                _ => ensure!(got == expected, "{name}: its outputs differ from the interpreter's"),
            }
        }
        let compared = expected.iter().map(Tensor::len).sum();
        let usage = BufferUsages::STORAGE;
        let inputs: Vec<_> = inputs.iter().map(|x| Ok(buffer(context, &bytes(x)?, usage))).collect::<Result<_>>()?;
        let outputs: Vec<_> = expected
            .iter()
            .map(|y| Ok(empty(context, "y", bytes(y)?.len() as u64, usage | BufferUsages::COPY_SRC)))
            .collect::<Result<_>>()?;
        let (inputs, outputs): (Vec<_>, Vec<_>) = (inputs.iter().collect(), outputs.iter().collect());
        let run = block_on(model.bind(&inputs, &outputs, rows))?;
        Ok(Self { _model: model, run, rows, compared })
    }

    pub(crate) fn dispatches(&self) -> usize {
        self.run.dispatches()
    }

    pub(crate) fn record(&self, pass: &mut ComputePass<'_>) -> Result<()> {
        Ok(self.run.record_in(pass, self.rows)?)
    }
}

/// Times recordings by the device's clock, many in one submission.
pub(crate) fn runner(
    context: &Context,
    record: impl Fn(&mut ComputePass<'_>) -> Result<()> + 'static,
) -> Result<Runner> {
    let context = context.clone();
    let run = move |calls: usize| timed(&context, calls, |pass| (0..calls).try_for_each(|_| record(pass)));
    let calls = calls(|| run(1))?;
    Ok(Box::new(move || run(calls)))
}

/// Fails unless each number is within `tolerance` of the largest one.
pub(crate) fn near(name: &str, got: &[f32], expected: &[f32], tolerance: f32) -> Result<()> {
    ensure!(got.len() == expected.len(), "{name}: {} outputs, expected {}", got.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= tolerance * largest;
        ensure!(near, "{name}: output {at} is {got}, expected {expected}");
    }
    Ok(())
}

/// The bytes of a tensor of floats or of dense int8 rows, padded to whole words.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = match tensor.as_f32() {
        Some(values) => bytemuck::cast_slice(values).to_vec(),
        None => bytemuck::cast_slice(tensor.as_i8().context("floats or int8 values")?).to_vec(),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}
