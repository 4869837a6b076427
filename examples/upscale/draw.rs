//! Runs the network on the GPU, and draws its output buffer into a texture.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use enfold::Tensor;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Options};
use enfold::program::Program;
use pollster::block_on;
use wgpu::BufferUsages;

/// What was drawn, and the network's output that it was drawn from.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) output: Vec<f32>,
    size: [u32; 2],
    /// Red, green, blue and opacity, a byte each.
    texels: Vec<u8>,
}

pub(crate) fn draw(context: &Context, program: &Program, small: &Tensor, size: [usize; 2]) -> Result<Drawn> {
    let Context { device, queue, .. } = context;
    let most = device.limits().max_texture_dimension_2d as usize;
    ensure!(size[0].max(size[1]) <= most, "{size:?} pixels: this device's textures have at most {most} a side");
    let engine = block_on(Engine::new(device, queue, &Options::default()))?;
    let model = block_on(engine.load(program))?;
    let buffer = |label: &str, size: u64, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
    };
    let pixels = small.as_f32().context("a picture of floats")?;
    let input = buffer("input", 4 * pixels.len() as u64, BufferUsages::STORAGE | BufferUsages::COPY_DST);
    let output = buffer("output", 16 * pixels.len() as u64, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let run = block_on(model.bind(&[&input], &[&output], 1))?;
    queue.write_buffer(&input, 0, bytemuck::cast_slice(pixels));

    let size = size.map(|side| side as u32);
    let (pipeline, target) = (pipeline(device, size), target(device, size));
    let entries = [wgpu::BindGroupEntry { binding: 0, resource: output.as_entire_binding() }];
    let layout = &pipeline.get_bind_group_layout(0);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("frame") });
    run.record(&mut encoder, 1)?;
    {
        let view = target.create_view(&wgpu::TextureViewDescriptor::default());
        let ops = wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::BLACK), store: wgpu::StoreOp::Store };
        let attachment = wgpu::RenderPassColorAttachment { view: &view, depth_slice: None, resolve_target: None, ops };
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            label: Some("draw"),
            color_attachments: &[Some(attachment)],
            ..wgpu::RenderPassDescriptor::default()
        });
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.draw(0..3, 0..1);
    }
    // An application would present the texture. This one reads it, and what it was drawn from.
    let bytes_per_row = (4 * size[0]).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
    let staging = |size| buffer("staging", size, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
    let (floats, texels) = (staging(output.size()), staging(u64::from(bytes_per_row) * u64::from(size[1])));
    encoder.copy_buffer_to_buffer(&output, 0, &floats, 0, output.size());
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(bytes_per_row), rows_per_image: None };
    let copy = wgpu::TexelCopyBufferInfo { buffer: &texels, layout };
    encoder.copy_texture_to_buffer(target.as_image_copy(), copy, target.size());
    for staging in [&floats, &texels] {
        // `get_mapped_range` reports a mapping that failed.
        encoder.map_buffer_on_submit(staging, wgpu::MapMode::Read, .., |_| {});
    }
    queue.submit([encoder.finish()]);
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let output = bytemuck::pod_collect_to_vec(&floats.get_mapped_range(..)?);
    let lines = texels.get_mapped_range(..)?;
    let line = |line: &[u8]| line[..4 * size[0] as usize].to_vec();
    let texels = lines.chunks_exact(bytes_per_row as usize).flat_map(line).collect();
    Ok(Drawn { output, size, texels })
}

/// The format is not sRGB, so the texture holds the values that the shader wrote.
const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

fn target(device: &wgpu::Device, [width, height]: [u32; 2]) -> wgpu::Texture {
    device.create_texture(&wgpu::TextureDescriptor {
        label: Some("picture"),
        size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: FORMAT,
        usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
        view_formats: &[],
    })
}

fn pipeline(device: &wgpu::Device, [width, height]: [u32; 2]) -> wgpu::RenderPipeline {
    let module = device.create_shader_module(wgpu::include_wgsl!("draw.wgsl"));
    let constants = [("width", f64::from(width)), ("height", f64::from(height))];
    let compilation_options =
        wgpu::PipelineCompilationOptions { constants: &constants, ..wgpu::PipelineCompilationOptions::default() };
    device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: Some("draw"),
        layout: None,
        vertex: wgpu::VertexState {
            module: &module,
            entry_point: Some("cover"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            buffers: &[],
        },
        primitive: wgpu::PrimitiveState::default(),
        depth_stencil: None,
        multisample: wgpu::MultisampleState::default(),
        fragment: Some(wgpu::FragmentState {
            module: &module,
            entry_point: Some("draw"),
            compilation_options,
            targets: &[Some(FORMAT.into())],
        }),
        multiview_mask: None,
        cache: None,
    })
}

impl Drawn {
    /// The picture as planes of red, green and blue from 0 to 1.
    pub(crate) fn planes(&self) -> Vec<f32> {
        let plane = |channel: usize| self.texels.iter().skip(channel).step_by(4).map(|&byte| f32::from(byte) / 255.0);
        (0..3).flat_map(plane).collect()
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), self.size[0], self.size[1]);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.texels)?;
        Ok(writer.finish()?)
    }
}
