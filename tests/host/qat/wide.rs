//! An evaluation of float graphs in `f64`, independent of the crate's own, with which gradients are compared.

#[path = "wide/images.rs"]
pub(crate) mod images;

use std::collections::HashMap;

use enfold::graph::Graph;
use ndarray::{ArrayD, Axis, Dimension as _, IxDyn, Zip};

use enfold::ops::{
    Add, BatchNorm, Binary, BinaryOp, Clamp, Concat, Constant, Div, Flatten, IndexSelect, LayerNorm, Max, Mul, Op, Pad,
    Reshape, RmsNorm, Slice, Softmax, Sum, ToFloat, Transpose, Unary, Where,
};

pub(crate) type Array = ArrayD<f64>;

/// Whether batch norms use the batch or their running statistics.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Norms {
    Batch,
    Running,
}

/// The first output, with `values` for inputs and any constants.
pub(super) fn evaluate(graph: &Graph, values: &HashMap<String, Array>, norms: Norms) -> Array {
    let mut all: Vec<Array> = Vec::new();
    for node in graph.nodes() {
        if let Some(value) = values.get(&node.name) {
            all.push(value.clone());
            continue;
        }
        let at = |i: usize| all[node.inputs[i].index()].clone();
        all.push(match &node.op {
            Op::Constant(Constant { tensor, .. }) => {
                let data = tensor.as_f32().expect("a float constant").iter().map(|&v| f64::from(v)).collect();
                Array::from_shape_vec(IxDyn(tensor.shape()), data).expect("fits")
            }
            Op::Linear(_) => {
                let y = matmul(&at(0), &at(1).reversed_axes());
                if node.inputs.len() == 3 { zip(&y, &at(2), |a, b| a + b) } else { y }
            }
            Op::Conv(conv) => {
                let bias = (node.inputs.len() == 3).then(|| at(2));
                images::conv(&at(0), &at(1), bias.as_ref(), conv)
            }
            Op::ConvTranspose(conv) => {
                let bias = (node.inputs.len() == 3).then(|| at(2));
                images::conv_transpose(&at(0), &at(1), bias.as_ref(), conv)
            }
            Op::MaxPool(pool) => images::max_pool(&at(0), pool),
            Op::AveragePool(pool) => images::average_pool(&at(0), &pool.windows),
            Op::ResizeLinear(resize) => images::resize_linear(&at(0), &resize.grid),
            Op::IndexSelect(IndexSelect { axis, indices }) => {
                at(0).select(Axis(*axis), &indices.iter().map(|&at| at as usize).collect::<Vec<_>>())
            }
            Op::MatMul(_) => matmul(&at(0), &at(1)),
            Op::Add(Add) => zip(&at(0), &at(1), |a, b| a + b),
            Op::Mul(Mul) => zip(&at(0), &at(1), |a, b| a * b),
            Op::Div(Div) => zip(&at(0), &at(1), |a, b| a / b),
            Op::Where(Where) => {
                let first = zip(&at(1), &at(0), |a, c| if c == 0.0 { 0.0 } else { a });
                let second = zip(&at(2), &at(0), |b, c| if c == 0.0 { b } else { 0.0 });
                zip(&first, &second, |a, b| a + b)
            }
            Op::Unary(Unary { op }) => at(0).mapv(|v| op.eval(v)),
            Op::Binary(Binary { op }) => zip(&at(0), &at(1), |a, b| match op {
                BinaryOp::Equal => f64::from(u8::from(a == b)),
                BinaryOp::Less => f64::from(u8::from(a < b)),
                BinaryOp::LessOrEqual => f64::from(u8::from(a <= b)),
                BinaryOp::Maximum => a.max(b),
                BinaryOp::Minimum => a.min(b),
                other => panic!("{other}"),
            }),
            Op::Clamp(Clamp { min, max }) => at(0).mapv(|v| v.clamp((*min).into(), (*max).into())),
            // Integers are given as floats.
            Op::ToFloat(ToFloat) => at(0),
            Op::Slice(Slice { axis, start, end }) => at(0).slice_axis(Axis(*axis), (*start..*end).into()).to_owned(),
            Op::Pad(Pad { before, after }) => {
                let (mut x, value) = (at(0), at(1));
                for (axis, (&before, &after)) in before.iter().zip(after).enumerate() {
                    let run = |length: usize| {
                        let mut shape = x.shape().to_vec();
                        shape[axis] = length;
                        Array::from_elem(IxDyn(&shape), value.sum())
                    };
                    x = ndarray::concatenate(Axis(axis), &[run(before).view(), x.view(), run(after).view()])
                        .expect("fits");
                }
                x
            }
            Op::Sum(Sum { axis, .. }) => at(0).sum_axis(Axis(*axis)),
            Op::Reshape(Reshape { dims }) => {
                let x = at(0);
                let dims: Vec<usize> = [x.shape()[0]].into_iter().chain(dims.iter().copied()).collect();
                x.to_shape(IxDyn(&dims)).expect("fits").to_owned()
            }
            Op::Flatten(Flatten { start_axis }) => {
                let x = at(0);
                let mut dims = x.shape()[..*start_axis].to_vec();
                dims.push(x.shape()[*start_axis..].iter().product());
                x.to_shape(IxDyn(&dims)).expect("fits").to_owned()
            }
            Op::Transpose(Transpose { perm }) => at(0).permuted_axes(IxDyn(perm)).as_standard_layout().to_owned(),
            Op::Concat(Concat { axis }) => {
                let parts: Vec<Array> = (0..node.inputs.len()).map(at).collect();
                let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
                ndarray::concatenate(Axis(*axis), &views).expect("fits")
            }
            Op::Max(Max { axis }) => at(0).map_axis(Axis(*axis), |line| line.fold(f64::NEG_INFINITY, |a, &b| a.max(b))),
            Op::Softmax(Softmax { axis }) => {
                let mut y = at(0);
                for mut line in y.lanes_mut(Axis(*axis)) {
                    let largest = line.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                    line.mapv_inplace(|v| (v - largest).exp());
                    let sum = line.sum();
                    line.mapv_inplace(|v| v / sum);
                }
                y
            }
            Op::RmsNorm(RmsNorm { eps }) => {
                let (mut x, w) = (at(0), at(1));
                for mut row in x.lanes_mut(Axis(node.shape.rank() - 1)) {
                    let rms = (row.fold(0.0, |sum, v| sum + v * v) / row.len() as f64 + f64::from(*eps)).sqrt();
                    row.mapv_inplace(|v| v / rms);
                }
                zip(&x, &w, |a, b| a * b)
            }
            Op::LayerNorm(LayerNorm { eps }) => {
                let (x, w, b) = (at(0), at(1), at(2));
                let normalized: usize = w.shape().iter().product();
                let rows = x.len() / normalized.max(1);
                let mut flat = x.to_shape((rows, normalized)).expect("fits").to_owned();
                for mut row in flat.rows_mut() {
                    let mean = row.sum() / normalized as f64;
                    let variance = row.fold(0.0, |sum, v| sum + (v - mean).powi(2)) / normalized as f64;
                    row.mapv_inplace(|v| (v - mean) / (variance + f64::from(*eps)).sqrt());
                }
                let normal = flat.to_shape(IxDyn(x.shape())).expect("fits").to_owned();
                zip(&zip(&normal, &w, |a, b| a * b), &b, |a, b| a + b)
            }
            Op::BatchNorm(BatchNorm { eps }) => {
                let mut y = at(0);
                let [mean, variance, gamma, beta] = [1, 2, 3, 4].map(at);
                for (c, mut channel) in y.axis_iter_mut(Axis(1)).enumerate() {
                    let n = channel.len() as f64;
                    let (mean, variance) = match norms {
                        Norms::Running => (mean[[c]], variance[[c]]),
                        Norms::Batch => {
                            let mean = channel.sum() / n;
                            (mean, channel.fold(0.0, |sum, v| sum + (v - mean).powi(2)) / n)
                        }
                    };
                    let inv = 1.0 / (variance + f64::from(*eps)).sqrt();
                    channel.mapv_inplace(|v| (v - mean) * inv * gamma[[c]] + beta[[c]]);
                }
                y
            }
            Op::Embedding(_) => {
                // Ids are given as floats.
                let (ids, table) = (at(0), at(1));
                let rows: Vec<_> = ids.iter().map(|&id| table.index_axis(Axis(0), id as usize)).collect();
                let mut y = ndarray::stack(Axis(0), &rows).expect("rows");
                let shape: Vec<usize> = ids.shape().iter().copied().chain([table.shape()[1]]).collect();
                y = y.to_shape(IxDyn(&shape)).expect("fits").to_owned();
                y
            }
            other => panic!("{}: no evaluation of {}", node.name, other.name()),
        });
    }
    all[graph.outputs()[0].index()].clone()
}

