// The number of rows in the batch. It varies from one recording to the next, so a buffer that a later recording overwrites
// cannot hold it: two dynamic offsets select its quotient and its remainder by 256 from an immutable buffer.

struct Digit {
    value: u32,
}

@group(0) @binding(1) var<uniform> rows_high: Digit;
@group(0) @binding(2) var<uniform> rows_low: Digit;

fn batch_rows() -> u32 {
    return rows_high.value * 256u + rows_low.value;
}
