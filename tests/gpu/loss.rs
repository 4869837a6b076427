//! A device that is lost, and memory that it does not have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use enfold::gpu::{Engine, GpuError, Options, TuneOptions};
use pollster::block_on;

use crate::cases::difference;
use crate::device::{
    buffer_on, bytes, context, device_of_another_instance, device_with, read_on, submit, watch, watched,
};
use crate::layers::{batch, expected, mlp};
use crate::report::report;

#[test]
fn a_lost_device_is_an_error_and_the_next_one_continues() {
    let Some(context) = context("loss") else { return };
    let (graph, program) = mlp(3, 40, 91);
    let batch = batch(&graph, 5, 1);
    let right = bytes(&expected(&graph, &batch)[0]);

    let (device, queue, errors) = watched(context, wgpu::Limits::default());
    let engine = Arc::new(block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine"));
    let model = block_on(engine.load(&program)).expect("loaded");
    let (input, output) = (buffer_on(&device, &bytes(&batch[0])), buffer_on(&device, &vec![0; right.len()]));
    let run = block_on(model.bind(&[&input], &[&output], 5)).expect("bound");
    submit(&device, &queue, &run, 5);
    assert!(read_on(&device, &queue, &output) == right);

    // An application does the same: the callback belongs to the device, which the engine keeps.
    let (called, of_engine): (_, Weak<Engine>) = (Arc::new(AtomicBool::new(false)), Arc::downgrade(&engine));
    let calls = Arc::clone(&called);
    device.set_device_lost_callback(move |_, _| {
        calls.store(true, Ordering::Relaxed);
        if let Some(engine) = of_engine.upgrade() {
            engine.mark_lost();
        }
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    device.destroy();
    // The callback comes with the next look at the device.
    let _ = device.poll(wgpu::PollType::wait_indefinitely());
    assert!(called.load(Ordering::Relaxed), "the callback was not called");
    assert_eq!(run.record(&mut encoder, 5), Err(GpuError::DeviceLost));
    assert_eq!(block_on(run.timings(5)), Err(GpuError::DeviceLost));
    assert_eq!(block_on(model.bind(&[&input], &[&output], 5)).map(drop), Err(GpuError::DeviceLost));
    assert_eq!(block_on(model.run(&batch)).map(drop), Err(GpuError::DeviceLost));
    assert_eq!(block_on(engine.load(&program)).map(drop), Err(GpuError::DeviceLost));
    assert_eq!(
        block_on(engine.tune(&program, 5, &TuneOptions { budget: Duration::MAX })).map(drop),
        Err(GpuError::DeviceLost)
    );
    drop(engine.pipeline_cache_data());
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
    // Nothing of the engine keeps the application's last reference alive.
    let weak = Arc::downgrade(&engine);
    drop((engine, model, run));
    assert!(weak.upgrade().is_none());

    let (device, queue, errors) = watched(context, wgpu::Limits::default());
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let (input, output) = (buffer_on(&device, &bytes(&batch[0])), buffer_on(&device, &vec![0; right.len()]));
    let run = block_on(block_on(engine.load(&program)).expect("loaded").bind(&[&input], &[&output], 5)).expect("bound");
    submit(&device, &queue, &run, 5);
    assert!(read_on(&device, &queue, &output) == right, "another device gives other bytes");
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

/// Without `mark_lost`, the calls notice the loss themselves, whichever comes first, before the device is checked and after.
#[test]
fn a_loss_is_noticed_without_being_told() {
    let Some(context) = context("loss, untold") else { return };
    let (graph, program) = mlp(3, 40, 91);
    let batch = batch(&graph, 5, 1);
    let size = bytes(&expected(&graph, &batch)[0]).len();
    for polled in [false, true] {
        let (device, queue, errors) = watched(context, wgpu::Limits::default());
        let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
        let model = block_on(engine.load(&program)).expect("loaded");
        let (input, output) = (buffer_on(&device, &bytes(&batch[0])), buffer_on(&device, &vec![0; size]));
        let run = block_on(model.bind(&[&input], &[&output], 5)).expect("bound");
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        assert_eq!(run.record(&mut encoder, 5), Ok(()), "before it is lost");
        device.destroy();
        if polled {
            let _ = device.poll(wgpu::PollType::wait_indefinitely());
        }
        let lost = if polled { block_on(model.run(&batch)).map(drop) } else { run.record(&mut encoder, 5) };
        assert_eq!(lost, Err(GpuError::DeviceLost), "polled: {polled}");
        assert_eq!(run.record(&mut encoder, 5), Err(GpuError::DeviceLost));
        assert_eq!(block_on(model.bind(&[&input], &[&output], 5)).map(drop), Err(GpuError::DeviceLost));
        assert_eq!(block_on(engine.load(&program)).map(drop), Err(GpuError::DeviceLost));
        assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
    }
}

/// Set in a process of this test's own, whose memory is limited.
const STARVED: &str = "ENFOLD_TEST_STARVED";

/// Drivers that run on a CPU take what the process gets, page by page as it is used, and no budget counts that. So the process is
/// what is made poor: one of its own, where there is a shell to limit it.
#[cfg(unix)]
fn in_a_poor_process() -> Option<String> {
    let this = std::env::current_exe().expect("this test");
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 6000000 && exec \"$0\" \"$@\""])
        .arg(this)
        .args(["--exact", "loss::memory_that_the_device_lacks_is_an_error", "--nocapture"])
        .env(STARVED, "1")
        .output()
        .expect("a process");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{}:\n{text}", output.status);
    Some(text)
}

#[cfg(not(unix))]
fn in_a_poor_process() -> Option<String> {
    None
}

/// Binds runs, within the device's limits, until one is refused.
fn fill(device: &wgpu::Device, queue: &wgpu::Queue, most_runs: usize) -> Result<(), (usize, GpuError)> {
    let before = |error| (0, error);
    let engine = block_on(Engine::new(device, queue, &Options::default())).map_err(before)?;
    let model = block_on(engine.load(&mlp(3, 1024, 92).1)).map_err(before)?;
    let limits = device.limits();
    let most = (limits.max_storage_buffer_binding_size.min(limits.max_buffer_size) / 1024).min(1 << 17);
    let (size, usage) = (most * 1024, wgpu::BufferUsages::STORAGE);
    let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let [input, output] = [0; 2]
        .map(|_| device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false }));
    assert_eq!(block_on(scope.pop()).map(|error| error.to_string()), None, "the test's own buffers");
    let mut runs = Vec::new();
    while runs.len() < most_runs {
        let bound = block_on(model.bind(&[&input], &[&output], most as usize));
        runs.push(bound.map_err(|error| (runs.len(), error))?);
    }
    Ok(())
}

#[test]
fn memory_that_the_device_lacks_is_an_error() {
    let Some(context) = context("out of memory") else { return };
    let starved = std::env::var(STARVED).is_ok();
    if context.is_software() && !starved {
        match in_a_poor_process() {
            Some(text) => report(text.lines().find(|line| line.contains("until")).expect("a report")),
            None => report("no process whose memory can be limited: lack of memory was not tested"),
        }
        return;
    }
    let (device, queue) = if starved {
        device_with(context, context.device.limits())
    } else {
        device_of_another_instance(context, Some(5))
    };
    let errors = watch(&device);
    let (runs, error) = fill(&device, &queue, 1000).expect_err("memory without end");
    report(&format!("{runs} runs of 128 MB values until: {error}"));
    assert!(matches!(error, GpuError::Device { .. }), "{error}");
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
    // The refused run broke nothing: with the memory back, a run of fewer rows is bound and computes.
    let (graph, program) = mlp(3, 40, 91);
    let batch = batch(&graph, 5, 1);
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let got = block_on(block_on(engine.load(&program)).expect("loaded").run(&batch)).expect("run");
    assert_eq!(difference(&got[0], &expected(&graph, &batch)[0]), None);
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}
