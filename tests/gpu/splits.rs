//! Layers that are divided: along their columns, because a binding cannot hold the weight; along their rows, because a dispatch
//! would take too long; along K, because the grid would be too small; and all of that at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use enfold::gpu::context::Context;
use enfold::gpu::{Engine, GpuError, LinearKernel, Model, Options, Run, SplitK, TileShape};
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::ops::{Constant, IntegerLinear, Op, ScaleAccumulator, Window};
use enfold::program::Program;
use enfold::{Graph, Tensor};
use pollster::block_on;

use crate::cases::{Case, Data, Ends};
use crate::device::{
    buffer, buffer_on, bytes, context, device_of, engine, engine_with, read, read_on, submit, watched,
};
use crate::layers::{Layers, batch, expected, first_rows, rounded_to_f16};
use crate::operators::wrong;
use crate::report::report;

/// Builds a graph with every step that can follow an int8 layer of `n` columns and `k` features; the last outputs are not promised
/// to the bit.
fn epilogues(n: usize, k: usize, seed: u64) -> Graph {
    let mut l = Layers::new(seed);
    let (x, others, floats) = (l.int8(&[k]), l.int8(&[n]), l.floats(&[k]));
    let to_int8 = l.linear(x, n, k);
    let to_floats = l.linear_to_floats(x, n, k);
    let a = l.linear(x, n, k);
    let table = l.lut(a);
    let a = l.linear(x, n, k);
    let sum = l.sum(a, others, false);
    let a = l.linear(x, n, k);
    let sum_first = l.sum(others, a, true);
    let a = l.linear_to_floats(x, n, k);
    let gelu = l.gelu(a);
    let dynamic = l.dynamic(floats, n, k);
    let a = l.dynamic(floats, n, k);
    let dynamic_gelu = l.gelu(a);
    l.finish(&[to_int8, to_floats, table, sum, sum_first, gelu, dynamic, dynamic_gelu])
}

/// The number of outputs that are promised to the bit.
const EXACT: usize = 5;
/// The number of linear layers.
const LINEAR: usize = 8;

struct Bound {
    device: wgpu::Device,
    queue: wgpu::Queue,
    graph: Graph,
    batch: Vec<Tensor>,
    outputs: Vec<wgpu::Buffer>,
    run: Run,
    f16: bool,
}

impl Bound {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue, engine: &Engine, graph: Graph, rows: usize, f16: bool) -> Self {
        let options = LowerOptions { f16_outputs: f16, ..LowerOptions::default() };
        let program: Program = lower_with(&graph, &options).expect("lowered");
        let model: Model = block_on(engine.load(&program)).expect("loaded");
        let batch = batch(&graph, rows, 9);
        let inputs: Vec<wgpu::Buffer> = batch.iter().map(|input| buffer_on(device, &bytes(input))).collect();
        let zeros = |&id| {
            let value = program.value(id);
            buffer_on(device, &vec![0; (value.len(rows).expect("small") * 4).next_multiple_of(4)])
        };
        let outputs: Vec<wgpu::Buffer> = program.outputs().iter().map(zeros).collect();
        let (inputs, slices): (Vec<_>, Vec<_>) = (inputs.iter().collect(), outputs.iter().collect());
        let run = block_on(model.bind(&inputs, &slices, rows)).expect("bound");
        let (device, queue) = (device.clone(), queue.clone());
        Self { device, queue, graph, batch, outputs, run, f16 }
    }

    /// Whether the outputs are those of `rows` rows.
    fn check(&self, rows: usize, what: &str) {
        let right = expected(&self.graph, &first_rows(&self.batch, rows));
        for (at, (output, right)) in self.outputs.iter().zip(&right).enumerate() {
            let got = read_on(&self.device, &self.queue, output);
            if at < EXACT && !(self.f16 && right.as_f32().is_some()) {
                let right = bytes(right);
                let wrong = (0..right.len()).find(|&byte| got[byte] != right[byte]);
                assert_eq!(wrong, None, "{what}: byte of output {at}, {rows} rows");
                let beyond = got[right.len().next_multiple_of(4)..].iter().find(|&&byte| byte != 0x5A && byte != 0);
                assert_eq!(beyond, None, "{what}: beyond output {at}, {rows} rows");
                continue;
            }
            let floats = match self.f16 {
                true => {
                    let f16: Vec<u16> = bytemuck::pod_collect_to_vec(&got[..right.len() * 2]);
                    f16.into_iter().map(|half| half::f16::from_bits(half).to_f32()).collect()
                }
                false => bytemuck::pod_collect_to_vec(&got[..right.len() * 4]),
            };
            let got = Tensor::from_f32(right.shape(), floats).expect("fits");
            let right = if self.f16 { rounded_to_f16(right) } else { right.clone() };
            assert_eq!(wrong(&self.graph, &got, &right, 1e-6), None, "{what}: output {at}, {rows} rows");
        }
    }

    /// Several times, with other numbers of rows between, and twice before one submission.
    fn check_all(&self, what: &str) {
        let rows = self.run.max_rows();
        for rows in [rows, 1, rows.div_ceil(2), rows, rows] {
            // The results of the last recording would hide one that computes nothing.
            for output in &self.outputs {
                self.queue.write_buffer(output, 0, &vec![0x5A; output.size() as usize]);
            }
            submit(&self.device, &self.queue, &self.run, rows);
            self.check(rows, what);
        }
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for rows in [1, rows] {
            self.run.record(&mut encoder, rows).expect("recorded");
        }
        self.queue.submit([encoder.finish()]);
        self.check(rows, what);
    }
}

