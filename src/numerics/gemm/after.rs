//! What runs on the results of a product while they are in cache.

/// What is called after each task with its results: `after(row, channel, channels, y)`, where `y[rows, channels]` are those from a row and a
/// channel on.
pub(crate) type After<'a, T> = Option<&'a (dyn Fn(usize, usize, usize, &mut [T]) + Sync)>;
