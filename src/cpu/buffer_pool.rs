//! Reuse of the buffers of values that are no longer needed. Fresh memory costs a page fault every 4 KiB.

use std::borrow::Cow;

use crate::values::Tensor;

/// Fewer elements are not worth a search: an allocator has as much at hand.
const FEWEST: usize = 1 << 10;

/// A pool of buffers of floats, which are the largest buffers. It keeps what a run gives until the end of the next run, unless that
/// takes it: steps give buffers that they have not taken, and a pool that kept all of them would grow with every run.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    buffers: Vec<Buffer>,
}

#[derive(Debug)]
struct Buffer {
    memory: Vec<f32>,
    /// Whether this run has given it.
    of_this_run: bool,
}

impl BufferPool {
    /// Returns a buffer of `len` elements with arbitrary values.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        let fits = |buffer: &Buffer| buffer.memory.capacity() >= len && buffer.memory.capacity() / 2 <= len;
        match self.buffers.iter().position(fits) {
            Some(at) if len >= FEWEST => {
                let mut buffer = self.buffers.swap_remove(at).memory;
                buffer.resize(len, 0.0);
                buffer
            }
            _ => vec![0.0; len],
        }
    }

    /// Adds the buffer of a value that is no longer needed, if a step has computed it and it holds floats.
    pub(super) fn give(&mut self, value: Option<Cow<'_, Tensor>>) {
        if let Some(Cow::Owned(Tensor::F32(array))) = value
            && array.len() >= FEWEST
        {
            self.buffers.push(Buffer { memory: array.into_vec(), of_this_run: true });
        }
    }

    /// Ends a run: frees the buffers that an earlier run has given and this one has not taken.
    pub(super) fn end_run(&mut self) {
        self.buffers.retain(|buffer| buffer.of_this_run);
        self.buffers.iter_mut().for_each(|buffer| buffer.of_this_run = false);
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
        assert!(pool.buffers.is_empty(), "the caller owns a borrowed value");
        pool.give(Some(Cow::Owned(tensor(FEWEST - 1))));
        assert!(pool.buffers.is_empty(), "it has few elements");
        pool.give(Some(Cow::Owned(tensor(10_000))));
        assert_eq!(pool.take(1000), [0.0; 1000], "far too large");
        assert_eq!(pool.take(10_001), [0.0; 10_001], "too small");
        assert_eq!(pool.take(6000), [7.0; 6000]);
        assert_eq!(pool.take(6000), [0.0; 6000], "the pool is empty");
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
            assert_eq!(pool.buffers.len(), 2, "run {run}");
        }
    }
}
