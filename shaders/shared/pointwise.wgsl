// Comparisons, selections, limits and casts of single numbers. They work on bits, so that neither NaN nor a subnormal number depends on
// the driver.

// A comparison, or the larger or smaller float. The numbers are those of the host's enum `BinaryOp`.
fn compared(op: u32, left: u32, right: u32) -> u32 {
    let ordered = !is_nan(left) && !is_nan(right);
    switch op {
        case 0u: {
            return select(0u, ONE, ordered && order_of(left) == order_of(right));
        }
        case 1u: {
            return select(0u, ONE, ordered && order_of(left) < order_of(right));
        }
        case 2u: {
            return select(0u, ONE, ordered && order_of(left) <= order_of(right));
        }
        case 3u: {
            return larger(left, right);
        }
        default: {
            return smaller(left, right);
        }
    }
}

// The bits of a float where the condition is not 0, or, if `inverted`, where it is 0; elsewhere those of -0, which changes nothing that
// it is added to.
fn masked_by(bits: u32, condition: u32, inverted: bool) -> u32 {
    let is_zero = (condition & 0x7fffffffu) == 0u;
    return select(0x80000000u, bits, is_zero == inverted);
}

// The bits of a float, or of the bound that it exceeds. NaN exceeds neither.
fn limited(bits: u32, low: u32, high: u32) -> u32 {
    let order = order_of(bits);
    let raised = select(bits, low, order < order_of(low));
    return select(raised, high, order > order_of(high) && !is_nan(bits));
}

// WGSL does not define how f32(i32) rounds integers of more than 24 bits. This function first shifts out the bits that a float lacks, to
// nearest and ties to even; then it converts, which is exact, and adds the shift to the exponent.
fn float_of_integer(bits: u32) -> u32 {
    let negative = (bits >> 31u) == 1u;
    let magnitude = select(bits, ~bits + 1u, negative);
    let shift = 8u - min(countLeadingZeros(magnitude), 8u);
    let half = (1u << shift) >> 1u;
    let rounding = select(0u, half - 1u + ((magnitude >> shift) & 1u), shift > 0u);
    let shifted = bitcast<u32>(f32((magnitude + rounding) >> shift));
    return (shifted + (shift << 23u)) | (bits & 0x80000000u);
}
