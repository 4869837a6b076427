// Pools over images with the channels last, and what they share with kernels that resize images: one element or one word of int8 values a thread.

struct PoolParams {
    window: Window,
    // Output pixels for each row of the batch.
    rows_factor: u32,
    // Threads of an output pixel, and the words of a pixel.
    row_threads: u32,
    pixel_words: u32,
    x_zero_point: i32,
    zero_point: i32,
    // Bounds of equation 5, relative to the zero point.
    lo: f32,
    hi: f32,
    // Of equation 13, where it is the same for all outputs.
    multiplier: f32,
    // 0, which no compiler knows.
    zero: u32,
}

@group(0) @binding(0) var<uniform> params: PoolParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
// For each output pixel of an image, what its mean is of: rows from the first word to before the second, columns from the third to before
// the fourth; and the number that the sum is divided by, or the multiplier of equation 13.
@group(0) @binding(5) var<storage, read> spans: array<u32>;

struct Cell {
    inside: bool,
    pixel: u32,
    word: u32,
}

fn cell_at(thread: Thread) -> Cell {
    let index = thread_index(thread);
    let pixel = index / params.row_threads;
    return Cell(pixel < batch_rows() * params.rows_factor, pixel, index - pixel * params.row_threads);
}

@compute @workgroup_size(64)
fn max_pool_f32_f32(thread: Thread) {
    let cell = cell_at(thread);
    if !cell.inside {
        return;
    }
    let place = place_of(cell.pixel);
    // -inf.
    var largest = 0xff800000u;
    for (var tap_y = 0u; tap_y < params.window.taps_y; tap_y++) {
        for (var tap_x = 0u; tap_x < params.window.taps_x; tap_x++) {
            let pixel = pixel_at(place, tap_y, tap_x);
            if pixel >= 0 {
                largest = larger(largest, a[u32(pixel) * params.pixel_words + cell.word]);
            }
        }
    }
    y[cell.pixel * params.pixel_words + cell.word] = largest;
}

@compute @workgroup_size(64)
fn max_pool_i8_i8(thread: Thread) {
    let cell = cell_at(thread);
    if !cell.inside {
        return;
    }
    let place = place_of(cell.pixel);
    var largest = vec4<i32>(-128);
    for (var tap_y = 0u; tap_y < params.window.taps_y; tap_y++) {
        for (var tap_x = 0u; tap_x < params.window.taps_x; tap_x++) {
            let pixel = pixel_at(place, tap_y, tap_x);
            if pixel >= 0 {
                largest = max(largest, unpack4xI8(a[u32(pixel) * params.pixel_words + cell.word]));
            }
        }
    }
    y[cell.pixel * params.pixel_words + cell.word] = pack4xI8(largest);
}

// The first pixel of the image that an output pixel is computed from, and the place of its span.
fn image_of(pixel: u32) -> vec2<u32> {
    let w = params.window;
    let image = pixel / w.output_pixels;
    return vec2<u32>(image * w.height * w.width, (pixel - image * w.output_pixels) * 5u);
}

@compute @workgroup_size(64)
fn average_pool_f32_f32(thread: Thread) {
    let cell = cell_at(thread);
    if !cell.inside {
        return;
    }
    let image = image_of(cell.pixel);
    var sum = 0.0f;
    for (var row = spans[image.y]; row < spans[image.y + 1u]; row++) {
        for (var column = spans[image.y + 2u]; column < spans[image.y + 3u]; column++) {
            let at = (image.x + row * params.window.width + column) * params.pixel_words + cell.word;
            sum = add_f(sum, bitcast<f32>(canonical_bits(a[at])));
        }
    }
    y[cell.pixel * params.pixel_words + cell.word] = quotient_of(canonical_bits(bitcast<u32>(sum)), spans[image.y + 4u]);
}

@compute @workgroup_size(64)
fn average_pool_i8_i8(thread: Thread) {
    let cell = cell_at(thread);
    if !cell.inside {
        return;
    }
    let image = image_of(cell.pixel);
    var sum = vec4<i32>();
    for (var row = spans[image.y]; row < spans[image.y + 1u]; row++) {
        for (var column = spans[image.y + 2u]; column < spans[image.y + 3u]; column++) {
            let at = (image.x + row * params.window.width + column) * params.pixel_words + cell.word;
            sum += unpack4xI8(a[at]) - vec4<i32>(params.x_zero_point);
        }
    }
    let multiplier = vec4<f32>(bitcast<f32>(spans[image.y + 4u]));
    let values = requantize(sum, multiplier, params.zero_point, params.lo, params.hi);
    y[cell.pixel * params.pixel_words + cell.word] = pack4xI8(values);
}
