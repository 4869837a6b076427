//! Observers in sharded calibration, and the observers that PyTorch lacks.

use enfold::Tensor;
use enfold::numerics::EPS;
use enfold::quantize::{FixedQParamsSpec, ObservedSpec, Observer, ObserverError, ObserverKind};
use enfold::values::{QParams, QScheme, QuantRange, TensorQParams};
use proptest::prelude::*;

use crate::random::Random;
use crate::report::report;

fn observer(kind: ObserverKind, qscheme: QScheme) -> Observer {
    Observer::new(ObservedSpec { range: QuantRange::INT8, qscheme, observer: kind, eps: EPS }).expect("a valid spec")
}

fn seen(kind: ObserverKind, qscheme: QScheme, batches: &[Tensor]) -> Observer {
    let mut observer = observer(kind, qscheme);
    batches.iter().for_each(|batch| observer.observe(batch).expect("finite"));
    observer
}

/// Batches of different scale and place, so that ranges grow.
fn batches(seed: u64, count: usize) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let batch = |_| {
        let (scale, shift) = ((random.normal() * 0.7).exp(), random.normal());
        let data = random.normals(400, scale).iter().map(|v| v + shift).collect();
        Tensor::from_f32(&[50, 8], data).expect("lengths fit")
    };
    (0..count).map(batch).collect()
}

fn merged(parts: &[Observer]) -> Observer {
    let mut whole = parts[0].clone();
    parts[1..].iter().for_each(|part| whole.merge(part).expect("of the same spec"));
    whole
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Min/max observers give the qparams of one pass, however the batches are sharded and the shards merged.
    #[test]
    fn merged_ranges_give_exactly_the_parameters_of_one_pass(seed in any::<u64>(), cut in 1usize..5, channels in any::<bool>()) {
        let qscheme = if channels { QScheme::per_channel_symmetric(1) } else { QScheme::per_tensor_affine() };
        let all = batches(seed, 6);
        let one_pass = seen(ObserverKind::MinMax, qscheme, &all);
        let parts = [&all[..cut], &all[cut..]].map(|part| seen(ObserverKind::MinMax, qscheme, part));
        let whole = merged(&parts);
        prop_assert_eq!(whole.calculate_qparams(), one_pass.calculate_qparams());
        let mut other_way = parts[1].clone();
        other_way.merge(&parts[0]).expect("of the same spec");
        prop_assert_eq!(other_way, whole);
    }

    /// Merging is associative for every kind that merges, and an observer that has observed nothing changes nothing.
    #[test]
    fn merging_is_associative(seed in any::<u64>(), kind in 0usize..4) {
        let kinds = [
            ObserverKind::MinMax, ObserverKind::Histogram, ObserverKind::Mse, ObserverKind::Percentile { fraction: 0.99 },
        ];
        let part = |at| seen(kinds[kind], QScheme::per_tensor_affine(), &batches(seed.wrapping_add(at), 2));
        let [a, b, c] = [part(0), part(1), part(2)];
        let left = merged(&[merged(&[a.clone(), b.clone()]), c.clone()]);
        let right = merged(&[a, merged(&[b, c])]);
        prop_assert_eq!(left.calculate_qparams(), right.calculate_qparams());
        let nothing = observer(kinds[kind], QScheme::per_tensor_affine());
        prop_assert_eq!(merged(&[nothing.clone(), left.clone()]).calculate_qparams(), left.calculate_qparams());
        prop_assert_eq!(merged(&[left.clone(), nothing]), left);
    }
}

/// Measures how far cumulative counts are outside of those of `other` one bin to the left and one bin to the right.
fn beyond_a_bin(histogram: &Observer, other: &Observer) -> f64 {
    let [a, b] = [histogram, other].map(|observer| {
        let counts = observer.histogram().expect("calibrated");
        let sums = counts.iter().scan(0f64, |sum, &count| {
            *sum += f64::from(count);
            Some(*sum)
        });
        sums.collect::<Vec<f64>>()
    });
    (1..a.len() - 1).map(|bin| (b[bin - 1] - a[bin]).max(a[bin] - b[bin + 1])).fold(0.0, f64::max)
}

fn joined(batches: &[Tensor]) -> Tensor {
    let data: Vec<f32> = batches.iter().flat_map(|b| b.as_f32().expect("floats").to_vec()).collect();
    Tensor::from_f32(&[data.len()], data).expect("lengths fit")
}

/// Merging moves each count by at most one bin: cumulative counts lie between those of the neighbouring bins in the histogram of all
/// values at once. One pass over the batches spreads its counts whenever its range grows, up to five times here, so it is further from
/// that histogram than shards are.
#[test]
fn merged_histograms_move_counts_by_at_most_a_bin() {
    let histogram = |batches: &[Tensor]| seen(ObserverKind::Histogram, QScheme::per_tensor_affine(), batches);
    let scale = |observer: &Observer| {
        let qparams = observer.calculate_qparams().expect("calibrated");
        qparams.per_tensor().expect("one for the tensor").scale()
    };
    let (mut from_all, mut from_one_pass, mut one_pass_from_all, mut scales) = (0f64, 0f64, 0f64, 0f32);
    for seed in 0..200 {
        let all = batches(seed, 6);
        let (at_once, one_pass) = (histogram(&[joined(&all)]), histogram(&all));
        let shards: Vec<Observer> = all.chunks(1).map(histogram).collect();
        let whole = merged(&shards);
        assert_eq!(whole.min_max(), at_once.min_max());
        from_all = from_all.max(beyond_a_bin(&whole, &at_once));
        from_one_pass =
            from_one_pass.max(beyond_a_bin(&merged(&all.chunks(2).map(histogram).collect::<Vec<_>>()), &one_pass));
        one_pass_from_all = one_pass_from_all.max(beyond_a_bin(&one_pass, &at_once));
        scales = scales.max((scale(&whole) / scale(&one_pass) - 1.0).abs());
    }
    report(&format!(
        "histograms of 200 sets of 6 shards, values of 2400 that moved by more than a bin: merged {from_all:.3}, one pass \
         {one_pass_from_all:.3}, merged from pairs against one pass {from_one_pass:.3}; scales at most {:.2} % apart",
        scales * 100.0
    ));
    // The bound is the error of f32 in sums of 2400.
    assert!(from_all < 2e-3, "{from_all}");
    assert!(from_one_pass < 0.5, "{from_one_pass}");
    // A lost shard would be noticed.
    let all = batches(1, 6);
    assert!(beyond_a_bin(&histogram(&all[..5]), &histogram(&[joined(&all)])) > 100.0);
}

