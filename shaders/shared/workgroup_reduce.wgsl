// Ranges of the values of a workgroup, through workgroup memory: of the integers by which floats.wgsl orders floats.

// 64 or 256.
override THREADS: u32 = 64u;

var<workgroup> smallest: array<i32, THREADS>;
var<workgroup> largest: array<i32, THREADS>;

// The smallest `low` and the largest `high` of all threads.
fn workgroup_range(thread: Thread, low: i32, high: i32) -> vec2<i32> {
    let local = thread.local;
    workgroupBarrier();
    smallest[local] = low;
    largest[local] = high;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
        if local < half {
            smallest[local] = min(smallest[local], smallest[local + half]);
            largest[local] = max(largest[local], largest[local + half]);
        }
        workgroupBarrier();
    }
    return vec2<i32>(smallest[0], largest[0]);
}
