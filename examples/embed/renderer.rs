//! Records a frame, which is features, network and picture, in one command encoder. Nothing is read back to the host.

use anyhow::{Context as _, Result, ensure};
use bytemuck::{Pod, Zeroable};
use enfold::gpu::{Model, Run};
use enfold::program::Program;
use pollster::block_on;
use wgpu::{BufferUsages, Color, CommandEncoder, LoadOp, Operations, StoreOp, TextureFormat, TextureView};

use crate::device::Gpu;
use crate::picture::{FEATURES, WAVES};
use crate::timer::{Pass, Timer};

/// The uniform buffer `Frame` of the shaders.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Frame {
    width: u32,
    height: u32,
    block: u32,
    phase: f32,
}

pub(crate) struct Renderer {
    model: Model,
    features: wgpu::ComputePipeline,
    draw: wgpu::RenderPipeline,
    frame: wgpu::Buffer,
    waves: wgpu::Buffer,
    bound: Option<Bound>,
    pub(crate) timer: Option<Timer>,
}

/// The buffers and bind groups that depend on the size of the target.
pub(crate) struct Bound {
    /// The size of the shaded picture in pixels. Each pixel has a row in the network's input and output.
    pub(crate) size: [u32; 2],
    /// The number of target pixels that one shaded pixel covers along each side.
    block: u32,
    pub(crate) input: wgpu::Buffer,
    pub(crate) output: wgpu::Buffer,
    run: Run,
    features: wgpu::BindGroup,
    draw: wgpu::BindGroup,
}

impl Bound {
    pub(crate) fn rows(&self) -> usize {
        self.size[0] as usize * self.size[1] as usize
    }
}

