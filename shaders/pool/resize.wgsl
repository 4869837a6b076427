// Linear interpolation between neighbouring pixels: one element or one word of int8 values a thread.

// The four pixels around an output pixel as indices of their first words, row by row, and the weights of rows and columns.
struct Corners {
    words: vec4<u32>,
    rows: vec2<u32>,
    columns: vec2<u32>,
}

// `spans` holds four words for each output row, then for each output column: both neighbours, then their weights.
fn corners_of(cell: Cell) -> Corners {
    let w = params.window;
    let image = cell.pixel / w.output_pixels;
    let output = cell.pixel - image * w.output_pixels;
    let row = output / w.output_width;
    let y = row * 4u;
    let x = (w.output_pixels / w.output_width + output - row * w.output_width) * 4u;
    let rows = vec2<u32>(spans[y], spans[y + 1u]);
    let columns = vec2<u32>(spans[x], spans[x + 1u]);
    let pixels = image * w.height * w.width + rows.xxyy * w.width + columns.xyxy;
    return Corners(
        pixels * params.pixel_words + cell.word,
        vec2<u32>(spans[y + 2u], spans[y + 3u]),
        vec2<u32>(spans[x + 2u], spans[x + 3u]),
    );
}

// The sum of two elements times their weights.
fn mixed(a: u32, b: u32, weights: vec2<u32>) -> u32 {
    return sum_of(product_of(a, weights.x), product_of(b, weights.y));
}

@compute @workgroup_size(64)
fn resize_linear_f32_f32(thread: Thread) {
    let cell = cell_at(thread);
    if !cell.inside {
        return;
    }
    let corners = corners_of(cell);
    let above = mixed(a[corners.words.x], a[corners.words.y], corners.columns);
    let below = mixed(a[corners.words.z], a[corners.words.w], corners.columns);
    y[cell.pixel * params.pixel_words + cell.word] = mixed(above, below, corners.rows);
}

@compute @workgroup_size(64)
fn resize_linear_i8_i8(thread: Thread) {
    let cell = cell_at(thread);
    if !cell.inside {
        return;
    }
    let corners = corners_of(cell);
    let rows = bitcast<vec2<i32>>(corners.rows);
    let columns = bitcast<vec2<i32>>(corners.columns);
    let zero_point = vec4<i32>(params.x_zero_point);
    let above = (unpack4xI8(a[corners.words.x]) - zero_point) * columns.x
        + (unpack4xI8(a[corners.words.y]) - zero_point) * columns.y;
    let below = (unpack4xI8(a[corners.words.z]) - zero_point) * columns.x
        + (unpack4xI8(a[corners.words.w]) - zero_point) * columns.y;
    let sum = above * rows.x + below * rows.y;
    let values = requantize(sum, vec4<f32>(params.multiplier), params.zero_point, params.lo, params.hi);
    y[cell.pixel * params.pixel_words + cell.word] = pack4xI8(values);
}
