// Weights as they are: 16 codes in four words.

@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;

fn weight(at: u32) -> vec4<u32> {
    return w[at];
}