impl Renderer {
    /// Uploads the network, and creates the pipelines around it for targets of this format.
    pub(crate) fn new(gpu: &Gpu, program: &Program, format: TextureFormat) -> Result<Self> {
        let device = &gpu.device;
        let model = block_on(gpu.engine.load(program))?;
        let shader = device.create_shader_module(wgpu::include_wgsl!("features.wgsl"));
        let features = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("features"),
            layout: None,
            module: &shader,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let shader = device.create_shader_module(wgpu::include_wgsl!("draw.wgsl"));
        let encodes = [("target_encodes", f64::from(u8::from(format.is_srgb())))];
        let draw = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("draw"),
            layout: None,
            vertex: wgpu::VertexState {
                module: &shader,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                buffers: &[],
            },
            primitive: wgpu::PrimitiveState::default(),
            depth_stencil: None,
            multisample: wgpu::MultisampleState::default(),
            fragment: Some(wgpu::FragmentState {
                module: &shader,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &encodes,
                    ..wgpu::PipelineCompilationOptions::default()
                },
                targets: &[Some(format.into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        let frame = buffer(device, "frame", size_of::<Frame>() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST);
        let waves = buffer(device, "waves", size_of_val(&WAVES) as u64, BufferUsages::STORAGE | BufferUsages::COPY_DST);
        gpu.queue.write_buffer(&waves, 0, bytemuck::cast_slice(&WAVES));
        gpu.check()?;
        let timer = Timer::new(device, &gpu.queue);
        Ok(Self { model, features, draw, frame, waves, bound: None, timer })
    }

    /// Creates the network's buffers for a target of this size, and binds the network to them.
    pub(crate) fn resize(&mut self, gpu: &Gpu, target: [u32; 2]) -> Result<()> {
        let (device, limits) = (&gpu.device, gpu.device.limits());
        // This frees the old buffers before the new ones are allocated.
        self.bound = None;
        // If a binding has fewer rows than the target has pixels, one row shades a block of pixels.
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let bytes = |size: [u32; 2], columns: usize| u64::from(size[0]) * u64::from(size[1]) * columns as u64 * 4;
        let shaded = |block: u32| target.map(|side| side.div_ceil(block));
        let block = (1u32..).find(|&block| bytes(shaded(block), FEATURES) <= most);
        let block = block.context("the device has no room for one pixel's features")?;
        let size = shaded(block);

        // The checks at the end of a headless run need COPY_SRC. Drawing does not.
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let input = buffer(device, "input", bytes(size, FEATURES), usage);
        let output = buffer(device, "output", bytes(size, 3), usage);
        let rows = size[0] as usize * size[1] as usize;
        let run = block_on(self.model.bind(&[&input], &[&output], rows))?;
        let features = group(
            device,
            &self.features.get_bind_group_layout(0),
            [&self.frame, &self.waves, &input].map(wgpu::Buffer::as_entire_binding),
        );
        let draw = group(
            device,
            &self.draw.get_bind_group_layout(0),
            [&self.frame, &output].map(wgpu::Buffer::as_entire_binding),
        );
        gpu.check()?;
        self.bound = Some(Bound { size, block, input, output, run, features, draw });
        Ok(())
    }

    /// Returns the buffers that the network is bound to.
    pub(crate) fn bound(&self) -> Result<&Bound> {
        self.bound.as_ref().context("a frame before its size is known")
    }

    /// Records a frame into a new encoder, which the caller submits.
    pub(crate) fn frame(&mut self, gpu: &Gpu, target: &TextureView, phase: f32) -> Result<CommandEncoder> {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("frame") });
        let bound = self.bound()?;
        let [width, height] = bound.size;
        let frame = Frame { width, height, block: bound.block, phase };
        gpu.queue.write_buffer(&self.frame, 0, bytemuck::bytes_of(&frame));

        {
            let timestamp_writes = self.timer.as_ref().map(|timer| timer.compute(Pass::Features));
            let descriptor = wgpu::ComputePassDescriptor { label: Some("features"), timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            pass.set_pipeline(&self.features);
            pass.set_bind_group(0, &bound.features, &[]);
            pass.dispatch_workgroups(width.div_ceil(8), height.div_ceil(8), 1);
        }
        {
            // `Run::record` would begin its own pass. `Run::record_in` takes this one, which has timestamps.
            let timestamp_writes = self.timer.as_ref().map(|timer| timer.compute(Pass::Network));
            let descriptor = wgpu::ComputePassDescriptor { label: Some("network"), timestamp_writes };
            bound.run.record_in(&mut encoder.begin_compute_pass(&descriptor), bound.rows())?;
        }
        {
            let timestamp_writes = self.timer.as_ref().map(|timer| timer.render(Pass::Draw));
            let ops = Operations { load: LoadOp::Clear(Color::BLACK), store: StoreOp::Store };
            let attachment =
                wgpu::RenderPassColorAttachment { view: target, depth_slice: None, resolve_target: None, ops };
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                label: Some("draw"),
                color_attachments: &[Some(attachment)],
                timestamp_writes,
                ..wgpu::RenderPassDescriptor::default()
            });
            pass.set_pipeline(&self.draw);
            pass.set_bind_group(0, &bound.draw, &[]);
            pass.draw(0..3, 0..1);
        }
        if let Some(timer) = &mut self.timer {
            timer.resolve(&mut encoder);
        }
        Ok(encoder)
    }
}

/// Checks that the device has textures of this size.
///
/// # Errors
/// If it has not.
pub(crate) fn check_size(gpu: &Gpu, [width, height]: [u32; 2]) -> Result<()> {
    let most = gpu.device.limits().max_texture_dimension_2d;
    ensure!(
        width.max(height) <= most,
        "{width}x{height} pixels (--size): this device's textures have at most {most} a side"
    );
    Ok(())
}

pub(crate) fn buffer(device: &wgpu::Device, label: &str, size: u64, usage: BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
}

fn group<const N: usize>(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    resources: [wgpu::BindingResource<'_>; N],
) -> wgpu::BindGroup {
    let entries: Vec<wgpu::BindGroupEntry<'_>> =
        (0u32..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}
