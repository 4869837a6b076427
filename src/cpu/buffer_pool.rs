//! Buffers of values that died, for those to come: fresh memory costs a page fault every 4 KiB.

use std::borrow::Cow;

use crate::values::Tensor;

/// Buffers of floats, which are the large ones.
#[derive(Debug, Default)]
pub(super) struct Spare {
    buffers: Vec<Vec<f32>>,
}

impl Spare {
    /// A buffer of `len` elements that hold anything.
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

    /// Takes the buffer of a value that nothing reads any more, if it was computed and of floats.
    pub(super) fn give(&mut self, dead: Option<Cow<'_, Tensor>>) {
        if let Some(Cow::Owned(Tensor::F32(array))) = dead {
            self.buffers.push(array.into_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_fit_come_back() {
        let mut spare = Spare::default();
        let tensor = Tensor::from_f32(&[2, 50], vec![7.0; 100]).expect("fits");
        spare.give(Some(Cow::Borrowed(&tensor)));
        assert!(spare.buffers.is_empty(), "a value of the caller's is not ours to keep");
        spare.give(Some(Cow::Owned(tensor)));
        assert_eq!(spare.take(10), [0.0; 10], "far too large");
        assert_eq!(spare.take(101), [0.0; 101], "too small");
        assert_eq!(spare.take(60), [7.0; 60]);
        assert_eq!(spare.take(60), [0.0; 60], "it was taken");
    }
}
