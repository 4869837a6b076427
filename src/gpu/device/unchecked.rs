//! The `unsafe` calls of wgpu: shader modules without run-time checks, and pipeline caches. The crate's other modules with `unsafe`
//! code are `spirv`, of the feature `coopmat-spirv`, and the host's int8 products for the instructions of a processor, in
//! `kernels/gemm_i8`.

#![allow(unsafe_code)]

/// Makes a shader module without bounds checks, loop bounds and division checks. Only for the crate's own shaders.
pub(crate) fn module(device: &wgpu::Device, descriptor: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    // SAFETY: the text is one of the crate's own shaders, never a caller's. Its indices follow from parameters that `bind` writes
    // from a checked `Program`, and from a number of rows that `Run::record_in` compares with what was bound:
    // - every kernel clamps rows beyond the last on load and drops them on store;
    // - each binding is as large as the padded value for the most rows, the whole weight, or the whole partial sums;
    // - columns, axes and strides are those of values whose sizes `Program::new` checked; ids are clamped to their table;
    // - int8 values index tables of 256 entries.
    // Loops count to those parameters. Divisors are lengths, which are not 0 (`Program::new`), or a mantissa with its leading bit.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// Makes a pipeline cache from the data of an earlier one, where the device has such caches.
pub(crate) fn pipeline_cache(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("enfold"), data, fallback: true };
    // SAFETY: `Options::pipeline_cache` asks for what `Engine::pipeline_cache_data` returned. wgpu checks its header against the
    // adapter and driver, and with `fallback` begins an empty cache where it does not fit.
    Some(unsafe { device.create_pipeline_cache(&descriptor) })
}
