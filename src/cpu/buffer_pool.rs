//! Reuse of the buffers of values that are no longer needed. Fresh memory costs a page fault every 4 KiB.

use std::borrow::Cow;

use crate::values::Tensor;

/// A pool of buffers of floats, which are the largest buffers.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    buffers: Vec<Vec<f32>>,
}

impl BufferPool {
    /// Returns a buffer of `len` elements with arbitrary values.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        let fits = |buffer: &Vec<f32>| buffer.capacity() >= len && buffer.capacity() / 2 <= len;
        match self.buffers.iter().position(fits) {
            Some(at) => {
                let mut buffer = self.buffers.swap_remove(at);
                buffer.resize(len, 0.0);
                buffer
            }
            None => vec![0.0; len],
        }
    }

    /// Adds the buffer of a value that is no longer needed, if a step has computed it and it holds floats.
    pub(super) fn give(&mut self, value: Option<Cow<'_, Tensor>>) {
        if let Some(Cow::Owned(Tensor::F32(array))) = value {
            self.buffers.push(array.into_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_fit_come_back() {
        let mut pool = BufferPool::default();
        let tensor = Tensor::from_f32(&[2, 50], vec![7.0; 100]).expect("fits");
        pool.give(Some(Cow::Borrowed(&tensor)));
        assert!(pool.buffers.is_empty(), "the caller owns a borrowed value");
        pool.give(Some(Cow::Owned(tensor)));
        assert_eq!(pool.take(10), [0.0; 10], "far too large");
        assert_eq!(pool.take(101), [0.0; 101], "too small");
        assert_eq!(pool.take(60), [7.0; 60]);
        assert_eq!(pool.take(60), [0.0; 60], "the pool is empty");
    }
}
