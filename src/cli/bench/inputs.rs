//! Random inputs of a model.

use anyhow::Result;
use enfold::Tensor;
use enfold::graph::{Graph, NodeId};
use enfold::values::DType;

use crate::cli::values::valid_ids;

/// Makes random inputs of `rows` rows: floats between −1 and 1, ids that every embedding table has, and masks of ones.
pub(super) fn random(graph: &Graph, rows: usize) -> Result<Vec<Tensor>> {
    let mut random = fastrand::Rng::with_seed(7);
    let valid = valid_ids(graph);
    let input = |&id: &NodeId| {
        let node = graph.node(id);
        let shape = node.shape.with_rows(rows);
        let len = shape.iter().product::<usize>();
        Ok(match node.dtype {
            DType::F32 => Tensor::from_f32(&shape, (0..len).map(|_| random.f32() * 2.0 - 1.0).collect())?,
            DType::I8 => Tensor::from_i8(&shape, (0..len).map(|_| random.i8(..)).collect())?,
            DType::I32 | DType::I64 => {
                let id = |_| valid[id.index()].as_ref().map_or(1, |ids| random.i32(0..ids.end));
                let ids: Vec<i32> = (0..len).map(id).collect();
                match node.dtype {
                    DType::I64 => Tensor::from_i64(&shape, ids.into_iter().map(i64::from).collect())?,
                    _ => Tensor::from_i32(&shape, ids)?,
                }
            }
        })
    };
    graph.inputs().iter().map(input).collect()
}
