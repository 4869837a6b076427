//! The header of a prepared graph's file: observers, their specs and their state.
//!
//! Floats are written as `f64`, which holds every `f32` exactly and survives JSON.

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::tensors::{Reader, Writer};
use crate::graph::NodeId;
use crate::quantize::{
    DerivedRule, DerivedSpec, EdgeOrNode, FixedQParamsSpec, ObservedSpec, ObserverKind, QuantizationSpec,
    QuantizationSummary,
};
use crate::values::{QParams, QScheme, QuantRange, TensorQParams};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PreparedRecord {
    pub(super) batches: u64,
    pub(super) annotated: Vec<usize>,
    pub(super) derived_from: Vec<Vec<usize>>,
    pub(super) observers: Vec<ObserverRecord>,
    pub(super) summary: QuantizationSummary,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ObserverRecord {
    pub(super) spec: SpecRecord,
    pub(super) state: StateRecord,
}

/// Names are those of tensors in the file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StateRecord {
    Ranges { min: String, max: String },
    Histograms(Vec<HistogramRecord>),
    Known(QParamsRecord),
    Nothing,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HistogramRecord {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) counts: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SpecRecord {
    Observed { range: [i32; 2], qscheme: SchemeRecord, observer: KindRecord, eps: f64 },
    Fixed { scale: f64, zero_point: i32, range: [i32; 2] },
    BiasScale { derived_from: Vec<PointRecord>, range: [i32; 2] },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum PointRecord {
    Edge(usize, usize),
    Node(usize),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum KindRecord {
    MinMax,
    MovingAverage(f64),
    Histogram,
    Percentile(f64),
    Mse,
    Placeholder,
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

impl SpecRecord {
    /// `None` for what a file cannot hold.
    pub(super) fn new(spec: &QuantizationSpec) -> Option<Self> {
        Some(match spec {
            QuantizationSpec::Observed(spec) => Self::Observed {
                range: pair(spec.range),
                qscheme: scheme(spec.qscheme),
                observer: match spec.observer {
                    ObserverKind::MinMax => KindRecord::MinMax,
                    ObserverKind::MovingAverageMinMax { averaging_constant } => {
                        KindRecord::MovingAverage(averaging_constant.into())
                    }
                    ObserverKind::Histogram => KindRecord::Histogram,
                    ObserverKind::Percentile { fraction } => KindRecord::Percentile(fraction.into()),
                    ObserverKind::Mse => KindRecord::Mse,
                    ObserverKind::Placeholder => KindRecord::Placeholder,
                },
                eps: spec.eps.into(),
            },
            QuantizationSpec::FixedQParams(spec) => {
                let (scale, zero_point) = (spec.qparams.scale().into(), spec.qparams.zero_point());
                Self::Fixed { scale, zero_point, range: pair(spec.range) }
            }
            QuantizationSpec::Derived(DerivedSpec { derived_from, rule: DerivedRule::BiasScale, range }) => {
                let point = |point: &EdgeOrNode| match point {
                    EdgeOrNode::Edge { producer, consumer } => PointRecord::Edge(producer.index(), consumer.index()),
                    EdgeOrNode::Node(id) => PointRecord::Node(id.index()),
                };
                Self::BiasScale { derived_from: derived_from.iter().map(point).collect(), range: pair(*range) }
            }
            QuantizationSpec::Derived(_) | QuantizationSpec::Shared(_) => return None,
        })
    }

    pub(super) fn spec(&self, node: &str, reader: &Reader<'_>) -> Result<QuantizationSpec, ArchiveError> {
        let context = Context { node, reader };
        Ok(match self {
            Self::Observed { range, qscheme, observer, eps } => ObservedSpec {
                range: context.range(*range)?,
                qscheme: scheme_of(*qscheme),
                observer: match *observer {
                    KindRecord::MinMax => ObserverKind::MinMax,
                    KindRecord::MovingAverage(c) => ObserverKind::MovingAverageMinMax { averaging_constant: c as f32 },
                    KindRecord::Histogram => ObserverKind::Histogram,
                    KindRecord::Percentile(fraction) => ObserverKind::Percentile { fraction: fraction as f32 },
                    KindRecord::Mse => ObserverKind::Mse,
                    KindRecord::Placeholder => ObserverKind::Placeholder,
                },
                eps: *eps as f32,
            }
            .into(),
            Self::Fixed { scale, zero_point, range } => {
                FixedQParamsSpec { qparams: context.pair(*scale, *zero_point)?, range: context.range(*range)? }.into()
            }
            Self::BiasScale { derived_from, range } => {
                let point = |point: &PointRecord| match *point {
                    PointRecord::Edge(producer, consumer) => {
                        EdgeOrNode::Edge { producer: NodeId::new(producer), consumer: NodeId::new(consumer) }
                    }
                    PointRecord::Node(id) => EdgeOrNode::Node(NodeId::new(id)),
                };
                let derived_from = derived_from.iter().map(point).collect();
                DerivedSpec { derived_from, rule: DerivedRule::BiasScale, range: context.range(*range)? }.into()
            }
        })
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

    fn pair(&self, scale: f64, zero_point: i32) -> Result<QParams, ArchiveError> {
        QParams::new(scale as f32, zero_point).map_err(|e| self.broken(e.to_string()))
    }

    fn range(&self, [lo, hi]: [i32; 2]) -> Result<QuantRange, ArchiveError> {
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

fn pair(range: QuantRange) -> [i32; 2] {
    [range.quant_min(), range.quant_max()]
}

fn scheme(qscheme: QScheme) -> SchemeRecord {
    match qscheme {
        QScheme::PerTensorAffine => SchemeRecord::TensorAffine,
        QScheme::PerTensorSymmetric => SchemeRecord::TensorSymmetric,
        QScheme::PerChannelAffine { ch_axis } => SchemeRecord::ChannelAffine(ch_axis),
        QScheme::PerChannelSymmetric { ch_axis } => SchemeRecord::ChannelSymmetric(ch_axis),
        QScheme::PerTokenAffine => SchemeRecord::TokenAffine,
    }
}

fn scheme_of(record: SchemeRecord) -> QScheme {
    match record {
        SchemeRecord::TensorAffine => QScheme::PerTensorAffine,
        SchemeRecord::TensorSymmetric => QScheme::PerTensorSymmetric,
        SchemeRecord::ChannelAffine(ch_axis) => QScheme::PerChannelAffine { ch_axis },
        SchemeRecord::ChannelSymmetric(ch_axis) => QScheme::PerChannelSymmetric { ch_axis },
        SchemeRecord::TokenAffine => QScheme::PerTokenAffine,
    }
}
