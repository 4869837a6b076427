//! Textures as inputs of image networks.

use super::device::error::GpuError;
use super::device::scope::Pending;
use super::device::shader::{text, wgsl_struct};
use super::device::transfer::upload;
use super::memory::BufferRange;

/// The WGSL of the pass.
pub(super) const WGSL: &str = text!("texture/sample");
/// Its entry point.
pub(super) const ENTRY: &str = "sample_texture";

/// Pixels along a side of a workgroup.
const WORKGROUP: u32 = 8;

wgsl_struct! {
    /// `SampleParams` of `texture/sample.wgsl`.
    SampleParams { width: u32, height: u32, channels: u32, first: u32, scale: [f32; 4], mean: [f32; 4] }
}

/// How a texture becomes the input of a network: element `[row, c, y, x]` is `(texel[c] − mean[c]) · scale[c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextureOptions {
    /// Width and height of the network's input. A texture of another size is interpolated linearly.
    pub size: [u32; 2],
    /// Channels of the input, 1 to 4: the first of red, green, blue and alpha.
    pub channels: u32,
    /// What each channel is multiplied by, after the mean is subtracted: 1 over the standard deviation of the data, often.
    pub scale: [f32; 4],
    /// What is subtracted from each channel.
    pub mean: [f32; 4],
    /// The row of the batch that the image is.
    pub row: usize,
}

impl TextureOptions {
    /// Red, green and blue as the texture has them, from 0 to 1 in an `Rgba8Unorm`, as the first row.
    #[must_use]
    pub fn rgb(size: [u32; 2]) -> Self {
        Self { size, channels: 3, scale: [1.0; 4], mean: [0.0; 4], row: 0 }
    }
}

/// A compute pass that reads a texture and writes the `f32` input `[rows, C, H, W]` of an image network, on the device.
///
/// ```no_run
/// # use enfold::gpu::{GpuError, Model, TextureInput, TextureOptions};
/// # async fn camera(
/// #     model: &Model, device: &wgpu::Device, queue: &wgpu::Queue, picture: &wgpu::TextureView,
/// #     input: &wgpu::Buffer, output: &wgpu::Buffer,
/// # ) -> Result<(), GpuError> {
/// // Once, with the mean and the standard deviation of ImageNet:
/// let options = TextureOptions {
///     mean: [0.485, 0.456, 0.406, 0.0],
///     scale: [1.0 / 0.229, 1.0 / 0.224, 1.0 / 0.225, 1.0],
///     ..TextureOptions::rgb([224, 224])
/// };
/// let texture = TextureInput::new(device, picture, input, &options).await?;
/// let run = model.bind(&[input], &[output], 1).await?;
/// // In every frame:
/// let mut encoder = device.create_command_encoder(&Default::default());
/// texture.record(&mut encoder);
/// run.record(&mut encoder, 1)?;
/// queue.submit([encoder.finish()]);
/// # Ok(())
/// # }
/// ```
///
/// The texture has two dimensions, a format of floats such as `Rgba8Unorm`, `Rgba8UnormSrgb` (read as linear light) or `Rgba16Float`, and the
/// usage `TEXTURE_BINDING`. A device's conversion of 8 bits, and the interpolation, are its own: the bits of this pass are not promised.
#[derive(Debug)]
pub struct TextureInput {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    groups: [u32; 2],
}

