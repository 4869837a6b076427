// Weights with one scale for each output channel: the sums are those of products with what `weight` gives. `groups_8.wgsl` and its siblings
// have the same functions for weights with a factor for each group of features.

alias WeightStart = u32;
alias FactorStart = u32;
alias Factors = u32;
alias WordFactors = u32;

// Where the vectors of a slot of a block begin.
fn weight_start(block: u32, slot: u32) -> WeightStart {
    return block * params.k_vecs * 64u + slot;
}

fn weight_at(start: WeightStart, k: u32) -> vec4<u32> {
    return weight(start + k * 64u);
}

// Where the factors of a quad of columns begin.
fn factor_start(block: u32, quad: u32) -> FactorStart {
    return 0u;
}

// The factors of a quad of columns for a vector of features.
fn factors_at(start: FactorStart, k: u32) -> Factors {
    return 0u;
}

fn word_factors(factors: Factors, word: u32) -> WordFactors {
    return 0u;
}

// Adds the products of four features with a quad of columns.
fn add_scaled(sum: vec4<i32>, products: vec4<i32>, factors: WordFactors) -> vec4<i32> {
    return sum + products;
}

// Adds the products of one row of activations with four columns of weights.
fn add_products(
    sum: vec4<i32>, a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, factors: Factors,
) -> vec4<i32> {
    return add_dot16x4(sum, a, b0, b1, b2, b3);
}

alias ColumnFactor = u32;

// The factor of one column for a vector of features.
fn column_factor(start: WeightStart, k: u32) -> ColumnFactor {
    return 0u;
}

// Adds the products of one row of activations with one column of weights.
fn add_column(sum: i32, a: vec4<u32>, b: vec4<u32>, factor: ColumnFactor) -> i32 {
    return add_dot16(sum, a, b);
}
