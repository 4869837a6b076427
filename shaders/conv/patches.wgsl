// The rows of the matrix of a convolution (implicit GEMM): each holds the elements under a window, tap by tap, in whole vectors. The
// elements of the input have no padding between them.

alias RowStart = Place;

// Rows beyond the last repeat it; `store` drops them.
fn row_start(row: u32) -> RowStart {
    return place_of(min(row, end_row() - 1u));
}

// Where a vector of a row lies in `x`, and whether it is inside the image.
struct Source {
    at: u32,
    inside: bool,
}

// `k` is below 4096, so that the products are exact quotients.
fn source_of(start: RowStart, k: u32) -> Source {
    let w = params.window;
    let tap = (k * w.per_pixel_vecs) >> 20u;
    let tap_y = (tap * w.per_taps_x) >> 20u;
    // As unsigned numbers, places before the image are beyond it.
    let row = bitcast<u32>(start.y) + tap_y * w.dilation_y;
    let column = bitcast<u32>(start.x) + (tap - tap_y * w.taps_x) * w.dilation_x;
    let inside = row < w.height && column < w.width;
    let pixel = select(0u, start.image + row * w.width + column, inside);
    return Source(pixel * params.pixel_vecs + k - tap * params.pixel_vecs, inside);
}

// A load that need not be waited for until `x_masked`.
fn x_load(start: RowStart, k: u32) -> vec4<u32> {
    return x[source_of(start, k).at];
}

// What `x_load` gave, or padding.
fn x_masked(start: RowStart, k: u32, word: vec4<u32>) -> vec4<u32> {
    return select(vec4<u32>(params.padding), word, source_of(start, k).inside);
}

fn x_vec(start: RowStart, k: u32) -> vec4<u32> {
    return x_masked(start, k, x_load(start, k));
}
