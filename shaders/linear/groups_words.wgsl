// Weights of 8 bits in groups of any multiple of 4 features: 16 values in four words, and an integer scale for each of the words. The host
// has subtracted the zero points. The integer scales of a quad's columns are a word for each of the four.

@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;

const WEIGHT_SHIFT: u32 = 0u;

struct WeightStart {
    at: u32,
    scales: u32,
    shift: u32,
}

// The factors of a quad of columns, for each of four words of features.
struct Factors {
    x: vec4<i32>,
    y: vec4<i32>,
    z: vec4<i32>,
    w: vec4<i32>,
}

alias FactorStart = u32;
alias WordFactors = vec4<i32>;
alias ColumnFactor = vec4<i32>;

fn weight_start(block: u32, slot: u32) -> WeightStart {
    return WeightStart(block * params.k_vecs * 80u + slot, factor_start(block, slot % 16u), slot / 16u * 8u);
}

fn weight_at(start: WeightStart, k: u32) -> vec4<u32> {
    return w[start.at + k * 64u];
}

fn factor_start(block: u32, quad: u32) -> FactorStart {
    return block * params.k_vecs * 80u + params.k_vecs * 64u + quad;
}

fn factors_of(word: u32) -> vec4<i32> {
    return vec4<i32>(unpack4xU8(word));
}

fn factors_at(start: FactorStart, k: u32) -> Factors {
    let words = w[start + k * 16u];
    return Factors(factors_of(words.x), factors_of(words.y), factors_of(words.z), factors_of(words.w));
}

fn word_factors(factors: Factors, word: u32) -> WordFactors {
    return select(select(factors.x, factors.y, word == 1u), select(factors.z, factors.w, word == 3u), word >= 2u);
}

fn add_scaled(sum: vec4<i32>, products: vec4<i32>, factors: WordFactors) -> vec4<i32> {
    return sum + products * factors;
}

fn dot4x4(a: u32, b0: u32, b1: u32, b2: u32, b3: u32) -> vec4<i32> {
    return vec4<i32>(dot4(a, b0), dot4(a, b1), dot4(a, b2), dot4(a, b3));
}

fn add_products(
    sum: vec4<i32>, a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, factors: Factors,
) -> vec4<i32> {
    return sum + dot4x4(a.x, b0.x, b1.x, b2.x, b3.x) * factors.x + dot4x4(a.y, b0.y, b1.y, b2.y, b3.y) * factors.y
        + dot4x4(a.z, b0.z, b1.z, b2.z, b3.z) * factors.z + dot4x4(a.w, b0.w, b1.w, b2.w, b3.w) * factors.w;
}

fn column_factor(start: WeightStart, k: u32) -> ColumnFactor {
    return vec4<i32>((w[start.scales + k * 16u] >> vec4<u32>(start.shift)) & vec4<u32>(255u));
}

fn add_column(sum: i32, a: vec4<u32>, b: vec4<u32>, factor: ColumnFactor) -> i32 {
    return sum + dot4(a.x, b.x) * factor.x + dot4(a.y, b.y) * factor.y + dot4(a.z, b.z) * factor.z + dot4(a.w, b.w) * factor.w;
}
