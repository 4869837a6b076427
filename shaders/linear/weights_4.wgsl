// Weights of 3 or 4 bits: 16 values in two words. The low nibbles of a word are four values, its high nibbles the next four.

@group(0) @binding(4) var<storage, read> w: array<vec2<u32>>;

// The values are 16 times as large, in the high nibbles of bytes: their sign needs no instruction, and sums are exact multiples of 16.
// Layers of so many features that such a sum could exceed an i32 are stored with 8 bits.
const WEIGHT_SHIFT: u32 = 4u;

fn weight(at: u32) -> vec4<u32> {
    let packed = w[at];
    return vec4<u32>(packed.x << 4u, packed.x, packed.y << 4u, packed.y) & vec4<u32>(0xf0f0f0f0u);
}
