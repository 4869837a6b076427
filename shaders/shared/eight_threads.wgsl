// The largest element and the sum (equation 11) of a line that eight threads of a workgroup share. Workgroups have up to 64 threads.

var<workgroup> orders: array<i32, 64>;
var<workgroup> parts: array<f32, 64>;

// The largest of the integers of eight threads, which floats.wgsl orders floats by.
fn largest_of_eight(local: u32, own: i32) -> i32 {
    let first = local - local % 8u;
    orders[local] = own;
    workgroupBarrier();
    var order = own;
    for (var i = 0u; i < 8u; i++) {
        order = max(order, orders[first + i]);
    }
    return order;
}

// Each thread has eight of the 64 sums of a line: those whose number is its own, and 8, 16, and so on more. Sum l is added to sum l + 32,
// then l + 16, and so on.
fn sum_of_eight(local: u32, low: vec4<f32>, high: vec4<f32>) -> f32 {
    let first = local - local % 8u;
    let even = add_f(add_f(low.x, high.x), add_f(low.z, high.z));
    let odd = add_f(add_f(low.y, high.y), add_f(low.w, high.w));
    parts[local] = add_f(even, odd);
    workgroupBarrier();
    let p0 = add_f(parts[first], parts[first + 4u]);
    let p1 = add_f(parts[first + 1u], parts[first + 5u]);
    let p2 = add_f(parts[first + 2u], parts[first + 6u]);
    let p3 = add_f(parts[first + 3u], parts[first + 7u]);
    return add_f(add_f(p0, p2), add_f(p1, p3));
}
