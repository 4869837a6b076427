//! Tools that help an application to examine a run and to make it faster: timings, debug groups, pipeline caches and tuning; and
//! several models and runs side by side.

use std::time::Duration;

use enfold::Tensor;
use enfold::gpu::{Engine, GpuError, LoadProgress, Options, SplitK, TuneOptions, TuneProgress, TuningTable};
use enfold::lower::lower;
use enfold::ops::Window;
use pollster::block_on;

use crate::cases::difference;
use crate::device::{buffer, bytes, device_of, device_with, engine, engine_with, read};
use crate::layers::{Layers, batch, expected, first_rows, mlp};
use crate::report::report;

#[test]
fn every_dispatch_has_a_time_and_a_name() {
    let Some((context, engine)) = engine("timings") else { return };
    let mut l = Layers::new(101);
    let x = l.floats(&[33]);
    let q = l.quantize(x);
    let h = l.linear(q, 20, 33);
    let h = l.lut(h);
    let y = l.linear_to_floats(h, 7, 20);
    let graph = l.finish(&[y]);
    let program = lower(&graph).expect("lowered");
    let x = batch(&graph, 9, 1).swap_remove(0);
    let bind = |engine: &Engine, device: &wgpu::Device| {
        let input = crate::device::buffer_on(device, &bytes(&x));
        let output = crate::device::buffer_on(device, &[0; 9 * 7 * 4]);
        let model = block_on(engine.load(&program)).expect("loaded");
        block_on(model.bind(&[&input], &[&output], 9)).expect("bound")
    };
    let run = bind(&engine, &context.device);
    if context.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        for rows in [9, 1] {
            let timings = block_on(run.timings(rows)).expect("timed");
            let names: Vec<&str> = timings.steps.iter().map(|step| step.name.as_str()).collect();
            let steps = program.steps();
            // The lookup table is fused with its layer.
            assert_eq!(names, [&steps[0].name, &steps[1].name, &steps[3].name]);
            assert_eq!(timings.steps.len(), run.dispatches());
            assert_eq!(timings.to_string().lines().count(), 3);
            assert!(timings.steps.iter().all(|step| step.duration.as_secs() < 10), "{timings}");
        }
        assert_eq!(block_on(run.timings(10)).map(drop), Err(GpuError::Rows { actual: 10, max: 9 }));
        let (_, deep) = mlp(2100, 1, 102);
        let model = block_on(engine.load(&deep)).expect("loaded");
        let [input, output] = [0; 2].map(|_| buffer(context, &[0; 16]));
        let run = block_on(model.bind(&[&input], &[&output], 1)).expect("bound");
        // The run has more dispatches than one query set holds.
        assert_eq!(block_on(run.timings(1)).expect("timed").steps.len(), run.dispatches());
        report(&format!("timings of {} dispatches", run.dispatches()));
    }
    let (device, queue) = device_with(context, wgpu::Limits::default());
    let bare = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let needed = wgpu::Features::TIMESTAMP_QUERY;
    let error = block_on(bind(&bare, &device).timings(1)).expect_err("no timestamps");
    assert!(matches!(error, GpuError::Feature { needed: n, .. } if n == needed), "{error}");
}

#[test]
fn debug_groups_and_pipeline_caches_change_no_bit() {
    let Some((context, default)) = engine("debug groups") else { return };
    let (graph, program) = mlp(3, 70, 103);
    let batch = batch(&graph, 5, 1);
    let right = &expected(&graph, &batch)[0];
    let run = |engine: &Engine| block_on(block_on(engine.load(&program)).expect("loaded").run(&batch)).expect("run");
    let groups = engine_with(context, &Options { debug_groups: true, ..Options::default() });
    assert_eq!(difference(&run(&groups)[0], right), None);
    assert_eq!(difference(&run(&default)[0], right), None);
    let data = default.pipeline_cache_data();
    let can = context.device.features().contains(wgpu::Features::PIPELINE_CACHE);
    assert_eq!(data.is_some(), can);
    report(&format!("pipeline cache: {:?} bytes", data.as_ref().map(Vec::len)));
    let valid = data.unwrap_or_default();
    let (mut cut, mut changed) = (valid.clone(), valid.clone());
    cut.truncate(valid.len() / 2);
    changed.iter_mut().for_each(|byte| *byte ^= 0x55);
    let mut of_header = valid.clone();
    of_header.truncate(8);
    for data in [valid, cut, changed, of_header, Vec::new(), vec![0xFF; 3], b"no pipeline cache at all".repeat(9)] {
        let engine = engine_with(context, &Options { pipeline_cache: Some(data), ..Options::default() });
        assert_eq!(difference(&run(&engine)[0], right), None);
    }
    let (device, queue) = device_with(context, wgpu::Limits::default());
    let options = Options { pipeline_cache: Some(vec![1, 2, 3]), ..Options::default() };
    let bare = block_on(Engine::new(&device, &queue, &options)).expect("an engine");
    assert_eq!(bare.pipeline_cache_data(), None);
    assert_eq!(difference(&run(&bare)[0], right), None);
}

