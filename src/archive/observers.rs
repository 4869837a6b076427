//! What stands in a file's header of a prepared graph: observers, their specs and their state.

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::record::{Context, QParamsRecord, SchemeRecord, pair, scheme, scheme_of};
use super::tensors::Reader;
use crate::graph::NodeId;
use crate::quantize::{
    DerivedRule, DerivedSpec, EdgeOrNode, FixedQParamsSpec, ObservedSpec, ObserverKind, QuantizationSpec,
    QuantizationSummary,
};

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
