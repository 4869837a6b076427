// Float kernels with WGSL's built-in functions, to compare the engine's with: the same workgroups, the same loads and stores, and the same
// use of workgroup memory, but the device's own exponentials, divisions, roots and maxima, and no care for what is not finite. Their bits
// differ from device to device.

struct Params {
    // Lines, and elements of a line.
    lines: u32,
    length: u32,
    // All elements, in vectors of four.
    vectors: u32,
    eps: f32,
}

// The engine binds all values as read_write.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> a_vecs: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> y_vecs: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> b_vecs: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> bias: array<f32>;

const LOWEST = -3.40282e38f;

var<workgroup> held: array<f32, 1024>;
var<workgroup> parts: array<f32, 64>;
var<workgroup> maxima: array<f32, 64>;

// The sum of what 64 threads have.
fn sum_of_threads(local: u32, value: f32) -> f32 {
    workgroupBarrier();
    parts[local] = value;
    workgroupBarrier();
    if local < 8u {
        let low = (parts[local] + parts[local + 32u]) + (parts[local + 16u] + parts[local + 48u]);
        let high = (parts[local + 8u] + parts[local + 40u]) + (parts[local + 24u] + parts[local + 56u]);
        parts[local] = low + high;
    }
    workgroupBarrier();
    let even = (parts[0] + parts[4]) + (parts[2] + parts[6]);
    let odd = (parts[1] + parts[5]) + (parts[3] + parts[7]);
    return even + odd;
}

fn max_of_threads(local: u32, value: f32) -> f32 {
    workgroupBarrier();
    maxima[local] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if local < half {
            maxima[local] = max(maxima[local], maxima[local + half]);
        }
        workgroupBarrier();
    }
    return maxima[0];
}

// Lines of up to 1,024 elements, one a workgroup.
@compute @workgroup_size(64)
fn softmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let start = group.x * params.length;
    var largest = LOWEST;
    for (var i = local; i < params.length; i += 64u) {
        let x = a[start + i];
        largest = max(largest, x);
        held[i] = x;
    }
    largest = max_of_threads(local, largest);
    var total = 0.0f;
    for (var i = local; i < params.length; i += 64u) {
        let e = exp(held[i] - largest);
        total += e;
        held[i] = e;
    }
    let inv_total = 1.0f / sum_of_threads(local, total);
    for (var i = local; i < params.length; i += 64u) {
        y[start + i] = held[i] * inv_total;
    }
}

// Adds the exponential of element `i` to a sum.
fn plus(sum: f32, i: u32, local: u32, largest: f32) -> f32 {
    if i >= params.length {
        return sum;
    }
    let at = i / 8u * 64u + local;
    let e = exp(held[at] - largest);
    held[at] = e;
    return sum + e;
}

// Lines of up to 128 elements: eight threads a line, and eight lines a workgroup.
@compute @workgroup_size(64)
fn softmax_short(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % 8u;
    let first = local - lane;
    let line = group.x * 8u + local / 8u;
    let inside = line < params.lines;
    let start = select(0u, line * params.length, inside);
    var largest = LOWEST;
    for (var i = lane; i < params.length; i += 8u) {
        let x = a[start + i];
        largest = max(largest, x);
        held[i / 8u * 64u + local] = x;
    }
    maxima[local] = largest;
    workgroupBarrier();
    for (var i = 0u; i < 8u; i++) {
        largest = max(largest, maxima[first + i]);
    }
    var low = vec4<f32>();
    var high = vec4<f32>();
    for (var i = lane; i < params.length; i += 64u) {
        low.x = plus(low.x, i, local, largest);
        low.y = plus(low.y, i + 8u, local, largest);
        low.z = plus(low.z, i + 16u, local, largest);
        low.w = plus(low.w, i + 24u, local, largest);
        high.x = plus(high.x, i + 32u, local, largest);
        high.y = plus(high.y, i + 40u, local, largest);
        high.z = plus(high.z, i + 48u, local, largest);
        high.w = plus(high.w, i + 56u, local, largest);
    }
    let sums = low + high;
    parts[local] = (sums.x + sums.z) + (sums.y + sums.w);
    workgroupBarrier();
    var total = 0.0f;
    for (var i = 0u; i < 8u; i++) {
        total += parts[first + i];
    }
    let inv_total = 1.0f / total;
    if !inside {
        return;
    }
    for (var i = lane; i < params.length; i += 8u) {
        y[start + i] = held[i / 8u * 64u + local] * inv_total;
    }
}

