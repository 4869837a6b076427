// Kernels that compute a vector of four words in each thread, where all operands have the same layout. Padding of int8 rows is
// computed like everything else.

struct Vector {
    inside: bool,
    // Index into the vectors of a and y.
    at: u32,
}

fn vector_at(thread: Thread) -> Vector {
    let at = thread_index(thread);
    return Vector(at < matrix_rows() * params.strided.row_threads, at);
}
