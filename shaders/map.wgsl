// Kernels on each element: copies, sums, products, functions, tables. One float or one word of codes a thread.

struct Element {
    inside: bool,
    a: u32,
    b: u32,
    y: u32,
}

fn element(group: vec3<u32>, groups: vec3<u32>, local: u32) -> Element {
    let index = group_of(group, groups) * 64u + local;
    let row = index / params.cols;
    let column = index % params.cols;
    let at = offsets(row);
    return Element(
        row < matrix_rows(), at.x + column * params.a_col, at.y + column * params.b_col, at.z + column
    );
}

@compute @workgroup_size(64)
fn copy_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e = element(group, groups, local);
    if e.inside {
        y[e.y] = a[e.a];
    }
}

@compute @workgroup_size(64)
fn add_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e = element(group, groups, local);
    if e.inside {
        y[e.y] = bitcast<u32>(bitcast<f32>(a[e.a]) + bitcast<f32>(b[e.b]));
    }
}

@compute @workgroup_size(64)
fn mul_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e = element(group, groups, local);
    if e.inside {
        y[e.y] = bitcast<u32>(bitcast<f32>(a[e.a]) * bitcast<f32>(b[e.b]));
    }
}

fn sigmoid(x: f32) -> f32 {
    // The larger exponent underflows to 0 on either side, and never overflows.
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn tanh_clamped(x: f32) -> f32 {
    // Some drivers overflow inside tanh; beyond 9 it is 1 in f32.
    return tanh(clamp(x, -9.1, 9.1));
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    let e = 1.0 - p * exp(-min(x * x, 80.0));
    return select(e, -e, x < 0.0);
}

// In the order of the host's list.
fn unary(kind: u32, x: f32) -> f32 {
    switch kind {
        case 0u: {
            return max(x, 0.0);
        }
        case 1u: {
            return sigmoid(x);
        }
        case 2u: {
            return tanh_clamped(x);
        }
        case 3u: {
            return 0.5 * x * (1.0 + erf(x * 0.70710678118));
        }
        case 4u: {
            return 0.5 * x * (1.0 + tanh_clamped(0.7978845608 * (x + 0.044715 * x * x * x)));
        }
        default: {
            return x * sigmoid(x);
        }
    }
}

@compute @workgroup_size(64)
fn unary_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e = element(group, groups, local);
    if e.inside {
        y[e.y] = bitcast<u32>(unary(params.kind, bitcast<f32>(a[e.a])));
    }
}

// The largest of k elements that are b_k apart.
@compute @workgroup_size(64)
fn max_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e = element(group, groups, local);
    if !e.inside {
        return;
    }
    var largest = bitcast<f32>(a[e.a]);
    for (var i = 1u; i < params.k; i++) {
        largest = max(largest, bitcast<f32>(a[e.a + i * params.b_k]));
    }
    y[e.y] = bitcast<u32>(largest);
}

// Rows of the table b; the number of its rows is k. An id that it lacks gives the nearest row.
@compute @workgroup_size(64)
fn gather_i32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = group_of(group, groups) * 64u + local;
    let row = index / params.cols;
    if row >= matrix_rows() {
        return;
    }
    let id = clamp(bitcast<i32>(a[row]), 0, i32(params.k) - 1);
    y[index] = b[u32(id) * params.cols + index % params.cols];
}

// A word of codes of y: four columns, of which the first may lie before the row's and the last behind it.
struct Word {
    inside: bool,
    a: u32,
    b: u32,
    y: u32,
    // The row's column of the first byte; wraps if that lies before.
    column: u32,
}

fn word_at(group: vec3<u32>, groups: vec3<u32>, local: u32) -> Word {
    // A row's offset need not be a multiple of 4: then its words are shared with what it is joined to.
    let index = group_of(group, groups) * 64u + local;
    let row = index / params.row_words;
    let at = offsets(row);
    let word = at.z / 4u + index % params.row_words;
    return Word(row < matrix_rows(), at.x, at.y, word, word * 4u - at.z);
}