fn zip(a: &Array, b: &Array, f: impl Fn(f64, f64) -> f64) -> Array {
    let rank = a.ndim().max(b.ndim());
    let length = |x: &Array, axis: usize| (axis + x.ndim()).checked_sub(rank).map_or(1, |axis| x.shape()[axis]);
    let pick = |axis: usize| if length(a, axis) == 1 { length(b, axis) } else { length(a, axis) };
    let shape: Vec<usize> = (0..rank).map(pick).collect();
    let mut y = Array::zeros(IxDyn(&shape));
    let (a, b) = (a.broadcast(IxDyn(&shape)).expect("fits"), b.broadcast(IxDyn(&shape)).expect("fits"));
    Zip::from(&mut y).and(&a).and(&b).for_each(|y, &a, &b| *y = f(a, b));
    y
}

/// `a[…, M, K] · b[…, K, N]`, one element at a time.
fn matmul(a: &Array, b: &Array) -> Array {
    let (m, k) = (a.shape()[a.ndim() - 2], a.shape()[a.ndim() - 1]);
    let n = b.shape()[b.ndim() - 1];
    let stack = |x: &Array| Array::zeros(IxDyn(&x.shape()[..x.ndim() - 2]));
    let stack = zip(&stack(a), &stack(b), |a, _| a);
    let shape: Vec<usize> = stack.shape().iter().copied().chain([m, n]).collect();
    let grown = |x: &Array| {
        let tail = &x.shape()[x.ndim() - 2..];
        let shape: Vec<usize> = stack.shape().iter().chain(tail).copied().collect();
        x.broadcast(IxDyn(&shape)).expect("fits").to_owned()
    };
    let (a, b) = (grown(a), grown(b));
    Array::from_shape_fn(IxDyn(&shape), |at| {
        let (lead, tail) = at.slice().split_at(shape.len() - 2);
        let element = |x: &Array, i: usize, j: usize| x[IxDyn(&[lead, &[i, j][..]].concat())];
        (0..k).map(|p| element(&a, tail[0], p) * element(&b, p, tail[1])).sum()
    })
}