#[test]
fn tuning_changes_no_bit() {
    let Some((context, engine)) = engine("tuning") else { return };
    let mut l = Layers::new(104);
    let x = l.int8(&[300]);
    let h = l.linear(x, 70, 300);
    let h = l.linear(h, 70, 70);
    // This layer has the shape of the one before.
    let h = l.linear(h, 70, 70);
    let graph = l.finish(&[h]);
    let program = lower(&graph).expect("lowered");
    let table = block_on(engine.tune(&program, 9, &TuneOptions { budget: Duration::MAX })).expect("tuned");
    assert_eq!(table.len(), 2);
    let none = block_on(engine.tune(&program, 9, &TuneOptions { budget: Duration::ZERO })).expect("tuned");
    assert!(none.is_empty(), "no time, no measurement");
    // Layers of one shape are measured once, and the budget has time for all.
    let mut seen = Vec::new();
    let all = TuneOptions { budget: Duration::MAX };
    block_on(engine.tune_with_progress(&program, 9, &all, |now: TuneProgress| seen.push(now))).expect("tuned");
    assert!(seen.is_sorted_by_key(|now| (now.layers, now.shapes)), "{seen:?}");
    assert!(seen.last().is_some_and(|now| now.layers == 3 && now.all_layers == 3), "{seen:?}");
    let json = table.to_json().expect("written");
    report(&format!("tuned: {} entries", table.len()));
    let batch = batch(&graph, 20, 1);
    let run = |options: &Options, rows: usize| {
        let engine = engine_with(context, options);
        let batch = first_rows(&batch, rows);
        let got = block_on(block_on(engine.load(&program)).expect("loaded").run(&batch)).expect("run");
        assert_eq!(difference(&got[0], &expected(&graph, &batch)[0]), None, "{options:?}");
    };
    let with = |json: &str| Options { tuning: Some(TuningTable::from_json(json).expect("read")), ..Options::default() };
    assert_eq!(TuningTable::from_json(&json), Ok(table));
    for rows in [1, 9, 20] {
        run(&with(&json), rows);
    }
    // A kernel with subgroups, whether or not it was the fastest here; also where subgroups may not be used.
    let entry = |kernel: &str, rows: u64, step: u64, more: &str| {
        let adapter = json.split("\"entries\"").next().expect("a table");
        let tile = format!("{{\"kernel\": \"{kernel}\", \"rows\": {rows}, \"k_step\": {step}}}");
        let entry = |n: u32, k: u32| {
            format!("{{\"n\": {n}, \"k\": {k}, \"bits\": 8, {more}, \"tile\": {tile}, \"split_k\": true}}")
        };
        format!("{adapter}\"entries\": [{}, {}]}}", entry(70, 300), entry(70, 70))
    };
    let more = "\"rows\": 64";
    for step in [4, 8] {
        let subgroups = entry("subgroup", 16, step, more);
        run(&with(&subgroups), 20);
        run(&Options { without_subgroups: true, ..with(&subgroups) }, 20);
    }
    // Shapes that no device holds, and zeros, are passed over.
    let u32s = u64::from(u32::MAX);
    for (kernel, rows, step) in [
        ("workgroup", 64, 1 << 20),
        ("workgroup", 4, u32s),
        ("workgroup", u32s - 3, 1),
        ("workgroup", 0, 0),
        ("register", 7, 1),
        ("register", u32s - 7, 1),
        ("large", 64, 2),
        ("gemv", 3, 1),
        ("gemv", 8, u32s),
        ("subgroup", 16, 3),
    ] {
        run(&with(&entry(kernel, rows, step, more)), 20);
    }
    for more in ["\"rows\": 0", "\"rows\": 18446744073709551615"] {
        run(&with(&entry("gemv", 8, 1, more)), 20);
    }
    // The engine uses the tuning table: with K divided, the longer layer has two dispatches.
    let dispatches = |options: &Options| {
        let model = block_on(engine_with(context, options).load(&program)).expect("loaded");
        let (input, output) = (buffer(context, &[0; 20 * 304]), buffer(context, &[0; 20 * 80]));
        block_on(model.bind(&[&input], &[&output], 20)).expect("bound").dispatches()
    };
    let divided = entry("register", 32, 1, more);
    let of_another = divided.replacen("\"adapter\": \"", "\"adapter\": \"another ", 1);
    let plain = dispatches(&Options { split_k: SplitK::Never, ..Options::default() });
    assert_eq!(dispatches(&Options { split_k: SplitK::Never, ..with(&divided) }), plain + 1);
    assert_eq!(dispatches(&Options { split_k: SplitK::Never, ..with(&of_another) }), plain);
    // The engine ignores another adapter's tuning table; text that is no table is an error.
    run(&with(&json.replacen("\"adapter\": \"", "\"adapter\": \"another ", 1)), 9);
    for text in ["", "[]", "{\"adapter\": \"a\"}", &entry("warp", 1, 1, more), &entry("gemv", 1 << 40, 1, more)] {
        let error = TuningTable::from_json(text).expect_err("no table");
        assert!(matches!(error, GpuError::TuningTable { .. }) && error.to_string().contains("line"), "{error}");
    }
    // Without a timestamp query, the host's clock measures.
    let (device, queue) = device_of(context, wgpu::Limits::default(), wgpu::Features::empty());
    let bare = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    assert_eq!(
        block_on(bare.tune(&mlp(1, 5, 1).1, 3, &TuneOptions { budget: Duration::MAX })).expect("tuned").len(),
        1
    );
    assert!(matches!(
        block_on(engine.tune(&program, 0, &TuneOptions { budget: Duration::MAX })),
        Err(GpuError::Rows { actual: 0, .. })
    ));
}

