//! A network that shades every pixel of a canvas, drawn from its output buffer: features, network and picture are in one command
//! encoder, and nothing is read back. The shaders are those of the example `embed`.

use enfold::gpu::Run;
use enfold::{archive, lower};
use futures_channel::oneshot;
use wasm_bindgen::prelude::wasm_bindgen;
use web_sys::HtmlCanvasElement;
use wgpu::{BufferUsages, Color, LoadOp, Operations, StoreOp};

use crate::Gpu;
use crate::error::{Result, error};

/// The waves of which a pixel has the sines and the cosines, as in the example `embed`.
#[path = "../../embed/waves.rs"]
mod waves;

use waves::{FEATURES, WAVES};

/// A canvas with the network that paints it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Painting {
    device: wgpu::Device,
    queue: wgpu::Queue,
    surface: wgpu::Surface<'static>,
    frame: wgpu::Buffer,
    features: wgpu::ComputePipeline,
    draw: wgpu::RenderPipeline,
    of_features: wgpu::BindGroup,
    of_draw: wgpu::BindGroup,
    run: Run,
    size: [u32; 2],
}

#[wasm_bindgen]
impl Painting {
    /// Loads the network of an archive, `[rows, 32]` features to `[rows, 3]` colours, and binds it to buffers with a row for each pixel.
    ///
    /// # Errors
    /// If the archive holds no such network, or if the browser gives the canvas no WebGPU context.
    pub async fn on(gpu: &Gpu, bytes: &[u8], canvas: HtmlCanvasElement) -> Result<Painting> {
        let program = lower(&archive::from_bytes(bytes).map_err(error)?).map_err(error)?;
        let (device, queue, size) = (gpu.device.clone(), gpu.queue.clone(), [canvas.width(), canvas.height()]);
        let surface = gpu.instance.create_surface(wgpu::SurfaceTarget::Canvas(canvas)).map_err(error)?;
        let config = surface.get_default_config(&gpu.adapter, size[0], size[1]);
        let config = config.ok_or_else(|| error("the adapter cannot draw on this canvas"))?;
        surface.configure(&device, &config);
        let model = gpu.engine.load(&program).await.map_err(error)?;

        let shader = device.create_shader_module(wgpu::include_wgsl!("../../embed/features.wgsl"));
        let features = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("features"),
            layout: None,
            module: &shader,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let shader = device.create_shader_module(wgpu::include_wgsl!("../../embed/draw.wgsl"));
        let encodes = [("target_encodes", f64::from(u8::from(config.format.is_srgb())))];
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
                targets: &[Some(config.format.into())],
            }),
            multiview_mask: None,
            cache: None,
        });

        let rows = size[0] as usize * size[1] as usize;
        let buffer = |label, size, usage| {
            let (size, mapped_at_creation) = (size as u64, false);
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation })
        };
        let frame = buffer("frame", 16, BufferUsages::UNIFORM | BufferUsages::COPY_DST);
        let waves = buffer("waves", size_of_val(&WAVES), BufferUsages::STORAGE | BufferUsages::COPY_DST);
        queue.write_buffer(&waves, 0, bytemuck::cast_slice(&WAVES));
        let input = buffer("input", rows * FEATURES * 4, BufferUsages::STORAGE);
        let output = buffer("output", rows * 3 * 4, BufferUsages::STORAGE);
        let run = model.bind(&[&input], &[&output], rows).await.map_err(error)?;
        let of_features = group(&device, &features.get_bind_group_layout(0), &[&frame, &waves, &input]);
        let of_draw = group(&device, &draw.get_bind_group_layout(0), &[&frame, &output]);
        Ok(Painting { device, queue, surface, frame, features, draw, of_features, of_draw, run, size })
    }

    /// Draws a frame: features, network and picture in one submission. Ends when the GPU has done it: a page that does not wait
    /// would record frames faster than a slow GPU draws them.
    ///
    /// # Errors
    /// If the canvas has no texture for it, or if the device is lost.
    pub async fn draw(&self, phase: f32) -> Result<()> {
        use wgpu::CurrentSurfaceTexture::{Suboptimal, Success};
        let (Success(target) | Suboptimal(target)) = self.surface.get_current_texture() else {
            return Err(error("the canvas has no texture to draw on"));
        };
        let view = target.texture.create_view(&wgpu::TextureViewDescriptor::default());
        let [width, height] = self.size;
        self.queue.write_buffer(&self.frame, 0, bytemuck::cast_slice(&[width, height, 1, phase.to_bits()]));
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("frame") });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&self.features);
            pass.set_bind_group(0, &self.of_features, &[]);
            pass.dispatch_workgroups(width.div_ceil(8), height.div_ceil(8), 1);
        }
        self.run.record(&mut encoder, width as usize * height as usize).map_err(error)?;
        {
            let ops = Operations { load: LoadOp::Clear(Color::BLACK), store: StoreOp::Store };
            let attachment =
                wgpu::RenderPassColorAttachment { view: &view, depth_slice: None, resolve_target: None, ops };
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                label: Some("draw"),
                color_attachments: &[Some(attachment)],
                ..wgpu::RenderPassDescriptor::default()
            });
            pass.set_pipeline(&self.draw);
            pass.set_bind_group(0, &self.of_draw, &[]);
            pass.draw(0..3, 0..1);
        }
        self.queue.submit([encoder.finish()]);
        self.queue.present(target);
        let (sender, done) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        done.await.map_err(error)
    }
}

/// A bind group of whole buffers, with the numbers from 0.
fn group(device: &wgpu::Device, layout: &wgpu::BindGroupLayout, buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
    let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}
