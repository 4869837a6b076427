// Adds 1 to each number, to measure what it costs that a dispatch reads what the one before it has written.

@group(0) @binding(0) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn count(@builtin(global_invocation_id) id: vec3<u32>) {
    y[id.x] += 1u;
}
