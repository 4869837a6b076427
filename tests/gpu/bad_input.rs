//! Bad input to the GPU engine: an error that names the thing and gives both numbers, and nothing that reaches the device's
//! own error handler. Every error variant but one is reached here; `KnownAnswer` needs a wrong device, and is reached beside
//! the test with known answers.

use std::sync::atomic::Ordering;

use enfold::gpu::context::Context;
use enfold::gpu::{Engine, GpuError, LinearKernel, Model, Options, TileShape, TuningTable};
use enfold::lower::lower;
use enfold::{GraphBuilder, Shape, Tensor};
use pollster::block_on;
use wgpu::BufferUsages;

use crate::cases::{Case, Data, Ends};
use crate::device::{engine, watched};
use crate::report::report;

type Row = (&'static str, Result<(), GpuError>, Vec<&'static str>);

fn row<T>(what: &'static str, result: Result<T, GpuError>, contains: &[&'static str]) -> Row {
    (what, result.map(drop), contains.to_vec())
}

fn check(table: &[Row]) {
    for (what, result, contains) in table {
        let message = match result {
            Ok(()) => panic!("{what}: accepted"),
            Err(error) => error.to_string(),
        };
        for part in contains {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
    report(&format!("gpu bad input: {} kinds refused", table.len()));
}

macro_rules! covers {
    ($table:expr, $($pattern:pat),+ $(,)?) => {
        $(assert!(
            $table.iter().any(|(_, result, _)| matches!(result, Err($pattern))),
            "no row reaches {}", stringify!($pattern)
        );)+
    };
}

fn buffer(device: &wgpu::Device, size: u64, usage: BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

#[test]
fn binding_and_recording() {
    let Some((context, _)) = engine("bad input") else { return };
    let (device, queue, errors) = watched(context, context.device.limits());
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    // 10 rows of 7 floats in, of 5 floats out.
    let case = Case::new(10, 5, 7, Data::Random, Ends::Floats, 1);
    let model = block_on(engine.load(&case.program())).expect("loaded");
    let storage = |size| buffer(&device, size, BufferUsages::STORAGE);
    let (input, output) = (storage(280), storage(200));
    let bind = |inputs: &[&wgpu::Buffer], outputs: &[&wgpu::Buffer], rows| block_on(model.bind(inputs, outputs, rows));
    let run = bind(&[&input], &[&output], 10).expect("bound");
    let record = |rows| {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let result = run.record(&mut encoder, rows);
        queue.submit([encoder.finish()]);
        result
    };
    assert_eq!(record(10), Ok(()));
    let floats = |shape: &[usize]| Tensor::from_f32(shape, vec![0.0; shape.iter().product()]).expect("lengths fit");
    let int8 = Tensor::from_i8(&[1, 7], vec![0; 7]).expect("lengths fit");
    let mut table = vec![
        row("no input buffer", bind(&[], &[&output], 10), &["0 input buffers", "1"]),
        row("two output buffers", bind(&[&input], &[&output, &input], 10), &["2 output buffers", "1"]),
        row("an input buffer too small", bind(&[&storage(276)], &[&output], 10), &["x:", "276", "10 rows", "280"]),
        row("an output buffer too small", bind(&[&input], &[&storage(196)], 10), &["y:", "196", "10 rows", "200"]),
        row(
            "an input buffer of the wrong usage",
            bind(&[&buffer(&device, 280, BufferUsages::COPY_DST)], &[&output], 10),
            &["x:", "COPY_DST", "STORAGE"],
        ),
        row("one buffer for input and output", bind(&[&input], &[&input], 5), &["y and x"]),
        row("bound for zero rows", bind(&[&input], &[&output], 0), &["0 rows, expected at least 1"]),
        row("zero rows recorded", record(0), &["0 rows", "10"]),
        row("more rows recorded than bound", record(11), &["11 rows", "10"]),
        row("more rows than fit anywhere", bind(&[&input], &[&output], usize::MAX / 8), &["x:", "allows"]),
        row("wrong features", block_on(model.run(&[floats(&[2, 8])])), &["x:", "[2, 8]", "[rows, 7]"]),
        row("no rows", block_on(model.run(&[floats(&[0, 7])])), &["0 rows"]),
        row("wrong type", block_on(model.run(&[int8])), &["x:", "i8", "f32"]),
        row("no inputs", block_on(model.run::<Tensor>(&[])), &["0 inputs", "1"]),
    ];
    engine.mark_lost();
    table.push(row("recording after loss", record(1), &["lost"]));
    table.push(row("binding after loss", bind(&[&input], &[&output], 1), &["lost"]));
    table.push(row("loading after loss", block_on(engine.load(&case.program())), &["lost"]));
    table.push(row("running after loss", block_on(model.run(&[case.input()])), &["lost"]));
    covers!(
        table,
        GpuError::Count { .. },
        GpuError::BufferSize { .. },
        GpuError::BufferUsage { .. },
        GpuError::SameBuffer { .. },
        GpuError::Rows { .. },
        GpuError::Limit { .. },
        GpuError::Shape { .. },
        GpuError::DType { .. },
        GpuError::DeviceLost,
    );
    check(&table);
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

/// A device of the least limits is enough, and of each of them one less is not.
#[test]
fn the_least_limits() {
    let Some((context, _)) = engine("the least limits") else { return };
    type Change = fn(&mut wgpu::Limits);
    let less: [(&str, Change); 9] = [
        ("max_bind_groups", |l| l.max_bind_groups -= 1),
        ("max_bindings_per_bind_group", |l| l.max_bindings_per_bind_group -= 1),
        ("max_dynamic_uniform_buffers", |l| l.max_dynamic_uniform_buffers_per_pipeline_layout -= 1),
        ("max_storage_buffers_per_shader_stage", |l| l.max_storage_buffers_per_shader_stage -= 1),
        ("max_uniform_buffers_per_shader_stage", |l| l.max_uniform_buffers_per_shader_stage -= 1),
        ("max_compute_workgroup_storage_size", |l| l.max_compute_workgroup_storage_size -= 1),
        ("max_compute_invocations_per_workgroup", |l| l.max_compute_invocations_per_workgroup -= 1),
        ("max_compute_workgroup_size_x", |l| l.max_compute_workgroup_size_x -= 1),
        ("max_compute_workgroup_size_y", |l| l.max_compute_workgroup_size_y -= 1),
    ];
    let made = |limits: wgpu::Limits| {
        let (device, queue, errors) = watched(context, limits);
        let engine = block_on(Engine::new(&device, &queue, &Options::default()));
        assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
        engine
    };
    let mut table = Vec::new();
    for (name, change) in less {
        let mut limits = Engine::MIN_LIMITS;
        change(&mut limits);
        table.push(row("one less", made(limits), &[name, "at least"]));
    }
    let downlevel = made(wgpu::Limits::downlevel_defaults());
    table.push(row("downlevel limits", downlevel, &["max_storage_buffers_per_shader_stage", "6", "4"]));
    check(&table);
    // Every family of kernels is compiled and run.
    let engine = made(Engine::MIN_LIMITS).expect("an engine");
    for case in crate::ops::table() {
        if let Ok(program) = lower(&case.graph) {
            let model = block_on(engine.load(&program)).expect(case.name);
            block_on(model.run(&case.inputs)).expect(case.name);
        }
    }
}

/// A program without rows takes any number of them, and no memory for it.
#[test]
fn rows_of_a_program_without_rows() {
    let Some((context, engine)) = engine("rows of a program without rows") else { return };
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::fixed(&[2, 3])).expect("an input");
    let y = g.relu("y", x).expect("a relu");
    let model = block_on(engine.load(&lower(&g.finish([y]).expect("a graph")).expect("lowered"))).expect("loaded");
    let [input, output] = [0; 2].map(|_| buffer(&context.device, 24, BufferUsages::STORAGE));
    let bound = |rows| block_on(model.bind(&[&input], &[&output], rows)).expect("bound");
    let (one, many) = (bound(1), bound(usize::MAX));
    assert_eq!((many.max_rows(), many.memory()), (usize::MAX, one.memory()));
    let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    assert_eq!(many.record(&mut encoder, usize::MAX), Ok(()));
    context.queue.submit([encoder.finish()]);
}

/// Loads a transpose that reverses this many axes of length 2 after the batch.
fn reversed(engine: &Engine, axes: usize) -> Result<Model, GpuError> {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&vec![2; axes])).expect("an input");
    let perm: Vec<usize> = [0].into_iter().chain((1..=axes).rev()).collect();
    let y = g.transpose("t", x, &perm).expect("moved");
    block_on(engine.load(&lower(&g.finish([y]).expect("a graph")).expect("lowered")))
}

#[test]
fn limits_of_the_device() {
    let Some((context, _)) = engine("limits") else { return };
    let small = wgpu::Limits {
        max_storage_buffer_binding_size: 2 << 20,
        max_buffer_size: 2 << 20,
        max_compute_workgroups_per_dimension: 1024,
        ..wgpu::Limits::default()
    };
    let (device, queue, errors) = watched(context, small);
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let load = |n, k| block_on(engine.load(&Case::new(4, n, k, Data::Random, Ends::Codes, 1).program()));
    let storage = || buffer(&device, 2 << 20, BufferUsages::STORAGE);
    let model = load(16, 16).expect("loaded");
    // 1,280 blocks of columns, more than the grid is long.
    let long = load(64 * 1280, 1).expect("loaded");
    // A buffer larger than a binding may be is no error, as long as what is used of it is not.
    let (device, queue, more_errors) =
        watched(context, wgpu::Limits { max_storage_buffer_binding_size: 1 << 16, ..wgpu::Limits::default() });
    let modest = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let small = block_on(modest.load(&Case::new(4, 16, 16, Data::Random, Ends::Codes, 1).program())).expect("loaded");
    let large = || buffer(&device, 1 << 17, BufferUsages::STORAGE);
    assert!(block_on(small.bind(&[&large()], &[&large()], 4)).is_ok());
    assert_eq!(more_errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
    let table = vec![
        // It has 32,784 features; more columns would be divided.
        row("64 columns larger than a binding", load(1, 32_784), &["fc:", "64 columns", "2098176", "2097152"]),
        row(
            "a batch larger than a binding",
            block_on(model.bind(&[&storage()], &[&storage()], 131_073)),
            &["x:", "bytes", "2097168", "2097152"],
        ),
        row(
            "a layer longer than the grid",
            block_on(long.bind(&[&storage()], &[&storage()], 4)),
            &["fc:", "workgroups", "1280", "1024"],
        ),
        row("a transpose that no order of loops is short for", reversed(&engine, 8), &["t:", "axes", "8", "5"]),
    ];
    covers!(table, GpuError::Limit { .. });
    check(&table);
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

#[test]
fn tiles_devices_and_adapters() {
    let Some((context, _)) = engine("tiles") else { return };
    let (device, queue, errors) = watched(context, wgpu::Limits::default());
    let generous = wgpu::Limits {
        max_compute_workgroup_storage_size: 1 << 20,
        max_compute_invocations_per_workgroup: 4096,
        max_compute_workgroup_size_y: 4096,
        ..wgpu::Limits::default()
    };
    // The tile shapes are for limits that this device does not have: workgroup memory and threads that wgpu itself would not refuse.
    let tile = |kernel, rows, k_step| TileShape::new(kernel, rows, k_step, &generous).expect("fits there");
    let engine = |tile| block_on(Engine::new(&device, &queue, &Options { tile: Some(tile), ..Options::default() }));
    let plain = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let model = block_on(plain.load(&Case::new(1, 16, 16, Data::Random, Ends::Codes, 1).program())).expect("loaded");
    let [input, output] = [0; 2].map(|_| buffer(&device, 512, BufferUsages::STORAGE));
    let bound = block_on(model.bind(&[&input], &[&output], 1)).expect("bound");
    let (lost, lost_queue, lost_errors) = watched(context, wgpu::Limits::default());
    lost.destroy();
    let table = vec![
        row("workgroup memory", engine(tile(LinearKernel::Workgroup, 64, 32)), &["linear", "66560", "16384"]),
        row("threads", engine(tile(LinearKernel::Register, 1024, 1)), &["linear_reg", "2048", "256"]),
        row(
            "threads that share a column",
            TileShape::new(LinearKernel::Gemv, 1, 32, &generous),
            &["linear_gemv", "32", "16"],
        ),
        row("lanes without subgroups", engine(tile(LinearKernel::Subgroup, 16, 8)), &["linear_sub", "lanes", "0", "8"]),
        row("timing without timestamps", block_on(bound.timings(1)), &["timing", "TIMESTAMP_QUERY"]),
        row("text that is no tuning table", TuningTable::from_json("{\"adapter\": 3}"), &["tuning table", "line 1"]),
        row(
            "a range between two alignments",
            block_on(model.bind(&[input.slice(4..)], &[output.slice(..)], 1)),
            &["x:", "offset 4", "multiples of 256"],
        ),
        row("a destroyed device", block_on(Engine::new(&lost, &lost_queue, &Options::default())), &["was lost"]),
        row(
            "an adapter that is not there",
            block_on(Context::request(Some("no such adapter"))),
            &["no such adapter", &context.info.name.as_str()[..4]].map(|s| &*Box::leak(s.to_owned().into_boxed_str())),
        ),
    ];
    covers!(
        table,
        GpuError::Tile { kernel: "linear_sub", .. },
        GpuError::BufferOffset { .. },
        GpuError::Feature { .. },
        GpuError::TuningTable { .. },
        GpuError::DeviceLost,
        GpuError::NoSuchAdapter { .. },
    );
    check(&table);
    let reached = errors.load(Ordering::Relaxed) + lost_errors.load(Ordering::Relaxed);
    assert_eq!(reached, 0, "errors reached the application's handler");
}
