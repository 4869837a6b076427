// The rows of the matrix of a convolution (implicit GEMM): each holds the elements under a window, tap by tap, in whole vectors.

alias RowStart = Place;

// Rows beyond the last repeat it; `store` drops them.
fn row_start(row: u32) -> RowStart {
    return place_of(min(row, end_row() - 1u));
}

fn x_vec(start: RowStart, k: u32) -> vec4<u32> {
    let w = params.window;
    let tap = (k * w.per_pixel_vecs) >> 20u;
    let tap_y = (tap * w.per_taps_x) >> 20u;
    let pixel = pixel_at(start, tap_y, tap - tap_y * w.taps_x);
    // A load without a branch need not be waited for at once.
    let word = x[u32(max(pixel, 0)) * params.pixel_vecs + k - tap * params.pixel_vecs];
    return select(word, vec4<u32>(params.padding), pixel < 0);
}