fn tiles(limits: &wgpu::Limits, subgroups: bool) -> Vec<TileShape> {
    let shapes = [
        (LinearKernel::Workgroup, 16, 4),
        (LinearKernel::Large, 128, 2),
        (LinearKernel::Register, 32, 1),
        (LinearKernel::Row, 1, 1),
        (LinearKernel::Subgroup, 16, 8),
        (LinearKernel::Gemv, 2, 2),
    ];
    let shapes = shapes.into_iter().filter(|&(kernel, ..)| subgroups || kernel != LinearKernel::Subgroup);
    shapes.filter_map(|(kernel, rows, step)| TileShape::new(kernel, rows, step, limits).ok()).collect()
}

/// An engine that never divides K by itself, as one does on a large GPU: its dispatches are counted.
fn undivided(test: &str) -> Option<(&'static Context, Engine)> {
    let context = context(test)?;
    Some((context, engine_with(context, &Options { split_k: SplitK::Never, ..Options::default() })))
}

#[test]
fn weights_are_divided_along_their_columns() {
    let Some((context, default)) = undivided("split columns") else { return };
    let mut dispatches = Vec::new();
    for (limit, n, k, f16) in [(1 << 16, 330usize, 300usize, false), (1 << 16, 130, 513, true)] {
        let limits = wgpu::Limits { max_storage_buffer_binding_size: limit, ..wgpu::Limits::default() };
        let (device, queue, errors) = watched(context, limits);
        let options = Options { split_k: SplitK::Never, ..Options::default() };
        let engine = block_on(Engine::new(&device, &queue, &options)).expect("an engine");
        // 64 columns of 8 bits take this much.
        let of_block = k.next_multiple_of(16) * 64;
        let parts = n.div_ceil(limit as usize / of_block * 64);
        assert!(parts > 1);
        let bound = Bound::new(&device, &queue, &engine, epilogues(n, k, 41), 5, f16);
        let whole = Bound::new(&context.device, &context.queue, &default, epilogues(n, k, 41), 5, f16);
        assert_eq!(bound.run.dispatches(), whole.run.dispatches() + LINEAR * (parts - 1), "{n} x {k}");
        dispatches.push((whole.run.dispatches(), bound.run.dispatches()));
        bound.check_all(&format!("columns of {n} x {k} in {parts} parts"));
        assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
    }
    report(&format!("columns: dispatches whole and divided {dispatches:?}"));

    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 16, ..wgpu::Limits::default() };
    let (device, queue, errors) = watched(context, limits);
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let error = block_on(engine.load(&crate::layers::mlp(1, 1025, 1).1)).expect_err("too long");
    let GpuError::Limit { actual: 66_560, limit: 65_536, .. } = error else { panic!("{error}") };
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

