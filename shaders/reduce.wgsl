// Sums and extremes of the values of a group of 64 threads, through workgroup memory. Extremes are those of integers, by which
// floats.wgsl orders floats.

struct Thread {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
}

var<workgroup> smallest: array<i32, 64>;
var<workgroup> largest: array<i32, 64>;
var<workgroup> sums: array<f32, 64>;

// The smallest first and the largest second value.
fn group_range(thread: Thread, low: i32, high: i32) -> vec2<i32> {
    let local = thread.local;
    workgroupBarrier();
    smallest[local] = low;
    largest[local] = high;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if local < half {
            smallest[local] = min(smallest[local], smallest[local + half]);
            largest[local] = max(largest[local], largest[local + half]);
        }
        workgroupBarrier();
    }
    return vec2<i32>(smallest[0], largest[0]);
}

fn group_sum(thread: Thread, value: f32) -> f32 {
    let local = thread.local;
    workgroupBarrier();
    sums[local] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if local < half {
            sums[local] += sums[local + half];
        }
        workgroupBarrier();
    }
    return sums[0];
}
