// Windows that slide over images with the channels last: which pixels an output pixel sees.

struct Window {
    height: u32,
    width: u32,
    output_width: u32,
    // Pixels of an output image.
    output_pixels: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    before_y: i32,
    before_x: i32,
    input_dilation_y: u32,
    input_dilation_x: u32,
    // 2^20 over the taps of a row and over the vectors of a pixel, rounded up: products with them, shifted, are quotients.
    per_taps_x: u32,
    per_pixel_vecs: u32,
}

// Where the first tap of an output pixel lies: its image, as the index of its first pixel, and the place in it.
struct Place {
    image: u32,
    y: i32,
    x: i32,
}

fn place_of(output: u32) -> Place {
    let w = params.window;
    let image = output / w.output_pixels;
    let pixel = output - image * w.output_pixels;
    let row = pixel / w.output_width;
    let column = pixel - row * w.output_width;
    let y = bitcast<i32>(row * w.stride_y) - w.before_y;
    return Place(image * w.height * w.width, y, bitcast<i32>(column * w.stride_x) - w.before_x);
}

// The pixel under a tap; -1 for padding. Elements of the input have no padding between them.
fn pixel_at(place: Place, tap_y: u32, tap_x: u32) -> i32 {
    let w = params.window;
    // As unsigned numbers, places before the image are beyond it.
    let row = bitcast<u32>(place.y) + tap_y * w.dilation_y;
    let column = bitcast<u32>(place.x) + tap_x * w.dilation_x;
    return select(-1, bitcast<i32>(place.image + row * w.width + column), row < w.height && column < w.width);
}

// The index of an element along an axis whose elements are `step` apart; -1 for padding.
fn index_at(at: i32, length: u32, step: u32) -> i32 {
    let index = at / bitcast<i32>(step);
    return select(-1, index, at >= 0 && index < bitcast<i32>(length) && index * bitcast<i32>(step) == at);
}

// The same as pixel_at, with padding between the elements of the input.
fn pixel_with_gaps(place: Place, tap_y: u32, tap_x: u32) -> i32 {
    let w = params.window;
    let y = index_at(place.y + bitcast<i32>(tap_y * w.dilation_y), w.height, w.input_dilation_y);
    let x = index_at(place.x + bitcast<i32>(tap_x * w.dilation_x), w.width, w.input_dilation_x);
    return select(-1, bitcast<i32>(place.image) + y * bitcast<i32>(w.width) + x, y >= 0 && x >= 0);
}
