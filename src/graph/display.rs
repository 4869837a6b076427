//! One line a node.

use std::fmt;

use super::{Graph, Node, Op};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in self.nodes() {
            writeln!(f, "{}", Line { graph: self, node })?;
        }
        let outputs: Vec<&str> = self.outputs().iter().map(|&id| self.node(id).name.as_str()).collect();
        writeln!(f, "return {}", outputs.join(", "))
    }
}

struct Line<'g> {
    graph: &'g Graph,
    node: &'g Node,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node { name, op, inputs, shape, dtype, .. } = self.node;
        let inputs: Vec<&str> = inputs.iter().map(|&id| self.graph.node(id).name.as_str()).collect();
        write!(f, "{name}: {dtype}{shape} = {}({})", op.name(), inputs.join(", "))?;
        match op {
            Op::Reshape { .. } | Op::Input | Op::Constant(_) => Ok(()), // the shape says it all
            Op::Flatten { start_axis } => write!(f, " start_axis {start_axis}"),
            Op::Transpose { perm } => write!(f, " perm {perm:?}"),
            Op::Concat { axis } | Op::Max { axis } | Op::Softmax { axis } => write!(f, " axis {axis}"),
            Op::Sum { axis, checked } => write!(f, " axis {axis}{}", if *checked { " checked" } else { "" }),
            Op::Slice { axis, start, end } => write!(f, " axis {axis} {start}..{end}"),
            Op::Clamp { min, max } => write!(f, " {min}..={max}"),
            Op::ToInteger { to } => write!(f, " {to}"),
            Op::Int32 { op, checked } => write!(f, " {}{}", op.name(), if *checked { " checked" } else { "" }),
            Op::LayerNorm { eps } | Op::BatchNorm { eps } => write!(f, " eps {eps:e}"),
            Op::Observe { observer } => write!(f, " observer {}", observer.0),
            Op::Quantize { qparams, range } => write!(f, " {qparams} codes {range}"),
            Op::Dequantize { qparams } => write!(f, " {qparams}"),
            Op::IntegerLinear { fraction_bits } => write!(f, " fraction_bits {fraction_bits}"),
            Op::Requantize { qparams, lo, hi } => {
                let (scale, zero_point) = (qparams.scale(), qparams.zero_point());
                write!(f, " scale {scale:e} zero_point {zero_point} codes {lo}..={hi}")
            }
            Op::Linear
            | Op::MatMul
            | Op::Add
            | Op::Mul
            | Op::Div
            | Op::Where
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::ToFloat
            | Op::Embedding
            | Op::DequantizeDynamic => Ok(()),
            Op::AddScalar { value } | Op::MulScalar { value } => write!(f, " {value}"),
            Op::ScaleAccumulator { relu }
            | Op::ScaleAccumulatorDynamic { relu }
            | Op::IntegerMatMulDynamic { relu } => f.write_str(if *relu { " relu" } else { "" }),
            Op::ChooseQParams { qscheme, range, eps } => write!(f, " {qscheme} codes {range} eps {eps:e}"),
            Op::QuantizeDynamic { range } => write!(f, " codes {range}"),
            Op::IntegerAdd { qparams, lo, hi, .. } | Op::IntegerMul { qparams, lo, hi, .. } => {
                let (scale, zero_point) = (qparams.scale(), qparams.zero_point());
                write!(f, " scale {scale:e} zero_point {zero_point} codes {lo}..={hi}")
            }
            Op::IntegerMatMul { a_zero_point, b_zero_point } => write!(f, " zero_points {a_zero_point} {b_zero_point}"),
            Op::Table { qparams } => {
                write!(f, " scale {:e} zero_point {}", qparams.scale(), qparams.zero_point())
            }
        }
    }
}
