// int8 convolutions with groups of channels.

// Whether there is padding between the elements of the input.
override GAPS: bool = false;

// Depthwise: a vector for each tap and each 16 channels. Else the weight `[n][taps][channels of a group]`.
@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;

const WEIGHT_SHIFT: u32 = 0u;

fn pixel_of(place: Place, tap_y: u32, tap_x: u32) -> i32 {
    if GAPS {
        return pixel_with_gaps(place, tap_y, tap_x);
    }
    return pixel_at(place, tap_y, tap_x);
}

fn x_vec(pixel: i32, vec: u32) -> vec4<u32> {
    return select(vec4<u32>(params.padding), x[u32(max(pixel, 0)) * params.pixel_vecs + vec], pixel >= 0);
}

fn products(a: u32, b: u32) -> vec4<i32> {
    return unpack4xI8(a) * unpack4xI8(b);
}

// Each channel is a group with one output: 16 channels of a pixel a thread.
@compute @workgroup_size(64)
fn conv_depthwise(thread: Thread) {
    let vecs = params.pixel_vecs;
    let index = thread_index(thread);
    let vec = index % vecs;
    let row = params.first_row + index / vecs;
    if row >= end_row() {
        return;
    }
    let place = place_of(row);
    var s0 = vec4<i32>();
    var s1 = vec4<i32>();
    var s2 = vec4<i32>();
    var s3 = vec4<i32>();
    var at = vec;
    for (var tap_y = 0u; tap_y < params.window.taps_y; tap_y++) {
        for (var tap_x = 0u; tap_x < params.window.taps_x; tap_x++) {
            let a = x_vec(pixel_of(place, tap_y, tap_x), vec);
            let b = w[at];
            s0 += products(a.x, b.x);
            s1 += products(a.y, b.y);
            s2 += products(a.z, b.z);
            s3 += products(a.w, b.w);
            at += vecs;
        }
    }
    // A loop, so that the epilogue is compiled once.
    for (var quad = vec * 4u; quad < vec * 4u + 4u; quad++) {
        store_sum(s0, row, output_at(quad));
        s0 = s1;
        s1 = s2;
        s2 = s3;
    }
}

// Σ x · w of one output channel.
fn channel_sum(place: Place, channel: u32) -> i32 {
    let first = channel / params.group_outputs * params.group_inputs;
    var at = channel * params.window.taps_y * params.window.taps_x * params.group_inputs;
    var sum = 0;
    for (var tap_y = 0u; tap_y < params.window.taps_y; tap_y++) {
        for (var tap_x = 0u; tap_x < params.window.taps_x; tap_x++) {
            let pixel = pixel_of(place, tap_y, tap_x);
            for (var input = first; input < first + params.group_inputs; input++) {
                let word = x_vec(pixel, input / 16u)[input / 4u % 4u];
                sum += signed_byte(word, input) * signed_byte(w[at / 16u][at / 4u % 4u], at);
                at++;
            }
        }
    }
    return sum;
}

// Four output channels of a pixel a thread.
@compute @workgroup_size(64)
fn conv_grouped(thread: Thread) {
    let quads = (params.n + 3u) / 4u;
    let index = thread_index(thread);
    let quad = index % quads;
    let row = params.first_row + index / quads;
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
