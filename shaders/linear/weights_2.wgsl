// Weights of 2 bits: 16 values in a word. Bits 2 i and 2 i + 1 of its bytes are the values of unpacked word i.

@group(0) @binding(4) var<storage, read> w: array<u32>;

// The values are 64 times as large, in the high bits of bytes, as in linear/weights_4.wgsl.
const WEIGHT_SHIFT: u32 = 6u;

fn weight(at: u32) -> vec4<u32> {
    let packed = w[at];
    return vec4<u32>(packed << 6u, packed << 4u, packed << 2u, packed) & vec4<u32>(0xc0c0c0c0u);
}
