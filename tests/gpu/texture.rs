//! Textures as inputs.

use enfold::gpu::context::Context;
use enfold::gpu::{GpuError, TextureInput, TextureOptions};
use half::f16;
use pollster::block_on;
use wgpu::{TextureFormat, TextureUsages};

use crate::device::{buffer, context, read};

const SIZE: [u32; 2] = [13, 6];

/// Channel `c` of the texel in column `x` of row `y`: a number that a byte, and an f16, hold.
fn byte([x, y]: [u32; 2], c: usize) -> u8 {
    (x * 19 + y * 40 + c as u32 * 83) as u8
}

fn texture(context: &Context, format: TextureFormat, usage: TextureUsages) -> wgpu::TextureView {
    let all = (0..SIZE[1]).flat_map(|y| (0..SIZE[0]).map(move |x| [x, y]));
    let values = all.flat_map(|at| (0..4).map(move |c| byte(at, c)));
    let data: Vec<u8> = match format {
        TextureFormat::Rgba8Unorm => values.collect(),
        _ => values.flat_map(|value| f16::from_f32(f32::from(value) - 100.0).to_le_bytes()).collect(),
    };
    let size = wgpu::Extent3d { width: SIZE[0], height: SIZE[1], depth_or_array_layers: 1 };
    let texture = context.device.create_texture(&wgpu::TextureDescriptor {
        label: None,
        size,
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage: usage | TextureUsages::COPY_DST,
        view_formats: &[],
    });
    let bytes_per_row = Some(SIZE[0] * format.block_copy_size(None).expect("no depth"));
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row, rows_per_image: None };
    context.queue.write_texture(texture.as_image_copy(), &data, layout, size);
    texture.create_view(&wgpu::TextureViewDescriptor::default())
}

const USED: TextureUsages = TextureUsages::TEXTURE_BINDING;

/// The planes that the pass writes into the second row of a buffer, and the first row.
fn planes(context: &Context, view: &wgpu::TextureView, options: &TextureOptions) -> (Vec<f32>, Vec<f32>) {
    let elements = (options.size[0] * options.size[1] * options.channels) as usize;
    let input = buffer(context, &vec![0; elements * 8]);
    let options = TextureOptions { row: 1, ..*options };
    let pass = block_on(TextureInput::new(&context.device, view, &input, &options)).expect("bound");
    let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    pass.record(&mut encoder);
    context.queue.submit([encoder.finish()]);
    let mut all: Vec<f32> = bytemuck::pod_collect_to_vec(&read(context, &input));
    let second = all.split_off(elements);
    (second, all)
}

fn largest_error(got: &[f32], right: impl Fn([u32; 2], usize) -> f32, options: &TextureOptions) -> f32 {
    let [width, height] = options.size;
    assert_eq!(got.len(), (width * height * options.channels) as usize);
    let at = |i: usize| ([i as u32 % width, i as u32 / width % height], i / (width * height) as usize);
    let errors = got.iter().enumerate().map(|(i, &got)| {
        let (pixel, channel) = at(i);
        (got - right(pixel, channel)).abs()
    });
    errors.fold(0.0, f32::max)
}

#[test]
fn texels_become_planes() {
    let Some(context) = context("textures") else { return };
    let (scale, mean) = ([4.0, 2.0, 0.5, 8.0], [0.5, 0.25, -1.0, 0.125]);
    for channels in 1..=4 {
        let options = TextureOptions { channels, scale, mean, ..TextureOptions::rgb(SIZE) };
        let scaled = |value: f32, c: usize| (value - mean[c]) * scale[c];
        let of_f16 = |at, c| scaled(f32::from(byte(at, c)) - 100.0, c);
        let (got, before) = planes(context, &texture(context, TextureFormat::Rgba16Float, USED), &options);
        assert_eq!(largest_error(&got, of_f16, &options), 0.0, "f16 holds these numbers, {channels} channels");
        assert!(before.iter().all(|&x| x == 0.0), "the other row");
        // The control: a texel beside it.
        assert!(largest_error(&got, |[x, y], c| of_f16([x + 1, y], c), &options) > 1.0);
        let (got, _) = planes(context, &texture(context, TextureFormat::Rgba8Unorm, USED), &options);
        let of_bytes = |at, c| scaled(f32::from(byte(at, c)) / 255.0, c);
        assert!(largest_error(&got, of_bytes, &options) < 1e-5);
        assert!(largest_error(&got, |[x, y], c| of_bytes([x, y + 1], c), &options) > 0.1);
    }
}

/// Sizes above and below the texture's, by the definition of PyTorch's `interpolate`.
#[test]
fn other_sizes_are_interpolated() {
    let Some(context) = context("sizes of textures") else { return };
    let view = texture(context, TextureFormat::Rgba16Float, USED);
    for size in [[26, 12], [7, 3], [5, 20], [1, 1]] {
        let options = TextureOptions::rgb(size);
        let right = |[x, y]: [u32; 2], c: usize| {
            let axis = |at: u32, from: u32, to: u32| {
                let position = ((f64::from(at) + 0.5) * f64::from(from) / f64::from(to) - 0.5).max(0.0);
                let first = position.floor();
                ([first as u32, first as u32 + 1].map(|at| at.min(from - 1)), position - first)
            };
            let (columns, right) = axis(x, SIZE[0], size[0]);
            let (rows, below) = axis(y, SIZE[1], size[1]);
            let of_row = |row: u32| {
                let [a, b] = columns.map(|column| f64::from(byte([column, row], c)) - 100.0);
                a + (b - a) * right
            };
            (of_row(rows[0]) + (of_row(rows[1]) - of_row(rows[0])) * below) as f32
        };
        let (got, _) = planes(context, &view, &options);
        assert!(largest_error(&got, right, &options) < 1e-3, "{size:?}");
        assert!(largest_error(&got, |at, c| right(at, (c + 1) % 3), &options) > 1.0, "another channel differs");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(context) = context("refused textures") else { return };
    let view = texture(context, TextureFormat::Rgba8Unorm, USED);
    let input = buffer(context, &[0; 13 * 6 * 3 * 4]);
    let new = |view: &wgpu::TextureView, options: TextureOptions| {
        block_on(TextureInput::new(&context.device, view, &input, &options)).map(drop)
    };
    let rgb = TextureOptions::rgb(SIZE);
    assert_eq!(new(&view, rgb), Ok(()));
    let rows = new(&view, TextureOptions { row: 1, ..rgb });
    assert_eq!(rows, Err(GpuError::BufferSize { name: "texture".to_owned(), actual: 936, needed: 1872, rows: 2 }));
    assert!(matches!(new(&view, TextureOptions { row: usize::MAX, ..rgb }), Err(GpuError::BufferSize { .. })));
    for channels in [0, 5] {
        let error = new(&view, TextureOptions { channels, ..rgb });
        assert!(matches!(error, Err(GpuError::Limit { what: "channels", .. })), "{error:?}");
    }
    assert!(matches!(new(&view, TextureOptions::rgb([0, 6])), Err(GpuError::Limit { .. })));
    assert!(matches!(new(&view, TextureOptions::rgb([u32::MAX, 6])), Err(GpuError::Limit { .. })));
    let unbindable = texture(context, TextureFormat::Rgba8Unorm, TextureUsages::COPY_SRC);
    assert!(matches!(new(&unbindable, rgb), Err(GpuError::Device { .. })));
}
