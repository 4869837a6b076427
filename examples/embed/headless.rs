//! Renders frames into a texture without a window, checks the last one, and writes it to a file.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use enfold::program::Program;
use enfold::{Tensor, cpu};
use wgpu::{BufferUsages, PollType, TextureUsages};

use crate::Arguments;
use crate::device::{Gpu, adapters};
use crate::picture::{self, FEATURES};
use crate::renderer::{Renderer, buffer, check_size};
use crate::timer::Times;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let Some(adapter) = adapters(&instance, arguments.adapter.as_deref())?.into_iter().next() else {
        println!("adapter: none; there is nothing to draw with");
        return Ok(());
    };
    let gpu = Gpu::open(adapter)?;
    check_size(&gpu, arguments.size)?;
    let program = arguments.program()?;
    // The format is not sRGB, so the file holds the bytes that the shader wrote.
    let format = wgpu::TextureFormat::Rgba8Unorm;
    let mut renderer = Renderer::new(&gpu, &program, format)?;
    renderer.resize(&gpu, arguments.size)?;
    let [width, height] = arguments.size;
    let target = gpu.device.create_texture(&wgpu::TextureDescriptor {
        label: Some("picture"),
        size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage: TextureUsages::RENDER_ATTACHMENT | TextureUsages::COPY_SRC,
        view_formats: &[],
    });
    let view = target.create_view(&wgpu::TextureViewDescriptor::default());

    let frames = arguments.frames.unwrap_or(8);
    let phase = |frame: u32| std::f32::consts::TAU * frame as f32 / frames as f32;
    let mut times = Times::new(renderer.timer.is_some());
    for frame in 0..frames {
        let start = Instant::now();
        let encoder = renderer.frame(&gpu, &view, phase(frame))?;
        gpu.queue.submit([encoder.finish()]);
        // This example waits to measure the time of a frame. A window does not wait.
        gpu.device.poll(PollType::wait_indefinitely())?;
        times.add(start.elapsed(), renderer.timer.as_mut().map_or(Ok(None), |timer| timer.read())?);
        gpu.check()?;
    }
    let rows = renderer.bound()?.rows();
    println!("frames: {frames} of {width}x{height}, {rows} rows each, {}", times.describe());

    let last = LastFrame::read(&gpu, &renderer, &target)?;
    let mismatches = last.mismatches(&program)?;
    println!("mismatching outputs gpu vs cpu: {mismatches} of {}", last.output.len());
    println!("psnr against the picture it learned: {:.1} dB", last.psnr(phase(frames - 1)));
    let file = arguments.out.clone().unwrap_or_else(|| std::env::temp_dir().join("enfold-embed.png"));
    last.write(&file).with_context(|| format!("--out {}", file.display()))?;
    println!("last frame: {}", file.display());
    ensure!(mismatches == 0, "{mismatches} outputs of the network differ from the CPU's");
    Ok(())
}

/// The network's input and output of the last frame, and the picture, read back from the device.
struct LastFrame {
    /// The network's input, one row for each shaded pixel.
    input: Vec<f32>,
    /// The network's output, one row for each shaded pixel.
    output: Vec<f32>,
    size: [u32; 2],
    /// Red, green and blue, a byte each.
    pixels: Vec<u8>,
}

impl LastFrame {
    fn read(gpu: &Gpu, renderer: &Renderer, target: &wgpu::Texture) -> Result<Self> {
        let bound = renderer.bound()?;
        let staging = |size| buffer(&gpu.device, "staging", size, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        let (width, height) = (target.width(), target.height());
        let bytes_per_row = (4 * width).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let [input, output] = [&bound.input, &bound.output].map(|source| (source, staging(source.size())));
        let pixels = staging(u64::from(bytes_per_row) * u64::from(height));

        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (source, staging) in [&input, &output] {
            encoder.copy_buffer_to_buffer(source, 0, staging, 0, source.size());
        }
        let layout =
            wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(bytes_per_row), rows_per_image: None };
        let copy = wgpu::TexelCopyBufferInfo { buffer: &pixels, layout };
        encoder.copy_texture_to_buffer(target.as_image_copy(), copy, target.size());
        for staging in [&input.1, &output.1, &pixels] {
            // `get_mapped_range` reports a mapping that failed.
            encoder.map_buffer_on_submit(staging, wgpu::MapMode::Read, .., |_| {});
        }
        gpu.queue.submit([encoder.finish()]);
        gpu.device.poll(PollType::wait_indefinitely())?;
        gpu.check()?;

        let lines = pixels.get_mapped_range(..)?;
        let colors = |line: &[u8]| {
            let texels = line.chunks_exact(4).take(width as usize);
            texels.flat_map(|texel| texel[..3].to_vec()).collect::<Vec<u8>>()
        };
        Ok(Self {
            input: bytemuck::pod_collect_to_vec(&input.1.get_mapped_range(..)?),
            output: bytemuck::pod_collect_to_vec(&output.1.get_mapped_range(..)?),
            size: [width, height],
            pixels: lines.chunks_exact(bytes_per_row as usize).flat_map(colors).collect(),
        })
    }

    /// Counts the network's outputs whose bits differ from those that the CPU engine computes from the same input.
    fn mismatches(&self, program: &Program) -> Result<usize> {
        let input = Tensor::from_f32(&[self.input.len() / FEATURES, FEATURES], self.input.clone())?;
        let outputs = cpu::Engine::new(program)?.run(&[&input])?;
        let expected = outputs[0].as_f32().context("outputs are floats")?;
        ensure!(expected.len() == self.output.len(), "{} outputs, expected {}", self.output.len(), expected.len());
        Ok(self.output.iter().zip(expected).filter(|(actual, expected)| actual.to_bits() != expected.to_bits()).count())
    }

    /// Returns the peak signal-to-noise ratio of the drawn picture against the picture that the network was trained on, in decibels.
    fn psnr(&self, phase: f32) -> f64 {
        let [width, height] = self.size.map(|side| side as usize);
        let positions = (0..height).flat_map(|row| (0..width).map(move |column| (column, row)));
        let target = positions.flat_map(|(column, row)| {
            let position = picture::position(column, row, self.size);
            picture::color(position, phase)
        });
        let errors = self.pixels.iter().zip(target).map(|(&byte, target)| f64::from(byte) / 255.0 - f64::from(target));
        let mean_square = errors.map(|error| error * error).sum::<f64>() / self.pixels.len() as f64;
        -10.0 * mean_square.log10()
    }

    fn write(&self, path: &Path) -> Result<()> {
        let file = BufWriter::new(File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.size[0], self.size[1]);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        Ok(writer.finish()?)
    }
}
