//! The part of a file's header that holds the observers of a prepared graph: their specs and their statistics.

use serde::{Deserialize, Serialize};

use super::calibration::MomentsRecord;
use super::error::ArchiveError;
use super::tensors::{Reader, Writer};
use crate::files::json::{self, Raw};
use crate::numerics::Range;
use crate::quantize::archived::{Histogram, Histograms, Observer, State};
use crate::quantize::{QuantizationSpec, QuantizationSummary};
use crate::values::TensorQParams;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PreparedRecord {
    pub(super) batches: u64,
    pub(super) annotated: Vec<usize>,
    pub(super) derived_from: Vec<Vec<usize>>,
    pub(super) observers: Vec<ObserverRecord>,
    pub(super) summary: QuantizationSummary,
    /// Second moments of the inputs of layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) moments: Option<MomentsRecord>,
}

/// One observer. Spec and state are read after the rest of the header, so that an error names the observer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ObserverRecord {
    /// A [`QuantizationSpec`].
    pub(super) spec: Raw,
    /// A [`StateRecord`].
    pub(super) state: Raw,
}

/// The statistics of an observer. Strings are names of tensors in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateRecord {
    Ranges { min: String, max: String },
    Groups { min: String, max: String, groups_per_row: usize },
    Histograms(Vec<HistogramRecord>),
    Known(TensorQParams),
    Nothing,
}

#[derive(Debug, Serialize, Deserialize)]
struct HistogramRecord {
    min: f32,
    max: f32,
    counts: String,
}

impl ObserverRecord {
    /// The record of an observer; its statistics go to `writer`.
    ///
    /// # Errors
    /// A spec has a rule that a file cannot hold.
    pub(super) fn new(observer: &Observer, writer: &mut Writer) -> Result<Self, serde_json::Error> {
        let state = match observer.state() {
            State::Nothing => StateRecord::Nothing,
            State::Known(qparams) => StateRecord::Known(qparams.clone()),
            State::Ranges(ranges) => StateRecord::Ranges {
                min: writer.floats(ranges.iter().map(|range| range.min).collect()),
                max: writer.floats(ranges.iter().map(|range| range.max).collect()),
            },
            State::Groups(ranges, groups_per_row) => StateRecord::Groups {
                min: writer.floats(ranges.iter().map(|range| range.min).collect()),
                max: writer.floats(ranges.iter().map(|range| range.max).collect()),
                groups_per_row: *groups_per_row,
            },
            State::Histograms(Histograms(shards)) => {
                let shard = |histogram: &Histogram| {
                    let (min, max) = histogram.min_max();
                    HistogramRecord { min, max, counts: writer.floats(histogram.counts().to_vec()) }
                };
                StateRecord::Histograms(shards.iter().map(shard).collect())
            }
        };
        Ok(Self { spec: Raw::of(observer.spec())?, state: Raw::of(&state)? })
    }

    /// The observer, which messages call `observer {at}`.
    pub(super) fn observer(&self, at: usize, reader: &Reader<'_>) -> Result<Observer, ArchiveError> {
        let broken = |problem: String| ArchiveError::Node { node: format!("observer {at}"), problem };
        let observer = match json::from_str::<QuantizationSpec>(self.spec.get()).map_err(|e| broken(e.to_string()))? {
            QuantizationSpec::Observed(spec) => Observer::new(spec).map_err(|e| broken(e.to_string()))?,
            QuantizationSpec::FixedQParams(spec) => Observer::fixed(spec),
            QuantizationSpec::Derived(spec) => Observer::derived(spec),
            QuantizationSpec::Shared(_) => return Err(broken("is shared with nothing".to_owned())),
        };
        let state = match json::from_str::<StateRecord>(self.state.get()).map_err(|e| broken(e.to_string()))? {
            StateRecord::Nothing => State::Nothing,
            StateRecord::Known(qparams) => State::Known(qparams),
            StateRecord::Ranges { min, max } => {
                State::Ranges(ranges(reader.floats(&min)?, reader.floats(&max)?).map_err(broken)?)
            }
            StateRecord::Groups { min, max, groups_per_row } => {
                let ranges = ranges(reader.floats(&min)?, reader.floats(&max)?).map_err(broken)?;
                State::Groups(ranges, groups_per_row)
            }
            StateRecord::Histograms(shards) => {
                let shard = |record: &HistogramRecord| {
                    Histogram::from_parts(record.min, record.max, reader.floats(&record.counts)?)
                        .ok_or_else(|| broken(format!("the histogram in {} is not sound", record.counts)))
                };
                State::Histograms(Histograms(shards.iter().map(shard).collect::<Result<_, _>>()?))
            }
        };
        observer.with_state(state).ok_or_else(|| broken("its state is not that of its spec".to_owned()))
    }
}

fn ranges(min: Vec<f32>, max: Vec<f32>) -> Result<Vec<Range>, String> {
    if min.len() != max.len() {
        return Err(format!("{} smallest values but {} largest", min.len(), max.len()));
    }
    let ranges: Vec<Range> = min.into_iter().zip(max).map(|(min, max)| Range { min, max }).collect();
    let sound = |r: &Range| r.min.is_finite() && r.max.is_finite() && r.min <= r.max;
    match ranges.iter().find(|range| !sound(range)) {
        Some(range) => Err(format!("its range is {:e}..={:e}", range.min, range.max)),
        None => Ok(ranges),
    }
}
