//! Statistics and second moments that are collected in shards, and saved between.

use enfold::archive::{self, ArchiveError};
use enfold::quantize::accuracy::{ChannelStatistics, GptqOptions, Hessians, SmoothOptions, gptq, smooth};
use enfold::quantize::{PreparedGraph, QuantizationConfig, WgpuQuantizer, prepare};
use enfold::{Graph, Tensor};

use super::networks::{batch, encoder, gated, images};
use super::statistics;

fn prepared(graph: &Graph) -> PreparedGraph {
    let config = QuantizationConfig::symmetric().per_channel().weight_bits(4);
    prepare(graph, &WgpuQuantizer::new().set_global(config)).expect("prepared")
}

/// Shards of any sizes add up to one run: the smoothed network and the rounded weights have the same bits.
#[test]
fn shards_add_up_to_one_run() {
    for (name, graph) in [("encoder", encoder(1, 3)), ("gated", gated()), ("images", images())] {
        let graph = graph.expect("a network");
        // Batches of few rows too, which offer fewer samples than they may.
        let batches: Vec<Tensor> = (0..7).map(|at| batch(&graph, 1 + at as usize % 3 * 4, at)).collect();
        let observed = |batches: &[Tensor]| {
            let mut statistics = ChannelStatistics::new(&graph);
            batches.iter().for_each(|batch| statistics.observe(&[batch]).expect("observed"));
            statistics
        };
        let smoothed = |statistics: &ChannelStatistics| {
            smooth(&graph, statistics, &SmoothOptions::default().with_search(true)).expect("smoothed").graph
        };
        let moments = |batches: &[Tensor]| {
            let mut hessians = Hessians::new(&prepared(&graph));
            batches.iter().for_each(|batch| hessians.observe(&[batch]).expect("observed"));
            hessians
        };
        let rounded = |hessians: &Hessians| {
            let mut prepared = prepared(&graph);
            gptq(&mut prepared, hessians, &GptqOptions::default()).expect("rounded");
            prepared.graph().clone()
        };
        let (whole, whole_moments) = (smoothed(&observed(&batches)), rounded(&moments(&batches)));
        for cuts in [vec![3], vec![1, 2, 6]] {
            let ends = cuts.iter().copied().chain([batches.len()]);
            let shards: Vec<&[Tensor]> =
                [0].iter().chain(&cuts).zip(ends).map(|(&from, to)| &batches[from..to]).collect();
            let (mut sum, mut sum_of_moments) = (ChannelStatistics::new(&graph), Hessians::new(&prepared(&graph)));
            for shard in &shards {
                // Through a file, as between machines.
                let options = SmoothOptions::default().with_alpha(0.7);
                let bytes = archive::statistics_to_bytes(&observed(shard), options).expect("bytes");
                let (read, read_options) = archive::statistics_from_bytes(&bytes).expect("statistics");
                assert_eq!((read.batches(), read_options), (shard.len() as u64, options), "{name}");
                sum.merge(&read).expect("merged");
                let bytes = archive::calibration_to_bytes(&prepared(&graph), &moments(shard)).expect("bytes");
                let (_, read) = archive::calibration_from_bytes(&bytes).expect("a calibration");
                sum_of_moments.merge(&read.expect("moments")).expect("merged");
                assert!(archive::prepared_from_bytes(&bytes).is_ok(), "{name}");
            }
            assert_eq!((sum.batches(), sum.fingerprint()), (7, observed(&batches).fingerprint()), "{name}");
            assert_eq!(smoothed(&sum), whole, "{name} in {} shards", shards.len());
            assert_eq!(rounded(&sum_of_moments), whole_moments, "{name} in {} shards", shards.len());
        }
        // Without one batch, both differ.
        assert_ne!(observed(&batches[1..]).fingerprint(), observed(&batches).fingerprint(), "{name}");
        assert_ne!(rounded(&moments(&batches[1..])), whole_moments, "{name}");
    }
}

#[test]
fn wrong_files_of_shards_are_named() {
    let graph = gated().expect("a network");
    let bytes = archive::statistics_to_bytes(&statistics(&graph), SmoothOptions::default()).expect("bytes");
    let kind = |error: ArchiveError| error.to_string();
    let error = archive::from_bytes(&bytes).map(drop).map_err(kind).expect_err("statistics");
    assert!(error.contains("channel statistics") && error.contains("a graph"), "{error}");
    let error = archive::prepared_from_bytes(&bytes).map(drop).map_err(kind).expect_err("statistics");
    assert!(error.contains("channel statistics") && error.contains("a prepared graph"), "{error}");
    let plain = archive::to_bytes(&graph).expect("bytes");
    let error = archive::statistics_from_bytes(&plain).map(drop).map_err(kind).expect_err("a graph");
    assert!(error.contains("a graph") && error.contains("channel statistics"), "{error}");
    // Moments of a part of the network are no calibration.
    let prepared = prepared(&graph);
    let mut part = Hessians::in_parts(&prepared, 1).swap_remove(0);
    part.observe(&[batch(&graph, 2, 0)]).expect("observed");
    let error = archive::calibration_to_bytes(&prepared, &part).map_err(kind).expect_err("a part");
    assert!(error.contains("second moments") && error.contains("part"), "{error}");

    // Numbers that do not fit the network, in headers of the same length.
    let edited = |bytes: &[u8], from: &str, to: &str| {
        let text =
            String::from_utf8_lossy(&bytes[8..8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize]);
        assert!(text.contains(from) && from.len() == to.len(), "{from} {to}");
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("there");
        let mut bytes = bytes.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let mut hessians = Hessians::new(&prepared);
    hessians.observe(&[batch(&graph, 2, 0)]).expect("observed");
    let sums = archive::calibration_to_bytes(&prepared, &hessians).expect("bytes");
    let features = r#"\"features\":128"#;
    let error = archive::calibration_from_bytes(&edited(&sums, features, r#"\"features\":127"#));
    let error = error.map(drop).map_err(kind).expect_err("other features");
    assert!(error.contains("127") && error.contains("second moments"), "{error}");
    let place = r#"\"place\":0"#;
    let error = archive::calibration_from_bytes(&edited(&sums, place, r#"\"place\":9"#));
    assert!(error.is_ok(), "another place is another number: {error:?}");
    // Maxima and samples exchanged.
    let header = String::from_utf8_lossy(&bytes).into_owned();
    let at = header.find(r#"\"values\":[["#).expect("values");
    let pair: String = header[at..].split(']').next().expect("a pair").to_owned();
    let names: Vec<&str> = pair.split('[').next_back().expect("names").split(',').collect();
    let error = archive::statistics_from_bytes(&edited(&bytes, names[0], names[1]));
    assert!(error.is_err(), "one tensor is named twice");
}
