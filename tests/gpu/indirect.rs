//! Numbers of rows that the device computes.

use enfold::gpu::context::Context;
use enfold::gpu::{Engine, GpuError, Options, Run};
use enfold::lower::{LowerOptions, lower, lower_with};
use enfold::ops::Window;
use enfold::program::{Program, ValueType};
use enfold::{Graph, Shape, Tensor};
use pollster::block_on;
use wgpu::BufferUsages;

use crate::device::{buffer, bytes, engine, engine_with, read};
use crate::layers::{Layers, batch};
use crate::ops::table;
use crate::report::report;

/// A run with its buffers.
struct Bound {
    run: Run,
    outputs: Vec<wgpu::Buffer>,
    /// The number of rows, in the middle of other numbers.
    count: wgpu::Buffer,
}

const PATTERN: u8 = 0x5A;

/// Binds a program for `most` rows. The rows of the inputs repeat those of `given`.
fn bound(context: &Context, engine: &Engine, program: &Program, given: &[Tensor], most: usize) -> Bound {
    let inputs: Vec<wgpu::Buffer> = program
        .inputs()
        .iter()
        .zip(given)
        .map(|(&id, tensor)| {
            let value = program.value(id);
            let bytes: Vec<u8> = match tensor {
                Tensor::I32(a) => a.iter().flat_map(|x| x.to_le_bytes()).collect(),
                other => bytes(other)[..other.len() * value.value_type.size_bytes()].to_vec(),
            };
            let mut bytes: Vec<u8> = match value.shape.is_batched() {
                true => bytes.iter().copied().cycle().take(bytes.len() / tensor.shape()[0] * most).collect(),
                false => bytes,
            };
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            buffer(context, &bytes)
        })
        .collect();
    let output = |id: &enfold::program::ValueId| {
        let value = program.value(*id);
        let bytes = value.len(most).expect("small") * value.value_type.size_bytes();
        // A store beyond the last row would show.
        buffer(context, &vec![PATTERN; bytes.next_multiple_of(4) + 256])
    };
    let outputs: Vec<wgpu::Buffer> = program.outputs().iter().map(output).collect();
    let model = block_on(engine.load(program)).expect("loaded");
    let (inputs, bound): (Vec<_>, Vec<_>) = (inputs.iter().collect(), outputs.iter().collect());
    let run = block_on(model.bind_indirect(&inputs, &bound, most)).expect("bound");
    let count = buffer(context, &[0; 12]);
    Bound { run, outputs, count }
}

impl Bound {
    /// What is in the outputs after a recording; they hold a pattern before it.
    fn outputs_of(&self, context: &Context, record: impl FnOnce(&Run, &mut wgpu::CommandEncoder)) -> Vec<Vec<u8>> {
        for output in &self.outputs {
            context.queue.write_buffer(output, 0, &vec![PATTERN; output.size() as usize]);
        }
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&self.run, &mut encoder);
        context.queue.submit([encoder.finish()]);
        self.outputs.iter().map(|output| read(context, output)).collect()
    }

    fn recorded(&self, context: &Context, rows: usize) -> Vec<Vec<u8>> {
        self.outputs_of(context, |run, encoder| run.record(encoder, rows).expect("recorded"))
    }

    fn indirect(&self, context: &Context, rows: u32) -> Vec<Vec<u8>> {
        let numbers: Vec<u8> = [7, rows, 9].into_iter().flat_map(u32::to_le_bytes).collect();
        context.queue.write_buffer(&self.count, 0, &numbers);
        self.outputs_of(context, |run, encoder| run.record_indirect(encoder, &self.count, 4).expect("recorded"))
    }

    /// Compares both for numbers of rows up to the most, above it, and 0; returns how many rows of the control differ.
    fn check(&self, context: &Context, name: &str, most: usize, counts: &[usize]) -> usize {
        for &rows in counts {
            let got = self.indirect(context, rows as u32);
            assert!(got == self.recorded(context, rows.min(most)), "{name}: {rows} of {most} rows differ");
        }
        // The control: another number of rows is another result, unless no output has rows.
        usize::from(self.indirect(context, 1) != self.recorded(context, 2))
    }
}

fn is_batched(program: &Program) -> bool {
    program.outputs().iter().any(|&id| program.value(id).shape.is_batched())
}

#[test]
fn every_operator_gives_the_same_bits() {
    let Some((context, engine)) = engine("indirect operators") else { return };
    let (mut with_rows, mut controls) = (0, 0);
    for case in table() {
        let program = lower(&case.graph).expect("lowered");
        let bound = bound(context, &engine, &program, &case.inputs, 9);
        let differ = bound.check(context, case.name, 9, &[1, 5, 9, 300]);
        if is_batched(&program) {
            let untouched = bound.indirect(context, 0);
            let outputs = program.outputs().iter().zip(&untouched);
            let batched = |id| program.value(id).shape.is_batched();
            let empty = outputs.filter(|(id, _)| batched(**id)).all(|(_, y)| y.iter().all(|&byte| byte == PATTERN));
            assert!(empty, "{}: no rows are written if there are none", case.name);
            with_rows += 1;
            controls += differ;
        }
    }
    assert!(with_rows > 100 && controls == with_rows, "{controls} of {with_rows} controls differ");
    report(&format!("rows from a buffer: {with_rows} operators give the bits of record"));
}

