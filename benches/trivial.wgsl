// Does next to nothing, with bindings like the engine's, to measure the cost of recording a dispatch on the host without the engine.

struct Digit {
    value: u32,
}

@group(0) @binding(0) var<uniform> high: Digit;
@group(0) @binding(1) var<uniform> low: Digit;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(1)
fn trivial() {
    y[0] = high.value + low.value;
}