#[test]
fn tuned_convolutions_change_no_bit() {
    let Some((context, engine)) = engine("tuning of convolutions") else { return };
    let mut l = Layers::new(105);
    let x = l.int8(&[48, 9, 7]);
    let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
    let y = l.conv(x, [70, 48], &window, 1);
    // Few channels are copied first. A linear layer of the same shape is another layer, and groups are not tuned.
    let few = l.int8(&[3, 9, 7]);
    let stem = l.conv(few, [20, 3], &window, 1);
    let rows = l.int8(&[432]);
    let linear = l.linear(rows, 70, 432);
    let grouped = l.conv(x, [24, 48], &window, 4);
    let graph = l.finish(&[y, stem, linear, grouped]);
    let program = lower(&graph).expect("lowered");
    let table = block_on(engine.tune(&program, 3, &TuneOptions { budget: Duration::MAX })).expect("tuned");
    assert_eq!(table.len(), 3);
    let json = table.to_json().expect("written");
    assert_eq!(json.matches("\"patches\": true").count(), 1, "{json}");
    let batch = batch(&graph, 5, 1);
    let dispatches = |json: Option<&str>| {
        let tuning = json.map(|json| TuningTable::from_json(json).expect("read"));
        let engine = engine_with(context, &Options { split_k: SplitK::Never, tuning, ..Options::default() });
        let model = block_on(engine.load(&program)).expect("loaded");
        for rows in [1, 3, 5] {
            let batch = first_rows(&batch, rows);
            let got = block_on(model.run(&batch)).expect("run");
            for (got, right) in got.iter().zip(&expected(&graph, &batch)) {
                assert_eq!(difference(got, right), None, "{rows} rows, {json:?}");
            }
        }
        let buffers: Vec<_> = batch.iter().map(|x| buffer(context, &bytes(x))).collect();
        let outputs: Vec<_> = expected(&graph, &batch).iter().map(|y| buffer(context, &bytes(y))).collect();
        let (inputs, outputs): (Vec<_>, Vec<_>) = (buffers.iter().collect(), outputs.iter().collect());
        block_on(model.bind(&inputs, &outputs, 5)).expect("bound").dispatches()
    };
    dispatches(Some(&json));
    // The engine uses the entry: with K divided, the convolution has two dispatches.
    let entry = |step: u64, rows: u64| {
        let adapter = json.split("\"entries\"").next().expect("a table");
        let tile = format!("{{\"kernel\": \"register\", \"rows\": {rows}, \"k_step\": {step}}}");
        let layer = "\"n\": 70, \"k\": 432, \"bits\": 8, \"patches\": true, \"rows\": 1000";
        format!("{adapter}\"entries\": [{{{layer}, \"tile\": {tile}, \"split_k\": true}}]}}")
    };
    assert_eq!(dispatches(Some(&entry(1, 32))), dispatches(None) + 1);
}

