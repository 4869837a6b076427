// Stores a normalized line as int8 values, by equation 2, for which another file has `quantize_bits`.

@group(0) @binding(9) var<storage, read_write> quantized: array<u32>;

// Whether the floats are written too.
override KEEP: bool = false;

// Byte `i % 4` of a word of int8 values; 0 beyond the line.
fn quantized_byte(bits: u32, i: u32, factor: f32, zero_point: i32, range: vec2<f32>) -> u32 {
    let q = u32(quantize_bits(bits, factor, zero_point, range)) & 0xffu;
    return select(0u, q, i < params.length) << (8u * (i % 4u));
}

fn store_float(line: Line, i: u32, bits: u32) {
    if KEEP && i < params.length {
        y[line.start + i] = bits;
    }
}

// `range` is relative to the zero point.
fn store_int8(local: u32, line: Line, factor: f32, zero_point: i32, range: vec2<f32>) {
    let last = params.length - 1u;
    for (var word = local; word < params.row_words; word += THREADS) {
        let i = word * 4u;
        let y0 = normalized(line, min(i, last));
        let y1 = normalized(line, min(i + 1u, last));
        let y2 = normalized(line, min(i + 2u, last));
        let y3 = normalized(line, min(i + 3u, last));
        quantized[line.index * params.row_words + word] = quantized_byte(y0, i, factor, zero_point, range)
            | quantized_byte(y1, i + 1u, factor, zero_point, range)
            | quantized_byte(y2, i + 2u, factor, zero_point, range)
            | quantized_byte(y3, i + 3u, factor, zero_point, range);
        store_float(line, i, y0);
        store_float(line, i + 1u, y1);
        store_float(line, i + 2u, y2);
        store_float(line, i + 3u, y3);
    }
}
