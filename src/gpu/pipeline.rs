//! Layouts, shader modules and pipelines, made when first needed and kept.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use super::coop::{Coop, Fragment};
use super::engine::Options;
use super::error::GpuError;
use super::layout::WeightBits;
use super::shaders::{self, Binding, BindingKind, Shader};
use super::tile::{LinearKernel, TileShape};
use super::transfer::{allocate, scoped};
use super::trusted;

/// Which pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Linear {
        tile: TileShape,
        packed_dot: bool,
        bits: WeightBits,
        end: LinearEnd,
        halves: bool,
        /// Of [`LinearKernel::Coop`].
        coop: Option<Coop>,
    },
    /// What follows where K was divided.
    Finish {
        end: LinearEnd,
        halves: bool,
    },
    Tensor(TensorKernel),
    /// An entry point of a general shader.
    General(GeneralKernel),
}

/// What becomes of the sums of a linear kernel: END of `requantize.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LinearEnd {
    Int8,
    Table,
    Add,
    Float,
    FloatUnary,
    Dynamic,
    DynamicUnary,
    Partial,
}

/// A kernel that takes any shapes, by its entry point, with those of its boolean overrides that are true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GeneralKernel {
    pub(super) entry: &'static str,
    pub(super) flags: &'static [&'static str],
    /// Of products of codes.
    pub(super) packed_dot: Option<bool>,
}

impl GeneralKernel {
    pub(super) fn new(entry: &'static str) -> Self {
        Self { entry, flags: &[], packed_dot: None }
    }
}

/// A kernel that handles one word at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TensorKernel {
    Quantize,
    Dequantize,
    /// Where rows have no padding.
    QuantizeFlat,
    DequantizeFlat,
    Pad,
    Unpad,
    Copy,
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
    pub(super) cache: Option<wgpu::PipelineCache>,
    /// What kernels are bound to that they do not read: a range for each binding, so that none overlap.
    unused: wgpu::Buffer,
    checked: bool,
    /// The fewest threads of a subgroup, where subgroup operations may be used.
    subgroup: Option<u32>,
    modules: Mutex<HashMap<&'static str, wgpu::ShaderModule>>,
    pipelines: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
}

/// Bytes of a binding that is not used: more than any element, and a multiple of the strictest alignment.
const UNUSED_BYTES: u64 = 256;
const MAX_BINDINGS: u64 = 9;

#[derive(Debug)]
struct Layout {
    bind_group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

impl Key {
    fn shader(self, subgroups: bool) -> Shader {
        match self {
            Self::Linear { tile, bits, coop, .. } => {
                let kernels = match tile.kernel() {
                    LinearKernel::Workgroup => shaders::LINEAR,
                    LinearKernel::Large => shaders::LINEAR_LARGE,
                    LinearKernel::Register => shaders::LINEAR_REG,
                    LinearKernel::Subgroup => shaders::LINEAR_SUB,
                    LinearKernel::Gemv => shaders::LINEAR_GEMV,
                    LinearKernel::Coop => {
                        shaders::LINEAR_COOP[coop.map_or(Fragment::Emulated, |coop| coop.fragment) as usize]
                    }
                };
                kernels[bits as usize]
            }
            Self::Finish { .. } => shaders::LINEAR_FINISH,
            Self::Tensor(TensorKernel::Pad | TensorKernel::Unpad | TensorKernel::Copy) => shaders::REPACK,
            Self::Tensor(_) => shaders::QUANTIZE,
            Self::General(GeneralKernel { entry, .. }) => {
                let variant = usize::from(subgroups);
                let general = [
                    shaders::MAP,
                    shaders::FLAT,
                    shaders::DYNAMIC[variant],
                    shaders::NORMALIZE[variant],
                    shaders::MATMUL,
                    shaders::MATMUL_I8,
                ];
                let of = general.into_iter().find(|shader| shader.entries.contains(&entry));
                of.unwrap_or_else(|| unreachable!("no general shader has {entry}"))
            }
        }
    }

    fn entry(self, shader: &Shader) -> &'static str {
        match self {
            Self::Linear { .. } | Self::Finish { .. } => shader.entries[0],
            Self::Tensor(kernel) => match kernel {
                TensorKernel::Quantize | TensorKernel::Pad => shader.entries[0],
                TensorKernel::Dequantize | TensorKernel::Unpad => shader.entries[1],
                TensorKernel::QuantizeFlat | TensorKernel::Copy => shader.entries[2],
                TensorKernel::DequantizeFlat => shader.entries[3],
            },
            Self::General(GeneralKernel { entry, .. }) => entry,
        }
    }

