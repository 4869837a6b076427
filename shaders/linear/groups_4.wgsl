// Weights of 3 or 4 bits in groups: 16 values in two words, each 8 higher than it is. The low nibbles of a word are four values, its high
// nibbles the next four. A group of a quad has two words: the integer scales of its columns, and 120 minus their zero points.

@group(0) @binding(4) var<storage, read> w: array<vec2<u32>>;

fn block_entries() -> u32 {
    return params.k_vecs * 64u + groups_of_column() * 16u;
}

fn weight_at(start: WeightStart, k: u32) -> vec4<u32> {
    let packed = w[start.at + k * 64u];
    let offsets = ((w[start.groups + (k >> params.group_shift) * 16u].y >> start.shift) & 255u) * 0x01010101u;
    let values = vec4<u32>(packed.x, packed.x >> 4u, packed.y, packed.y >> 4u) & vec4<u32>(0x0f0f0f0fu);
    // No byte exceeds 255, and the last step subtracts 128 from each.
    return (values + vec4<u32>(offsets)) ^ vec4<u32>(0x80808080u);
}

fn scale_word(start: u32, at: u32) -> u32 {
    return w[start + at * 16u].x;
}
