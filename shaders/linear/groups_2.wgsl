// Weights of 2 bits in groups: 16 values in a word, each 2 higher than it is. Bits 2 i and 2 i + 1 of its bytes are the values of unpacked
// word i. A group of a quad has the integer scales of its columns, and 16 entries later 126 minus their zero points.

@group(0) @binding(4) var<storage, read> w: array<u32>;

fn block_entries() -> u32 {
    return params.k_vecs * 64u + groups_of_column() * 32u;
}

fn weight_at(start: WeightStart, k: u32) -> vec4<u32> {
    let packed = w[start.at + k * 64u];
    let offsets = ((w[start.groups + (k >> params.group_shift) * 32u + 16u] >> start.shift) & 255u) * 0x01010101u;
    let values = vec4<u32>(packed, packed >> 2u, packed >> 4u, packed >> 6u) & vec4<u32>(0x03030303u);
    // No byte exceeds 255, and the last step subtracts 128 from each.
    return (values + vec4<u32>(offsets)) ^ vec4<u32>(0x80808080u);
}

fn scale_word(start: u32, at: u32) -> u32 {
    return w[start + at * 32u];
}
