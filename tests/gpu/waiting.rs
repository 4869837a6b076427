//! Futures that never block the thread that polls them.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll as Progress, Wake, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use enfold::gpu::{Engine, Options, Poll, Readback, TuneOptions, block_on};
use enfold::graph::NodeId;
use enfold::program::Program;
use enfold::{Graph, Tensor, lower};

use crate::cases::difference;
use crate::device::{buffer_on, bytes, context, device_of};
use crate::layers::{Layers, batch, expected};

/// An executor of one future, whose thread polls the device only between two polls of the future, and only if it is asked to.
struct Executor {
    device: wgpu::Device,
    polls_device: bool,
    /// How often the future waited for something that only a poll of the device brings.
    waits: usize,
    woken_by: Vec<ThreadId>,
}

#[derive(Default)]
struct Flag {
    woken: AtomicBool,
    wakes: AtomicUsize,
    by: Mutex<Vec<ThreadId>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.by.lock().expect("no panic").push(std::thread::current().id());
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.woken.store(true, Ordering::SeqCst);
    }
}

impl Executor {
    fn new(device: &wgpu::Device, polls_device: bool) -> Self {
        Self { device: device.clone(), polls_device, waits: 0, woken_by: Vec::new() }
    }

    fn run<T>(&mut self, future: impl Future<Output = T> + Send) -> T {
        let mut future = pin!(future);
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        loop {
            if let Progress::Ready(done) = future.as_mut().poll(&mut Task::from_waker(&waker)) {
                self.woken_by.append(&mut flag.by.lock().expect("no panic"));
                return done;
            }
            if flag.woken.swap(false, Ordering::SeqCst) {
                continue;
            }
            self.waits += 1;
            if !self.polls_device {
                while !flag.woken.swap(false, Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                continue;
            }
            if self.waits == 1 {
                // The device is done by now, but nobody has asked it: polling the future again brings nothing, and nobody wakes it.
                std::thread::sleep(Duration::from_millis(200));
                let wakes = flag.wakes.load(Ordering::SeqCst);
                for _ in 0..100 {
                    assert!(future.as_mut().poll(&mut Task::from_waker(&waker)).is_pending());
                }
                assert_eq!(flag.wakes.load(Ordering::SeqCst), wakes, "somebody else polls the device");
            }
            self.device.poll(wgpu::PollType::wait_indefinitely()).expect("waited");
            assert!(flag.woken.swap(false, Ordering::SeqCst), "the poll of the device wakes the future");
        }
    }
}

fn network() -> (Graph, Program, Vec<Tensor>) {
    let mut l = Layers::new(31);
    let x: NodeId = l.int8(&[40]);
    let h = l.linear(x, 24, 40);
    let y = l.linear(h, 9, 24);
    let graph = l.finish(&[y]);
    let program = lower(&graph).expect("lowered");
    let inputs = batch(&graph, 5, 1);
    (graph, program, inputs)
}

/// How often each of them waited.
type Waits = Vec<(&'static str, usize)>;

/// Runs all that waits, on a device that no other test has compiled for; returns how often it waited for each, and who has woken it.
fn all_that_waits(poll: Poll) -> Option<(Waits, Vec<ThreadId>)> {
    let context = context("waiting")?;
    let (device, queue) =
        device_of(context, wgpu::Limits::default(), Engine::wanted_features(context.adapter.features()));
    let has_clock = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
    let (graph, program, inputs) = network();
    let right = expected(&graph, &inputs);
    let mut executor = Executor::new(&device, poll == Poll::Application);
    let mut waits = Vec::new();
    let mut waited =
        |name: &'static str, executor: &mut Executor| waits.push((name, std::mem::take(&mut executor.waits)));

    let engine =
        executor.run(Engine::new(&device, &queue, &Options { poll, ..Options::default() })).expect("an engine");
    let model = executor.run(engine.load(&program)).expect("loaded");
    waited("load", &mut executor);
    let got = executor.run(model.run(&inputs)).expect("run");
    assert_eq!(difference(&got[0], &right[0]), None);
    let mut wrong = right[0].clone();
    if let Tensor::I8(a) = &mut wrong {
        a.elements_mut()[7] ^= 1;
    }
    assert!(difference(&got[0], &wrong).is_some(), "a wrong element shows");
    waited("run", &mut executor);
    let (input, output) = (buffer_on(&device, &bytes(&inputs[0])), buffer_on(&device, &[0; 5 * 9 + 3]));
    let run = executor.run(model.bind(&[&input], &[&output], 5)).expect("bound");
    assert_eq!(executor.waits, 0, "binding waits for nothing");
    if has_clock {
        assert_eq!(executor.run(run.timings(5)).expect("measured").steps.len(), run.dispatches());
        waited("timings", &mut executor);
        let options = TuneOptions { budget: Duration::from_millis(500) };
        executor.run(engine.tune(&program, 5, &options)).expect("tuned");
        waited("tune", &mut executor);
    }
    if poll == Poll::Application {
        let readback = executor.run(Readback::new(&device, output.size())).expect("a buffer");
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        run.record(&mut encoder, 5).expect("recorded");
        readback.record(&mut encoder, &output, 0);
        queue.submit([encoder.finish()]);
        let read = executor.run(readback.read()).expect("read");
        assert!(read[..45] == bytes(&right[0])[..45], "what was copied");
        waited("read", &mut executor);
    }
    Some((waits, executor.woken_by))
}

#[test]
fn the_application_polls_if_it_wants_to() {
    let Some((waits, woken_by)) = all_that_waits(Poll::Application) else { return };
    assert!(waits.len() >= 3 && waits.iter().all(|(_, waits)| *waits > 0), "all of them wait: {waits:?}");
    let own = std::thread::current().id();
    assert!(woken_by.iter().all(|&thread| thread == own), "no other thread polls");
}

#[test]
fn otherwise_a_thread_does() {
    let Some((waits, woken_by)) = all_that_waits(Poll::Thread) else { return };
    assert!(waits.len() >= 2, "{waits:?}");
    let own = std::thread::current().id();
    assert!(woken_by.iter().any(|&thread| thread != own), "the executor's thread has not polled the device");
}

#[test]
fn the_blocking_twin_needs_nobody() {
    let Some(context) = context("the blocking twin") else { return };
    let (device, queue) = device_of(context, wgpu::Limits::default(), wgpu::Features::empty());
    let (graph, program, inputs) = network();
    for poll in [Poll::Application, Poll::Thread] {
        let engine = block_on(&device, Engine::new(&device, &queue, &Options { poll, ..Options::default() }));
        let model = block_on(&device, engine.expect("an engine").load(&program)).expect("loaded");
        let got = block_on(&device, model.run(&inputs)).expect("run");
        assert_eq!(difference(&got[0], &expected(&graph, &inputs)[0]), None);
    }
    // It also waits for what has nothing to do with the device.
    let (sender, receiver) = futures_channel::oneshot::channel();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        sender.send(7)
    });
    assert_eq!(block_on(&device, receiver), Ok(7));
}
