//! The parts of a file's header that hold what passes for accuracy collect: channel statistics, and second moments.

use serde::{Deserialize, Serialize};

use super::error::ArchiveError;
use super::tensors::{Reader, Writer};
use crate::graph::Graph;
use crate::quantize::PreparedGraph;
use crate::quantize::accuracy::{ChannelStatistics, Hessians, SmoothOptions};
use crate::quantize::archived::Sums;

/// The statistics of a float graph, and what they are for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StatisticsRecord {
    batches: u64,
    options: SmoothOptions,
    /// For each value that layers read, the names of the tensors with maxima and samples.
    values: Vec<(String, String)>,
}

/// The second moments of a prepared graph.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MomentsRecord {
    batches: u64,
    /// For each value that layers read, those of each group of channels.
    values: Vec<Vec<SumsRecord>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SumsRecord {
    features: usize,
    place: Option<i32>,
    /// Names of tensors.
    upper: String,
    lower: String,
}

impl StatisticsRecord {
    pub(super) fn new(statistics: &ChannelStatistics, options: SmoothOptions, writer: &mut Writer) -> Self {
        let values = statistics.seen();
        let values = values.map(|(maxima, samples)| (writer.floats(maxima.to_vec()), writer.floats(samples.to_vec())));
        Self { batches: statistics.batches(), options, values: values.collect() }
    }

    pub(super) fn statistics(
        &self,
        graph: &Graph,
        reader: &Reader<'_>,
    ) -> Result<(ChannelStatistics, SmoothOptions), ArchiveError> {
        let seen = |(maxima, samples): &(String, String)| Ok((reader.floats(maxima)?, reader.floats(samples)?));
        let seen = self.values.iter().map(seen).collect::<Result<Vec<_>, ArchiveError>>()?;
        let broken = |problem| ArchiveError::Node { node: "channel statistics".to_owned(), problem };
        Ok((ChannelStatistics::from_seen(graph, seen, self.batches).map_err(broken)?, self.options))
    }
}

impl MomentsRecord {
    pub(super) fn new(hessians: &Hessians, writer: &mut Writer) -> Self {
        let mut record = |sums: &Sums| {
            let [upper, lower] = sums.limbs().map(|limbs| writer.longs(limbs.to_vec()));
            SumsRecord { features: sums.features(), place: sums.place(), upper, lower }
        };
        let sums: Vec<&[Sums]> = hessians.values().iter().map(|value| &value.sums[..]).collect();
        let values = sums.into_iter().map(|groups| groups.iter().map(&mut record).collect()).collect();
        Self { batches: hessians.batches(), values }
    }

    pub(super) fn hessians(&self, prepared: &PreparedGraph, reader: &Reader<'_>) -> Result<Hessians, ArchiveError> {
        let broken = |problem: String| ArchiveError::Node { node: "second moments".to_owned(), problem };
        let sums = |record: &SumsRecord| {
            let (upper, lower) = (reader.longs(&record.upper)?, reader.longs(&record.lower)?);
            let lengths = (upper.len(), lower.len());
            Sums::from_parts(record.features, record.place, upper, lower).ok_or_else(|| {
                let SumsRecord { features, place, .. } = record;
                broken(format!("{lengths:?} elements of {features} features at {place:?} do not fit together"))
            })
        };
        let of_value = |groups: &Vec<SumsRecord>| groups.iter().map(sums).collect::<Result<Vec<_>, ArchiveError>>();
        let values = self.values.iter().map(of_value).collect::<Result<_, _>>()?;
        Hessians::from_sums(prepared, values, self.batches).map_err(broken)
    }
}
