//! Tensors by their contents, so that equal tensors are kept once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Tensor;

/// Tensors that were seen, each with the number of the first one that is equal to it.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The first tensor with each hash of some parts of its bytes.
    firsts: HashMap<u64, (Arc<Tensor>, usize)>,
    /// The tensors whose parts equal those of another tensor, by the hash of all bytes. Few tensors need it.
    others: HashMap<u64, Vec<(Arc<Tensor>, usize)>>,
}

impl Contents {
    /// The first tensor that was seen of the same type, shape and bits, and its number; `tensor` and `number` if there is none.
    pub(crate) fn first(&mut self, tensor: &Arc<Tensor>, number: usize) -> (Arc<Tensor>, usize) {
        let new = || (Arc::clone(tensor), number);
        let first = self.firsts.entry(hash_of_parts(tensor)).or_insert_with(new);
        if is_equal(&first.0, tensor) {
            return first.clone();
        }
        let seen = self.others.entry(hash_of_all(tensor)).or_default();
        if let Some(first) = seen.iter().find(|(first, _)| is_equal(first, tensor)) {
            return first.clone();
        }
        seen.push(new());
        new()
    }
}

fn is_equal(a: &Arc<Tensor>, b: &Arc<Tensor>) -> bool {
    // Bits are compared: a NaN equals itself, and 0 is not −0.
    Arc::ptr_eq(a, b) || a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes() == b.bytes()
}

/// The hash of all bytes of a small tensor, and of some parts of a large one.
fn hash_of_parts(tensor: &Tensor) -> u64 {
    const PART: usize = 1 << 12;
    const PARTS: usize = 16;
    let bytes = tensor.bytes();
    if bytes.len() <= PART * PARTS {
        return hash_of_all(tensor);
    }
    let mut hasher = hasher_of(tensor);
    let step = (bytes.len() - PART) / (PARTS - 1);
    (0..PARTS).for_each(|part| bytes[part * step..][..PART].hash(&mut hasher));
    hasher.finish()
}

fn hash_of_all(tensor: &Tensor) -> u64 {
    let mut hasher = hasher_of(tensor);
    tensor.bytes().hash(&mut hasher);
    hasher.finish()
}

fn hasher_of(tensor: &Tensor) -> DefaultHasher {
    let mut hasher = DefaultHasher::new();
    (tensor.dtype(), tensor.shape()).hash(&mut hasher);
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tensors_are_one() {
        let mut contents = Contents::default();
        let floats = |shape: &[usize], data: Vec<f32>| Arc::new(Tensor::from_f32(shape, data).expect("fits"));
        let large = |changed: usize| {
            let mut data = vec![0.5f32; 100_000];
            data[changed] = -0.5;
            floats(&[100_000], data)
        };
        let tensors = [
            floats(&[2, 3], vec![1.0; 6]),
            floats(&[3, 2], vec![1.0; 6]),
            Arc::new(Tensor::from_i32(&[2, 3], vec![1.0f32.to_bits() as i32; 6]).expect("fits")),
            floats(&[1], vec![0.0]),
            floats(&[1], vec![-0.0]),
            floats(&[1], vec![f32::NAN]),
            // These differ also in places that the hash of parts does not read.
            large(0),
            large(2_000),
            large(2_001),
            large(99_999),
        ];
        for (number, tensor) in tensors.iter().enumerate() {
            assert_eq!(contents.first(tensor, number).1, number);
        }
        for (number, tensor) in tensors.iter().enumerate() {
            let copy = Arc::new(Tensor::clone(tensor));
            let (first, found) = contents.first(&copy, 99);
            assert!(Arc::ptr_eq(&first, tensor) && found == number, "{number}");
        }
    }
}
