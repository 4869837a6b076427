// A norm that writes floats.

@compute @workgroup_size(THREADS)
fn layer_norm_f32_f32(thread: Thread) {
    let line = read(thread);
    if !line.inside {
        return;
    }
    // Four elements are computed before the first is stored.
    var i = thread.local;
    for (; i + 3u * THREADS < params.length; i += 4u * THREADS) {
        let y0 = normalized(line, i);
        let y1 = normalized(line, i + THREADS);
        let y2 = normalized(line, i + 2u * THREADS);
        let y3 = normalized(line, i + 3u * THREADS);
        y[line.start + i] = y0;
        y[line.start + i + THREADS] = y1;
        y[line.start + i + 2u * THREADS] = y2;
        y[line.start + i + 3u * THREADS] = y3;
    }
    for (; i < params.length; i += THREADS) {
        y[line.start + i] = normalized(line, i);
    }
}
