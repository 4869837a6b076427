// int8 convolutions with groups of channels: four output channels of a pixel a thread.

// Depthwise: a word for each tap and quad. Else the weight `[n][taps][channels of a group]`, four values to a word.
@group(0) @binding(4) var<storage, read> w: array<u32>;

const WEIGHT_SHIFT: u32 = 0u;

fn x_word(pixel: i32, word: u32) -> u32 {
    let loaded = x[u32(max(pixel, 0)) * params.pixel_vecs + word / 4u][word % 4u];
    return select(loaded, params.padding, pixel < 0);
}

// Each channel is a group with one output.
@compute @workgroup_size(64)
fn conv_depthwise(thread: Thread) {
    let quads = (params.n + 3u) / 4u;
    let index = thread_index(thread);
    let row = index / quads;
    let quad = index - row * quads;
    if row >= end_row() {
        return;
    }
    let place = place_of(row);
    var sum = vec4<i32>();
    var at = quad;
    for (var tap_y = 0u; tap_y < params.window.taps_y; tap_y++) {
        for (var tap_x = 0u; tap_x < params.window.taps_x; tap_x++) {
            sum += unpack4xI8(x_word(pixel_at(place, tap_y, tap_x), quad)) * unpack4xI8(w[at]);
            at += quads;
        }
    }
    store_sum(sum, row, output_at(quad));
}

// Σ x · w of one output channel.
fn channel_sum(place: Place, channel: u32) -> i32 {
    let first = channel / params.group_outputs * params.group_inputs;
    var at = channel * params.window.taps_y * params.window.taps_x * params.group_inputs;
    var sum = 0;
    for (var tap_y = 0u; tap_y < params.window.taps_y; tap_y++) {
        for (var tap_x = 0u; tap_x < params.window.taps_x; tap_x++) {
            let pixel = pixel_at(place, tap_y, tap_x);
            for (var input = first; input < first + params.group_inputs; input++) {
                sum += signed_byte(x_word(pixel, input / 4u), input) * signed_byte(w[at / 4u], at);
                at++;
            }
        }
    }
    return sum;
}

@compute @workgroup_size(64)
fn conv_grouped(thread: Thread) {
    let quads = (params.n + 3u) / 4u;
    let index = thread_index(thread);
    let row = index / quads;
    let quad = index - row * quads;
    if row >= end_row() {
        return;
    }
    let place = place_of(row);
    var sum = vec4<i32>();
    for (var lane = 0u; lane < min(4u, params.n - quad * 4u); lane++) {
        sum[lane] = channel_sum(place, quad * 4u + lane);
    }
    store_sum(sum, row, output_at(quad));
}
