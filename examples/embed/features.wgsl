// Computes the network's input: for each pixel, the sine and the cosine of each wave through the picture. A pixel has one row; rows
// have no padding.

struct Frame {
    // The size of the shaded picture in pixels.
    width: u32,
    height: u32,
    // The number of target pixels that one shaded pixel covers along each side.
    block: u32,
    phase: f32,
}

@group(0) @binding(0) var<uniform> frame: Frame;
// The factors of x, y and phase of each wave.
@group(0) @binding(1) var<storage, read> waves: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> features: array<vec2<f32>>;

@compute @workgroup_size(8, 8)
fn features_of_pixel(@builtin(global_invocation_id) pixel: vec3<u32>) {
    let size = vec2(frame.width, frame.height);
    if any(pixel.xy >= size) {
        return;
    }
    let position = vec2<f32>(2u * pixel.xy + 1u) / vec2<f32>(size) - 1.0;
    let count = arrayLength(&waves);
    let first = (pixel.y * size.x + pixel.x) * count;
    for (var at = 0u; at < count; at++) {
        let angle = dot(waves[at].xyz, vec3(position, frame.phase));
        features[first + at] = vec2(sin(angle), cos(angle));
    }
}
