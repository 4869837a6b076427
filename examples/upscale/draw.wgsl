// Draws the network's output buffer, a channel a plane, over the whole target.

override width: u32;
override height: u32;

@group(0) @binding(0) var<storage, read> planes: array<f32>;

// The corners of one triangle that covers the target.
@vertex
fn cover(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    return vec4(select(-1.0, 3.0, index == 1u), select(-1.0, 3.0, index == 2u), 0.0, 1.0);
}

@fragment
fn draw(@builtin(position) position: vec4<f32>) -> @location(0) vec4<f32> {
    let pixel = vec2<u32>(position.xy);
    let at = pixel.y * width + pixel.x;
    let plane = width * height;
    return vec4(saturate(vec3(planes[at], planes[plane + at], planes[2u * plane + at])), 1.0);
}
