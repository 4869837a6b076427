// Computes packed dot products on registers alone, to measure the ceiling of a device. The one store keeps the compiler from removing
// them.

@group(0) @binding(0) var<uniform> iterations: u32;
@group(0) @binding(1) var<storage, read_write> y: array<i32>;

// Each sum is an operand of the next product, so that no product can be moved out of the loop.
fn dots(s: vec4<i32>, w: u32) -> vec4<i32> {
    let x = bitcast<vec4<u32>>(s);
    return s + vec4<i32>(dot4I8Packed(x.x, w), dot4I8Packed(x.y, w), dot4I8Packed(x.z, w), dot4I8Packed(x.w, w));
}

fn four(s: vec4<i32>, w: u32) -> vec4<i32> {
    return dots(dots(dots(dots(s, w), w), w), w);
}

// A thread has 16 independent sums, and computes 256 dot products in an iteration.
@compute @workgroup_size(256)
fn dot_ceiling(@builtin(global_invocation_id) id: vec3<u32>) {
    let seed = id.x * 0x9E3779B9u;
    let w = seed ^ 0x5A3C96E1u;
    var a = bitcast<vec4<i32>>(vec4<u32>(seed, seed + 1u, seed + 2u, seed + 3u));
    var b = a + 4;
    var c = a + 8;
    var d = a + 12;
    for (var i = 0u; i < iterations; i++) {
        a = four(four(four(four(a, w), w), w), w);
        b = four(four(four(four(b, w), w), w), w);
        c = four(four(four(four(c, w), w), w), w);
        d = four(four(four(four(d, w), w), w), w);
    }
    let sums = a + b + c + d;
    y[id.x] = sums.x + sums.y + sums.z + sums.w;
}
