//! What stands in a file's header of a graph: ops and shapes, with every number checked on the way back.
//!
//! Floats are written as `f64`, which holds every `f32` exactly and survives JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::observers::PreparedRecord;
use super::packed::PackedRecord;
use super::tensors::{Reader, Writer};
use crate::graph::{BinaryOp, DeclaredTypes, Int32Op, IntegerType, ObserverId, Op, UnaryOp};
use crate::numerics::AddMultipliers;
use crate::qparams::{QParams, QScheme, QuantRange, TensorQParams};
use crate::tensor::{DType, Shape};

/// The whole header.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) nodes: Vec<NodeRecord>,
    pub(super) outputs: Vec<usize>,
    /// Names of the outputs, where they are not the origins of their nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output_names: Option<Vec<String>>,
    pub(super) modules: BTreeMap<String, String>,
    /// Types of inputs and outputs in the file that the graph comes from, where they differ from the graph's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) declared: Option<DeclaredTypes>,
    /// Tensors that are packed, by name. Files of format 1 have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) packed: BTreeMap<String, PackedRecord>,
    pub(super) prepared: Option<PreparedRecord>,
}

/// Of a newer file, all that can be relied on.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub(super) format: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) name: String,
    pub(super) op: OpRecord,
    pub(super) inputs: Vec<usize>,
    pub(super) origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) float_reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum SchemeRecord {
    TensorAffine,
    TensorSymmetric,
    ChannelAffine(usize),
    ChannelSymmetric(usize),
    TokenAffine,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum QParamsRecord {
    PerTensor {
        scale: f64,
        zero_point: i32,
    },
    /// Tensors.
    PerChannel {
        scales: String,
        zero_points: String,
        ch_axis: usize,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CodesRecord {
    scale: f64,
    zero_point: i32,
    lo: i32,
    hi: i32,
}

/// One variant for each op, by its name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OpRecord {
    Input {
        dtype: String,
        batched: bool,
        dims: Vec<usize>,
    },
    /// A tensor.
    Constant(String),
    Linear,
    Matmul,
    Add,
    Mul,
    Div,
    Where,
    AddScalar(f64),
    MulScalar(f64),
    Unary(String),
    Binary(String),
    /// Text, since infinities are no numbers in JSON.
    Clamp {
        min: String,
        max: String,
    },
    ToFloat,
    ToInteger(String),
    Int32 {
        op: String,
        checked: bool,
    },
    Reshape(Vec<usize>),
    Flatten(usize),
    Transpose(Vec<usize>),
    Concat(usize),
    Slice {
        axis: usize,
        start: usize,
        end: usize,
    },
    Max(usize),
    Sum(usize),
    /// Of integers that stand for wider ones.
    SumChecked(usize),
    Softmax(usize),
    LayerNorm(f64),
    BatchNorm(f64),
    Embedding,
    Observe(usize),
    Quantize {
        qparams: QParamsRecord,
        range: [i32; 2],
    },
    Dequantize(QParamsRecord),
    ChooseQparams {
        qscheme: SchemeRecord,
        range: [i32; 2],
        eps: f64,
    },
    QuantizeDynamic([i32; 2]),
    DequantizeDynamic,
    IntegerLinear(u32),
    Requantize(CodesRecord),
    ScaleAccumulator {
        relu: bool,
    },
    ScaleAccumulatorDynamic {
        relu: bool,
    },
    IntegerAdd {
        zero_points: [i32; 2],
        multipliers: [i32; 2],
        shift: u32,
        codes: CodesRecord,
    },
    IntegerMul {
        zero_points: [i32; 2],
        multiplier: f64,
        codes: CodesRecord,
    },
    IntegerMatmul {
        zero_points: [i32; 2],
    },
    IntegerMatmulDynamic {
        relu: bool,
    },
    Table {
        scale: f64,
        zero_point: i32,
    },
}

const DTYPES: [DType; 4] = [DType::F32, DType::I8, DType::I32, DType::I64];

impl OpRecord {
    /// The record of an op; its tensors go to `writer`. Inputs have a shape of their own.
    pub(super) fn new(op: &Op, dtype: DType, shape: &Shape, writer: &mut Writer) -> Self {
        match op {
            Op::Input => {
                let (dtype, batched, dims) = (dtype.to_string(), shape.is_batched(), shape.dims().to_vec());
                Self::Input { dtype, batched, dims }
            }
            Op::Constant(tensor) => Self::Constant(writer.constant(Arc::clone(tensor))),
            Op::Linear => Self::Linear,
            Op::MatMul => Self::Matmul,
            Op::Add => Self::Add,
            Op::Mul => Self::Mul,
            Op::Div => Self::Div,
            Op::Where => Self::Where,
            Op::Clamp { min, max } => Self::Clamp { min: min.to_string(), max: max.to_string() },
            Op::ToFloat => Self::ToFloat,
            Op::ToInteger { to } => Self::ToInteger(to.to_string()),
            Op::Int32 { op, checked } => Self::Int32 { op: op.name().to_owned(), checked: *checked },
            Op::AddScalar { value } => Self::AddScalar((*value).into()),
            Op::MulScalar { value } => Self::MulScalar((*value).into()),
            // Files call functions as listings do.
            Op::Unary(_) => Self::Unary(op.name().to_owned()),
            Op::Binary(_) => Self::Binary(op.name().to_owned()),
            Op::Reshape { dims } => Self::Reshape(dims.clone()),
            Op::Flatten { start_axis } => Self::Flatten(*start_axis),
            Op::Transpose { perm } => Self::Transpose(perm.clone()),
            Op::Concat { axis } => Self::Concat(*axis),
            Op::Slice { axis, start, end } => Self::Slice { axis: *axis, start: *start, end: *end },
            Op::Sum { axis, checked: false } => Self::Sum(*axis),
            Op::Sum { axis, checked: true } => Self::SumChecked(*axis),
            Op::Max { axis } => Self::Max(*axis),
            Op::Softmax { axis } => Self::Softmax(*axis),
            Op::LayerNorm { eps } => Self::LayerNorm((*eps).into()),
            Op::BatchNorm { eps } => Self::BatchNorm((*eps).into()),
            Op::Embedding => Self::Embedding,
            Op::Observe { observer } => Self::Observe(observer.0),
            Op::Quantize { qparams, range } => {
                Self::Quantize { qparams: QParamsRecord::new(qparams, writer), range: pair(*range) }
            }
            Op::Dequantize { qparams } => Self::Dequantize(QParamsRecord::new(qparams, writer)),
            Op::ChooseQParams { qscheme, range, eps } => {
                Self::ChooseQparams { qscheme: scheme(*qscheme), range: pair(*range), eps: (*eps).into() }
            }
            Op::QuantizeDynamic { range } => Self::QuantizeDynamic(pair(*range)),
            Op::DequantizeDynamic => Self::DequantizeDynamic,
            Op::IntegerLinear { fraction_bits } => Self::IntegerLinear(*fraction_bits),
            Op::Requantize { qparams, lo, hi } => Self::Requantize(codes(*qparams, *lo, *hi)),
            Op::ScaleAccumulator { relu } => Self::ScaleAccumulator { relu: *relu },
            Op::ScaleAccumulatorDynamic { relu } => Self::ScaleAccumulatorDynamic { relu: *relu },
            Op::IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi } => Self::IntegerAdd {
                zero_points: [*a_zero_point, *b_zero_point],
                multipliers: [multipliers.a, multipliers.b],
                shift: multipliers.shift,
                codes: codes(*qparams, *lo, *hi),
            },
            Op::IntegerMul { a_zero_point, b_zero_point, multiplier, qparams, lo, hi } => Self::IntegerMul {
                zero_points: [*a_zero_point, *b_zero_point],
                multiplier: (*multiplier).into(),
                codes: codes(*qparams, *lo, *hi),
            },
            Op::IntegerMatMul { a_zero_point, b_zero_point } => {
                Self::IntegerMatmul { zero_points: [*a_zero_point, *b_zero_point] }
            }
            Op::IntegerMatMulDynamic { relu } => Self::IntegerMatmulDynamic { relu: *relu },
            Op::Table { qparams } => Self::Table { scale: qparams.scale().into(), zero_point: qparams.zero_point() },
        }
    }

    /// The op. `node` is for messages; inputs come back as [`Op::Input`], and their shape by [`Self::declared`].
    pub(super) fn op(&self, node: &str, reader: &Reader<'_>) -> Result<Op, ArchiveError> {
        let context = Context { node, reader };
        Ok(match self {
            Self::Input { .. } => Op::Input,
            Self::Constant(name) => Op::Constant(reader.shared(name)?),
            Self::Linear => Op::Linear,
            Self::Matmul => Op::MatMul,
            Self::Add => Op::Add,
            Self::Mul => Op::Mul,
            Self::Div => Op::Div,
            Self::Where => Op::Where,
            Self::Clamp { min, max } => {
                let bound = |text: &str| text.parse().map_err(|_| context.broken(format!("{text:?} is no bound")));
                Op::Clamp { min: bound(min)?, max: bound(max)? }
            }
            Self::ToFloat => Op::ToFloat,
            Self::ToInteger(name) => match IntegerType::ALL.into_iter().find(|to| to.to_string() == *name) {
                Some(to) => Op::ToInteger { to },
                None => return Err(context.broken(format!("there is no integer type {name:?}"))),
            },
            Self::Int32 { op: name, checked } => match Int32Op::ALL.into_iter().find(|op| op.name() == name) {
                Some(op) => Op::Int32 { op, checked: *checked },
                None => return Err(context.broken(format!("there is no arithmetic {name:?}"))),
            },
            Self::AddScalar(value) => Op::AddScalar { value: *value as f32 },
            Self::MulScalar(value) => Op::MulScalar { value: *value as f32 },
            Self::Unary(name) => match UnaryOp::ALL.map(Op::Unary).into_iter().find(|op| op.name() == name) {
                Some(op) => op,
                None => return Err(context.broken(format!("there is no function {name:?}"))),
            },
            Self::Binary(name) => match BinaryOp::ALL.map(Op::Binary).into_iter().find(|op| op.name() == name) {
                Some(op) => op,
                None => return Err(context.broken(format!("there is no function {name:?}"))),
            },
            Self::Reshape(dims) => Op::Reshape { dims: dims.clone() },
            Self::Flatten(start_axis) => Op::Flatten { start_axis: *start_axis },
            Self::Transpose(perm) => Op::Transpose { perm: perm.clone() },
            Self::Concat(axis) => Op::Concat { axis: *axis },
            Self::Slice { axis, start, end } => Op::Slice { axis: *axis, start: *start, end: *end },
            Self::Sum(axis) => Op::Sum { axis: *axis, checked: false },
            Self::SumChecked(axis) => Op::Sum { axis: *axis, checked: true },
            Self::Max(axis) => Op::Max { axis: *axis },
            Self::Softmax(axis) => Op::Softmax { axis: *axis },
            Self::LayerNorm(eps) => Op::LayerNorm { eps: *eps as f32 },
            Self::BatchNorm(eps) => Op::BatchNorm { eps: *eps as f32 },
            Self::Embedding => Op::Embedding,
            Self::Observe(observer) => Op::Observe { observer: ObserverId(*observer) },
            Self::Quantize { qparams, range } => {
                Op::Quantize { qparams: context.qparams(qparams)?, range: context.range(*range)? }
            }
            Self::Dequantize(qparams) => Op::Dequantize { qparams: context.qparams(qparams)? },
            Self::ChooseQparams { qscheme, range, eps } => {
                let (qscheme, range) = (scheme_of(*qscheme), context.range(*range)?);
                Op::ChooseQParams { qscheme, range, eps: *eps as f32 }
            }
            Self::QuantizeDynamic(range) => Op::QuantizeDynamic { range: context.range(*range)? },
            Self::DequantizeDynamic => Op::DequantizeDynamic,
            Self::IntegerLinear(fraction_bits) => Op::IntegerLinear { fraction_bits: *fraction_bits },
            Self::Requantize(c) => Op::Requantize { qparams: context.pair(c.scale, c.zero_point)?, lo: c.lo, hi: c.hi },
            Self::ScaleAccumulator { relu } => Op::ScaleAccumulator { relu: *relu },
            Self::ScaleAccumulatorDynamic { relu } => Op::ScaleAccumulatorDynamic { relu: *relu },
            Self::IntegerAdd { zero_points: [a_zero_point, b_zero_point], multipliers: [a, b], shift, codes: c } => {
                Op::IntegerAdd {
                    a_zero_point: *a_zero_point,
                    b_zero_point: *b_zero_point,
                    multipliers: AddMultipliers { a: *a, b: *b, shift: *shift },
                    qparams: context.pair(c.scale, c.zero_point)?,
                    lo: c.lo,
                    hi: c.hi,
                }
            }
            Self::IntegerMul { zero_points: [a_zero_point, b_zero_point], multiplier, codes: c } => Op::IntegerMul {
                a_zero_point: *a_zero_point,
                b_zero_point: *b_zero_point,
                multiplier: *multiplier as f32,
                qparams: context.pair(c.scale, c.zero_point)?,
                lo: c.lo,
                hi: c.hi,
            },
            Self::IntegerMatmul { zero_points: [a_zero_point, b_zero_point] } => {
                Op::IntegerMatMul { a_zero_point: *a_zero_point, b_zero_point: *b_zero_point }
            }
            Self::IntegerMatmulDynamic { relu } => Op::IntegerMatMulDynamic { relu: *relu },
            Self::Table { scale, zero_point } => Op::Table { qparams: context.pair(*scale, *zero_point)? },
        })
    }

    /// Shape and type of an input.
    pub(super) fn declared(&self, node: &str) -> Result<Option<(Shape, DType)>, ArchiveError> {
        let Self::Input { dtype, batched, dims } = self else { return Ok(None) };
        let broken = |problem: String| ArchiveError::Node { node: node.to_owned(), problem };
        let Some(&dtype) = DTYPES.iter().find(|listed| listed.to_string() == *dtype) else {
            return Err(broken(format!("there is no type {dtype:?}")));
        };
        Ok(Some((if *batched { Shape::batched(dims) } else { Shape::fixed(dims) }, dtype)))
    }
}

impl QParamsRecord {
    pub(super) fn new(qparams: &TensorQParams, writer: &mut Writer) -> Self {
        match qparams {
            TensorQParams::PerTensor(q) => Self::PerTensor { scale: q.scale().into(), zero_point: q.zero_point() },
            TensorQParams::PerChannel { channels, ch_axis } => Self::PerChannel {
                scales: writer.floats(channels.iter().map(QParams::scale).collect()),
                zero_points: writer.integers(channels.iter().map(QParams::zero_point).collect()),
                ch_axis: *ch_axis,
            },
        }
    }
}

/// Where a number stands, for messages.
pub(super) struct Context<'c> {
    pub(super) node: &'c str,
    pub(super) reader: &'c Reader<'c>,
}

