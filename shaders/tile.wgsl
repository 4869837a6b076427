// Tiles of 64 rows and 64 columns of stacks of matrices.

struct Tile {
    // Where the matrices begin in a, b and y.
    at: vec3<u32>,
    // Rows of each matrix, and the first row and column of this tile.
    rows: u32,
    row: u32,
    column: u32,
    // Tiles behind the last matrix exist where the grid is rounded up.
    inside: bool,
}

// m is 0 where the rows are those of the batch: then there is one matrix.
fn tile_of(thread: Thread) -> Tile {
    let index = params.first_group + thread.group.z * thread.groups.y + thread.group.y;
    let rows = select(params.m, matrix_rows(), params.m == 0u);
    let tiles = (rows + 63u) / 64u;
    let matrix = index / tiles;
    let inside = matrix * rows < matrix_rows();
    return Tile(offsets(select(0u, matrix, inside)), rows, index % tiles * 64u, thread.group.x * 64u, inside);
}
