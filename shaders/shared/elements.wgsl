// Kernels that compute one element of one word in each thread, over any strides.

struct Element {
    inside: bool,
    // Indices into a, b and y.
    a: u32,
    b: u32,
    y: u32,
}

fn element(thread: Thread) -> Element {
    let index = thread_index(thread);
    let row = index / params.strided.cols;
    let column = index % params.strided.cols;
    let at = offsets(row);
    return Element(
        row < matrix_rows(), at.x + column * params.strided.a_col, at.y + column * params.strided.b_col, at.z + column
    );
}
