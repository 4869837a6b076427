//! Tests of the device memory that a run takes.

use enfold::gpu::{Engine, Options, Run};
use enfold::graph::NodeId;
use enfold::lower::lower;
use enfold::program::{Program, Value, ValueId, ValueType};
use pollster::block_on;

use crate::configs;
use crate::device::{context, device_of, engine, engine_with};
use crate::layers::{Layers, mlp};
use crate::report::report;

/// Bytes of a value as the device holds it: int8 rows are padded to 16 bytes.
fn padded(value: &Value, rows: usize) -> u64 {
    let matrix_rows = value.len(rows).expect("small") / value.cols();
    let row = match value.value_type {
        ValueType::I8 => value.cols().next_multiple_of(16),
        other => value.cols() * other.size_bytes(),
    };
    (matrix_rows * row) as u64
}

/// For each step the bytes that live while it runs; values live from the step that writes them to the last that reads them.
fn living(program: &Program, rows: usize) -> Vec<u64> {
    let steps = program.steps();
    let mut of_steps = vec![0; steps.len()];
    for at in 0..program.values().len() {
        let id = ValueId::new(at);
        let written = steps.iter().position(|step| step.output == id);
        let read = steps.iter().rposition(|step| step.inputs.contains(&id));
        let is_constant = program.constant(id).is_some();
        let last = read.or(written);
        if let (false, Some(last)) = (is_constant, last) {
            (written.unwrap_or(0)..=last).for_each(|step| of_steps[step] += padded(program.value(id), rows));
        }
    }
    of_steps
}

/// The most that a run may take.
fn bar(program: &Program, rows: usize, weights: u64) -> u64 {
    let peak = living(program, rows).into_iter().max().unwrap_or(0);
    weights + peak + peak / 10 + (1 << 20)
}

/// The memory of a run if each value had its own.
fn without_reuse(program: &Program, rows: usize) -> u64 {
    program.values().iter().map(|value| padded(value, rows)).sum()
}

