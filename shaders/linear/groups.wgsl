// Weights whose features are in groups of 16 times a power of two: equation 4 multiplies the sum of a group by its integer scale. The values
// that `weight_at` gives are weights minus the zero point of their group, as large as they are. Behind the weights of a block of 64 columns
// lie the integer scales of its groups, four columns of a quad to a word.

const WEIGHT_SHIFT: u32 = 0u;

// Where the vectors of a slot of a block begin, where what belongs to the groups of its quad begins, and the place of the slot's column in
// a word of that.
struct WeightStart {
    at: u32,
    groups: u32,
    shift: u32,
}

alias FactorStart = u32;
alias Factors = vec4<i32>;
alias WordFactors = vec4<i32>;
alias ColumnFactor = i32;

fn weight_start(block: u32, slot: u32) -> WeightStart {
    return WeightStart(block * block_entries() + slot, factor_start(block, slot % 16u), slot / 16u * 8u);
}

// Where the groups of a quad of columns begin.
fn factor_start(block: u32, quad: u32) -> FactorStart {
    return block * block_entries() + params.k_vecs * 64u + quad;
}

// The groups of a column.
fn groups_of_column() -> u32 {
    return ((params.k_vecs - 1u) >> params.group_shift) + 1u;
}

fn factors_at(start: FactorStart, k: u32) -> Factors {
    return vec4<i32>(unpack4xU8(scale_word(start, k >> params.group_shift)));
}

fn word_factors(factors: Factors, word: u32) -> WordFactors {
    return factors;
}

fn add_scaled(sum: vec4<i32>, products: vec4<i32>, factors: WordFactors) -> vec4<i32> {
    return sum + products * factors;
}

fn add_products(
    sum: vec4<i32>, a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, factors: Factors,
) -> vec4<i32> {
    return sum + add_dot16x4(vec4<i32>(), a, b0, b1, b2, b3) * factors;
}

fn column_factor(start: WeightStart, k: u32) -> ColumnFactor {
    return i32((scale_word(start.groups, k >> params.group_shift) >> start.shift) & 255u);
}

fn add_column(sum: i32, a: vec4<u32>, b: vec4<u32>, factor: ColumnFactor) -> i32 {
    return sum + add_dot16(0, a, b) * factor;
}
