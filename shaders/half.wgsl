// f32 to f16, to nearest and ties to even, in integers: the same bits on every device, and no feature is needed.

fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u;
    }
    // From 65520 on it is infinite.
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if magnitude >= 0x38800000u {
        return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
    }
    // Below 2^-14 halves are subnormal, up to 2^-25 they are 0.
    let exponent = magnitude >> 23u;
    if exponent < 102u {
        return sign;
    }
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = 126u - exponent;
    let kept = mantissa >> shift;
    let tail = mantissa & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    return sign | (kept + select(0u, 1u, tail > tie || (tail == tie && (kept & 1u) == 1u)));
}

// The f32 of a half, by its bits.
fn float_bits(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    if magnitude < 0x400u {
        // So many times 2^-24.
        return sign | select(bitcast<u32>(f32(magnitude)) - (24u << 23u), 0u, magnitude == 0u);
    }
    return sign | ((magnitude << 13u) + select(0x38000000u, 0x70000000u, magnitude >= 0x7c00u));
}

fn two_halves(low: f32, high: f32) -> u32 {
    return half_bits(low) | (half_bits(high) << 16u);
}