/// Four layers that read the same values share a product, unless a binding cannot hold all of their results; a fifth has its own.
#[test]
fn layers_that_share_a_product_are_divided_where_a_binding_ends() {
    let Some((context, _)) = engine("shared products") else { return };
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 16, ..wgpu::Limits::default() };
    let (device, queue, errors) = watched(context, limits);
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let single = block_on(Engine::new(&device, &queue, &Options { unfused: true, ..Options::default() }));
    let single = single.expect("an engine");
    let (n, k) = (64, 48);
    let graph = || {
        let mut l = Layers::new(51);
        let x = l.floats(&[k]);
        let [qparams, quantized] = l.per_token(x);
        let layers: Vec<_> = (0..5).map(|_| l.after_tokens(qparams, quantized, n, k)).collect();
        // Each result has another weight in the sum, so that none can stand for another.
        let mut sum = layers[0];
        for (at, &layer) in layers.iter().enumerate().skip(1) {
            sum = l.g.add(&format!("sum {at}"), sum, layer).expect("a sum");
            sum = l.g.mul(&format!("product {at}"), sum, layers[0]).expect("a product");
        }
        l.finish(&[sum])
    };
    // The results of four layers take 65,536 bytes at 64 rows.
    let dispatches = [64, 65].map(|rows| {
        let bound = Bound::new(&device, &queue, &engine, graph(), rows, false);
        bound.check_all(&format!("shared products of {rows} rows"));
        let alone = Bound::new(&device, &queue, &single, graph(), rows, false);
        alone.check_all(&format!("single products of {rows} rows"));
        bound.run.dispatches()
    });
    assert_eq!(dispatches[1], dispatches[0] + 3, "five products instead of two");
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

