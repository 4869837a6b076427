// Sums of integers and maxima along one axis, which the result lacks: one element or one word of int8 values a thread.

@compute @workgroup_size(64)
fn sum_i32_i32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var sum = 0;
    for (var i = 0u; i < params.length; i++) {
        sum += bitcast<i32>(a[e.a + i * params.stride]);
    }
    y[e.y] = bitcast<u32>(sum);
}

@compute @workgroup_size(64)
fn max_i32_i32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var largest = bitcast<i32>(a[e.a]);
    for (var i = 1u; i < params.length; i++) {
        largest = max(largest, bitcast<i32>(a[e.a + i * params.stride]));
    }
    y[e.y] = bitcast<u32>(largest);
}

@compute @workgroup_size(64)
fn max_f32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var largest = a[e.a];
    for (var i = 1u; i < params.length; i++) {
        largest = larger(largest, a[e.a + i * params.stride]);
    }
    y[e.y] = largest;
}

@compute @workgroup_size(64)
fn max_i8_i8(thread: Thread) {
    var word = word_at(thread);
    if !word.inside {
        return;
    }
    var largest = a_values(word);
    for (var i = 1u; i < params.length; i++) {
        word.a += params.stride;
        largest = max(largest, a_values(word));
    }
    y[word.y] = pack4xI8(largest);
}
