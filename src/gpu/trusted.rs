//! Calls of wgpu that are `unsafe`: shader modules without run-time checks, and pipeline caches. The crate's other module with
//! `unsafe` code is the host's int8 product for AVX2.

#![allow(unsafe_code)]

use super::shaders::Shader;

/// A shader module without bounds checks, loop bounds and division checks.
pub(super) fn module(device: &wgpu::Device, shader: &Shader) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(shader.name), source: wgpu::ShaderSource::Wgsl(shader.wgsl.into()) };
    // SAFETY: the text is one of the crate's own shaders, never a caller's. Its indices follow from constants that `bind` writes
    // from a checked `Program` and from a number of rows that `Run::record_in` holds to what was bound:
    // - rows beyond the last are clamped on load and dropped on store, in every kernel;
    // - each binding is as large as the padded value for the most rows, the whole weight, or the whole partial sums;
    // - columns, axes and strides are those of values whose sizes `Program::new` checked; ids are clamped to their table;
    // - codes index tables of 256 entries.
    // Loops count to those constants. Divisors are lengths, which are not 0 (`Program::new`), or a mantissa with its leading bit.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// A pipeline cache, from what an earlier one held, where the device has such caches.
pub(super) fn pipeline_cache(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("enfold"), data, fallback: true };
    // SAFETY: `Options::pipeline_cache` asks for what `Engine::pipeline_cache_data` returned. wgpu checks its header against the
    // adapter and driver, and with `fallback` begins an empty cache where it does not fit.
    Some(unsafe { device.create_pipeline_cache(&descriptor) })
}
