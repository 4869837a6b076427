// A texture as the input of an image network: planes of floats, one for each channel.

struct SampleParams {
    // The size of a plane, the number of planes, and the first element of the image in the buffer.
    width: u32,
    height: u32,
    channels: u32,
    first: u32,
    scale: vec4<f32>,
    mean: vec4<f32>,
}

@group(0) @binding(0) var<uniform> params: SampleParams;
@group(0) @binding(1) var picture: texture_2d<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// The texel at a position, or the nearest one.
fn texel(x: i32, y: i32) -> vec4<f32> {
    let last = vec2<i32>(textureDimensions(picture)) - vec2<i32>(1);
    return textureLoad(picture, clamp(vec2<i32>(x, y), vec2<i32>(0), last), 0);
}

// The color at the centre of a pixel of the plane: that of one texel if texture and plane have one size, else of four by their
// distances, as PyTorch's interpolate with mode="bilinear" and align_corners=False.
fn color(at: vec2<u32>) -> vec4<f32> {
    let size = textureDimensions(picture);
    if size.x == params.width && size.y == params.height {
        return texel(i32(at.x), i32(at.y));
    }
    let ratio = vec2<f32>(size) / vec2<f32>(f32(params.width), f32(params.height));
    let position = max((vec2<f32>(at) + vec2<f32>(0.5)) * ratio - vec2<f32>(0.5), vec2<f32>(0.0));
    let corner = floor(position);
    let part = position - corner;
    let first = vec2<i32>(corner);
    let top = mix(texel(first.x, first.y), texel(first.x + 1, first.y), part.x);
    let bottom = mix(texel(first.x, first.y + 1), texel(first.x + 1, first.y + 1), part.x);
    return mix(top, bottom, part.y);
}

@compute @workgroup_size(8, 8)
fn sample_texture(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= params.width || at.y >= params.height {
        return;
    }
    let values = (color(at.xy) - params.mean) * params.scale;
    let plane = params.width * params.height;
    let pixel = params.first + at.y * params.width + at.x;
    for (var channel = 0u; channel < params.channels; channel++) {
        y[pixel + channel * plane] = values[channel];
    }
}