/// Layers that share a product, to floats and to int8 values, with every kind of tile, with K whole and divided, and with rows that are
/// divided; and results that together exceed the largest buffer.
#[test]
fn layers_that_share_a_product_are_right_on_every_tile() {
    let Some((context, _)) = engine("shared products of tiles") else { return };
    let graph = |n: usize, k: usize, most: i32| {
        let mut l = Layers::new(52);
        l.most = most;
        let (x, floats) = (l.int8(&[k]), l.floats(&[k]));
        let [qparams, quantized] = l.per_token(floats);
        let dynamic: Vec<_> = (0..3).map(|_| l.after_tokens(qparams, quantized, n, k)).collect();
        let int8: Vec<_> = (0..4).map(|_| l.linear_with(x, n, k, 17)).collect();
        let floats: Vec<_> =
            dynamic.iter().enumerate().map(|(at, &y)| l.g.clamp(&format!("floats {at}"), y, -50.0, 50.0)).collect();
        let mut outputs: Vec<_> = floats.into_iter().map(|y| y.expect("a clamp")).collect();
        outputs.truncate(2);
        let mixed = l.g.add("mixed", dynamic[2], outputs[0]).expect("a sum");
        outputs.push(mixed);
        outputs.extend([[0, 1], [2, 3]].map(|[a, b]| l.sum(int8[a], int8[b], false)));
        l.finish(&outputs)
    };
    let subgroups = context.device.features().contains(wgpu::Features::SUBGROUP) && context.info.subgroup_min_size >= 8;
    let tiles = tiles(&context.device.limits(), subgroups);
    for (at, (tile, split_k)) in
        tiles.iter().flat_map(|&tile| [SplitK::Never, SplitK::Always].map(|split_k| (tile, split_k))).enumerate()
    {
        let macs_per_dispatch = (at % 3 == 2).then_some(3 * 64 * 520 * 7);
        let options = Options { tile: Some(tile), split_k, macs_per_dispatch, ..Options::default() };
        let engine = engine_with(context, &options);
        for (n, most) in [(64, 127), (192, 7), (128, 1)] {
            let bound = Bound::new(&context.device, &context.queue, &engine, graph(n, 520, most), 37, false);
            let plan = bound.run.describe();
            assert!(plan.lines().any(|line| line.contains("linear") && line.contains(", with ")), "{plan}");
            bound.check_all(&format!("shared products of {n} columns, {tile:?}, {split_k:?}"));
        }
    }
    // The results of three layers of 128 columns take 261,120 bytes at 170 rows, and 276,480 at 180.
    let most = 1 << 18;
    let limits =
        wgpu::Limits { max_buffer_size: most, max_storage_buffer_binding_size: most, ..wgpu::Limits::default() };
    let (device, queue, errors) = watched(context, limits);
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    for rows in [170, 180] {
        Bound::new(&device, &queue, &engine, graph(128, 64, 1), rows, false)
            .check_all("results of a buffer and of more");
    }
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

/// Convolutions of one group and of several, with few and many channels, with every kind of tile, with K whole and divided, with rows of
/// one group that are divided, and with weights of few bits.
#[test]
fn convolutions_are_right_on_every_tile() {
    let Some((context, _)) = engine("convolutions of tiles") else { return };
    let graph = |most: i32| {
        let mut l = Layers::new(53);
        l.most = most;
        let (few, many) = (l.int8(&[3, 9, 8]), l.int8(&[48, 9, 8]));
        let uneven =
            Window::new(&[3, 2]).with_stride(&[2, 1]).with_dilation(&[1, 2]).with_uneven_padding(&[1, 2], &[0, 3]);
        let same = || Window::new(&[3, 3]).with_padding(&[1, 1]);
        let stem = l.conv(few, [70, 3], &same().with_stride(&[2, 2]), 1);
        let wide = l.conv(many, [130, 48], &uneven, 1);
        let twice = l.conv(many, [48, 48], &same(), 1);
        let sum = l.sum(twice, many, false);
        let depthwise = l.conv(sum, [48, 48], &same(), 48);
        let grouped = l.conv(sum, [24, 48], &uneven, 4);
        let single = l.conv(sum, [20, 48], &Window::new(&[1, 1]), 1);
        l.finish(&[stem, wide, depthwise, grouped, single])
    };
    let subgroups = context.device.features().contains(wgpu::Features::SUBGROUP) && context.info.subgroup_min_size >= 8;
    let tiles = tiles(&context.device.limits(), subgroups);
    for (at, (tile, split_k)) in
        tiles.iter().flat_map(|&tile| [SplitK::Never, SplitK::Always].map(|split_k| (tile, split_k))).enumerate()
    {
        let macs_per_dispatch = (at % 3 == 2).then_some(130 * 48 * 6 * 7);
        let options = Options { tile: Some(tile), split_k, macs_per_dispatch, ..Options::default() };
        let engine = engine_with(context, &options);
        for most in [127, 7] {
            let bound = Bound::new(&context.device, &context.queue, &engine, graph(most), 3, false);
            bound.check_all(&format!("convolutions, {tile:?}, {split_k:?}, weights up to {most}"));
        }
    }
}

/// Convolutions of groups, with and without gaps between the elements of the input, of which a dispatch computes some rows only.
#[test]
fn grouped_convolutions_are_divided_along_their_rows() {
    let Some((context, default)) = engine("split rows of grouped convolutions") else { return };
    let same = Window::new(&[3, 3]).with_padding(&[1, 1]);
    let mut gaps = same.clone();
    gaps.axes[0].input_dilation = 2;
    // 3 images of 9 by 8 and of 17 by 8 pixels.
    for (window, rows) in [(same, 216usize), (gaps, 408)] {
        let graph = || {
            let mut l = Layers::new(61);
            let x = l.int8(&[48, 9, 8]);
            let outputs =
                [[48, 1, 48], [24, 12, 4]].map(|[n, inputs, groups]| l.conv(x, [n, inputs * groups], &window, groups));
            l.finish(&outputs)
        };
        let products = [48 * 9, 24 * 12 * 9];
        // Whole workgroups of threads, parts of one, and single rows.
        for of_dispatch in [64, 50, 7, 1] {
            let macs = of_dispatch * products[0];
            let options = Options { macs_per_dispatch: Some(macs as u64), ..Options::default() };
            let engine = engine_with(context, &options);
            let bound = Bound::new(&context.device, &context.queue, &engine, graph(), 3, false);
            let whole = Bound::new(&context.device, &context.queue, &default, graph(), 3, false);
            let more: usize = products.iter().map(|of_row| rows.div_ceil((macs / of_row).max(1)) - 1).sum();
            assert_eq!(bound.run.dispatches(), whole.run.dispatches() + more);
            bound.check_all(&format!("{of_dispatch} rows of grouped convolutions over {window:?}"));
        }
    }
}

/// Two layers read the same values as weights of 8 and of 2 bits, which a binding divides differently.
#[test]
fn a_weight_of_two_widths_is_divided_twice() {
    let Some((context, _)) = engine("two widths") else { return };
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 16, ..wgpu::Limits::default() };
    let (device, queue, errors) = watched(context, limits);
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let (n, k) = (330, 300);
    for bits in [[8, 2], [2, 8]] {
        let mut l = Layers::new(48);
        let x = l.int8(&[k]);
        let values =
            Arc::new(Tensor::from_i8(&[n, k], l.random.codes(n * k).iter().map(|v| v & 1).collect()).expect("fits"));
        let outputs = bits.map(|bits| {
            let weight = Constant { tensor: Arc::clone(&values), bits: Some(bits) };
            let w = l.node("weight", Op::Constant(weight), &[]);
            let bias = l.constant(Tensor::from_i32(&[n], vec![0; n]).expect("fits"));
            let acc = l.node("sums", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[x, w, bias]);
            let factors = l.constant(Tensor::from_f32(&[n], vec![0.01; n]).expect("fits"));
            l.node("y", Op::ScaleAccumulator(ScaleAccumulator { relu: false, ch_axis: None }), &[acc, factors])
        });
        let graph = l.finish(&outputs);
        Bound::new(&device, &queue, &engine, graph, 3, false).check_all(&format!("bits {bits:?}"));
    }
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

#[test]
fn layers_are_divided_along_their_rows() {
    let Some((context, default)) = undivided("split rows") else { return };
    let (n, k) = (70, 33);
    for of_dispatch in [1, 3] {
        let macs_per_dispatch = Some((of_dispatch * n * k) as u64);
        let options = Options { macs_per_dispatch, split_k: SplitK::Never, ..Options::default() };
        let engine = engine_with(context, &options);
        let bound = Bound::new(&context.device, &context.queue, &engine, epilogues(n, k, 42), 13, false);
        let whole = Bound::new(&context.device, &context.queue, &default, epilogues(n, k, 42), 13, false);
        let parts = 13usize.div_ceil(of_dispatch);
        assert_eq!(bound.run.dispatches(), whole.run.dispatches() + LINEAR * (parts - 1));
        bound.check_all(&format!("{of_dispatch} rows a dispatch"));
    }
    // Products of activations: a tile of 64 rows is the least.
    let mut l = Layers::new(43);
    let (a, b) = (l.int8(&[3, 70, 20]), l.int8(&[3, 20, 9]));
    let y = l.integer_matmul(a, b, 9, 20);
    let graph = l.finish(&[y]);
    let options = Options { macs_per_dispatch: Some(1), ..Options::default() };
    let engine = engine_with(context, &options);
    let bound = Bound::new(&context.device, &context.queue, &engine, graph, 4, false);
    // 4 batches of 3 matrices of 2 tiles, two inputs that are padded and one output that is not.
    assert_eq!(bound.run.dispatches(), 4 * 3 * 2 + 3);
    bound.check_all("tiles of a product");
}

#[test]
fn k_is_divided_and_sums_are_zero_again() {
    let Some((context, default)) = undivided("split K") else { return };
    let subgroups = context.device.features().contains(wgpu::Features::SUBGROUP) && context.info.subgroup_min_size >= 8;
    let mut counted = Vec::new();
    for tile in tiles(&context.device.limits(), subgroups) {
        let options = Options { tile: Some(tile), split_k: SplitK::Always, ..Options::default() };
        let engine = engine_with(context, &options);
        // Three parts, of which the last is ragged.
        let graph = || epilogues(70, 300, 44);
        let divided = Bound::new(&context.device, &context.queue, &engine, graph(), 19, false);
        let whole = Bound::new(&context.device, &context.queue, &default, graph(), 19, false);
        assert_eq!(divided.run.dispatches(), whole.run.dispatches() + LINEAR, "{tile:?}");
        assert!(divided.run.memory().partial_sums > 0 && whole.run.memory().partial_sums == 0);
        counted.push((whole.run.dispatches(), divided.run.dispatches()));
        divided.check_all(&format!("K divided, {tile:?}"));
    }
    report(&format!("K: dispatches whole and divided {counted:?}"));
}

#[test]
fn all_divisions_at_once() {
    let Some((context, default)) = undivided("all splits") else { return };
    // The second of two parts of columns is small: sums that it left beyond its rows would overlap those of the first.
    let (n, k) = (250, 300);
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 16, ..wgpu::Limits::default() };
    let features = context.device.features() & wgpu::Features::SUBGROUP;
    let (device, queue) = device_of(context, limits, features);
    let options =
        Options { split_k: SplitK::Always, macs_per_dispatch: Some((5 * n * k) as u64), ..Options::default() };
    let engine = block_on(Engine::new(&device, &queue, &options)).expect("an engine");
    let bound = Bound::new(&device, &queue, &engine, epilogues(n, k, 45), 13, false);
    let plain = Bound::new(&context.device, &context.queue, &default, epilogues(n, k, 45), 13, false);
    // Two parts of columns by three of rows, each with its end.
    assert_eq!(bound.run.dispatches(), plain.run.dispatches() + LINEAR * (2 * 3 * 2 - 1));
    bound.check_all("all divisions");
}

