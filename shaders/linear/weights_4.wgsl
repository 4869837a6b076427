// Weights of 3 or 4 bits: 16 values in two words. The low nibbles of a word are four values, its high nibbles the next four.

@group(0) @binding(4) var<storage, read> w: array<vec2<u32>>;

fn weight(at: u32) -> vec4<u32> {
    let packed = w[at];
    let nibbles = vec4<u32>(packed.x, packed.x >> 4u, packed.y, packed.y >> 4u) & vec4<u32>(0x0f0f0f0fu);
    // Bit 3 is the sign. 8 * 0x1e is 0xf0, and no byte carries into the next.
    return nibbles | ((nibbles & vec4<u32>(0x08080808u)) * 0x1eu);
}
