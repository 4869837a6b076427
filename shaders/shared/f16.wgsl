// f32 to f16 and back, in integer arithmetic: every device gives the same bits, and no feature is needed.

// The bits of the nearest f16; ties go to even.
fn f16_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > infinity() {
        return sign | 0x7e00u;
    }
    // Numbers from 65520 on become infinite.
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if magnitude >= 0x38800000u {
        return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
    }
    // Results below 2^-14 are subnormal; numbers up to 2^-25 become 0.
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

// The bits of the f32 that equals an f16.
fn f32_bits(f16_bits: u32) -> u32 {
    let sign = (f16_bits & 0x8000u) << 16u;
    let magnitude = f16_bits & 0x7fffu;
    if magnitude < 0x400u {
        // A subnormal f16 is this many times 2^-24.
        return sign | select(bitcast<u32>(f32(magnitude)) - (24u << 23u), 0u, magnitude == 0u);
    }
    return sign | ((magnitude << 13u) + select(0x38000000u, 0x70000000u, magnitude >= 0x7c00u));
}

// Two f16 in one word.
fn pack_f16(low: f32, high: f32) -> u32 {
    return f16_bits(low) | (f16_bits(high) << 16u);
}
