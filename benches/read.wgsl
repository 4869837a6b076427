// Reads a buffer once, to measure the ceiling of a kernel that writes next to nothing, or copies it. A device's own copy of buffers may run on
// a unit that is slower than its processors.

struct Params {
    // Vectors of the buffer: a multiple of four times the threads.
    vectors: u32,
    threads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> filled: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<u32>;
@group(0) @binding(2) var<storage, read_write> copied: array<vec4<u32>>;

// Word i becomes i times an odd number: a device might compress zeros.
@compute @workgroup_size(256)
fn fill_once(@builtin(global_invocation_id) id: vec3<u32>) {
    for (var at = id.x; at < params.vectors; at += params.threads) {
        let word = at * 4u;
        filled[at] = vec4<u32>(word, word + 1u, word + 2u, word + 3u) * 0x9E3779B9u;
    }
}

// Each thread has four loads in flight, and stores one sum.
@compute @workgroup_size(256)
fn read_once(@builtin(global_invocation_id) id: vec3<u32>) {
    let threads = params.threads;
    var total = vec4<u32>();
    for (var at = id.x; at < params.vectors; at += 4u * threads) {
        let first = x[at];
        let second = x[at + threads];
        let third = x[at + 2u * threads];
        let fourth = x[at + 3u * threads];
        total += first + second + third + fourth;
    }
    sums[id.x] = total.x + total.y + total.z + total.w;
}

// Each thread has four loads in flight.
@compute @workgroup_size(256)
fn copy_once(@builtin(global_invocation_id) id: vec3<u32>) {
    let threads = params.threads;
    for (var at = id.x; at < params.vectors; at += 4u * threads) {
        let first = x[at];
        let second = x[at + threads];
        let third = x[at + 2u * threads];
        let fourth = x[at + 3u * threads];
        copied[at] = first;
        copied[at + threads] = second;
        copied[at + 2u * threads] = third;
        copied[at + 3u * threads] = fourth;
    }
}
