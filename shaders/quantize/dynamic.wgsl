// Dynamic quantization: scale and zero point of each row, or of all rows together, and quantization with them.
//
// Equation 10 gives the same bits everywhere: its quotients are those of equation 11.

// Scales and zero points, two words for each row, or for all.
@group(0) @binding(5) var<storage, read_write> qparams: array<u32>;

// The ranges of groups of rows: two words each.
@group(0) @binding(6) var<storage, read_write> ranges: array<u32>;

// The smallest and the largest of the `count` elements from `start` among those that this thread reads, widened to include 0, in the order
// of floats. NaN is ignored.
fn thread_range(thread: Thread, start: u32, count: u32) -> vec2<i32> {
    var low = 0;
    var high = 0;
    if count > 0u {
        var i = thread.local;
        // Four loads are in flight before the first is waited for.
        for (; i + 3u * THREADS < count; i += 4u * THREADS) {
            let at = start + i;
            let bits = vec4<u32>(a[at], a[at + THREADS], a[at + 2u * THREADS], a[at + 3u * THREADS]);
            let order = vec4<i32>(known_order(bits.x), known_order(bits.y), known_order(bits.z), known_order(bits.w));
            low = min(min(low, min(order.x, order.y)), min(order.z, order.w));
            high = max(max(high, max(order.x, order.y)), max(order.z, order.w));
        }
        for (; i < count; i += THREADS) {
            let order = known_order(a[start + i]);
            low = min(low, order);
            high = max(high, order);
        }
    }
    return vec2<i32>(low, high);
}

// The smallest and the largest element of each row, widened to include 0: one row a workgroup.
@compute @workgroup_size(THREADS)
fn range_f32_f32(thread: Thread) {
    let row = group_index(thread);
    let own = thread_range(thread, row * params.cols, select(0u, params.cols, row < matrix_rows()));
    let range = workgroup_range(thread, own.x, own.y);
    if thread.local == 0u && row < matrix_rows() {
        y[row * 2u] = bits_of(range.x);
        y[row * 2u + 1u] = bits_of(range.y);
    }
}

// The range of part of the elements of all rows: each workgroup has as many.
@compute @workgroup_size(THREADS)
fn group_range_f32_f32(thread: Thread) {
    let group = group_index(thread);
    let groups = min(params.range_groups, matrix_rows());
    let elements = matrix_rows() * params.cols;
    let share = (elements + max(groups, 1u) - 1u) / max(groups, 1u);
    let start = min(group * share, elements);
    let own = thread_range(thread, start, min(share, elements - start));
    let range = workgroup_range(thread, own.x, own.y);
    if thread.local == 0u && group < groups {
        y[group * 2u] = bits_of(range.x);
        y[group * 2u + 1u] = bits_of(range.y);
    }
}

// The qparams of each row from its range.
@compute @workgroup_size(64)
fn choose_per_token_f32_f32(thread: Thread) {
    let row = thread_index(thread);
    if row < matrix_rows() {
        let chosen = choose_qparams(
            bitcast<f32>(a[row * 2u]), bitcast<f32>(a[row * 2u + 1u]), quant_range(), params.eps, params.rule
        );
        y[row * 2u] = chosen.x;
        y[row * 2u + 1u] = chosen.y;
    }
}

// The qparams of all rows from their ranges, in one workgroup.
@compute @workgroup_size(64)
fn choose_per_tensor_f32_f32(thread: Thread) {
    var low = 0;
    var high = 0;
    for (var row = thread.local; row < matrix_rows(); row += 64u) {
        low = min(low, order_of(a[row * 2u]));
        high = max(high, order_of(a[row * 2u + 1u]));
    }
    let range = workgroup_range(thread, low, high);
    if thread.local == 0u {
        share_qparams(range, quant_range(), params.eps, params.rule);
        y[0] = shared_qparams.x;
        y[1] = shared_qparams.y;
    }
}

// Padding is 0. Loads without a branch are in flight together.
fn quantize_at(row: u32, column: u32, inv_scale: f32, zero_point: i32, range: vec2<f32>) -> i32 {
    let bits = a[row * params.cols + min(column, params.cols - 1u)];
    return select(0, quantize(bitcast<f32>(bits), inv_scale, zero_point, range.x, range.y), column < params.cols);
}

