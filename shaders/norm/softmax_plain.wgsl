// The lines of a value along any axis.

// The first element of a line, as an index of a and y.
alias Line = u32;

fn lines() -> u32 {
    return batch_rows() * params.rows_factor;
}

fn line_length() -> u32 {
    return params.length;
}

fn line_at(line: u32) -> Line {
    let stride = params.stride;
    return line / stride * stride * params.length + line % stride;
}

fn result_at(line: Line, i: u32) -> u32 {
    return line + i * params.stride;
}

fn element_bits(line: Line, i: u32) -> u32 {
    return a[result_at(line, i)];
}
