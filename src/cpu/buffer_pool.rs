//! Reuse of the buffers of values that are no longer needed. Fresh memory costs a page fault every 4 KiB.

use std::borrow::Cow;

use crate::values::Tensor;
use crate::values::pages::filled;

/// Fewer elements are not worth a search: an allocator has as much at hand.
const FEWEST: usize = 1 << 10;

/// A pool of buffers of floats and of int8 values. It keeps what a run gives until the end of the next run, unless that takes it: steps give
/// buffers that they have not taken, and a pool that kept all of them would grow with every run.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    floats: Buffers<f32>,
    int8: Buffers<i8>,
}

#[derive(Debug)]
struct Buffers<T>(Vec<Buffer<T>>);

impl<T> Default for Buffers<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

#[derive(Debug)]
struct Buffer<T> {
    memory: Vec<T>,
    /// Whether this run has given it.
    of_this_run: bool,
}

impl<T: Copy + Default + Send + Sync> Buffers<T> {
    fn take(&mut self, len: usize) -> Vec<T> {
        let fits = |buffer: &Buffer<T>| buffer.memory.capacity() >= len && buffer.memory.capacity() / 2 <= len;
        match self.0.iter().position(fits) {
            Some(at) if len >= FEWEST => {
                let mut buffer = self.0.swap_remove(at).memory;
                buffer.resize(len, T::default());
                buffer
            }
            _ => filled(len),
        }
    }

    fn give(&mut self, memory: Vec<T>) {
        if memory.len() >= FEWEST {
            self.0.push(Buffer { memory, of_this_run: true });
        }
    }

    fn end_run(&mut self) {
        self.0.retain(|buffer| buffer.of_this_run);
        self.0.iter_mut().for_each(|buffer| buffer.of_this_run = false);
    }
}

impl BufferPool {
    /// Returns a buffer of `len` floats with arbitrary values.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        self.floats.take(len)
    }

    /// Returns a buffer of `len` int8 values, which are arbitrary.
    pub(super) fn take_int8(&mut self, len: usize) -> Vec<i8> {
        self.int8.take(len)
    }

    /// Adds a buffer of int8 values that is no longer needed.
    pub(super) fn give_int8(&mut self, buffer: Vec<i8>) {
        self.int8.give(buffer);
    }

    /// Adds the buffer of a value that is no longer needed, if a step has computed it and it holds floats or int8 values.
    pub(super) fn give(&mut self, value: Option<Cow<'_, Tensor>>) {
        match value {
            Some(Cow::Owned(Tensor::F32(array))) => self.floats.give(array.into_vec()),
            Some(Cow::Owned(Tensor::I8(array))) => self.int8.give(array.into_vec()),
            _ => {}
        }
    }

    /// Ends a run: frees the buffers that an earlier run has given and this one has not taken.
    pub(super) fn end_run(&mut self) {
        self.floats.end_run();
        self.int8.end_run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(len: usize) -> Tensor {
        Tensor::from_f32(&[len], vec![7.0; len]).expect("fits")
    }

    #[test]
    fn buffers_that_fit_come_back() {
        let mut pool = BufferPool::default();
        pool.give(Some(Cow::Borrowed(&tensor(10_000))));
        assert!(pool.floats.0.is_empty(), "the caller owns a borrowed value");
        pool.give(Some(Cow::Owned(tensor(FEWEST - 1))));
        assert!(pool.floats.0.is_empty(), "it has few elements");
        pool.give(Some(Cow::Owned(tensor(10_000))));
        assert_eq!(pool.take(1000), [0.0; 1000], "far too large");
        assert_eq!(pool.take(10_001), [0.0; 10_001], "too small");
        assert_eq!(pool.take(6000), [7.0; 6000]);
        assert_eq!(pool.take(6000), [0.0; 6000], "the pool is empty");
        let int8 = Tensor::from_i8(&[10_000], vec![7; 10_000]).expect("fits");
        pool.give(Some(Cow::Owned(int8)));
        assert_eq!(pool.take(10_000), [0.0; 10_000], "it holds int8 values");
        assert_eq!(pool.take_int8(6000), [7; 6000]);
        assert_eq!(pool.take_int8(6000), [0; 6000], "the pool is empty");
    }

    /// A run that gives two buffers and takes one.
    #[test]
    fn a_pool_does_not_grow_with_every_run() {
        let mut pool = BufferPool::default();
        for run in 0..10 {
            let taken = pool.take(5000);
            assert_eq!(taken[0], if run == 0 { 0.0 } else { 7.0 }, "run {run}");
            pool.give(Some(Cow::Owned(tensor(5000))));
            pool.give(Some(Cow::Owned(tensor(5000))));
            pool.end_run();
            assert_eq!(pool.floats.0.len(), 2, "run {run}");
        }
    }
}
