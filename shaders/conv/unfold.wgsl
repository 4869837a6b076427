// The elements under a window, for each of its positions: one element or one word of int8 values a thread.

struct UnfoldParams {
    window: Window,
    // Output pixels for each row of the batch.
    rows_factor: u32,
    channels: u32,
    // Elements of an output pixel, and the threads that compute them.
    cols: u32,
    row_threads: u32,
    // Words of a pixel of a and of y.
    a_words: u32,
    y_words: u32,
    // The value of padding: four int8 values, or the bits of a float.
    padding: u32,
    unused_0: u32,
}

@group(0) @binding(0) var<uniform> params: UnfoldParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

// Whether there is padding between the elements of the input.
override GAPS: bool = false;

// The pixel of a column of a patch; -1 for padding.
fn pixel_of(place: Place, column: u32) -> i32 {
    let tap = column / params.channels;
    let tap_y = tap / params.window.taps_x;
    let tap_x = tap - tap_y * params.window.taps_x;
    if GAPS {
        return pixel_with_gaps(place, tap_y, tap_x);
    }
    return pixel_at(place, tap_y, tap_x);
}

@compute @workgroup_size(64)
fn unfold_f32_f32(thread: Thread) {
    let index = thread_index(thread);
    let row = index / params.row_threads;
    if row >= batch_rows() * params.rows_factor {
        return;
    }
    let column = index - row * params.row_threads;
    let pixel = pixel_of(place_of(row), column);
    let value = a[u32(max(pixel, 0)) * params.a_words + column % params.channels];
    y[row * params.y_words + column] = select(value, params.padding, pixel < 0);
}

@compute @workgroup_size(64)
fn unfold_i8_i8(thread: Thread) {
    let index = thread_index(thread);
    let row = index / params.row_threads;
    if row >= batch_rows() * params.rows_factor {
        return;
    }
    let word = index - row * params.row_threads;
    let place = place_of(row);
    var values = vec4<i32>();
    for (var lane = 0u; lane < 4u; lane++) {
        let column = word * 4u + lane;
        if column < params.cols {
            let pixel = pixel_of(place, column);
            let channel = column % params.channels;
            let value = signed_byte(a[u32(max(pixel, 0)) * params.a_words + channel / 4u], channel);
            values[lane] = select(value, signed_byte(params.padding, 0u), pixel < 0);
        }
    }
    y[row * params.y_words + word] = pack4xI8(values);
}
