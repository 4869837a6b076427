// A naive kernel to compare with: a thread computes one output from words of four int8 values, without reuse in registers or workgroup
// memory. x is [m][k_words] and w is [n][k_words]; K is padded with zeros to whole words.

struct Params {
    m: u32,
    n: u32,
    k_words: u32,
    zero_point: i32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<i32>;
@group(0) @binding(4) var<storage, read> multiplier: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<i32>;

@compute @workgroup_size(8, 8)
fn naive(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.n || id.y >= params.m {
        return;
    }
    var sum = bias[id.x];
    for (var k = 0u; k < params.k_words; k++) {
        sum += dot4I8Packed(x[id.y * params.k_words + k], w[id.x * params.k_words + k]);
    }
    let lo = f32(-128 - params.zero_point);
    let hi = f32(127 - params.zero_point);
    y[id.y * params.n + id.x] = i32(clamp(round(f32(sum) * multiplier[id.x]), lo, hi)) + params.zero_point;
}