#[test]
fn loading_reports_its_progress() {
    let Some((context, _)) = engine("progress of loading") else { return };
    // A device on which nothing is compiled yet.
    let (device, queue) = device_with(context, wgpu::Limits::default());
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let mut l = Layers::new(106);
    let x = l.floats(&[33]);
    let q = l.quantize(x);
    let h = l.linear(q, 20, 33);
    let y = l.linear_to_floats(h, 7, 20);
    let y = l.g.softmax("softmax", y, 1).expect("a softmax");
    let graph = l.finish(&[y]);
    let program = lower(&graph).expect("lowered");
    let load = || {
        let mut all: Vec<LoadProgress> = Vec::new();
        let model = block_on(engine.load_with_progress(&program, |now| all.push(now))).expect("loaded");
        let batch = batch(&graph, 4, 1);
        assert_eq!(difference(&block_on(model.run(&batch)).expect("run")[0], &expected(&graph, &batch)[0]), None);
        for pair in all.windows(2) {
            let [before, after] = [pair[0], pair[1]];
            assert!(before.kernels <= after.kernels && before.bytes <= after.bytes, "{all:?}");
            assert!(before.all_kernels <= after.all_kernels && before.all_bytes == after.all_bytes, "{all:?}");
        }
        assert!(all.iter().all(|now| now.kernels <= now.all_kernels && now.bytes <= now.all_bytes), "{all:?}");
        let last = *all.last().expect("a report");
        assert_eq!((last.kernels, last.bytes), (last.all_kernels, last.all_bytes));
        (last, all.len())
    };
    let (first, reports) = load();
    // A quantize, layers to int8 and to float, a softmax, and tile shapes.
    assert!(first.kernels >= 4 && reports > 5, "{first:?}, {reports} reports");
    assert!(first.bytes >= 20 * 33 + 7 * 20, "{first:?}");
    let (second, _) = load();
    assert_eq!((second.kernels, second.bytes), (0, first.bytes), "kernels are tested once");
}

/// Several models of one engine, and several runs of one model, are recorded in turn before one submission.
#[test]
fn runs_of_several_models_are_recorded_in_turns() {
    let Some((context, default)) = engine("several models") else { return };
    let divided = engine_with(context, &Options { split_k: SplitK::Always, ..Options::default() });
    let mut bound = Vec::new();
    for (seed, engine) in [(0, &default), (1, &default), (2, &divided), (3, &divided)] {
        let (graph, program) = mlp(3, [40, 300][seed as usize % 2], 110 + seed);
        let model = block_on(engine.load(&program)).expect("loaded");
        for of_model in 0..2u64 {
            let batch = batch(&graph, 9, seed * 2 + of_model);
            let input = buffer(context, &bytes(&batch[0]));
            let output = buffer(context, &vec![0; bytes(&batch[0]).len()]);
            let run = block_on(model.bind(&[&input], &[&output], 9)).expect("bound");
            bound.push((run, output, graph.clone(), batch));
        }
    }
    let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    // Each once with all rows, then with fewer, in other orders and in two passes.
    bound.iter().for_each(|(run, ..)| run.record(&mut encoder, 9).expect("recorded"));
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        bound.iter().rev().for_each(|(run, ..)| run.record_in(&mut pass, 4).expect("recorded"));
    }
    context.queue.submit([encoder.finish()]);
    for (at, (_, output, graph, batch)) in bound.iter().enumerate() {
        let got = read(context, output);
        let right: Vec<Tensor> = expected(graph, batch);
        // The fewer rows are the first of the same batch.
        assert!(got == bytes(&right[0]), "run {at}");
        let other = expected(graph, &bound[at ^ 1].3);
        assert!(got != bytes(&other[0]), "run {at}: the comparison cannot fail");
    }
}
