// A norm that quantizes with static qparams.

@compute @workgroup_size(THREADS)
fn layer_norm_f32_i8(thread: Thread) {
    let line = read(thread);
    if line.inside {
        store_int8(thread.local, line, params.factor, params.zero_point, vec2<f32>(params.lo, params.hi));
    }
}
