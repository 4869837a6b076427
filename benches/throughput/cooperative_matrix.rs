//! The series of the engine with cooperative matrices. It has a device of its own, since they are an experimental feature of wgpu.

use anyhow::Result;

use crate::Prepared;
use crate::gpu::{Gpu, LeftOut};
use crate::layer::Layer;

#[cfg(feature = "coopmat")]
pub(crate) fn prepare(gpu: &Gpu<'_>, layer: &Layer) -> Result<Prepared> {
    use enfold::gpu::context::Context;
    use enfold::gpu::{Engine, Fragment, Options};
    use pollster::block_on;

    let adapter = &gpu.context.adapter;
    let Some(fragment) = Fragment::of(adapter) else {
        return Ok(LeftOut("this adapter has no cooperative matrices that wgpu supports".to_owned()).into());
    };
    // SAFETY: experimental features may have faults in wgpu, which this bench accepts. This device runs the crate's own shaders only.
    #[allow(unsafe_code)]
    let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("cooperative matrices"),
        required_features: Engine::wanted_features(adapter.features()) | Fragment::FEATURES,
        required_limits: adapter.limits(),
        experimental_features,
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = block_on(adapter.request_device(&descriptor))?;
    let context = Context { device, queue, ..gpu.context.clone() };
    let gpu = Gpu::new(&context, None);
    let engine = gpu.new_engine(Options { fragment: Some(fragment), ..Options::default() })?;
    if !engine.uses_coopmat() {
        return Ok(LeftOut("its cooperative matrices fail their known-answer test".to_owned()).into());
    }
    gpu.resident("gpu matrix units", &engine, layer, 8)
}

#[cfg(not(feature = "coopmat"))]
pub(crate) fn prepare(_: &Gpu<'_>, _: &Layer) -> Result<Prepared> {
    Ok(LeftOut("the bench was built without the feature coopmat".to_owned()).into())
}
