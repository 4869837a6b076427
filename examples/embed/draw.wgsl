// Draws the network's output buffer over the whole target. A pixel has a row of three floats; rows have no padding.

struct Frame {
    width: u32,
    height: u32,
    block: u32,
    phase: f32,
}

// Whether the target is sRGB, and so encodes the linear light that is written. The network computes colours that are encoded already.
override target_encodes: bool = false;

@group(0) @binding(0) var<uniform> frame: Frame;
@group(0) @binding(1) var<storage, read> colors: array<f32>;

// The corners of one triangle that covers the target.
@vertex
fn cover(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    return vec4(select(-1.0, 3.0, index == 1u), select(-1.0, 3.0, index == 2u), 0.0, 1.0);
}

@fragment
fn draw(@builtin(position) position: vec4<f32>) -> @location(0) vec4<f32> {
    let pixel = vec2<u32>(position.xy) / frame.block;
    let first = 3u * (pixel.y * frame.width + pixel.x);
    let color = saturate(vec3(colors[first], colors[first + 1u], colors[first + 2u]));
    return vec4(select(color, decoded(color), target_encodes), 1.0);
}

fn decoded(srgb: vec3<f32>) -> vec3<f32> {
    return select(pow((srgb + 0.055) / 1.055, vec3(2.4)), srgb / 12.92, srgb <= vec3(0.04045));
}