impl TextureInput {
    /// Compiles the pass, and binds it to a texture and to the buffer of an input.
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] for other than 1 to 4 channels or an image that is too large, [`GpuError::BufferSize`] and
    /// [`GpuError::BufferUsage`] for a buffer that does not hold the row, and [`GpuError::Device`] for a texture that cannot be bound.
    pub async fn new<'b>(
        device: &wgpu::Device,
        picture: &wgpu::TextureView,
        input: impl Into<BufferRange<'b>>,
        options: &TextureOptions,
    ) -> Result<Self, GpuError> {
        let BufferRange { buffer, offset, size } = input.into();
        let &TextureOptions { size: [width, height], channels, scale, mean, row } = options;
        let name = "texture".to_owned();
        if !(1..=4).contains(&channels) {
            return Err(GpuError::Limit { name, what: "channels", actual: channels.into(), limit: 4 });
        }
        let groups = [width, height].map(|side| side.div_ceil(WORKGROUP));
        let limit = device.limits().max_compute_workgroups_per_dimension;
        if let Some(&side) = [width, height].iter().find(|&&side| side == 0 || side.div_ceil(WORKGROUP) > limit) {
            let limit = u64::from(limit) * u64::from(WORKGROUP);
            return Err(GpuError::Limit { name, what: "pixels along a side", actual: side.into(), limit });
        }
        let elements = u64::from(width).saturating_mul(height.into()).saturating_mul(channels.into());
        let first = elements.saturating_mul(row as u64);
        let needed = first.saturating_add(elements).saturating_mul(4);
        if needed > size || offset.saturating_add(needed) > buffer.size() {
            let actual = size.min(buffer.size().saturating_sub(offset));
            return Err(GpuError::BufferSize { name, actual, needed, rows: row.saturating_add(1) });
        }
        let limit = device.limits().max_storage_buffer_binding_size.min(u64::from(u32::MAX));
        if needed > limit {
            return Err(GpuError::Limit { name, what: "bytes of a storage binding", actual: needed, limit });
        }
        let (actual, usage) = (buffer.usage(), wgpu::BufferUsages::STORAGE);
        if !actual.contains(usage) {
            return Err(GpuError::BufferUsage { name, actual, needed: usage });
        }
        let alignment = u64::from(device.limits().min_storage_buffer_offset_alignment);
        if !offset.is_multiple_of(alignment) {
            return Err(GpuError::BufferOffset { name, actual: offset, alignment });
        }
        let params = SampleParams { width, height, channels, first: first as u32, scale, mean };
        let mut pending = Pending::new(device);
        let params = upload(&mut pending, "texture", bytemuck::bytes_of(&params), wgpu::BufferUsages::UNIFORM)?;
        let y = wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(needed) };
        let (pipeline, bind_group) = pending.make("texture", || {
            let layout = layout(device);
            let descriptor = wgpu::PipelineLayoutDescriptor {
                label: Some("texture"),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            };
            let pipeline_layout = device.create_pipeline_layout(&descriptor);
            let source = wgpu::ShaderSource::Wgsl(WGSL.into());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("texture"), source });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some("texture"),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(ENTRY),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
            let resources = [
                params.as_entire_binding(),
                wgpu::BindingResource::TextureView(picture),
                wgpu::BindingResource::Buffer(y),
            ];
            let entries: Vec<wgpu::BindGroupEntry<'_>> =
                (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
            let descriptor = wgpu::BindGroupDescriptor { label: Some("texture"), layout: &layout, entries: &entries };
            (pipeline, device.create_bind_group(&descriptor))
        })?;
        pending.done().await?;
        Ok(Self { pipeline, bind_group, groups })
    }

    /// Records the pass.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let descriptor = wgpu::ComputePassDescriptor { label: Some("texture"), timestamp_writes: None };
        self.record_in(&mut encoder.begin_compute_pass(&descriptor));
    }

    /// Records it in one of the caller's compute passes. It changes bind group 0 and the pipeline.
    pub fn record_in(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y] = self.groups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}

fn layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
    let types = [
        buffer(wgpu::BufferBindingType::Uniform),
        wgpu::BindingType::Texture {
            sample_type: wgpu::TextureSampleType::Float { filterable: false },
            view_dimension: wgpu::TextureViewDimension::D2,
            multisampled: false,
        },
        buffer(wgpu::BufferBindingType::Storage { read_only: false }),
    ];
    let entry = |(binding, ty)| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty,
        count: None,
    };
    let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..).zip(types).map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("texture"), entries: &entries })
}
