//! Bind group layouts, shader modules and compute pipelines: made when first needed, and kept.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::GpuError;
use super::shader::{Binding, BindingKind, Shader};
use super::transfer::{allocate, scoped};
use super::unchecked;
use super::wait::pause;

/// Names one pipeline of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PipelineKey {
    pub(crate) shader: Shader,
    pub(crate) entry: &'static str,
    /// Values of override constants; the others have their defaults.
    pub(crate) overrides: Vec<(&'static str, u32)>,
    /// Whether the shader is compiled with wgpu's run-time checks.
    pub(crate) checked: bool,
}

#[derive(Debug)]
pub(crate) struct Pipelines {
    pub(crate) cache: Option<wgpu::PipelineCache>,
    /// A buffer bound where a kernel reads nothing: it has a range for each binding, so that none overlap.
    unused: wgpu::Buffer,
    /// Layouts by the sizes of parameters and the storage buffers.
    layouts: Mutex<HashMap<(usize, &'static [Binding]), Layout>>,
    /// Modules by their shaders, and whether they are checked.
    modules: Mutex<HashMap<(Shader, bool), wgpu::ShaderModule>>,
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
}

/// The layouts of all shaders with the same bindings.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) bind_group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// Bytes of a binding that is not used: more than any element, and a multiple of the strictest alignment.
const UNUSED_BYTES: u64 = 256;
const MAX_BINDINGS: u64 = 11;

impl Pipelines {
    pub(crate) async fn new(device: &wgpu::Device, cache: Option<&[u8]>) -> Result<Self, GpuError> {
        let cache = scoped(device, "pipeline cache", || unchecked::pipeline_cache(device, cache)).await?;
        let size = UNUSED_BYTES * MAX_BINDINGS;
        let unused = allocate(device, "unused bindings", size, wgpu::BufferUsages::STORAGE).await?;
        let (layouts, modules, pipelines) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { cache, unused, layouts, modules, pipelines })
    }

