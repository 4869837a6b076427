//! Where the elements lie that `GatherElements`, `GatherND`, `ScatterElements` and `ScatterND` read and write: positions in a tensor of
//! known shape, for known indices.

use super::dims::elements;
use super::host::{Budget, Host, Walk, axis, strides};
use super::slices;

/// The number of positions in a list of this shape, whose memory the budget has.
fn counted(dims: &[usize], budget: &mut Budget) -> Result<usize, String> {
    let count = elements(dims).ok_or_else(|| format!("its elements {dims:?} are too many"))?;
    budget.take(count, 2 * size_of::<usize>())?;
    Ok(count)
}

/// The positions that `GatherElements` reads and `ScatterElements` writes: those of the indices, whose values replace one coordinate.
pub(super) fn elementwise(data: &[usize], indices: &Host, at: i64, budget: &mut Budget) -> Result<Vec<usize>, String> {
    let dims = indices.dims.as_slice();
    let at = axis(at, data.len())?;
    let inside = |axis: usize| axis == at || dims[axis] <= data[axis];
    if dims.len() != data.len() || !(0..data.len()).all(inside) {
        return Err(format!("indices of shape {dims:?} into data of shape {data:?}"));
    }
    counted(dims, budget)?;
    let picked = slices::indices(&indices.integers()?, data[at])?;
    let mut own = strides(data);
    let step = std::mem::replace(&mut own[at], 0) as usize;
    Ok(Walk::new(dims, own, 0).zip(picked).map(|(place, i)| place + i * step).collect())
}

/// The positions that `GatherND` reads and `ScatterND` writes, and the shape of these elements. Indices are the coordinates of blocks; the
/// first `batch_dims` axes of data and indices are the same.
pub(super) fn blocks(
    data: &[usize],
    indices: &Host,
    batch_dims: usize,
    budget: &mut Budget,
) -> Result<(Vec<usize>, Vec<usize>), String> {
    let refuse = || format!("indices of shape {:?} into data of shape {data:?}", indices.dims);
    let (&depth, front) = indices.dims.split_last().ok_or_else(refuse)?;
    let batch = data.get(..batch_dims).ok_or_else(refuse)?;
    if front.get(..batch_dims) != Some(batch) || depth == 0 || batch_dims + depth > data.len() {
        return Err(refuse());
    }
    let (indexed, block) = data[batch_dims..].split_at(depth);
    let size: usize = block.iter().product();
    let dims: Vec<usize> = front.iter().chain(block).copied().collect();
    let count = counted(&dims, budget)?;
    let values = indices.integers()?;
    let of_batch: usize = front[batch_dims..].iter().product();
    let whole: usize = indexed.iter().product();
    let mut places = Vec::with_capacity(count);
    for (at, coordinates) in values.chunks_exact(depth).enumerate() {
        let mut place = at / of_batch.max(1) * whole;
        let mut inner = 0;
        for (&coordinate, &length) in coordinates.iter().zip(indexed) {
            inner = inner * length + slices::indices(&[coordinate], length)?[0];
        }
        place += inner;
        places.extend((0..size).map(|i| place * size + i));
    }
    Ok((places, dims))
}

/// For each of `count` elements the position of the update that replaces it; the elements themselves come first. The last of several
/// updates of one element counts.
pub(super) fn updated(count: usize, targets: &[usize]) -> Vec<usize> {
    let mut from: Vec<usize> = (0..count).collect();
    for (update, &target) in targets.iter().enumerate() {
        from[target] = count + update;
    }
    from
}

/// Whether two updates meet in one element.
pub(super) fn meet(targets: &[usize]) -> bool {
    let mut sorted = targets.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::host::Data;

    fn host(dims: &[usize], values: &[i64]) -> Host {
        Host::new(dims.to_vec(), Data::I64(values.to_vec()))
    }

    #[test]
    fn places_of_blocks() {
        let mut budget = Budget::new(0, 1 << 10);
        let mut places = |indices: Host, batch| blocks(&[2, 2, 3], &indices, batch, &mut budget);
        assert_eq!(places(host(&[2, 1], &[1, 0]), 0), Ok(((6..12).chain(0..6).collect(), vec![2, 2, 3])));
        assert_eq!(places(host(&[1, 2], &[0, -1]), 0), Ok((vec![3, 4, 5], vec![1, 3])));
        assert_eq!(places(host(&[2, 1], &[1, 0]), 1), Ok((vec![3, 4, 5, 6, 7, 8], vec![2, 3])));
        assert_eq!(places(host(&[1, 3], &[0, 2, 0]), 0), Err("index 2 of 2".to_owned()));
        assert!(places(host(&[3, 1], &[0; 3]), 1).is_err() && places(host(&[1, 4], &[0; 4]), 0).is_err());
        // A few indices name more elements than the memory holds.
        let error = places(host(&[20, 1], &[0; 20]), 0).expect_err("too many");
        assert!(error.contains("constants would exceed 1024 bytes"), "{error}");
    }

    #[test]
    fn places_of_elements() {
        let mut budget = Budget::new(0, 1 << 10);
        let mut places = |indices: Host, at| elementwise(&[2, 3], &indices, at, &mut budget);
        assert_eq!(places(host(&[2, 2], &[0, 2, -1, 1]), 1), Ok(vec![0, 2, 5, 4]));
        assert_eq!(places(host(&[1, 3], &[1, 0, 1]), 0), Ok(vec![3, 1, 5]));
        assert!(places(host(&[3, 3], &[0; 9]), 1).is_err() && places(host(&[2], &[0; 2]), 0).is_err());
        assert_eq!(updated(4, &[3, 1, 3]), [0, 5, 2, 6]);
        assert!(meet(&[3, 1, 3]) && !meet(&[3, 1, 2]));
    }
}
