// Weights of 8 bits: 16 values in four words.

@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;

fn weight(at: u32) -> vec4<u32> {
    return w[at];
}
