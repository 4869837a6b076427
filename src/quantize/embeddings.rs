//! Embedding tables in int8, with a scale for each row.

use crate::graph::{Graph, GraphError, NodeId, Rewriter};
use crate::numerics::symmetric_qparams;
use crate::ops::{Arguments, Constant, Dequantize, Op, Quantize};
use crate::values::{MIN_SCALE, QuantRange, Shape, Tensor, TensorQParams};

/// What [`quantize_embeddings`] returns.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuantizedEmbeddings {
    /// The graph with tables in int8.
    pub graph: Graph,
    /// The names of the tables in int8.
    pub quantized: Vec<String>,
    /// The names of the tables that stay float, with the reasons.
    pub float: Vec<(String, String)>,
}

/// Stores the embedding tables of a graph in int8, with a symmetric scale for each row: a quarter of the size of floats.
///
/// A table becomes an int8 constant and a node that dequantizes it, so that lookups compute as before, on rows that are off by at most half a
/// step. Archives and ONNX files hold the int8 table. An engine holds the floats that it stands for. A table that other nodes read too,
/// such as one that is tied to the last layer, stays float, and so does one that is not finite.
///
/// ```
/// use enfold::quantize::quantize_embeddings;
/// use enfold::values::DType;
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let ids = g.typed_input("ids", Shape::rows(2), DType::I32)?;
/// let table = Tensor::from_f32(&[2, 3], vec![1.0, 0.5, -1.27, 0.0, 0.0, 0.0])?;
/// let y = g.embedding("words", ids, table)?;
/// let tables = quantize_embeddings(&g.finish([y])?)?;
/// assert_eq!(tables.quantized, ["words.weight"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Returns [`GraphError`] if the graph is not valid.
pub fn quantize_embeddings(graph: &Graph) -> Result<QuantizedEmbeddings, GraphError> {
    let users = graph.users();
    let (mut quantized, mut float) = (Vec::new(), Vec::new());
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        let table = table(graph, id, &users[id.index()]).map(|tensor| {
            let tied = users[id.index()].iter().find(|&&user| !looks_up(graph, user, id));
            match tied {
                Some(&user) => Err(format!("{} reads it too", graph.node(user).name)),
                None => by_rows(tensor),
            }
        });
        match table {
            Some(Ok((values, qparams))) => {
                let values = rewriter.add(&node.name, Constant::new(values), Vec::new(), &node.origin)?;
                let name = format!("{}.dequantize", node.name);
                let reals = rewriter.add(&name, Dequantize { qparams }, vec![values], &node.origin)?;
                rewriter.replace(id, reals);
                quantized.push(node.name.clone());
            }
            other => {
                if let Some(Err(reason)) = other {
                    float.push((node.name.clone(), reason));
                }
                rewriter.copy(id)?;
            }
        }
    }
    Ok(QuantizedEmbeddings { graph: rewriter.finish()?, quantized, float })
}

/// Whether a node looks up rows of a table, which it reads for nothing else.
fn looks_up(graph: &Graph, id: NodeId, table: NodeId) -> bool {
    let node = graph.node(id);
    matches!(node.op, Op::Embedding(_)) && node.inputs[1] == table
}

/// The floats of a constant that a lookup reads.
fn table<'g>(graph: &'g Graph, id: NodeId, users: &[NodeId]) -> Option<&'g Tensor> {
    let tensor = graph.node(id).op.constant()?;
    let is_read = users.iter().any(|&user| looks_up(graph, user, id));
    (is_read && tensor.as_f32().is_some()).then_some(tensor)
}

/// The quantized values of a table, and the scale of each row. An error is the reason why it stays float.
fn by_rows(table: &Tensor) -> Result<(Tensor, TensorQParams), String> {
    let (Some(floats), &[rows, columns]) = (table.as_f32(), table.shape()) else {
        return Err("it is no matrix of floats".to_owned());
    };
    if rows == 0 || columns == 0 {
        return Err("it is empty".to_owned());
    }
    let range = QuantRange::new(-127, 127).map_err(|e| e.to_string())?;
    let mut scales = Vec::with_capacity(rows);
    for (at, row) in floats.chunks(columns).enumerate() {
        if let Some(v) = row.iter().find(|v| !v.is_finite()) {
            return Err(format!("row {at} holds {v}"));
        }
        let (min, max) = row.iter().fold((0f32, 0f32), |(min, max), &v| (min.min(v), max.max(v)));
        scales.push(symmetric_qparams(min, max, range.quant_min(), range.quant_max(), MIN_SCALE).0);
    }
    let qparams = TensorQParams::per_channel(&scales, &vec![0; rows], 0).map_err(|e| e.to_string())?;
    let output = Shape::fixed(table.shape());
    let arguments = Arguments { tensors: &[table], output: &output, packed: None };
    let values = Op::from(Quantize::new(qparams.clone(), range))
        .eval(&arguments)
        .map_err(|_| "its values cannot be quantized".to_owned())?;
    Ok((values, qparams))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;
    use crate::interp::Interpreter;
    use crate::ops::Embedding;
    use crate::values::DType;

    fn lookup(table: &[f32], tied: bool) -> Graph {
        let mut g = GraphBuilder::new();
        let ids = g.typed_input("ids", Shape::rows(1), DType::I32).expect("an input");
        let table = Tensor::from_f32(&[table.len() / 2, 2], table.to_vec()).expect("a table");
        let weight = g.constant("words.weight", table).expect("a constant");
        let x = g.node("words", Op::Embedding(Embedding::default()), &[ids, weight]).expect("a lookup");
        let mut outputs = vec![x];
        if tied {
            let x = g.reshape("flat", x, &[2]).expect("a node");
            outputs.push(g.linear_nodes("logits", x, weight, None).expect("a layer"));
        }
        g.finish(outputs).expect("a graph")
    }

    #[test]
    fn rows_have_scales_of_their_own() {
        let table = [100.0, -50.3, 0.001, 0.0005, 0.0, 0.0];
        let graph = lookup(&table, false);
        let tables = quantize_embeddings(&graph).expect("tables");
        assert_eq!((tables.quantized.as_slice(), tables.float.len()), (["words.weight".to_owned()].as_slice(), 0));
        let ids = Tensor::from_i32(&[3, 1], vec![0, 1, 2]).expect("ids");
        let outputs = Interpreter::new(&tables.graph).run(&[ids]).expect("outputs");
        let reals = outputs[0].as_f32().expect("floats").to_vec();
        for (row, (real, float)) in reals.chunks(2).zip(table.chunks(2)).enumerate() {
            let most = float.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (real, float) in real.iter().zip(float) {
                assert!((real - float).abs() <= most / 254.0 * 1.001, "row {row}: {real} for {float}");
            }
        }
        // The steps are coarser than the floats.
        assert_ne!(reals[1], table[1]);
    }

    #[test]
    fn tables_that_stay_float() {
        let tables = quantize_embeddings(&lookup(&[1.0, 2.0, 3.0, 4.0], true)).expect("tables");
        let reason = "logits reads it too".to_owned();
        assert_eq!((tables.quantized.len(), tables.float), (0, vec![("words.weight".to_owned(), reason)]));
        let tables = quantize_embeddings(&lookup(&[1.0, f32::NAN], false)).expect("tables");
        assert_eq!(tables.float, [("words.weight".to_owned(), "row 0 holds NaN".to_owned())]);
    }
}
