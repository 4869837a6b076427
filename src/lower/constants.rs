//! The values of nodes that depend on constants only.

use std::sync::Arc;

use super::error::LowerError;
use crate::graph::{Graph, NodeId};
use crate::values::Tensor;

/// Computes those of the nodes `wanted` that depend on constants only, by their numbers. Nodes that compute the same share a tensor.
#[cfg(feature = "flow")]
pub(super) fn known(graph: &Graph, wanted: &[NodeId]) -> Result<Vec<Option<Arc<Tensor>>>, LowerError> {
    let interpreter = crate::interp::Interpreter::new(graph);
    let mut known = vec![None; graph.nodes().len()];
    for id in wanted {
        known[id.index()] = interpreter.constant_value(*id)?;
    }
    Ok(known)
}

/// A player has no interpreter.
#[cfg(not(feature = "flow"))]
pub(super) use by_steps::known;

/// Computes constants by the steps of programs, on the CPU engine. What has no step is not known, and lowering adds it to the program.
#[cfg(any(test, not(feature = "flow")))]
mod by_steps {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::super::error::LowerError;
    use crate::cpu::{self, CpuError};
    use crate::graph::{Graph, Node, NodeId};
    use crate::interp::InterpError;
    use crate::ops::{Arguments, Constant, Op, OpKind};
    use crate::program::{Program, Step, StepOp, Value, ValueId, ValueType};
    use crate::values::{DType, Shape, Tensor};

    /// Different operators on the same inputs that are remembered, to find nodes that compute the same.
    const REMEMBERED: usize = 16;

    pub(in super::super) fn known(graph: &Graph, wanted: &[NodeId]) -> Result<Vec<Option<Arc<Tensor>>>, LowerError> {
        let mut needed = vec![false; graph.nodes().len()];
        wanted.iter().for_each(|id| needed[id.index()] = true);
        for (id, node) in graph.iter().collect::<Vec<_>>().into_iter().rev() {
            if needed[id.index()] {
                node.inputs.iter().for_each(|input| needed[input.index()] = true);
            }
        }
        let mut known: Vec<Option<Arc<Tensor>>> = vec![None; graph.nodes().len()];
        let mut computed: HashMap<(OpKind, Vec<*const Tensor>), Vec<NodeId>> = HashMap::new();
        for (id, node) in graph.iter().filter(|(id, _)| needed[id.index()]) {
            let inputs: Option<Vec<&Arc<Tensor>>> =
                node.inputs.iter().map(|input| known[input.index()].as_ref()).collect();
            let value = match (&node.op, inputs) {
                (Op::Constant(Constant { tensor, .. }), _) => tensor.clone(),
                (Op::Input(_), _) | (_, None) => continue,
                (Op::Observe(_), Some(inputs)) => inputs[0].clone(),
                (op, Some(inputs)) => {
                    let of = (op.kind(), inputs.iter().map(|&input| Arc::as_ptr(input)).collect());
                    let others = computed.entry(of).or_default();
                    match others
                        .iter()
                        .find(|other| graph.node(**other).op == *op)
                        .and_then(|other| known[other.index()].as_ref())
                    {
                        Some(same) => same.clone(),
                        None => {
                            let Some(value) = value(node, &inputs).transpose()? else { continue };
                            if others.len() < REMEMBERED {
                                others.push(id);
                            }
                            Arc::new(value)
                        }
                    }
                }
            };
            known[id.index()] = Some(value);
        }
        Ok(known)
    }

