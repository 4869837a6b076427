//! Timestamps in the application's own query sets, and wgpu-profiler around recordings.

use enfold::gpu::{Engine, GpuError, Options, block_on};
use wgpu_profiler::{GpuProfiler, GpuProfilerSettings};

use crate::device::{buffer_on, bytes, context, device_of, read_on};
use crate::layers::{batch, expected, mlp};

#[test]
fn steps_write_their_times_where_the_application_wants_them() {
    let Some(context) = context("timestamps") else { return };
    let features = context.adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
    let (device, queue) = device_of(context, wgpu::Limits::default(), features);
    let (graph, program) = mlp(2, 40, 6);
    let inputs = batch(&graph, 7, 1);
    let right = bytes(&expected(&graph, &inputs)[0]);
    let engine = block_on(&device, Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let model = block_on(&device, engine.load(&program)).expect("loaded");
    let (input, output) = (buffer_on(&device, &bytes(&inputs[0])), buffer_on(&device, &vec![0; right.len()]));
    let run = block_on(&device, model.bind(&[&input], &[&output], 7)).expect("bound");
    let count = run.queries() + 5;
    let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count };
    let encoder = || device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    if features.is_empty() {
        let queries =
            device.create_query_set(&wgpu::QuerySetDescriptor { ty: wgpu::QueryType::Occlusion, ..descriptor });
        let refused = run.record_timed(&mut encoder(), 7, &queries, 0);
        assert!(matches!(refused, Err(GpuError::Feature { .. })), "{refused:?}");
        return;
    }
    let queries = device.create_query_set(&descriptor);
    let refused = run.record_timed(&mut encoder(), 7, &queries, 6);
    assert_eq!(refused, Err(GpuError::Queries { actual: count, needed: u64::from(count) + 1, first: 6 }));
    assert!(matches!(run.record_timed(&mut encoder(), 8, &queries, 0), Err(GpuError::Rows { .. })));

    let size = u64::from(run.queries()) * 8;
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let resolved =
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let mut recorded = encoder();
    run.record_timed(&mut recorded, 7, &queries, 5).expect("recorded");
    recorded.resolve_query_set(&queries, 5..count, &resolved, 0);
    queue.submit([recorded.finish()]);
    assert!(read_on(&device, &queue, &output) == right, "the same bits");
    let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&read_on(&device, &queue, &resolved));
    assert!(ticks.iter().all(|&tick| tick > 0) && ticks.is_sorted(), "{ticks:?}");
    let timings = run.timings_of(&ticks, queue.get_timestamp_period());
    assert_eq!(timings.steps.len() * 2, run.queries() as usize);
    assert!(timings.steps.iter().any(|step| !step.duration.is_zero()), "{timings}");
}

#[test]
fn a_profiler_measures_recordings() {
    let Some(context) = context("wgpu-profiler") else { return };
    let features = context.adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
    let (device, queue) = device_of(context, wgpu::Limits::default(), features);
    let (graph, program) = mlp(1, 24, 6);
    let inputs = batch(&graph, 3, 1);
    let right = bytes(&expected(&graph, &inputs)[0]);
    let engine = block_on(&device, Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let model = block_on(&device, engine.load(&program)).expect("loaded");
    let (input, output) = (buffer_on(&device, &bytes(&inputs[0])), buffer_on(&device, &vec![0; right.len()]));
    let run = block_on(&device, model.bind(&[&input], &[&output], 3)).expect("bound");
    let mut profiler = GpuProfiler::new(&device, GpuProfilerSettings::default()).expect("a profiler");
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut scope = profiler.scope("frame", &mut encoder);
        run.record_in(&mut scope.scoped_compute_pass("network"), 3).expect("recorded");
    }
    profiler.resolve_queries(&mut encoder);
    queue.submit([encoder.finish()]);
    profiler.end_frame().expect("a frame");
    assert!(read_on(&device, &queue, &output) == right, "the same bits");
    device.poll(wgpu::PollType::wait_indefinitely()).expect("waited");
    let results = profiler.process_finished_frame(queue.get_timestamp_period()).expect("a frame that is done");
    assert_eq!(results[0].label, "frame");
    assert_eq!(results[0].nested_queries[0].label, "network");
    assert_eq!(results[0].nested_queries[0].time.is_some(), !features.is_empty());
}
