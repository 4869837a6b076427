// Kernels on each element: copies, sums, products, functions, tables. One float or one word of codes a thread.

struct Element {
    inside: bool,
    a: u32,
    b: u32,
    y: u32,
}

fn element(thread: Thread) -> Element {
    let index = group_of(thread) * 64u + thread.local;
    let row = index / params.cols;
    let column = index % params.cols;
    let at = offsets(row);
    return Element(
        row < matrix_rows(), at.x + column * params.a_col, at.y + column * params.b_col, at.z + column
    );
}

@compute @workgroup_size(64)
fn copy_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = a[e.a];
    }
}

@compute @workgroup_size(64)
fn add_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = bitcast<u32>(bitcast<f32>(a[e.a]) + bitcast<f32>(b[e.b]));
    }
}

@compute @workgroup_size(64)
fn mul_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = bitcast<u32>(bitcast<f32>(a[e.a]) * bitcast<f32>(b[e.b]));
    }
}

@compute @workgroup_size(64)
fn div_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = bitcast<u32>(bitcast<f32>(a[e.a]) / bitcast<f32>(b[e.b]));
    }
}

@compute @workgroup_size(64)
fn keep_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = kept(a[e.a], b[e.b]);
    }
}

@compute @workgroup_size(64)
fn binary_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = binary(a[e.a], b[e.b]);
    }
}

@compute @workgroup_size(64)
fn clamp_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = clamped(a[e.a]);
    }
}

// WGSL leaves open how f32(i32) rounds what has more than 24 bits. Here the bits that a float lacks are shifted out first, to
// nearest and ties to even; what remains is converted and scaled back exactly.
@compute @workgroup_size(64)
fn to_float_i32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    let bits = a[e.a];
    let negative = (bits >> 31u) == 1u;
    let magnitude = select(bits, ~bits + 1u, negative);
    let shift = 8u - min(countLeadingZeros(magnitude), 8u);
    let half = (1u << shift) >> 1u;
    let rounding = select(0u, half - 1u + ((magnitude >> shift) & 1u), shift > 0u);
    let v = f32((magnitude + rounding) >> shift) * f32(1u << shift);
    y[e.y] = bitcast<u32>(select(v, -v, negative));
}

// A float, of kind 1, without its fraction, or an integer, cut to a type of 32 - shift bits, which has a sign if relu is 1.
@compute @workgroup_size(64)
fn to_integer(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var bits = a[e.a];
    if params.kind == 1u {
        // The floats next to the ends of i32: conversions of what is beyond differ.
        bits = bitcast<u32>(i32(clamp(bitcast<f32>(bits), -2147483648.0, 2147483520.0)));
    }
    bits <<= params.shift;
    y[e.y] = select(bits >> params.shift, bitcast<u32>(bitcast<i32>(bits) >> params.shift), params.relu == 1u);
}

// The quotient toward 0. What a device makes of a division by 0, or of the least number by -1, is not relied on: the first gives
// the dividend, the second wraps around.
fn divided(left: i32, right: i32) -> i32 {
    let quotient = left / select(right, 1, right == 0 || right == -1);
    return select(quotient, -left, right == -1);
}

// Arithmetic of integers, as Int32Op counts it.
@compute @workgroup_size(64)
fn int32_i32_i32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    let left = bitcast<i32>(a[e.a]);
    let right = bitcast<i32>(b[e.b]);
    var result = 0;
    switch params.kind {
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

@compute @workgroup_size(64)
fn sum_i32_i32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var sum = 0;
    for (var i = 0u; i < params.k; i++) {
        sum += bitcast<i32>(a[e.a + i * params.b_k]);
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
    for (var i = 1u; i < params.k; i++) {
        largest = max(largest, bitcast<i32>(a[e.a + i * params.b_k]));
    }
    y[e.y] = bitcast<u32>(largest);
}

@compute @workgroup_size(64)
fn unary_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = bitcast<u32>(unary(params.kind, bitcast<f32>(a[e.a])));
    }
}

// Floats as halves, two a thread.
@compute @workgroup_size(64)
fn half_f32_f16(thread: Thread) {
    let at = (group_of(thread) * 64u + thread.local) * 2u;
    let elements = matrix_rows() * params.cols;
    if at >= elements {
        return;
    }
    let second = select(0.0, bitcast<f32>(a[min(at + 1u, elements - 1u)]), at + 1u < elements);
    y[at / 2u] = two_halves(bitcast<f32>(a[at]), second);
}

// The largest of k elements that are b_k apart.
@compute @workgroup_size(64)
fn max_f32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var largest = a[e.a];
    for (var i = 1u; i < params.k; i++) {
        largest = larger(largest, a[e.a + i * params.b_k]);
    }
    y[e.y] = largest;
}

// The sum of k elements that are b_k apart. Sums of 32 are added up, so that the error does not grow with all of k.
@compute @workgroup_size(64)
fn sum_f32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var sum = 0.0;
    for (var first = 0u; first < params.k; first += 32u) {
        var part = 0.0;
        for (var i = first; i < min(first + 32u, params.k); i++) {
            part += bitcast<f32>(a[e.a + i * params.b_k]);
        }
        sum += part;
    }
    y[e.y] = bitcast<u32>(sum);
}

// Rows of the table b; the number of its rows is k. An id that it lacks gives the nearest row.
@compute @workgroup_size(64)
fn gather_i32_f32(thread: Thread) {
    let index = group_of(thread) * 64u + thread.local;
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

fn word_at(thread: Thread) -> Word {
    // A row's offset need not be a multiple of 4: then its words are shared with what it is joined to.
    let index = group_of(thread) * 64u + thread.local;
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
fn copy_i8_i8(thread: Thread) {
    let word = word_at(thread);
    if word.inside {
        y[word.y] = merged(word, a_codes(word), y[word.y]);
    }
}

// The largest of k codes that are b_k apart.
@compute @workgroup_size(64)
fn max_i8_i8(thread: Thread) {
    var word = word_at(thread);
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
fn reshape_i8_i8(thread: Thread) {
    let index = group_of(thread) * 64u + thread.local;
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
fn add_i8_i8(thread: Thread) {
    let word = word_at(thread);
    if !word.inside {
        return;
    }
    let left = (a_codes(word) - vec4<i32>(params.a_zero_point)) * params.a_multiplier;
    let right = (b_codes(word) - vec4<i32>(params.b_zero_point)) * params.b_multiplier;
    let codes = rounded_sum(left + right, params.shift, params.zero_point, params.lo, params.hi);
    y[word.y] = pack4xI8(codes);
}

// Equation 9 of single elements, and equation 5.
@compute @workgroup_size(64)
fn mul_i8_i8(thread: Thread) {
    let word = word_at(thread);
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
fn table_i8_i8(thread: Thread) {
    let word = word_at(thread);
    if !word.inside {
        return;
    }
    var codes = a_codes(word);
    for (var lane = 0u; lane < 4u; lane++) {
        codes[lane] = b_code(u32(codes[lane] + 128));
    }
    y[word.y] = pack4xI8(codes);
}