    /// The value of a node; `None` if no step computes it.
    fn value(node: &Node, inputs: &[&Arc<Tensor>]) -> Option<Result<Tensor, InterpError>> {
        let tensors: Vec<&Tensor> = inputs.iter().map(|tensor| &***tensor).collect();
        let arguments = Arguments { tensors: &tensors, output: &node.shape, packed: None };
        if let Some(result) = node.op.eval_scales(&arguments) {
            return Some(result.map_err(|source| InterpError::new(&node.name, source)));
        }
        if !node.op.is_step() {
            return None;
        }
        let tensors = inputs.iter().map(|&tensor| super::super::lowering::narrowed(tensor.clone()).ok());
        let tensors: Vec<Arc<Tensor>> = tensors.collect::<Option<_>>()?;
        let value = |shape, dtype| {
            let value_type = match dtype {
                DType::F32 => ValueType::F32,
                DType::I8 => ValueType::I8,
                DType::I32 | DType::I64 => ValueType::I32,
            };
            Value { name: node.name.clone(), value_type, shape, qparams: None }
        };
        let mut values: Vec<Value> =
            tensors.iter().map(|tensor| value(Shape::fixed(tensor.shape()), tensor.dtype())).collect();
        values.push(value(node.shape.clone(), node.dtype));
        let ids: Vec<ValueId> = (0..values.len()).map(ValueId::new).collect();
        let (output, read) = (ids[tensors.len()], ids[..tensors.len()].to_vec());
        // Weights are constants of a program.
        let constants = read.iter().copied().zip(tensors.iter().cloned()).skip(1).collect();
        let step = Step { name: node.name.clone(), op: StepOp::Op(node.op.clone()), inputs: read.clone(), output };
        let program = Program::new(values, constants, read[..1].to_vec(), vec![output], vec![step]).ok()?;
        let name = node.name.clone();
        match cpu::Engine::new(&program).ok()?.run(&[&*tensors[0]]) {
            Ok(mut outputs) => outputs.pop().map(Ok),
            Err(CpuError::NotANumber { index, .. }) => Some(Err(InterpError::NotANumber { node: name, index })),
            Err(CpuError::NoInteger { index, .. }) => Some(Err(InterpError::NoInteger { node: name, index })),
            Err(CpuError::Range { index, value, .. }) => Some(Err(InterpError::Range { node: name, index, value })),
            Err(CpuError::Id { index, id, rows, .. }) => Some(Err(InterpError::Id { node: name, index, id, rows })),
            Err(_) => None,
        }
    }
}

#[cfg(all(test, feature = "flow"))]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;
    use crate::ops::{Add, Concat, Dequantize, Op, Quantize, Slice, Softmax, Transpose, Unary, UnaryOp};
    use crate::values::{QuantRange, TensorQParams};

    /// A graph whose constants are computed by scales of channels, by steps, and by one step twice; one of them is changed.
    fn graph(change: f32) -> Graph {
        let mut g = GraphBuilder::new();
        let numbers = (0..12).map(|i| i as f32 * 0.37 - 2.0 + if i == 7 { change } else { 0.0 }).collect();
        let c = g.constant("c", Tensor::from_f32(&[3, 4], numbers).expect("fits")).expect("a constant");
        let other = g.constant("other", Tensor::from_f32(&[4], vec![0.5; 4]).expect("fits")).expect("a constant");
        let qparams = TensorQParams::per_channel(&[0.1, 0.2, 0.03], &[3, 0, -9], 0).expect("valid");
        let quantize = Quantize::new(qparams.clone(), QuantRange::INT8);
        let mut node = |name: &str, op: Op, inputs: &[NodeId]| g.node(name, op, inputs).expect("a node");
        let q = node("q", quantize.into(), &[c]);
        let d = node("d", Dequantize { qparams }.into(), &[q]);
        let sum = node("sum", Add.into(), &[d, other]);
        let turned = node("turned", Transpose { perm: vec![1, 0] }.into(), &[sum]);
        let again = node("again", Transpose { perm: vec![1, 0] }.into(), &[sum]);
        let both = node("both", Concat { axis: 0 }.into(), &[turned, again]);
        let part = node("part", Slice { axis: 0, start: 1, end: 7 }.into(), &[both]);
        let gelu = node("gelu", Unary { op: UnaryOp::Gelu }.into(), &[part]);
        let y = node("y", Softmax { axis: 1 }.into(), &[gelu]);
        let moved = node("moved", Transpose { perm: vec![1, 0] }.into(), &[q]);
        g.finish([y, moved]).expect("a graph")
    }

    #[test]
    fn steps_compute_the_constants_of_the_interpreter() {
        let graph = graph(0.0);
        let all: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
        let (right, by_steps) = (known(&graph, &all).expect("values"), by_steps::known(&graph, &all).expect("values"));
        assert!(by_steps.iter().all(Option::is_some));
        assert_eq!(by_steps, right);
        let shared = |name: &str| {
            let id = graph.iter().find(|(_, node)| node.name == name).map(|(id, _)| id).expect("a node");
            by_steps[id.index()].as_ref().map(Arc::as_ptr)
        };
        assert_eq!(shared("turned"), shared("again"));
        let changed = self::graph(0.5);
        assert_ne!(by_steps::known(&changed, &all).expect("values"), right, "another constant");
        let known = by_steps::known(&graph, &all[..2]).expect("values");
        assert_eq!(known.iter().flatten().count(), 2);
    }
}
