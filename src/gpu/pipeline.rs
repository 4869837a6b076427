//! Layouts, shader modules and pipelines, made when first needed and kept.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use super::error::GpuError;
use super::shaders::{self, Binding, BindingKind, Shader};
use super::tile::{LinearKernel, TileShape};
use super::transfer::scoped;

/// Which pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Linear {
        tile: TileShape,
        packed_dot: bool,
        end: LinearEnd,
    },
    Tensor(TensorKernel),
    /// An entry point of a general shader.
    General(GeneralKernel),
}

/// What becomes of the accumulator of a linear kernel, in the order of its entry points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LinearEnd {
    Int8,
    Float,
    Dynamic,
}

/// A kernel that takes any shapes, by its entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GeneralKernel(pub(super) &'static str);

/// A kernel that handles one word at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TensorKernel {
    Quantize,
    Dequantize,
    Pad,
    Unpad,
}

/// The families of kernels, each with one layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Linear,
    Tensor,
    General,
}

#[derive(Debug)]
pub(super) struct Pipelines {
    linear: Layout,
    tensor: Layout,
    general: Layout,
    modules: Mutex<HashMap<&'static str, wgpu::ShaderModule>>,
    pipelines: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
}

#[derive(Debug)]
struct Layout {
    bind_group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

impl Key {
    fn shader(self) -> Shader {
        match self {
            Self::Linear { tile, .. } => match tile.kernel() {
                LinearKernel::Workgroup => shaders::LINEAR,
                LinearKernel::Register => shaders::LINEAR_REG,
                LinearKernel::Gemv => shaders::LINEAR_GEMV,
            },
            Self::Tensor(TensorKernel::Quantize | TensorKernel::Dequantize) => shaders::QUANTIZE,
            Self::Tensor(TensorKernel::Pad | TensorKernel::Unpad) => shaders::REPACK,
            Self::General(GeneralKernel(entry)) => {
                let general = [shaders::MAP, shaders::DYNAMIC, shaders::MATMUL, shaders::NORMALIZE];
                let of = general.into_iter().find(|shader| shader.entries.contains(&entry));
                of.unwrap_or_else(|| unreachable!("no general shader has {entry}"))
            }
        }
    }

    pub(super) fn entry(self) -> &'static str {
        match self {
            Self::Linear { end, .. } => self.shader().entries[end as usize],
            Self::Tensor(kernel) => {
                let second = matches!(kernel, TensorKernel::Dequantize | TensorKernel::Unpad);
                self.shader().entries[usize::from(second)]
            }
            Self::General(GeneralKernel(entry)) => entry,
        }
    }

    fn overrides(self) -> Vec<(&'static str, f64)> {
        match self {
            Self::Linear { tile, packed_dot, .. } => {
                let mut overrides = tile.overrides();
                overrides.push(("PACKED_DOT", f64::from(u8::from(packed_dot))));
                overrides
            }
            Self::Tensor(_) | Self::General(_) => Vec::new(),
        }
    }
}

impl Pipelines {
    pub(super) async fn new(device: &wgpu::Device) -> Result<Self, GpuError> {
        let make = || {
            let layout = |bindings| {
                let bind_group = bind_group_layout(device, bindings);
                let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: Some("enfold"),
                    bind_group_layouts: &[Some(&bind_group)],
                    immediate_size: 0,
                });
                Layout { bind_group, pipeline }
            };
            [shaders::LINEAR_BINDINGS, shaders::TENSOR_BINDINGS, shaders::GENERAL_BINDINGS].map(layout)
        };
        let [linear, tensor, general] = scoped(device, "pipeline layouts", make).await?;
        Ok(Self { linear, tensor, general, modules: Mutex::default(), pipelines: Mutex::default() })
    }

    pub(super) fn layout(&self, family: Family) -> &wgpu::BindGroupLayout {
        match family {
            Family::Linear => &self.linear.bind_group,
            Family::Tensor => &self.tensor.bind_group,
            Family::General => &self.general.bind_group,
        }
    }

    pub(super) async fn get(&self, device: &wgpu::Device, key: Key) -> Result<wgpu::ComputePipeline, GpuError> {
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let shader = key.shader();
        let layout = match key {
            Key::Linear { .. } => &self.linear,
            Key::Tensor(_) => &self.tensor,
            Key::General(_) => &self.general,
        };
        let overrides = key.overrides();
        let pipeline = scoped(device, shader.name, || {
            let module = lock(&self.modules).entry(shader.name).or_insert_with(|| module(device, &shader)).clone();
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(key.entry()),
                layout: Some(&layout.pipeline),
                module: &module,
                entry_point: Some(key.entry()),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &overrides,
                    // Every kernel writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })
        .await?;
        Ok(lock(&self.pipelines).entry(key).or_insert(pipeline).clone())
    }
}

fn module(device: &wgpu::Device, shader: &Shader) -> wgpu::ShaderModule {
    device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(shader.name),
        source: wgpu::ShaderSource::Wgsl(shader.wgsl.into()),
    })
}

fn bind_group_layout(device: &wgpu::Device, bindings: &[Binding]) -> wgpu::BindGroupLayout {
    let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
        .iter()
        .map(|binding| {
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
    device.create_bind_group_layout(&descriptor)
}

/// A poisoned map is still a valid map: an entry is there or not.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