#[test]
fn moving_averages_and_other_specs_do_not_merge() {
    let moving = || seen(ObserverKind::MOVING_AVERAGE, QScheme::per_tensor_affine(), &batches(1, 2));
    let error = moving().merge(&moving()).expect_err("depends on the order");
    assert_eq!(error, ObserverError::MergeMovingAverage);
    assert!(error.to_string().contains("order of the batches"));
    let (mut a, b) = (
        observer(ObserverKind::MinMax, QScheme::per_tensor_affine()),
        observer(ObserverKind::Mse, QScheme::per_tensor_affine()),
    );
    assert!(matches!(a.merge(&b), Err(ObserverError::MergeSpecs { .. })));
    let channels = |n: usize| {
        let x = Tensor::from_f32(&[n, 2], vec![1.0; n * 2]).expect("lengths fit");
        seen(ObserverKind::MinMax, QScheme::per_channel_symmetric(0), &[x])
    };
    let mut three = channels(3);
    assert_eq!(three.merge(&channels(4)), Err(ObserverError::Channels { ch_axis: 0, actual: 4, expected: 3 }));
    assert_eq!(three, channels(3), "a refused merge changes nothing");
}

/// Mostly within ±1, and one value in a thousand at 50.
fn with_outliers() -> Tensor {
    let mut random = Random::new(5);
    let data = (0..20_000).map(|i| if i % 1000 == 0 { 50.0 } else { (random.uniform() * 2.0 - 1.0) as f32 }).collect();
    Tensor::from_f32(&[20_000], data).expect("lengths fit")
}

#[test]
fn percentiles_cut_what_lies_beyond() {
    let kept = |fraction| {
        seen(ObserverKind::Percentile { fraction }, QScheme::per_tensor_affine(), &[with_outliers()]).kept_range()[0]
    };
    let all = kept(1.0);
    assert!((all.0 + 1.0).abs() < 0.01 && all.1 == 50.0, "{all:?}");
    let (low, high) = kept(0.99);
    assert!(low > -1.0 && low < -0.95 && high < 1.1, "{low} to {high}");
    let half = kept(0.5);
    assert!((half.0 + 0.5).abs() < 0.05 && (half.1 - 0.5).abs() < 0.06, "{half:?}");
    assert!(
        Observer::new(ObservedSpec {
            range: QuantRange::INT8,
            qscheme: QScheme::per_tensor_affine(),
            observer: ObserverKind::Percentile { fraction: 1.5 },
            eps: EPS,
        })
        .is_err_and(|e| e.to_string().contains("1.5"))
    );
}

/// The range of least squared error is never worse than those of min/max and the greedy histogram, and at few bits far better.
#[test]
fn least_squares_has_the_smallest_error() {
    let bell = || Tensor::from_f32(&[20_000], Random::new(6).normals(20_000, 1.0)).expect("lengths fit");
    let four_bits = QuantRange::new(-8, 7).expect("valid");
    for (x, range, better) in [
        (with_outliers(), QuantRange::INT8, 1.01),
        (with_outliers(), four_bits, 1.01),
        (bell(), QuantRange::INT8, 1.01),
        (bell(), four_bits, 0.7),
    ] {
        let error = |kind| {
            let spec = ObservedSpec { range, qscheme: QScheme::per_tensor_affine(), observer: kind, eps: EPS };
            let mut observer = Observer::new(spec).expect("valid");
            observer.observe(&x).expect("finite");
            let TensorQParams::PerTensor(q) = observer.calculate_qparams().expect("calibrated") else {
                panic!("one scale")
            };
            let restored = |v: f32| {
                let code =
                    enfold::numerics::quantize(v, q.inv_scale(), q.zero_point(), range.quant_min(), range.quant_max());
                enfold::numerics::dequantize(code, q.scale(), q.zero_point())
            };
            x.as_f32().expect("floats").iter().map(|&v| f64::from(v - restored(v)).powi(2)).sum::<f64>()
        };
        let [mse, minmax, greedy] = [ObserverKind::Mse, ObserverKind::MinMax, ObserverKind::Histogram].map(error);
        assert!(mse <= minmax * better && mse <= greedy * better, "{mse:e} against {minmax:e} and {greedy:e}");
    }
}

#[test]
fn fixed_parameters_are_what_was_given() {
    let qparams = QParams::new(0.25, -3).expect("valid");
    let mut fixed = Observer::fixed(FixedQParamsSpec { qparams, range: QuantRange::INT8 });
    fixed.observe(&with_outliers()).expect("ignored");
    assert_eq!(fixed.calculate_qparams(), Ok(TensorQParams::PerTensor(qparams)));
    let placeholder = observer(ObserverKind::Placeholder, QScheme::per_token_affine());
    assert_eq!(placeholder.calculate_qparams(), Err(ObserverError::Dynamic));
}