fn bound(engine: &Engine, program: &Program, rows: usize) -> (Run, u64) {
    let model = block_on(engine.load(program)).expect("loaded");
    let device = &context("memory").expect("an adapter").device;
    let buffers = |ids: &[ValueId]| -> Vec<wgpu::Buffer> {
        let of = |&id: &ValueId| {
            let value = program.value(id);
            let size = (value.len(rows).expect("small") * value.value_type.size_bytes()).next_multiple_of(4) as u64;
            let usage = wgpu::BufferUsages::STORAGE;
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        ids.iter().map(of).collect()
    };
    let (inputs, outputs) = (buffers(program.inputs()), buffers(program.outputs()));
    let inputs: Vec<&wgpu::Buffer> = inputs.iter().collect();
    let outputs: Vec<&wgpu::Buffer> = outputs.iter().collect();
    let run = block_on(model.bind(&inputs, &outputs, rows)).expect("bound");
    (run, model.size_bytes())
}

#[test]
fn random_networks_take_little_more_than_their_peak() {
    let Some((_, engine)) = engine("memory") else { return };
    let (mut closest, mut count) = (0.0f64, 0);
    for seed in 0..crate::long::count(150, 40) {
        let program = lower(&configs::quantized(seed, false).integers).expect("lowered");
        // There are enough rows that the allowed megabyte does not hide wasted memory.
        let peak = living(&program, 1).into_iter().max().unwrap_or(1).max(1);
        let rows = (20_000_000 / peak).clamp(1, 200_000) as usize;
        let (run, weights) = bound(&engine, &program, rows);
        let (total, most) = (run.memory().total(), bar(&program, rows, weights));
        assert!(total <= most, "seed {seed}: {total} bytes ({}), at most {most}:\n{program}", run.memory());
        closest = closest.max(total as f64 / most as f64);
        count += 1;
    }
    report(&format!("{count} networks take at most {:.0} % of what they may", closest * 100.0));
}

/// A transformer's block in float, or with int8 layers: residual sums, layer norms, and a wider layer between.
fn blocks(count: usize, width: usize, hidden: usize, int8: bool) -> Program {
    let mut l = Layers::new(71);
    let mut x = l.floats(&[width]);
    let layer = |l: &mut Layers, x: NodeId, n: usize, k: usize| {
        if int8 {
            let q = l.quantize(x);
            l.linear_to_floats(q, n, k)
        } else {
            l.float_linear(x, n, k)
        }
    };
    let mut h = l.layer_norm(x, width);
    for _ in 0..count {
        let up = layer(&mut l, h, hidden, width);
        let act = l.gelu(up);
        let down = layer(&mut l, act, width, hidden);
        x = l.add(x, down);
        h = l.layer_norm(x, width);
    }
    let y = layer(&mut l, h, width, width);
    lower(&l.finish(&[y])).expect("lowered")
}

#[test]
fn deep_networks_take_little_more_than_their_peak() {
    let Some((context, engine)) = engine("memory of deep networks") else { return };
    let unfused = engine_with(context, &Options { unfused: true, ..Options::default() });
    let mut programs = vec![("mlp of 40 layers", mlp(40, 64, 72).1)];
    for int8 in [true, false] {
        programs.push(("blocks, four times as wide inside", blocks(6, 64, 256, int8)));
        programs.push(("blocks, as wide inside", blocks(6, 64, 64, int8)));
        programs.push(("blocks, narrow inside", blocks(6, 64, 16, int8)));
    }
    for (name, program) in &programs {
        let rows = 40_000;
        for (how, engine) in [("fused", &engine), ("unfused", &unfused)] {
            let (run, weights) = bound(engine, program, rows);
            let (total, most) = (run.memory().total(), bar(program, rows, weights));
            report(&format!("{name}, {how}: {:.1} of {:.1} MB", total as f64 / 1e6, most as f64 / 1e6));
            assert!(total <= most, "{name}, {how}: {total} bytes ({}), at most {most}", run.memory());
        }
        // Without reuse of memory, the limit would not be met.
        let wasteful = without_reuse(program, rows);
        assert!(wasteful > bar(program, rows, 1 << 20), "{name}: {wasteful}");
    }
}

/// `Run::memory` against the report of wgpu's allocator.
#[test]
fn memory_is_what_was_allocated() {
    let Some(context) = context("allocator report") else { return };
    let (device, queue) = device_of(context, context.device.limits(), wgpu::Features::empty());
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let program = blocks(3, 64, 256, true);
    let rows = 3_000;
    let [input, output] = [0; 2].map(|_| crate::device::buffer_on(&device, &vec![0; rows * 64 * 4]));
    // Staging memory is freed only after a submission.
    let settled = || {
        queue.submit([]);
        device.poll(wgpu::PollType::wait_indefinitely()).expect("waited")
    };
    settled();
    let Some(before) = device.generate_allocator_report() else {
        return report("this backend reports no allocations");
    };
    let model = block_on(engine.load(&program)).expect("loaded");
    let run = block_on(model.bind(&[&input], &[&output], rows)).expect("bound");
    settled();
    let after = device.generate_allocator_report().expect("as before");
    let allocated = after.total_allocated_bytes - before.total_allocated_bytes;
    let memory = run.memory();
    let more = allocated.checked_sub(memory.total());
    report(&format!("{memory}: {} bytes, allocated {allocated}", memory.total()));
    // An allocation is rounded up, by less than a page each.
    let buffers = (after.allocations.len() - before.allocations.len()) as u64;
    assert!(more.is_some_and(|more| more <= buffers * 4096), "{allocated} for {} in {buffers} buffers", memory.total());
    let values: u64 = after.allocations.iter().filter(|a| a.name == "values").map(|a| a.size).sum();
    assert!((memory.values..memory.values + 4096).contains(&values), "{values} of {memory}");
}
