// Operands and results of float products: of two activations, and float linear layers, where b is stored transposed.

@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> b: array<u32>;
@group(0) @binding(5) var<storage, read_write> bias: array<u32>;

// Whether a bias is added.
override BIAS: bool = false;

// Factors, or 0 beyond the operands. Loads without a branch are in flight together.
fn a_at(tile: Tile, row: u32, k: u32) -> f32 {
    let bits = a[tile.at.x + min(row, max(tile.rows, 1u) - 1u) * params.a_row + min(k, params.k - 1u)];
    return select(0.0f, factor(bits), row < tile.rows && k < params.k);
}

fn b_at(tile: Tile, k: u32, column: u32) -> f32 {
    let columns = params.strided.cols;
    let bits = b[tile.at.y + min(k, params.k - 1u) * params.b_row + min(column, columns - 1u) * params.strided.b_col];
    return select(0.0f, factor(bits), k < params.k && column < columns);
}

// A feature of four columns.
fn column_factors(tile: Tile, k: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(
        b_at(tile, k, column), b_at(tile, k, column + 1u), b_at(tile, k, column + 2u), b_at(tile, k, column + 3u)
    );
}

fn store_float(tile: Tile, row: u32, column: u32, sum: f32) {
    if row >= tile.rows || column >= params.strided.cols {
        return;
    }
    var v = bitcast<u32>(sum);
    if BIAS {
        v = sum_of(v, bias[column]);
    } else if REPRODUCIBLE {
        v = canonical_bits(v);
    }
    y[tile.at.z + row * params.y_row + column] = apply_bits(v);
}

fn store_quad(tile: Tile, row: u32, column: u32, sums: vec4<f32>) {
    store_float(tile, row, column, sums.x);
    store_float(tile, row, column + 1u, sums.y);
    store_float(tile, row, column + 2u, sums.z);
    store_float(tile, row, column + 3u, sums.w);
}
