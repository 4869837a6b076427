// The lines of a value along any axis.

fn lines() -> u32 {
    return batch_rows() * params.rows_factor;
}

fn line_length() -> u32 {
    return params.length;
}

fn result_at(line: u32, i: u32) -> u32 {
    let stride = params.stride;
    return line / stride * stride * params.length + line % stride + i * stride;
}

fn element_bits(line: u32, i: u32) -> u32 {
    return a[result_at(line, i)];
}
