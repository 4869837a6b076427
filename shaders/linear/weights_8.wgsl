// Weights of 8 bits: 16 values in four words.

@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;

// The factor of the values that `weight` gives is 2 to this power.
const WEIGHT_SHIFT: u32 = 0u;

fn weight(at: u32) -> vec4<u32> {
    return w[at];
}