/// Partial sums have a most; with one row more than fit, K stays whole.
#[test]
fn more_rows_than_partial_sums_hold_are_not_divided() {
    let Some(context) = context("many partial sums") else { return };
    let engine = engine_with(context, &Options { split_k: SplitK::Always, ..Options::default() });
    // 768 KiB hold 192 rows of 1024 columns; a GPU with its own memory takes 4 MiB.
    let has_own_memory =
        matches!(context.info.device_type, wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu);
    let most = if has_own_memory { 1024 } else { 192 };
    let case = Case::new(most + 1, 1024, 208, Data::Random, Ends::FloatOut, 47);
    let model = block_on(engine.load(&case.program())).expect("loaded");
    let (input, output) = (buffer(context, &bytes(&case.input())), buffer(context, &vec![0; (most + 1) * 1024 * 4]));
    let dispatches =
        [most, most + 1].map(|rows| block_on(model.bind(&[&input], &[&output], rows)).expect("bound").dispatches());
    assert_eq!(dispatches, [2, 1]);
    let run = block_on(model.bind(&[&input], &[&output], most + 1)).expect("bound");
    let right = bytes(&Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted")[0]);
    for rows in [most, most + 1] {
        context.queue.write_buffer(&output, 0, &vec![0x5A; right.len()]);
        submit(&context.device, &context.queue, &run, rows);
        let wrong = read(context, &output).iter().zip(&right[..rows * 4096]).position(|(got, right)| got != right);
        assert_eq!(wrong, None, "{rows} rows");
    }
}

/// The comparison fails where it should.
#[test]
#[should_panic(expected = "wrong on purpose: byte of output 0, 5 rows")]
fn another_batch_is_noticed() {
    let Some(context) = context("split control") else { panic!("wrong on purpose: byte of output 0, 5 rows") };
    let options = Options { split_k: SplitK::Always, ..Options::default() };
    let engine = engine_with(context, &options);
    let mut bound = Bound::new(&context.device, &context.queue, &engine, epilogues(70, 300, 46), 5, false);
    submit(&bound.device, &bound.queue, &bound.run, 5);
    let Tensor::I8(values) = &mut bound.batch[0] else { panic!("int8 values") };
    values[[2, 299]] ^= 64;
    bound.check(5, "wrong on purpose");
}
