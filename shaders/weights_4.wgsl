// Weights of up to four bits: 16 codes in two words. The low halves of a word's bytes are four codes, the high halves the next.

@group(0) @binding(4) var<storage, read> w: array<vec2<u32>>;

fn weight(at: u32) -> vec4<u32> {
    let packed = w[at];
    let halves = vec4<u32>(packed.x, packed.x >> 4u, packed.y, packed.y >> 4u) & vec4<u32>(0x0f0f0f0fu);
    // Bit 3 is the sign: 8 * 0x1e is 0xf0, and no byte carries into the next.
    return halves | ((halves & vec4<u32>(0x08080808u)) * 0x1eu);
}
