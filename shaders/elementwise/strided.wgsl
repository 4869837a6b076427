// Two values, broadcast to the shape of the result: one element or one word of int8 values a thread.

@compute @workgroup_size(64)
fn add_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = sum_of(a[e.a], b[e.b]);
    }
}

@compute @workgroup_size(64)
fn mul_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = product_of(a[e.a], b[e.b]);
    }
}

@compute @workgroup_size(64)
fn div_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = quotient_of(a[e.a], b[e.b]);
    }
}

@compute @workgroup_size(64)
fn mask_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = masked(a[e.a], b[e.b]);
    }
}

@compute @workgroup_size(64)
fn binary_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = binary(a[e.a], b[e.b]);
    }
}

// The quotient, rounded toward 0. Devices differ in a division by 0 and in the least number divided by -1, so neither is computed:
// the first gives the dividend, the second wraps around.
fn divided(left: i32, right: i32) -> i32 {
    let divided = left / select(right, 1, right == 0 || right == -1);
    return select(divided, -left, right == -1);
}

// The numbers are those of the host's enum `Int32Op`.
@compute @workgroup_size(64)
fn int32_i32_i32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    let left = bitcast<i32>(a[e.a]);
    let right = bitcast<i32>(b[e.b]);
    var result = 0;
    switch params.int32_op {
        case 0u: { result = left + right; }
        case 1u: { result = left - right; }
        case 2u: { result = left * right; }
        case 3u: { result = divided(left, right); }
        case 4u: { result = min(left, right); }
        case 5u: { result = max(left, right); }
        case 6u: { result = i32(left == right); }
        default: { result = i32(left < right); }
    }
    y[e.y] = bitcast<u32>(result);
}

fn b_byte(at: u32) -> i32 {
    return signed_byte(b[at / 4u], at);
}

// The values of b for a word of y; 0 outside the row.
fn b_values(word: Word) -> vec4<i32> {
    var values = vec4<i32>(0);
    for (var lane = 0u; lane < 4u; lane++) {
        let column = word.column + lane;
        if column < params.strided.cols {
            values[lane] = b_byte(word.b + column * params.strided.b_col);
        }
    }
    return values;
}

@compute @workgroup_size(64)
fn add_i8_i8(thread: Thread) {
    let word = word_at(thread);
    if word.inside {
        y[word.y] = pack4xI8(add(a_values(word), b_values(word), params.add));
    }
}

@compute @workgroup_size(64)
fn mul_i8_i8(thread: Thread) {
    let word = word_at(thread);
    if word.inside {
        y[word.y] = pack4xI8(multiply(a_values(word), b_values(word)));
    }
}
