// Sums of the values of the first 64 threads of a workgroup.

var<workgroup> sums: array<f32, 64>;

fn sum_of_two(at: u32, distance: u32) -> f32 {
    return add_f(sums[at], sums[at + distance]);
}

// In the order of equation 11: sum l is added to sum l + 32, then l + 16, and so on. Eight threads add eight sums each, and every
// thread adds the eight results, so that there are three barriers instead of eight.
fn workgroup_sum(thread: Thread, value: f32) -> f32 {
    let local = thread.local;
    workgroupBarrier();
    if local < 64u {
        sums[local] = value;
    }
    workgroupBarrier();
    if local < 8u {
        let low = add_f(sum_of_two(local, 32u), sum_of_two(local + 16u, 32u));
        let high = add_f(sum_of_two(local + 8u, 32u), sum_of_two(local + 24u, 32u));
        sums[local] = add_f(low, high);
    }
    workgroupBarrier();
    let even = add_f(sum_of_two(0u, 4u), sum_of_two(2u, 4u));
    let odd = add_f(sum_of_two(1u, 4u), sum_of_two(3u, 4u));
    return add_f(even, odd);
}
