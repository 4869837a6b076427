//! Errors of wgpu: error scopes, what they caught, and the loss of a device.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::error::GpuError;

/// Whether a device was lost, also if no call has noticed it.
///
/// A working device refuses a buffer without usages. A lost device refuses nothing: it returns invalid objects, which later calls
/// reject. Neither allocates memory.
pub(crate) async fn is_lost(device: &wgpu::Device) -> bool {
    refusal(device).await.is_none()
}

/// [`is_lost`] without waiting; `false` in a browser, which answers later.
pub(crate) fn is_lost_now(device: &wgpu::Device) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(refusal(device)).poll(&mut context), Poll::Ready(None))
}

fn refusal(device: &wgpu::Device) -> impl Future<Output = Option<wgpu::Error>> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let usage = wgpu::BufferUsages::empty();
    let descriptor = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
    drop(device.create_buffer(&descriptor));
    scope.pop()
}

/// Translates an error of wgpu: the loss of the device if that caused it, else [`GpuError::Device`].
pub(crate) async fn failure(device: &wgpu::Device, what: &str, message: impl ToString) -> GpuError {
    if is_lost(device).await {
        return GpuError::DeviceLost;
    }
    GpuError::Device { what: what.to_owned(), message: message.to_string() }
}

/// [`failure`] without waiting: in a browser, a loss shows with the next answer only.
pub(crate) fn failure_now(device: &wgpu::Device, what: &str, message: impl ToString) -> GpuError {
    if is_lost_now(device) {
        return GpuError::DeviceLost;
    }
    GpuError::Device { what: what.to_owned(), message: message.to_string() }
}

/// Error scopes that are open. They belong to a thread, so they are closed before anything is awaited.
struct Scopes([wgpu::ErrorScopeGuard; 3]);

impl Scopes {
    fn open(device: &wgpu::Device) -> Self {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        Self([Validation, OutOfMemory, Internal].map(|filter| device.push_error_scope(filter)))
    }

    /// The answer to whether something failed.
    fn close(self, device: &wgpu::Device, what: &str) -> impl Future<Output = Result<(), GpuError>> + use<> {
        let [validation, memory, internal] = self.0;
        let (internal, memory, validation) = (internal.pop(), memory.pop(), validation.pop());
        let (device, what) = (device.clone(), what.to_owned());
        async move {
            match internal.await.or(memory.await).or(validation.await) {
                Some(error) => Err(failure(&device, &what, error).await),
                None => Ok(()),
            }
        }
    }
}

/// Runs `make` and catches wgpu's errors, so that the device's own handler, which may panic, never sees them.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    what: &str,
    make: impl FnOnce() -> T,
) -> impl Future<Output = Result<T, GpuError>> {
    let scopes = Scopes::open(device);
    let made = make();
    let answer = scopes.close(device, what);
    async move { answer.await.map(|()| made) }
}

#[cfg(not(target_arch = "wasm32"))]
type Scope = Pin<Box<dyn Future<Output = Result<(), GpuError>> + Send>>;
#[cfg(target_arch = "wasm32")]
type Scope = Pin<Box<dyn Future<Output = Result<(), GpuError>>>>;

/// Objects that wgpu was asked for, whose errors are not known yet. wgpu itself tells at once what fails. A browser tells it in the order of
/// the calls, when its GPU process has come so far: to wait for one answer after the other takes longer than to make the objects.
///
/// Nobody may use the results before [`Pending::done`] is `Ok`.
#[must_use]
pub(crate) struct Pending {
    device: wgpu::Device,
    scopes: Vec<Scope>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("scopes", &self.scopes.len()).finish_non_exhaustive()
    }
}

impl Pending {
    pub(crate) fn new(device: &wgpu::Device) -> Self {
        Self { device: device.clone(), scopes: Vec::new() }
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Runs `make`, whose errors no handler of the device sees.
    ///
    /// # Errors
    /// Returns the error that is known at once.
    pub(crate) fn make<T>(&mut self, what: &str, make: impl FnOnce() -> T) -> Result<T, GpuError> {
        let scopes = Scopes::open(&self.device);
        let made = make();
        let mut answer: Scope = Box::pin(scopes.close(&self.device, what));
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(known) => known?,
            Poll::Pending => self.scopes.push(answer),
        }
        Ok(made)
    }

    /// Pretends that an answer comes later, as in a browser, and is this error.
    #[cfg(test)]
    pub(crate) fn fail_later(&mut self, error: GpuError) {
        let mut waited = false;
        let answer = std::future::poll_fn(move |context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut waited, true) { Poll::Ready(Err(error.clone())) } else { Poll::Pending }
        });
        self.scopes.push(Box::pin(answer));
    }

    /// What is pending so far, to be waited for apart from what comes.
    pub(crate) fn take(&mut self) -> Self {
        Self { device: self.device.clone(), scopes: std::mem::take(&mut self.scopes) }
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// Returns the first error: others may follow from it.
    pub(crate) async fn done(&mut self) -> Result<(), GpuError> {
        for scope in std::mem::take(&mut self.scopes) {
            scope.await?;
        }
        Ok(())
    }
}

/// Whether two handles that are equal belong to one device. wgpu compares numbers, and each `wgpu::Instance` of a process counts its
/// devices from the same one. But error scopes belong to a device: a scope that was opened last, through the one handle, catches an error
/// of the other handle only if they share the device. The handle's own scope catches it otherwise, so that no error handler sees it.
pub(crate) async fn are_one(known: &wgpu::Device, asked: &wgpu::Device) -> bool {
    // Scopes belong to a thread, so both are closed before anything is awaited.
    let own = asked.push_error_scope(wgpu::ErrorFilter::Validation);
    let last = known.push_error_scope(wgpu::ErrorFilter::Validation);
    // An error that costs nothing: a buffer without a use.
    let descriptor =
        wgpu::BufferDescriptor { label: None, size: 4, usage: wgpu::BufferUsages::empty(), mapped_at_creation: false };
    drop(asked.create_buffer(&descriptor));
    let (last, own) = (last.pop(), own.pop());
    let (last, _) = (last.await, own.await);
    last.is_some()
}
