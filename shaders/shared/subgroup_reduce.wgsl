// workgroup_reduce.wgsl with subgroup operations for ranges, whose order does not matter: within subgroups of any size, then through
// workgroup memory.

struct Thread {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

// 64 or 256.
override THREADS: u32 = 64u;

// One entry a subgroup, which has four threads at least.
var<workgroup> smallest: array<i32, 64>;
var<workgroup> largest: array<i32, 64>;

// The smallest `low` and the largest `high` of all threads.
fn workgroup_range(thread: Thread, low: i32, high: i32) -> vec2<i32> {
    let own = vec2<i32>(subgroupMin(low), subgroupMax(high));
    workgroupBarrier();
    if thread.lane == 0u {
        smallest[thread.subgroup] = own.x;
        largest[thread.subgroup] = own.y;
    }
    workgroupBarrier();
    var range = vec2<i32>(smallest[0], largest[0]);
    for (var i = 1u; i < thread.subgroups; i++) {
        range = vec2<i32>(min(range.x, smallest[i]), max(range.y, largest[i]));
    }
    return range;
}
