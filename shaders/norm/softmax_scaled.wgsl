// The rows of a value, each element times a number and plus a mask that is broadcast, as attention needs them.

struct ScaledSoftmaxParams {
    strided: Strided,
    scale: f32,
    // 0, which no compiler knows.
    zero: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: ScaledSoftmaxParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read_write> mask: array<u32>;

// Whether elements are multiplied by the scale, and whether the mask is added.
override SCALE: bool = false;
override MASK: bool = false;

// The first elements of a line, as indices of a and y, and of the mask.
struct Line {
    at: u32,
    mask_at: u32,
}

fn lines() -> u32 {
    return matrix_rows();
}

fn line_length() -> u32 {
    return params.strided.cols;
}

fn line_at(line: u32) -> Line {
    return Line(line * params.strided.cols, offsets(line).y);
}

fn result_at(line: Line, i: u32) -> u32 {
    return line.at + i;
}

fn element_bits(line: Line, i: u32) -> u32 {
    var bits = a[result_at(line, i)];
    if SCALE {
        bits = product_of(bits, bitcast<u32>(params.scale));
    }
    if MASK {
        bits = sum_of(bits, mask[line.mask_at + i * params.strided.b_col]);
    }
    return bits;
}
