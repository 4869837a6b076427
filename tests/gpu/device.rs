//! The one device of this process: Vulkan loaders dislike instances that come and go in parallel.

use std::sync::OnceLock;

use enfold::gpu::context::Context;

use crate::report::report;

static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();

/// The device; `None`, with a line that says so, if there is none and that is allowed.
pub(crate) fn context(test: &str) -> Option<&'static Context> {
    let context = CONTEXT.get_or_init(|| {
        let name = std::env::var("ENFOLD_ADAPTER").ok();
        let context = pollster::block_on(Context::request(name.as_deref())).expect("an adapter that gives a device");
        match &context {
            Some(context) => report(&format!("adapter: {} {}", context.describe(), context.info.driver_info)),
            None => assert!(
                std::env::var("ENFOLD_ALLOW_NO_GPU").is_ok_and(|v| v == "1"),
                "no adapter; install a Vulkan driver (mesa-vulkan-drivers) or set ENFOLD_ALLOW_NO_GPU=1"
            ),
        }
        context
    });
    if context.is_none() {
        report(&format!("skipped, no adapter: {test}"));
    }
    context.as_ref()
}
