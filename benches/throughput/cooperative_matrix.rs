//! The engine on an adapter's matrix units, on a device of its own: they are an experimental feature of wgpu.

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
        return Ok(LeftOut("this adapter has no matrix units that wgpu reaches".to_owned()).into());
    };
    // SAFETY: accepts that wgpu may have faults here. The only shaders on this device are the crate's own.
    #[allow(unsafe_code)]
    let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("matrix units"),
        required_features: Engine::wanted_features(adapter.features()) | Fragment::FEATURES,
        required_limits: adapter.limits(),
        experimental_features,
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = block_on(adapter.request_device(&descriptor))?;
    let context = Context { device, queue, ..gpu.context.clone() };
    let gpu = Gpu::new(&context, None);
    let engine = gpu.make(Options { fragment: Some(fragment), ..Options::default() })?;
    if !engine.uses_matrix_units() {
        return Ok(LeftOut("its matrix units fail their test with known answers".to_owned()).into());
    }
    gpu.resident("gpu matrix units", &engine, layer, 8)
}

#[cfg(not(feature = "coopmat"))]
pub(crate) fn prepare(_: &Gpu<'_>, _: &Layer) -> Result<Prepared> {
    Ok(LeftOut("the bench was built without the feature coopmat".to_owned()).into())
}