/// Layers, images and dynamic values together, with rows that are divided among dispatches.
fn network() -> Graph {
    let mut l = Layers::new(77);
    let x = l.int8(&[40]);
    let h = l.linear(x, 70, 40);
    let y = l.linear(h, 33, 70);
    let image = l.int8(&[8, 7, 5]);
    let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
    let c = l.conv(image, [12, 8], &window, 1);
    let d = l.conv(c, [12, 12], &window, 4);
    l.finish(&[y, d])
}

#[test]
fn every_tile_and_every_division_gives_the_same_bits() {
    let Some((context, _)) = engine("indirect networks") else { return };
    let graph = network();
    let inputs = batch(&graph, 300, 5);
    let divided = Options { macs_per_dispatch: Some(100_000), ..Options::default() };
    let checked = Options { checked: true, without_subgroups: true, unfused: true, ..Options::default() };
    for options in [Options::default(), divided, checked] {
        let engine = engine_with(context, &options);
        for f16_outputs in [false, true] {
            let program =
                lower_with(&graph, &LowerOptions { f16_outputs, ..LowerOptions::default() }).expect("lowered");
            let bound = bound(context, &engine, &program, &inputs, 300);
            let differ = bound.check(context, "network", 300, &[1, 2, 9, 31, 64, 65, 256, 257, 300, usize::MAX >> 40]);
            assert_eq!(differ, 1, "the control differs");
        }
    }
}

#[test]
fn two_numbers_in_one_submission() {
    let Some((context, engine)) = engine("indirect twice") else { return };
    let graph = network();
    let program = lower(&graph).expect("lowered");
    let bound = bound(context, &engine, &program, &batch(&graph, 20, 5), 20);
    let expected = bound.recorded(context, 11);
    let numbers: Vec<u8> = [3u32, 11].into_iter().flat_map(u32::to_le_bytes).collect();
    let numbers = buffer(context, &numbers);
    let got = bound.outputs_of(context, |run, encoder| {
        run.record_indirect(encoder, &numbers, 0).expect("recorded");
        run.record_indirect(encoder, &numbers, 4).expect("recorded");
    });
    assert!(got == expected, "the second recording has the last word");
    let reversed = bound.outputs_of(context, |run, encoder| {
        run.record_indirect(encoder, &numbers, 4).expect("recorded");
        run.record_indirect(encoder, &numbers, 0).expect("recorded");
    });
    let directly = bound.outputs_of(context, |run, encoder| {
        run.record(encoder, 11).expect("recorded");
        run.record(encoder, 3).expect("recorded");
    });
    assert!(reversed == directly, "rows beyond a number stay as they are, but for the rest of a word of int8 values");
    assert!(bound.indirect(context, 3) != expected);
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let Some((context, engine)) = engine("indirect refusals") else { return };
    let mut l = Layers::new(78);
    let x = l.int8(&[8]);
    let y = l.linear(x, 4, 8);
    let graph = l.finish(&[y]);
    let program = lower(&graph).expect("lowered");
    assert_eq!(program.value(program.inputs()[0]).value_type, ValueType::I8);
    assert_eq!(program.value(program.inputs()[0]).shape, Shape::rows(8));
    let model = block_on(engine.load(&program)).expect("loaded");
    let (input, output) = (buffer(context, &[0; 80]), buffer(context, &[0; 40]));
    let direct = block_on(model.bind(&[&input], &[&output], 10)).expect("bound");
    let run = block_on(model.bind_indirect(&[&input], &[&output], 10)).expect("bound");
    assert!(run.memory().constants > direct.memory().constants, "the grids take memory");
    let count = buffer(context, &[0; 8]);
    let bare = context.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage: BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    assert_eq!(direct.record_indirect(&mut encoder, &count, 0), Err(GpuError::NotIndirect));
    for (error, text) in [
        (run.record_indirect(&mut encoder, &bare, 0), "usage"),
        (run.record_indirect(&mut encoder, &count, 2), "offset 2"),
        (run.record_indirect(&mut encoder, &count, 8), "8 bytes"),
        (run.record_indirect(&mut encoder, &count, u64::MAX - 3), "8 bytes"),
    ] {
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("the number of rows") && error.contains(text), "{error}");
    }
    context.queue.submit([encoder.finish()]);
    assert!(read(context, &output).iter().all(|&byte| byte == 0), "nothing was recorded");
}