impl Context<'_> {
    fn broken(&self, problem: String) -> ArchiveError {
        ArchiveError::Node { node: self.node.to_owned(), problem }
    }

    pub(super) fn pair(&self, scale: f64, zero_point: i32) -> Result<QParams, ArchiveError> {
        QParams::new(scale as f32, zero_point).map_err(|e| self.broken(e.to_string()))
    }

    pub(super) fn range(&self, [lo, hi]: [i32; 2]) -> Result<QuantRange, ArchiveError> {
        if [lo, hi] == pair(QuantRange::INT32) {
            return Ok(QuantRange::INT32);
        }
        QuantRange::new(lo, hi).map_err(|e| self.broken(e.to_string()))
    }

    pub(super) fn qparams(&self, record: &QParamsRecord) -> Result<TensorQParams, ArchiveError> {
        match record {
            QParamsRecord::PerTensor { scale, zero_point } => {
                self.pair(*scale, *zero_point).map(TensorQParams::PerTensor)
            }
            QParamsRecord::PerChannel { scales, zero_points, ch_axis } => {
                let (scales, zero_points) = (self.reader.floats(scales)?, self.reader.integers(zero_points)?);
                TensorQParams::per_channel(&scales, &zero_points, *ch_axis).map_err(|e| self.broken(e.to_string()))
            }
        }
    }
}

