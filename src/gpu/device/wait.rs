//! Waiting for the device: the only file that polls it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll as Progress};

use futures_channel::oneshot::{Receiver, Sender, channel};

use super::error::GpuError;
use super::scope::failure;

/// Who polls a native device while a future of the engine waits for it. No future of the engine ever blocks the thread that polls it.
///
/// ```
/// use enfold::gpu::{Options, Poll};
///
/// // For an application that calls `device.poll` once a frame.
/// let options = Options { poll: Poll::Application, ..Options::default() };
/// # let _ = options;
/// ```
///
/// In a browser neither is needed: its event loop completes what was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Poll {
    /// A thread of the engine's, which lives as long as the wait and sleeps in `device.poll`. Callbacks of the application that are due
    /// then, such as those of `map_async`, run on that thread.
    #[default]
    Thread,
    /// The application. The engine never polls: its futures wake when the application's `device.poll` finds that the work is done, or one of
    /// its `queue.submit`. [`block_on`] does that too. Without either they never complete.
    Application,
}

/// Blocks this thread until a future is done, and polls the device meanwhile: the blocking twin of every `async` function of the engine,
/// whatever its [`Poll`]. An executor's thread must not call it.
///
/// ```no_run
/// # fn start(
/// #     device: &wgpu::Device, queue: &wgpu::Queue, program: &enfold::program::Program,
/// # ) -> Result<(), enfold::gpu::GpuError> {
/// use enfold::gpu::{Engine, Options, block_on};
///
/// let engine = block_on(device, Engine::new(device, queue, &Options::default()))?;
/// let model = block_on(device, engine.load(program))?;
/// # drop(model);
/// # Ok(())
/// # }
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn block_on<T>(device: &wgpu::Device, future: impl Future<Output = T>) -> T {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};
    use std::thread::Thread;
    use std::time::Duration;

    struct Unpark(Thread, AtomicBool);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::Release);
            self.0.unpark();
        }
    }

    let unpark = Arc::new(Unpark(std::thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&unpark));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Progress::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        while !unpark.1.swap(false, Ordering::Acquire) {
            // An error is that of a lost device, which the future reports. What waits for something else than the device needs time.
            let done = device.poll(wgpu::PollType::wait_indefinitely());
            if done.is_err() || !unpark.1.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }
}

/// An answer of the device, which its callback gives, or the thread that waits and fails.
#[derive(Debug)]
pub(crate) struct Answer<T>(Arc<Mutex<Option<Answering<T>>>>);

/// What takes the answer, or a message.
type Answering<T> = Sender<Result<T, String>>;

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Answer<T> {
    pub(crate) fn new() -> (Self, Receiver<Result<T, String>>) {
        let (sender, receiver) = channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Gives the answer, unless there is one already. A receiver that is gone no longer wants it.
    pub(crate) fn give(&self, answer: Result<T, String>) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            drop(sender.send(answer));
        }
    }
}

/// Waits until the callback of work that was submitted has given its answer.
pub(crate) async fn answered<T: Send + 'static>(
    device: &wgpu::Device,
    poll: Poll,
    what: &str,
    submission: Option<wgpu::SubmissionIndex>,
    (answer, mut receiver): (Answer<T>, Receiver<Result<T, String>>),
) -> Result<T, GpuError> {
    // The wait for another answer may have brought this one too.
    let given = match receiver.try_recv() {
        Ok(Some(given)) => Ok(given),
        _ => {
            if let Err(error) = wait_on_thread(device, poll, submission, answer) {
                return Err(failure(device, what, error).await);
            }
            receiver.await
        }
    };
    match given {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(message)) => Err(failure(device, what, message).await),
        Err(error) => Err(failure(device, what, error).await),
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn wait_on_thread<T: Send + 'static>(
    device: &wgpu::Device,
    poll: Poll,
    submission_index: Option<wgpu::SubmissionIndex>,
    answer: Answer<T>,
) -> Result<(), std::io::Error> {
    if poll == Poll::Application {
        return Ok(());
    }
    let device = device.clone();
    let wait = move || {
        if let Err(error) = device.poll(wgpu::PollType::Wait { submission_index, timeout: None }) {
            answer.give(Err(error.to_string()));
        }
    };
    std::thread::Builder::new().name("enfold waits".to_owned()).spawn(wait).map(drop)
}

/// In a browser the event loop completes the work.
#[cfg(target_arch = "wasm32")]
#[allow(clippy::unnecessary_wraps)]
fn wait_on_thread<T>(
    _: &wgpu::Device,
    _: Poll,
    _: Option<wgpu::SubmissionIndex>,
    _: Answer<T>,
) -> Result<(), std::io::Error> {
    Ok(())
}

/// Lets others on the executor's thread run, after work on the host that takes its time, such as compiling a kernel.
pub(crate) fn pause() -> impl Future<Output = ()> {
    Pause(false)
}

struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Progress<()> {
        if std::mem::replace(&mut self.0, true) {
            return Progress::Ready(());
        }
        context.waker().wake_by_ref();
        Progress::Pending
    }
}
