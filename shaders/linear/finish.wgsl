// Finishes a linear layer whose K was divided: takes the sums, leaves 0 in their place and applies the epilogue, one quad a thread.

@compute @workgroup_size(64)
fn linear_finish(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    let row = params.first_row + index / params.quads;
    if row >= end_row() {
        return;
    }
    let at = index * 4u;
    let sum = vec4<i32>(
        atomicExchange(&partial[at], 0), atomicExchange(&partial[at + 1u], 0),
        atomicExchange(&partial[at + 2u], 0), atomicExchange(&partial[at + 3u], 0)
    );
    store_sum(sum, row, output_at(index % params.quads));
}