// Keeps the bytes of `old` that do not belong to the row.
fn merged(word: Word, codes: vec4<i32>, old: u32) -> u32 {
    let columns = vec4<u32>(word.column, word.column + 1u, word.column + 2u, word.column + 3u);
    return pack4xI8(select(unpack4xI8(old), codes, columns < vec4<u32>(params.cols)));
}

fn a_codes(word: Word) -> vec4<i32> {
    var codes = vec4<i32>(0);
    for (var lane = 0u; lane < 4u; lane++) {
        let column = word.column + lane;
        if column < params.cols {
            codes[lane] = a_code(word.a + column * params.a_col);
        }
    }
    return codes;
}

fn b_codes(word: Word) -> vec4<i32> {
    var codes = vec4<i32>(0);
    for (var lane = 0u; lane < 4u; lane++) {
        let column = word.column + lane;
        if column < params.cols {
            codes[lane] = b_code(word.b + column * params.b_col);
        }
    }
    return codes;
}

@compute @workgroup_size(64)
fn copy_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = word_at(group, groups, local);
    if word.inside {
        y[word.y] = merged(word, a_codes(word), y[word.y]);
    }
}

// The largest of k codes that are b_k apart.
@compute @workgroup_size(64)
fn max_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    var word = word_at(group, groups, local);
    if !word.inside {
        return;
    }
    var largest = a_codes(word);
    for (var i = 1u; i < params.k; i++) {
        word.a += params.b_k;
        largest = max(largest, a_codes(word));
    }
    y[word.y] = pack4xI8(largest);
}

// The same elements in rows of another length.
@compute @workgroup_size(64)
fn reshape_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = group_of(group, groups) * 64u + local;
    let row = index / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    var codes = vec4<i32>(0);
    for (var lane = 0u; lane < 4u; lane++) {
        let column = (index % params.row_words) * 4u + lane;
        if column < params.cols {
            let at = row * params.cols + column;
            codes[lane] = a_code(at / params.a_cols * params.a_words * 4u + at % params.a_cols);
        }
    }
    y[index] = pack4xI8(codes);
}

// Equation 8.
@compute @workgroup_size(64)
fn add_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = word_at(group, groups, local);
    if !word.inside {
        return;
    }
    let left = (a_codes(word) - vec4<i32>(params.a_zero_point)) * params.a_multiplier;
    let right = (b_codes(word) - vec4<i32>(params.b_zero_point)) * params.b_multiplier;
    let acc = left + right;
    let shift = vec4<u32>(params.shift);
    let half = vec4<i32>((1 << (params.shift - 1u)) - 1);
    let rounded = (acc + half + ((acc >> shift) & vec4<i32>(1))) >> shift;
    let codes = clamp(rounded + vec4<i32>(params.zero_point), vec4<i32>(params.lo), vec4<i32>(params.hi));
    y[word.y] = pack4xI8(codes);
}

// Equation 9 of single elements, and equation 5.
@compute @workgroup_size(64)
fn mul_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = word_at(group, groups, local);
    if !word.inside {
        return;
    }
    let acc = (a_codes(word) - vec4<i32>(params.a_zero_point)) * (b_codes(word) - vec4<i32>(params.b_zero_point));
    let lo = vec4<f32>(f32(params.lo - params.zero_point));
    let hi = vec4<f32>(f32(params.hi - params.zero_point));
    let v = clamp(round(vec4<f32>(acc) * params.factor), lo, hi);
    y[word.y] = pack4xI8(vec4<i32>(v) + vec4<i32>(params.zero_point));
}

// Entry code + 128 of the table b.
@compute @workgroup_size(64)
fn table_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = word_at(group, groups, local);
    if !word.inside {
        return;
    }
    var codes = a_codes(word);
    for (var lane = 0u; lane < 4u; lane++) {
        codes[lane] = b_code(u32(codes[lane] + 128));
    }
    y[word.y] = pack4xI8(codes);
}
