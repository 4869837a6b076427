// Softmax and layer norm. One line a group: elements of a that are summed.

var<workgroup> partial: array<f32, 64>;

fn summed(local: u32, value: f32) -> f32 {
    workgroupBarrier();
    partial[local] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if local < half {
            partial[local] += partial[local + half];
        }
        workgroupBarrier();
    }
    return partial[0];
}

fn maximum(local: u32, value: f32) -> f32 {
    workgroupBarrier();
    partial[local] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if local < half {
            partial[local] = max(partial[local], partial[local + half]);
        }
        workgroupBarrier();
    }
    return partial[0];
}

// A line has k elements, a_col apart; a_col lines lie side by side.
@compute @workgroup_size(64)
fn softmax_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let line = group_of(group, groups);
    let inside = line < matrix_rows();
    let stride = params.a_col;
    let start = select(0u, line / stride * stride * params.k + line % stride, inside);
    var largest = -3.402823e38;
    for (var i = local; i < params.k; i += 64u) {
        largest = max(largest, bitcast<f32>(a[start + i * stride]));
    }
    largest = maximum(local, largest);
    var sum = 0.0;
    for (var i = local; i < params.k; i += 64u) {
        sum += exp(bitcast<f32>(a[start + i * stride]) - largest);
    }
    let inv_sum = 1.0 / summed(local, sum);
    if !inside {
        return;
    }
    for (var i = local; i < params.k; i += 64u) {
        y[start + i * stride] = bitcast<u32>(exp(bitcast<f32>(a[start + i * stride]) - largest) * inv_sum);
    }
}

// A line has k elements; b is the weight, c the bias, factor is eps.
@compute @workgroup_size(64)
fn layer_norm_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let line = group_of(group, groups);
    let inside = line < matrix_rows();
    let start = select(0u, line * params.k, inside);
    var sum = 0.0;
    for (var i = local; i < params.k; i += 64u) {
        sum += bitcast<f32>(a[start + i]);
    }
    let mean = summed(local, sum) / f32(params.k);
    var squares = 0.0;
    for (var i = local; i < params.k; i += 64u) {
        let d = bitcast<f32>(a[start + i]) - mean;
        squares += d * d;
    }
    let inv_std = 1.0 / sqrt(summed(local, squares) / f32(params.k) + params.factor);
    if !inside {
        return;
    }
    for (var i = local; i < params.k; i += 64u) {
        let v = (bitcast<f32>(a[start + i]) - mean) * inv_std;
        y[start + i] = bitcast<u32>(v * bitcast<f32>(b[i]) + bitcast<f32>(c[i]));
    }
}