    fn overrides(self) -> Vec<(&'static str, f64)> {
        let ends = |end: LinearEnd, halves: bool| [("END", f64::from(end as u32)), ("HALVES", halves.into())];
        match self {
            Self::Linear { tile, packed_dot, end, halves, coop, .. } => {
                let mut overrides = tile.overrides();
                match coop {
                    Some(coop) => {
                        let threads = coop.threads(tile.rows()).into();
                        overrides.extend([("THREADS", threads), ("CHUNK_VECS", coop.chunk_vecs.into())]);
                    }
                    None => overrides.push(("PACKED_DOT", packed_dot.into())),
                }
                overrides.extend(ends(end, halves));
                overrides
            }
            Self::Finish { end, halves } => ends(end, halves).to_vec(),
            Self::Tensor(_) => Vec::new(),
            Self::General(GeneralKernel { flags, packed_dot, .. }) => {
                let flags = flags.iter().map(|&flag| (flag, 1.0));
                flags.chain(packed_dot.map(|dot| ("PACKED_DOT", dot.into()))).collect()
            }
        }
    }
}

impl Pipelines {
    pub(super) async fn new(device: &wgpu::Device, options: &Options, subgroup: Option<u32>) -> Result<Self, GpuError> {
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
        let data = options.pipeline_cache.as_deref();
        let cache = scoped(device, "pipeline cache", || trusted::pipeline_cache(device, data)).await?;
        let size = UNUSED_BYTES * MAX_BINDINGS;
        let unused = allocate(device, "unused bindings", size, wgpu::BufferUsages::STORAGE).await?;
        let (modules, pipelines) = (Mutex::default(), Mutex::default());
        Ok(Self { linear, tensor, general, cache, unused, checked: options.checked, subgroup, modules, pipelines })
    }

    /// Lanes that can share what they load, of [`LinearKernel::Subgroup`].
    pub(super) fn subgroup_lanes(&self) -> Option<u32> {
        self.subgroup.and_then(lanes_of)
    }

    /// What `binding` is bound to where a kernel does not read it.
    pub(super) fn unused(&self, binding: u32) -> wgpu::BufferBinding<'_> {
        let (offset, size) = (UNUSED_BYTES * u64::from(binding), NonZeroU64::new(UNUSED_BYTES));
        wgpu::BufferBinding { buffer: &self.unused, offset, size }
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
        let shader = key.shader(self.subgroup.is_some());
        let layout = match key {
            Key::Linear { .. } | Key::Finish { .. } => &self.linear,
            Key::Tensor(_) => &self.tensor,
            Key::General(_) => &self.general,
        };
        let overrides = key.overrides();
        let pipeline = scoped(device, shader.name, || {
            let module = lock(&self.modules).entry(shader.name).or_insert_with(|| self.module(device, &shader)).clone();
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(key.entry(&shader)),
                layout: Some(&layout.pipeline),
                module: &module,
                entry_point: Some(key.entry(&shader)),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &overrides,
                    // Every kernel writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: self.cache.as_ref(),
            })
        })
        .await?;
        Ok(lock(&self.pipelines).entry(key).or_insert(pipeline).clone())
    }

    /// Forgets all pipelines.
    #[cfg(test)]
    pub(super) fn clear(&self) {
        lock(&self.pipelines).clear();
    }

    /// Those that were made.
    #[cfg(test)]
    pub(super) fn keys(&self) -> Vec<Key> {
        lock(&self.pipelines).keys().copied().collect()
    }

    /// Puts a pipeline that does nothing, or another, in the place of one; returns that.
    #[cfg(test)]
    pub(super) fn replace(
        &self,
        device: &wgpu::Device,
        key: Key,
        by: Option<wgpu::ComputePipeline>,
    ) -> Option<wgpu::ComputePipeline> {
        let layout = match key {
            Key::Linear { .. } | Key::Finish { .. } => &self.linear,
            Key::Tensor(_) => &self.tensor,
            Key::General(_) => &self.general,
        };
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
        lock(&self.pipelines).insert(key, by.unwrap_or_else(nothing))
    }

    fn module(&self, device: &wgpu::Device, shader: &Shader) -> wgpu::ShaderModule {
        if !self.checked {
            return trusted::module(device, shader);
        }
        device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(shader.name),
            source: wgpu::ShaderSource::Wgsl(shader.wgsl.into()),
        })
    }
}

fn bind_group_layout(device: &wgpu::Device, bindings: &[Binding]) -> wgpu::BindGroupLayout {
    let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
        .iter()
        .enumerate()
        // Words and vectors of one buffer are one binding.
        .filter(|&(at, binding)| at == 0 || bindings[at - 1].binding != binding.binding)
        .map(|(_, binding)| binding)
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

/// Lanes that can share what they load, in subgroups of at least `size` threads.
pub(super) fn lanes_of(size: u32) -> Option<u32> {
    match size {
        0..4 => None,
        4..8 => Some(4),
        _ => Some(8),
    }
}

/// A poisoned map is still a valid map: an entry is there or not.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
