// A norm that chooses the qparams of each line, and quantizes with them.

// Scales and zero points, two words for each line.
@group(0) @binding(10) var<storage, read_write> qparams: array<u32>;

// The smallest and the largest of the elements that this thread computes, widened to include 0, in the order of floats. They are
// computed again when they are quantized: that takes less time than to store and load them.
fn thread_range(local: u32, line: Line) -> vec2<i32> {
    var range = vec2<i32>();
    for (var i = local; i < params.length; i += THREADS) {
        let order = known_order(normalized(line, i));
        range = vec2<i32>(min(range.x, order), max(range.y, order));
    }
    return range;
}

@compute @workgroup_size(THREADS)
fn layer_norm_per_token_f32_i8(thread: Thread) {
    let line = read(thread);
    let own = thread_range(thread.local, line);
    let elements = workgroup_range(thread, own.x, own.y);
    if thread.local == 0u {
        share_qparams(elements, vec2<f32>(params.lo, params.hi), params.qparams_eps, PER_TOKEN);
    }
    workgroupBarrier();
    if !line.inside {
        return;
    }
    if thread.local == 0u {
        qparams[line.index * 2u] = shared_qparams.x;
        qparams[line.index * 2u + 1u] = shared_qparams.y;
    }
    let zero_point = i32(bitcast<f32>(shared_qparams.y));
    let range = vec2<f32>(f32(i32(params.lo) - zero_point), f32(i32(params.hi) - zero_point));
    store_int8(thread.local, line, shared_inv_scale, zero_point, range);
}
