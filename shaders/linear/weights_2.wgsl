// Weights of 2 bits: 16 values in a word. Bits 2 i and 2 i + 1 of its bytes are the values of unpacked word i.

@group(0) @binding(4) var<storage, read> w: array<u32>;

fn weight(at: u32) -> vec4<u32> {
    let packed = w[at];
    let pairs = vec4<u32>(packed, packed >> 2u, packed >> 4u, packed >> 6u) & vec4<u32>(0x03030303u);
    // Bit 1 is the sign. 2 * 0x7e is 0xfc, and no byte carries into the next.
    return pairs | ((pairs & vec4<u32>(0x02020202u)) * 0x7eu);
}
