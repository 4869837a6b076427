// Products of floats.

// Whether factors are rounded to 12 bits, so that products are exact, and sums keep their order (equation 11).
override REPRODUCIBLE: bool = false;

fn factor(bits: u32) -> f32 {
    if !REPRODUCIBLE {
        return bitcast<f32>(bits);
    }
    let rounded = (bits + 0x7ffu + ((bits >> 12u) & 1u)) & 0xfffff000u;
    let magnitude = rounded & MAGNITUDE;
    let bounded = select(select(rounded, infinity() | (bits & SIGN), magnitude > 0x5d800000u), 0u, magnitude < 0x26800000u);
    return bitcast<f32>(select(bounded, not_a_number(), is_nan(bits)));
}

// Adds products to sums. Products of rounded factors are exact, so it does not matter whether a compiler fuses them; fma() would be a
// call for each number on CPUs without the instruction.
fn plus_products(sums: vec4<f32>, left: f32, right: vec4<f32>) -> vec4<f32> {
    let more = left * right + sums;
    if REPRODUCIBLE {
        return keep_four(more);
    }
    return more;
}