    /// The buffer range for a `binding` that a kernel does not read.
    pub(crate) fn unused(&self, binding: u32) -> wgpu::BufferBinding<'_> {
        let (offset, size) = (UNUSED_BYTES * u64::from(binding), NonZeroU64::new(UNUSED_BYTES));
        wgpu::BufferBinding { buffer: &self.unused, offset, size }
    }

    /// The layouts of a shader.
    pub(crate) async fn layout(&self, device: &wgpu::Device, shader: &Shader) -> Result<Layout, GpuError> {
        let key = (shader.params.size, shader.storage);
        if let Some(layout) = lock(&self.layouts).get(&key) {
            return Ok(layout.clone());
        }
        let layout = scoped(device, shader.name, || make_layout(device, &shader.bindings())).await?;
        Ok(lock(&self.layouts).entry(key).or_insert(layout).clone())
    }

    pub(crate) async fn get(
        &self,
        device: &wgpu::Device,
        key: &PipelineKey,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        if let Some(pipeline) = lock(&self.pipelines).get(key) {
            return Ok(pipeline.clone());
        }
        let layout = self.layout(device, &key.shader).await?;
        let pipeline = match key.shader.int8_k {
            0 => {
                let module = self.module(device, key).await?;
                scoped(device, key.shader.name, || make_pipeline(device, key, &layout, &module, self.cache.as_ref()))
                    .await?
            }
            _ => self.of_int8_matrices(device, key, &layout).await?,
        };
        // A driver may compile for long.
        pause().await;
        Ok(lock(&self.pipelines).entry(key.clone()).or_insert(pipeline).clone())
    }

    /// Makes a pipeline with cooperative matrices of int8 values, whose module no other pipeline can use.
    #[cfg(feature = "coopmat-spirv")]
    async fn of_int8_matrices(
        &self,
        device: &wgpu::Device,
        key: &PipelineKey,
        layout: &Layout,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        let module = scoped(device, key.shader.name, || super::spirv::module(device, key)).await??;
        // Its constants are part of it.
        let key = PipelineKey { overrides: Vec::new(), ..key.clone() };
        scoped(device, key.shader.name, || make_pipeline(device, &key, layout, &module, self.cache.as_ref())).await
    }

    #[cfg(not(feature = "coopmat-spirv"))]
    #[allow(clippy::unused_async)]
    async fn of_int8_matrices(
        &self,
        _: &wgpu::Device,
        key: &PipelineKey,
        _: &Layout,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::PASSTHROUGH_SHADERS;
        Err(GpuError::Feature { what: key.entry, needed })
    }

    async fn module(&self, device: &wgpu::Device, key: &PipelineKey) -> Result<wgpu::ShaderModule, GpuError> {
        let PipelineKey { shader, checked, .. } = *key;
        if let Some(module) = lock(&self.modules).get(&(shader, checked)) {
            return Ok(module.clone());
        }
        let module = scoped(device, shader.name, || {
            let source = wgpu::ShaderSource::Wgsl(shader.wgsl().into());
            let descriptor = wgpu::ShaderModuleDescriptor { label: Some(shader.name), source };
            match checked {
                true => device.create_shader_module(descriptor),
                false => unchecked::module(device, descriptor),
            }
        })
        .await?;
        Ok(lock(&self.modules).entry((shader, checked)).or_insert(module).clone())
    }

    /// Forgets all pipelines.
    #[cfg(test)]
    pub(crate) fn clear(&self) {
        lock(&self.pipelines).clear();
    }

    /// The keys of all pipelines that were made.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<PipelineKey> {
        lock(&self.pipelines).keys().cloned().collect()
    }

    /// Compiles a pipeline from other WGSL than that of its shader.
    #[cfg(test)]
    pub(crate) async fn of_wgsl(&self, device: &wgpu::Device, key: &PipelineKey, wgsl: &str) -> wgpu::ComputePipeline {
        let layout = self.layout(device, &key.shader).await.expect("a layout");
        let source = wgpu::ShaderSource::Wgsl(wgsl.into());
        let module = unchecked::module(device, wgpu::ShaderModuleDescriptor { label: None, source });
        make_pipeline(device, key, &layout, &module, None)
    }

    /// Replaces a pipeline by another, or by one that does nothing; returns the old one.
    #[cfg(test)]
    pub(crate) async fn replace(
        &self,
        device: &wgpu::Device,
        key: &PipelineKey,
        by: Option<wgpu::ComputePipeline>,
    ) -> Option<wgpu::ComputePipeline> {
        let layout = self.layout(device, &key.shader).await.ok()?;
        let nothing = || {
            let source = wgpu::ShaderSource::Wgsl("@compute @workgroup_size(1) fn nothing() {}".into());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&layout.pipeline),
                module: &module,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        };
        lock(&self.pipelines).insert(key.clone(), by.unwrap_or_else(nothing))
    }
}

fn make_pipeline(
    device: &wgpu::Device,
    key: &PipelineKey,
    layout: &Layout,
    module: &wgpu::ShaderModule,
    cache: Option<&wgpu::PipelineCache>,
) -> wgpu::ComputePipeline {
    let constants: Vec<(&str, f64)> = key.overrides.iter().map(|&(name, value)| (name, value.into())).collect();
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(key.entry),
        layout: Some(&layout.pipeline),
        module,
        entry_point: Some(key.entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            // Every kernel writes its workgroup memory before it reads it.
            zero_initialize_workgroup_memory: false,
        },
        cache,
    })
}

fn make_layout(device: &wgpu::Device, bindings: &[Binding]) -> Layout {
    let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
        .iter()
        .enumerate()
        // The words and the vectors of one buffer are one binding.
        .filter(|&(at, binding)| bindings[..at].iter().all(|earlier| earlier.binding != binding.binding))
        .map(|(_, binding)| {
            let (ty, has_dynamic_offset, size) = match binding.kind {
                BindingKind::Uniform { size, dynamic } => (wgpu::BufferBindingType::Uniform, dynamic, size as u64),
                BindingKind::Read => (wgpu::BufferBindingType::Storage { read_only: true }, false, 0),
                BindingKind::ReadWrite => (wgpu::BufferBindingType::Storage { read_only: false }, false, 0),
            };
            wgpu::BindGroupLayoutEntry {
                binding: binding.binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: NonZeroU64::new(size) },
                count: None,
            }
        })
        .collect();
    let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some("enfold"), entries: &entries };
    let bind_group = device.create_bind_group_layout(&descriptor);
    let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some("enfold"),
        bind_group_layouts: &[Some(&bind_group)],
        immediate_size: 0,
    });
    Layout { bind_group, pipeline }
}

/// A poisoned map is still a valid map: an entry is there or not.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
