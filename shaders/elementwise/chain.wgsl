// Chains of elementwise steps over any strides: each step takes the result of the one before it, and only the last result is stored.

struct ChainParams {
    // The strides of a, b and y.
    strided: Strided,
    // Those of c, as the first operand.
    others: Strided,
    // The steps: the number of the operation, that of the other operand, and the bits of up to two numbers.
    links: array<vec4<u32>, 8>,
    count: u32,
    // 0, which no compiler knows.
    zero: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: ChainParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> b: array<u32>;
@group(0) @binding(5) var<storage, read_write> c: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<u32>;

// The beginning of row `row` in c.
fn c_offset(row: u32) -> u32 {
    var at = 0u;
    var rest = row;
    for (var axis = params.others.rank; axis > 1u; axis--) {
        let lengths = params.others.axes[axis - 1u];
        at += (rest % lengths.x) * lengths.y;
        rest /= lengths.x;
    }
    return at + rest * params.others.axes[0].y;
}

// What a step may read besides the result before it.
struct Operands {
    a: u32,
    b: u32,
    c: u32,
}

// The other operand. The numbers are those of the host's enum `Other`.
fn other_of(link: vec4<u32>, bits: u32, operands: Operands) -> u32 {
    switch link.y & 7u {
        case 0u: {
            return link.z;
        }
        case 1u: {
            return bits;
        }
        case 2u: {
            return operands.a;
        }
        case 3u: {
            return operands.b;
        }
        default: {
            return operands.c;
        }
    }
}

// The result of a step. The numbers are those of the host's `operation`.
fn linked(link: vec4<u32>, bits: u32, operands: Operands) -> u32 {
    let other = other_of(link, bits, operands);
    // Whether the result before it is the second operand.
    let swapped = (link.y & 8u) != 0u;
    let left = select(bits, other, swapped);
    let right = select(other, bits, swapped);
    switch link.x {
        case 0u, 1u, 2u, 3u, 4u: {
            return compared(link.x, left, right);
        }
        case 5u: {
            return sum_of(left, right);
        }
        case 6u: {
            return product_of(left, right);
        }
        case 7u: {
            return quotient_of(left, right);
        }
        case 8u: {
            return masked_by(left, right, false);
        }
        case 9u: {
            return masked_by(left, right, true);
        }
        case 10u: {
            return limited(bits, link.z, link.w);
        }
        case 11u: {
            return float_of_integer(bits);
        }
        case 12u: {
            return relu_of(bits);
        }
        case 13u: {
            return sqrt_of(bits);
        }
        case 14u: {
            return bits & MAGNITUDE;
        }
        default: {
            return whole_of(link.x - 15u, bits);
        }
    }
}

@compute @workgroup_size(64)
fn chain_f32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    let index = thread_index(thread);
    let c_at = c_offset(index / params.strided.cols) + index % params.strided.cols * params.others.a_col;
    let operands = Operands(a[e.a], b[e.b], c[c_at]);
    var bits = operands.a;
    for (var i = 0u; i < params.count; i++) {
        bits = linked(params.links[i], bits, operands);
    }
    y[e.y] = bits;
}
