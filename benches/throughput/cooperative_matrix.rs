//! The series of the engine with cooperative matrices. Each has a device of its own, since they are an experimental feature of wgpu.

use anyhow::Result;

use crate::Prepared;
use crate::gpu::{Gpu, LeftOut};
use crate::layer::Layer;

/// Matrices of floats.
#[cfg(feature = "coopmat")]
pub(crate) fn prepare(gpu: &Gpu<'_>, layer: &Layer) -> Result<Prepared> {
    use enfold::gpu::Fragment;

    match Fragment::of(&gpu.context.adapter) {
        Some(fragment) => with_matrices("gpu matrix units", gpu, layer, (fragment, Fragment::FEATURES), None),
        None => Ok(LeftOut("this adapter has no cooperative matrices that wgpu supports".to_owned()).into()),
    }
}

#[cfg(not(feature = "coopmat"))]
pub(crate) fn prepare(_: &Gpu<'_>, _: &Layer) -> Result<Prepared> {
    Ok(LeftOut("the bench was built without the feature coopmat".to_owned()).into())
}

/// Matrices of int8 values, on the tile of the command line if it is one for them.
#[cfg(feature = "coopmat-spirv")]
pub(crate) fn prepare_int8(gpu: &Gpu<'_>, layer: &Layer) -> Result<Prepared> {
    use enfold::gpu::{Fragment, LinearKernel};

    let Some(fragment) = Fragment::int8_of(&gpu.context.adapter) else {
        return Ok(LeftOut("this adapter has no cooperative matrices of int8 values".to_owned()).into());
    };
    match gpu.tile {
        Some((kernel, ..)) if kernel != LinearKernel::CoopmatInt8 => {
            Ok(LeftOut(format!("{} has no matrices of int8 values", kernel.name())).into())
        }
        tile => with_matrices("gpu int8 matrices", gpu, layer, (fragment, Fragment::INT8_FEATURES), tile),
    }
}

#[cfg(not(feature = "coopmat-spirv"))]
pub(crate) fn prepare_int8(_: &Gpu<'_>, _: &Layer) -> Result<Prepared> {
    Ok(LeftOut("the bench was built without the feature coopmat-spirv".to_owned()).into())
}

#[cfg(feature = "coopmat")]
fn with_matrices(
    series: &str,
    gpu: &Gpu<'_>,
    layer: &Layer,
    (fragment, features): (enfold::gpu::Fragment, wgpu::Features),
    tile: Option<crate::gpu::Tile>,
) -> Result<Prepared> {
    use enfold::gpu::context::Context;
    use enfold::gpu::{Engine, Options};
    use pollster::block_on;

    let adapter = &gpu.context.adapter;
    // SAFETY: experimental features may have faults in wgpu, which this bench accepts. This device runs the crate's own shaders only.
    #[allow(unsafe_code)]
    let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("cooperative matrices"),
        required_features: Engine::wanted_features(adapter.features()) | features,
        required_limits: adapter.limits(),
        experimental_features,
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = block_on(adapter.request_device(&descriptor))?;
    let context = Context { device, queue, ..gpu.context.clone() };
    let gpu = Gpu::new(&context, tile);
    let engine = gpu.new_engine(Options { fragment: Some(fragment), ..Options::default() })?;
    if !engine.uses_coopmat() {
        return Ok(LeftOut("its cooperative matrices fail their known-answer test".to_owned()).into());
    }
    gpu.resident(series, &engine, layer, 8)
}
