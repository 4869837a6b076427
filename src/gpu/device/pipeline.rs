//! Bind group layouts, shader modules and compute pipelines: made when first needed, and kept.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::GpuError;
use super::scope::Pending;
use super::shader::{Binding, BindingKind, Shader};
use super::transfer::allocate;
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
    kept: Mutex<Made>,
}

/// What was made, by what it was made from.
#[derive(Debug, Default)]
struct Made {
    /// Layouts by the sizes of parameters and the storage buffers.
    layouts: HashMap<(usize, &'static [Binding]), Layout>,
    /// Modules by their shaders, and whether they are checked.
    modules: HashMap<(Shader, bool), wgpu::ShaderModule>,
    pipelines: HashMap<PipelineKey, wgpu::ComputePipeline>,
}

/// What one load or bind makes: nobody else sees its pipelines before it is known that none of them failed.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) pending: Pending,
    made: Made,
}

impl Batch {
    pub(crate) fn new(device: &wgpu::Device) -> Self {
        Self { pending: Pending::new(device), made: Made::default() }
    }
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
        let mut pending = Pending::new(device);
        let cache = pending.make("pipeline cache", || unchecked::pipeline_cache(device, cache))?;
        let size = UNUSED_BYTES * MAX_BINDINGS;
        let unused = allocate(&mut pending, "unused bindings", size, wgpu::BufferUsages::STORAGE)?;
        pending.done().await?;
        Ok(Self { cache, unused, kept: Mutex::default() })
    }

    /// Waits until it is known what failed of a batch, and keeps its pipelines.
    ///
    /// # Errors
    /// Returns the first error, with the name of what failed.
    pub(crate) async fn keep(&self, mut batch: Batch) -> Result<(), GpuError> {
        batch.pending.done().await?;
        let mut kept = lock(&self.kept);
        let Made { layouts, modules, pipelines } = batch.made;
        kept.layouts.extend(layouts);
        kept.modules.extend(modules);
        kept.pipelines.extend(pipelines);
        Ok(())
    }

    /// The buffer range for a `binding` that a kernel does not read.
    pub(crate) fn unused(&self, binding: u32) -> wgpu::BufferBinding<'_> {
        let (offset, size) = (UNUSED_BYTES * u64::from(binding), NonZeroU64::new(UNUSED_BYTES));
        wgpu::BufferBinding { buffer: &self.unused, offset, size }
    }

    /// The layouts of a shader.
    pub(crate) fn layout(&self, batch: &mut Batch, shader: &Shader) -> Result<Layout, GpuError> {
        let key = (shader.params.size, shader.storage);
        let known = batch.made.layouts.get(&key).or(lock(&self.kept).layouts.get(&key)).cloned();
        if let Some(layout) = known {
            return Ok(layout);
        }
        let device = batch.pending.device().clone();
        let layout = batch.pending.make(shader.name, || make_layout(&device, &shader.bindings()))?;
        batch.made.layouts.insert(key, layout.clone());
        Ok(layout)
    }

    /// A pipeline, which is compiled if it was not yet.
    pub(crate) async fn get(&self, batch: &mut Batch, key: &PipelineKey) -> Result<wgpu::ComputePipeline, GpuError> {
        let known = batch.made.pipelines.get(key).or(lock(&self.kept).pipelines.get(key)).cloned();
        if let Some(pipeline) = known {
            return Ok(pipeline);
        }
        let layout = self.layout(batch, &key.shader)?;
        let pipeline = match key.shader.int8_k {
            0 => {
                let module = self.module(batch, key)?;
                self.make(batch, key, &layout, &module)?
            }
            _ => self.of_int8_matrices(batch, key, &layout)?,
        };
        // A driver may compile for long.
        pause().await;
        batch.made.pipelines.insert(key.clone(), pipeline.clone());
        Ok(pipeline)
    }

    fn make(
        &self,
        batch: &mut Batch,
        key: &PipelineKey,
        layout: &Layout,
        module: &wgpu::ShaderModule,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        let device = batch.pending.device().clone();
        batch.pending.make(key.shader.name, || make_pipeline(&device, key, layout, module, self.cache.as_ref()))
    }

    /// Makes a pipeline with cooperative matrices of int8 values, whose module no other pipeline can use.
    #[cfg(feature = "coopmat-spirv")]
    fn of_int8_matrices(
        &self,
        batch: &mut Batch,
        key: &PipelineKey,
        layout: &Layout,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        let device = batch.pending.device().clone();
        let module = batch.pending.make(key.shader.name, || super::spirv::module(&device, key))??;
        // Its constants are part of it.
        let key = PipelineKey { overrides: Vec::new(), ..key.clone() };
        self.make(batch, &key, layout, &module)
    }

    #[cfg(not(feature = "coopmat-spirv"))]
    fn of_int8_matrices(
        &self,
        _: &mut Batch,
        key: &PipelineKey,
        _: &Layout,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::PASSTHROUGH_SHADERS;
        Err(GpuError::Feature { what: key.entry, needed })
    }

    fn module(&self, batch: &mut Batch, key: &PipelineKey) -> Result<wgpu::ShaderModule, GpuError> {
        let PipelineKey { shader, checked, .. } = *key;
        let known =
            batch.made.modules.get(&(shader, checked)).or(lock(&self.kept).modules.get(&(shader, checked))).cloned();
        if let Some(module) = known {
            return Ok(module);
        }
        let device = batch.pending.device().clone();
        let module = batch.pending.make(shader.name, || {
            let source = wgpu::ShaderSource::Wgsl(shader.wgsl().into());
            let descriptor = wgpu::ShaderModuleDescriptor { label: Some(shader.name), source };
            match checked {
                true => device.create_shader_module(descriptor),
                false => unchecked::module(&device, descriptor),
            }
        })?;
        batch.made.modules.insert((shader, checked), module.clone());
        Ok(module)
    }

    /// Forgets all pipelines.
    #[cfg(test)]
    pub(crate) fn clear(&self) {
        lock(&self.kept).pipelines.clear();
    }

    /// The keys of all pipelines that were made.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<PipelineKey> {
        lock(&self.kept).pipelines.keys().cloned().collect()
    }

    /// Compiles a pipeline from other WGSL than that of its shader.
    #[cfg(test)]
    pub(crate) async fn of_wgsl(&self, device: &wgpu::Device, key: &PipelineKey, wgsl: &str) -> wgpu::ComputePipeline {
        let layout = self.kept_layout(device, &key.shader).await;
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
        let layout = self.kept_layout(device, &key.shader).await;
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
        lock(&self.kept).pipelines.insert(key.clone(), by.unwrap_or_else(nothing))
    }

    #[cfg(test)]
    async fn kept_layout(&self, device: &wgpu::Device, shader: &Shader) -> Layout {
        let mut batch = Batch::new(device);
        let layout = self.layout(&mut batch, shader).expect("a layout");
        self.keep(batch).await.expect("a layout");
        layout
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

/// Poisoned maps are still valid maps: an entry is there or not.
fn lock(mutex: &Mutex<Made>) -> MutexGuard<'_, Made> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