// Whether a mean is subtracted and a bias added. Without both it is an RMS norm.
override CENTER: bool = true;

fn square(x: f32) -> f32 {
    return x * x;
}

// The sum of every 64th element, or of the squares of its distances from the mean.
fn partial_sum(local: u32, mean: f32, of_squares: bool) -> f32 {
    var total = 0.0f;
    var i = local;
    for (; i + 192u < params.length; i += 256u) {
        let x0 = held[i];
        let x1 = held[i + 64u];
        let x2 = held[i + 128u];
        let x3 = held[i + 192u];
        total += select(x0, square(x0 - mean), of_squares);
        total += select(x1, square(x1 - mean), of_squares);
        total += select(x2, square(x2 - mean), of_squares);
        total += select(x3, square(x3 - mean), of_squares);
    }
    for (; i < params.length; i += 64u) {
        let x = held[i];
        total += select(x, square(x - mean), of_squares);
    }
    return total;
}

fn normalized(i: u32, mean: f32, inv_std: f32) -> f32 {
    let scaled = (held[i] - mean) * inv_std * weight[i];
    if CENTER {
        return scaled + bias[i];
    }
    return scaled;
}

// Lines of up to 1,024 elements, one a workgroup.
@compute @workgroup_size(64)
fn norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let start = group.x * params.length;
    var i = local;
    for (; i + 192u < params.length; i += 256u) {
        let x0 = a[start + i];
        let x1 = a[start + i + 64u];
        let x2 = a[start + i + 128u];
        let x3 = a[start + i + 192u];
        held[i] = x0;
        held[i + 64u] = x1;
        held[i + 128u] = x2;
        held[i + 192u] = x3;
    }
    for (; i < params.length; i += 64u) {
        held[i] = a[start + i];
    }
    workgroupBarrier();
    let count = f32(params.length);
    var mean = 0.0f;
    if CENTER {
        mean = sum_of_threads(local, partial_sum(local, 0.0f, false)) / count;
    }
    let variance = sum_of_threads(local, partial_sum(local, mean, true)) / count;
    let inv_std = inverseSqrt(variance + params.eps);
    i = local;
    for (; i + 192u < params.length; i += 256u) {
        let y0 = normalized(i, mean, inv_std);
        let y1 = normalized(i + 64u, mean, inv_std);
        let y2 = normalized(i + 128u, mean, inv_std);
        let y3 = normalized(i + 192u, mean, inv_std);
        y[start + i] = y0;
        y[start + i + 64u] = y1;
        y[start + i + 128u] = y2;
        y[start + i + 192u] = y3;
    }
    for (; i < params.length; i += 64u) {
        y[start + i] = normalized(i, mean, inv_std);
    }
}

// The error function has no built-in: formula 7.1.26 of Abramowitz and Stegun has one exponential and one division, and is right to 1.5e-7.
fn erf_of(x: vec4<f32>) -> vec4<f32> {
    let z = abs(x);
    let t = 1.0f / (1.0f + 0.3275911f * z);
    let p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    return sign(x) * (1.0f - p * exp(-z * z));
}

@compute @workgroup_size(64)
fn gelu(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.vectors {
        let x = a_vecs[id.x];
        y_vecs[id.x] = 0.5f * x * (1.0f + erf_of(x * 0.70710678f));
    }
}

@compute @workgroup_size(64)
fn gelu_tanh(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.vectors {
        let x = a_vecs[id.x];
        y_vecs[id.x] = 0.5f * x * (1.0f + tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    }
}

@compute @workgroup_size(64)
fn tanh_of(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.vectors {
        y_vecs[id.x] = tanh(a_vecs[id.x]);
    }
}

@compute @workgroup_size(64)
fn exp_of(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.vectors {
        y_vecs[id.x] = exp(a_vecs[id.x]);
    }
}

@compute @workgroup_size(64)
fn divide(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.vectors {
        y_vecs[id.x] = a_vecs[id.x] / b_vecs[id.x];
    }
}
