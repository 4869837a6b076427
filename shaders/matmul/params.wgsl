// Parameters and tiles of the products of two activations, y[…, M, N] = a[…, M, K] · b[…, K, N].

struct MatmulParams {
    // The axes of the stack of matrices. Offsets and strides of int8 values are in bytes.
    strided: Strided,
    // Elements of K.
    k: u32,
    // Rows of each matrix; 0 where the rows are those of the batch: then there is one matrix.
    m: u32,
    // The strides from one row of a, b and y to the next. The columns of b are `strided.b_col` apart.
    a_row: u32,
    b_row: u32,
    y_row: u32,
    // The row tiles of earlier dispatches of the same step.
    first_tile: u32,
    // 1 to replace negative float results by 0.
    relu: u32,
    // Static zero points of int8 operands.
    a_zero_point: i32,
    b_zero_point: i32,
    // The stride from the dynamic qparams of one row of a to those of the next: 2, or 0 if all rows share them.
    qparams_stride: u32,
    // Equation 5. `lo` and `hi` are relative to the zero point.
    zero_point: i32,
    lo: f32,
    hi: f32,
    // 0, which no compiler knows.
    zero: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: MatmulParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(6) var<storage, read_write> y: array<u32>;

struct Tile {
    // The beginnings of the matrices in a, b and y.
    at: vec3<u32>,
    // Rows of each matrix, and the first row and column of this tile.
    rows: u32,
    row: u32,
    column: u32,
    // False for a tile after the last matrix, which exists where the grid is rounded up.
    inside: bool,
}

// The tile of a workgroup that computes so many rows and columns.
fn tile_of(thread: Thread, tile_rows: u32, tile_columns: u32) -> Tile {
    let index = params.first_tile + thread.group.z * thread.groups.y + thread.group.y;
    let rows = select(params.m, matrix_rows(), params.m == 0u);
    let tiles = (rows + tile_rows - 1u) / tile_rows;
    let matrix = index / tiles;
    let inside = matrix * rows < matrix_rows();
    return Tile(offsets(select(0u, matrix, inside)), rows, index % tiles * tile_rows, thread.group.x * tile_columns, inside);
}
