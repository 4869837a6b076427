// Weights of 8 bits in groups: 16 values in four words. The host has subtracted the zero points. Four groups share a vector of words.

@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;

fn block_entries() -> u32 {
    return params.k_vecs * 64u + (groups_of_column() + 3u) / 4u * 16u;
}

fn weight_at(start: WeightStart, k: u32) -> vec4<u32> {
    return w[start.at + k * 64u];
}

// The integer scales of a quad's columns.
fn scale_word(start: u32, at: u32) -> u32 {
    let words = w[start + at / 4u * 16u];
    return words[at % 4u];
}