// Equation 2 for a row.
fn store_row(thread: Thread, row: u32, inv_scale: f32, zero_point: i32) {
    let range = range_about(zero_point);
    for (var word = thread.local; word < params.row_words; word += THREADS) {
        let column = word * 4u;
        y[row * params.row_words + word] = pack4xI8(vec4<i32>(
            quantize_at(row, column, inv_scale, zero_point, range),
            quantize_at(row, column + 1u, inv_scale, zero_point, range),
            quantize_at(row, column + 2u, inv_scale, zero_point, range),
            quantize_at(row, column + 3u, inv_scale, zero_point, range)
        ));
    }
}

// Equation 2 with given qparams: one row a workgroup, which divides once.
@compute @workgroup_size(THREADS)
fn quantize_dynamic_f32_i8(thread: Thread) {
    let row = group_index(thread);
    let inside = row < matrix_rows();
    let at = select(0u, row * params.qparams_stride, inside);
    if thread.local == 0u {
        shared_inv_scale = quotient(1.0, bitcast<f32>(qparams[at]));
    }
    workgroupBarrier();
    if inside {
        store_row(thread, row, shared_inv_scale, i32(bitcast<f32>(qparams[at + 1u])));
    }
}

// Equations 10 and 2 together: writes the qparams of each row and its quantized values. One row a workgroup, which reads the row a
// second time from a cache.
@compute @workgroup_size(THREADS)
fn quantize_per_token_f32_i8(thread: Thread) {
    let row = group_index(thread);
    let own = thread_range(thread, row * params.cols, select(0u, params.cols, row < matrix_rows()));
    let range = workgroup_range(thread, own.x, own.y);
    if thread.local == 0u {
        share_qparams(range, quant_range(), params.eps, params.rule);
    }
    workgroupBarrier();
    if row >= matrix_rows() {
        return;
    }
    if thread.local == 0u {
        qparams[row * 2u] = shared_qparams.x;
        qparams[row * 2u + 1u] = shared_qparams.y;
    }
    store_row(thread, row, shared_inv_scale, i32(bitcast<f32>(shared_qparams.y)));
}

// Equations 10 and 2 with the ranges of groups of rows. Each workgroup chooses the qparams of all rows, and quantizes rows that are as
// many apart as there are workgroups. The first writes the qparams.
@compute @workgroup_size(THREADS)
fn quantize_per_tensor_f32_i8(thread: Thread) {
    let first = group_index(thread);
    let groups = min(params.range_groups, matrix_rows());
    var low = 0;
    var high = 0;
    for (var group = thread.local; group < groups; group += THREADS) {
        low = min(low, order_of(ranges[group * 2u]));
        high = max(high, order_of(ranges[group * 2u + 1u]));
    }
    let range = workgroup_range(thread, low, high);
    if thread.local == 0u {
        share_qparams(range, quant_range(), params.eps, params.rule);
    }
    workgroupBarrier();
    if first == 0u && thread.local == 0u {
        qparams[0] = shared_qparams.x;
        qparams[1] = shared_qparams.y;
    }
    let zero_point = i32(bitcast<f32>(shared_qparams.y));
    for (var row = first; row < matrix_rows(); row += thread.groups.x * thread.groups.y) {
        store_row(thread, row, shared_inv_scale, zero_point);
    }
}

// Equation 1 with given qparams: one element a thread.
@compute @workgroup_size(64)
fn dequantize_dynamic_i8_f32(thread: Thread) {
    let index = thread_index(thread);
    let row = index / params.cols;
    if row >= matrix_rows() {
        return;
    }
    let scale = bitcast<f32>(qparams[row * params.qparams_stride]);
    let zero_point = i32(bitcast<f32>(qparams[row * params.qparams_stride + 1u]));
    let byte = row * params.row_words * 4u + index % params.cols;
    y[index] = bitcast<u32>(dequantize(signed_byte(a[byte / 4u], byte), scale, zero_point));
}