pub(super) fn pair(range: QuantRange) -> [i32; 2] {
    [range.quant_min(), range.quant_max()]
}

fn codes(qparams: QParams, lo: i32, hi: i32) -> CodesRecord {
    CodesRecord { scale: qparams.scale().into(), zero_point: qparams.zero_point(), lo, hi }
}

pub(super) fn scheme(qscheme: QScheme) -> SchemeRecord {
    match qscheme {
        QScheme::PerTensorAffine => SchemeRecord::TensorAffine,
        QScheme::PerTensorSymmetric => SchemeRecord::TensorSymmetric,
        QScheme::PerChannelAffine { ch_axis } => SchemeRecord::ChannelAffine(ch_axis),
        QScheme::PerChannelSymmetric { ch_axis } => SchemeRecord::ChannelSymmetric(ch_axis),
        QScheme::PerTokenAffine => SchemeRecord::TokenAffine,
    }
}

pub(super) fn scheme_of(record: SchemeRecord) -> QScheme {
    match record {
        SchemeRecord::TensorAffine => QScheme::PerTensorAffine,
        SchemeRecord::TensorSymmetric => QScheme::PerTensorSymmetric,
        SchemeRecord::ChannelAffine(ch_axis) => QScheme::PerChannelAffine { ch_axis },
        SchemeRecord::ChannelSymmetric(ch_axis) => QScheme::PerChannelSymmetric { ch_axis },
        SchemeRecord::TokenAffine => QScheme::PerTokenAffine,
    }
}
