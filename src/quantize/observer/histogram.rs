//! The histogram observer: where to clip, so that the quantization error is smallest.
//!
//! Values are counted in 2048 equal bins between the smallest and largest seen. When that range grows, the old counts are
//! spread over the new bins. The kept range is found by a greedy search that shrinks a window of bins from the side that
//! holds less of the mass, as long as an estimate of the squared error falls. It follows torchao's `HistogramObserver`.
//!
//! One step of the search moves a quantile by 1e-5 of the mass. With fewer than about 100,000 values that is less than
//! one count, and outliers are kept: clipping needs data.

use std::borrow::Cow;

use rayon::prelude::*;

use super::qparams_rule;
use crate::numerics;
use crate::quantize::spec::ObservedSpec;

const BINS: usize = 2048;
/// Old bins are split this fine before they are spread over new ones.
const UPSAMPLE: usize = 16;
/// The number of quantized values that the error estimate assumes: that of int8, also where the range is narrower.
const QUANTIZED_VALUES: usize = 256;
const STEP: f64 = 1e-5;

/// The search for the kept range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Window {
    /// The search of PT2E.
    Greedy,
    /// The values between two quantiles.
    Quantiles { fraction: f32 },
    /// The least error of a grid of windows, with the range and the scheme of a spec.
    LeastSquares(ObservedSpec),
}

/// The histograms of one or more shards. They are kept apart, so that merging is associative and each count is spread over
/// common bins only once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histograms(pub(crate) Vec<Histogram>);

impl Histograms {
    /// Counts a tensor in the last shard.
    pub(super) fn add(&mut self, values: &[f32], min: f32, max: f32) {
        match self.0.last_mut() {
            Some(histogram) => histogram.add(values, min, max),
            None => self.0.push(Histogram::new(values, min, max)),
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(super) fn min_max(&self) -> Option<(f32, f32)> {
        let ranges = self.0.iter().map(|h| (h.min, h.max));
        ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// All shards over common bins.
    pub(super) fn combined(&self) -> Option<Cow<'_, Histogram>> {
        if let [only] = self.0.as_slice() {
            return Some(Cow::Borrowed(only));
        }
        let (min, max) = self.min_max()?;
        let mut counts = vec![0f32; BINS];
        for shard in &self.0 {
            if (shard.min, shard.max) == (min, max) {
                counts.iter_mut().zip(&shard.counts).for_each(|(sum, count)| *sum += count);
            } else {
                shard.spread(&mut counts, min, max);
            }
        }
        Some(Cow::Owned(Histogram { min, max, counts }))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Histogram {
    min: f32,
    max: f32,
    /// Fractional once the range has grown.
    counts: Vec<f32>,
}

impl Histogram {
    /// Counts the first tensor; `min` and `max` are its smallest and largest value.
    pub(super) fn new(values: &[f32], min: f32, max: f32) -> Self {
        Self { min, max, counts: count(values, min, max) }
    }

    /// Counts another tensor.
    pub(super) fn add(&mut self, values: &[f32], min: f32, max: f32) {
        let (new_min, new_max) = (self.min.min(min), self.max.max(max));
        let mut counts = count(values, new_min, new_max);
        if (new_min, new_max) == (self.min, self.max) {
            counts.iter_mut().zip(&self.counts).for_each(|(new, old)| *new += old);
        } else {
            self.spread(&mut counts, new_min, new_max);
        }
        (self.min, self.max, self.counts) = (new_min, new_max, counts);
    }

    /// A histogram from a file; `None` unless the counts are those of one histogram.
    pub(crate) fn from_parts(min: f32, max: f32, counts: Vec<f32>) -> Option<Self> {
        let sound = counts.len() == BINS && min.is_finite() && max.is_finite() && min <= max;
        let usable = |c: &f32| c.is_finite() && *c >= 0.0;
        // No calibration counts more values; sums of a few larger counts would be infinite.
        let countable = counts.iter().map(|&c| f64::from(c)).sum::<f64>() <= u64::MAX as f64;
        (sound && countable && counts.iter().all(usable)).then_some(Self { min, max, counts })
    }

    pub(crate) fn min_max(&self) -> (f32, f32) {
        (self.min, self.max)
    }

    pub(crate) fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// The range between the edges of a window, in real units.
    pub(super) fn kept_range(&self, window: Window) -> (f32, f32) {
        let (start, end) = match window {
            Window::Greedy => self.search(),
            Window::Quantiles { fraction } => self.quantiles(f64::from(fraction)),
            Window::LeastSquares(spec) => self.least_squares(&spec),
        };
        self.edges_of(start, end)
    }

    /// Adds the old counts to `counts`, whose bins cover `new_min..=new_max`.
    fn spread(&self, counts: &mut [f32], new_min: f32, new_max: f32) {
        if self.min == self.max {
            // All old counts are of one value.
            counts[bin(self.min, new_min, new_max)] += self.counts.iter().sum::<f32>();
            return;
        }
        const FINE: usize = BINS * UPSAMPLE;
        let half = 0.5 * ((self.max - self.min) / FINE as f32);
        let mut spread = vec![0f64; BINS];
        let mut target = 0;
        for (old, &count) in self.counts.iter().enumerate() {
            let share = f64::from(count / UPSAMPLE as f32);
            for fine in old * UPSAMPLE..(old + 1) * UPSAMPLE {
                let midpoint = linspace(self.min, self.max, FINE + 1, fine) + half;
                // Midpoints and edges both ascend, so the target bin only moves right.
                while target + 1 < BINS && linspace(new_min, new_max, BINS + 1, target + 1) <= midpoint {
                    target += 1;
                }
                spread[target] += share;
            }
        }
        counts.iter_mut().zip(spread).for_each(|(new, old)| *new += old as f32);
    }

    /// First and last bin of the kept window.
    fn search(&self) -> (usize, usize) {
        let mut running = 0f64;
        let cumulative: Vec<f32> = self
            .counts
            .iter()
            .map(|&c| {
                running += f64::from(c);
                running as f32
            })
            .collect();
        let total = f64::from(running as f32);
        let (mut alpha, mut beta) = (0f64, 1f64);
        let (mut start, mut end) = (0, BINS - 1);
        let mut best = f64::INFINITY;
        while alpha < beta {
            let (next_alpha, next_beta) = (alpha + STEP, beta - STEP);
            let (low, high) = ((next_alpha * total) as f32, (next_beta * total) as f32);
            let left = (start..end).find(|&i| cumulative[i] >= low).unwrap_or(end);
            let right = (start + 1..=end).rev().find(|&i| cumulative[i] <= high).unwrap_or(start);
            let (next_start, next_end) = if left - start > end - right {
                alpha = next_alpha;
                (left, end)
            } else {
                beta = next_beta;
                (start, right)
            };
            if (next_start, next_end) == (start, end) {
                continue;
            }
            let error = self.quantization_error(next_start, next_end);
            if error > best {
                break;
            }
            (best, start, end) = (error, next_start, next_end);
        }
        (start, end)
    }

    /// First and last bin of the window that remains when half of `1 − fraction` of the mass is cut at each end.
    fn quantiles(&self, fraction: f64) -> (usize, usize) {
        let total: f64 = self.counts.iter().map(|&c| f64::from(c)).sum();
        let cut = total * (1.0 - fraction) / 2.0;
        let beyond = |bins: &mut dyn Iterator<Item = usize>| {
            let mut running = 0.0;
            bins.take_while(|&bin| {
                running += f64::from(self.counts[bin]);
                running <= cut
            })
            .count()
        };
        let start = beyond(&mut (0..BINS)).min(BINS - 1);
        let end = BINS - 1 - beyond(&mut (0..BINS).rev()).min(BINS - 1);
        (start.min(end), end)
    }

    /// The window with the smallest error of a grid, which cuts 0 to 90 % of the bins, at one end or half at each. The error is that of
    /// the centre of every bin, quantized with the qparams of the window.
    fn least_squares(&self, spec: &ObservedSpec) -> (usize, usize) {
        const STEPS: usize = 100;
        let last = BINS - 1;
        let cut = |step: usize| BINS * 9 / 10 * step / STEPS;
        let windows: Vec<(usize, usize)> = (0..=STEPS)
            .flat_map(|step| {
                let cut = cut(step);
                [(cut / 2, last - cut / 2), (cut, last), (0, last - cut)]
            })
            .collect();
        let (lo, hi) = (spec.range.quant_min(), spec.range.quant_max());
        let bin_width = (self.max - self.min) / BINS as f32;
        let error = |&(start, end): &(usize, usize)| {
            let (min, max) = self.edges_of(start, end);
            let (scale, z) = qparams_rule(spec)(min, max, lo, hi, spec.eps);
            let squared = |(bin, &count): (usize, &f32)| {
                let v = self.min + bin_width * (bin as f32 + 0.5);
                let restored = numerics::dequantize(numerics::quantize(v, 1.0 / scale, z, lo, hi), scale, z);
                f64::from(count) * f64::from(restored - v).powi(2)
            };
            self.counts.iter().enumerate().filter(|(_, count)| **count > 0.0).map(squared).sum::<f64>()
        };
        let errors: Vec<f64> = windows.par_iter().map(error).collect();
        let best = (0..windows.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).expect("there are windows");
        windows[best]
    }

    /// The range of a window, in real units.
    fn edges_of(&self, start: usize, end: usize) -> (f32, f32) {
        let bin_width = (self.max - self.min) / BINS as f32;
        (self.min + bin_width * start as f32, self.min + bin_width * (end + 1) as f32)
    }

    /// Estimated squared error if the bins `start..=end` are quantized to [`QUANTIZED_VALUES`] values and the rest is clipped.
    ///
    /// Values are taken as uniform within a bin. A source bin from `s0` to `s1` reaches from quantized value `d0` to `d1`; the integral of
    /// the squared distance to the centre of a quantized value over each piece is `G(u, v) = (v³ − u³) / 3`.
    fn quantization_error(&self, start: usize, end: usize) -> f64 {
        let bin_width = (f64::from(self.max) - f64::from(self.min)) / BINS as f64;
        let step = bin_width * (end - start + 1) as f64 / QUANTIZED_VALUES as f64;
        if step == 0.0 {
            return 0.0;
        }
        let g = |from: f64, to: f64| (to * to * to - from * from * from) / 3.0;
        let half = step / 2.0;
        let whole = g(-half, half);
        let last = (QUANTIZED_VALUES - 1) as f64;
        let mut error = 0.0;
        for (i, &count) in self.counts.iter().enumerate() {
            let s0 = (i as f64 - start as f64) * bin_width;
            let s1 = s0 + bin_width;
            let d0 = (s0 / step).floor().clamp(0.0, last);
            let d1 = (s1 / step).floor().clamp(0.0, last);
            let density = f64::from(count) / bin_width;
            let first = g(s0 - (d0 + 0.5) * step, half);
            error += density * (first + (d1 - d0 - 1.0) * whole + g(-half, s1 - (d1 * step + half)));
        }
        error
    }
}

/// Counts per bin of `min..=max`, which holds all values.
fn count(values: &[f32], min: f32, max: f32) -> Vec<f32> {
    // Counts are u32 per task and summed exactly; the total stays below 2^24 in any bin that f32 can count at all.
    const BLOCK: usize = 1 << 17;
    let counts = values.par_chunks(BLOCK).fold(
        || vec![0u32; BINS],
        |mut counts, block| {
            count_block(&mut counts, block, min, max);
            counts
        },
    );
    let sum = |mut a: Vec<u32>, b: Vec<u32>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    counts.reduce(|| vec![0u32; BINS], sum).into_iter().map(|c| c as f32).collect()
}

fn count_block(counts: &mut [u32], values: &[f32], min: f32, max: f32) {
    // The bins of a block of values are computed first, which vectorises, and then counted, which does not.
    let mut bins = [0i32; 256];
    let (lo, hi) = edges(min, max);
    for block in values.chunks(bins.len()) {
        for (bin, &v) in bins.iter_mut().zip(block) {
            *bin = ((v - lo) * BINS as f32 / (hi - lo)) as i32;
        }
        for &bin in &bins[..block.len()] {
            // The top edge belongs to the last bin.
            counts[(bin.max(0) as usize).min(BINS - 1)] += 1;
        }
    }
}

fn bin(v: f32, min: f32, max: f32) -> usize {
    let (lo, hi) = edges(min, max);
    (((v - lo) * BINS as f32 / (hi - lo)) as usize).min(BINS - 1)
}

/// The range of the bins: a constant gets a range around it.
fn edges(min: f32, max: f32) -> (f32, f32) {
    if min == max { (min - 1.0, max + 1.0) } else { (min, max) }
}

/// Element `i` of `n` equally spaced numbers, counted from the nearer end as torch does.
fn linspace(from: f32, to: f32, n: usize, i: usize) -> f32 {
    let step = (to - from) / (n - 1) as f32;
    if i < n / 2 { from + step * i as f32 } else { to - step * (n - 1 - i) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element i is ((i · a) mod m − o) / d: exact in f32.
    fn seq(n: usize, a: usize, m: usize, o: i32, d: f32) -> Vec<f32> {
        (0..n).map(|i| ((i * a % m) as i32 - o) as f32 / d).collect()
    }

    fn observe(batches: &[Vec<f32>]) -> Histogram {
        let range = |b: &[f32]| b.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let (lo, hi) = range(&batches[0]);
        let mut h = Histogram::new(&batches[0], lo, hi);
        for b in &batches[1..] {
            let (lo, hi) = range(b);
            h.add(b, lo, hi);
        }
        h
    }

    /// The vectors H1 to H8 of PT2E, computed with torchao 0.15.0: range, kept bins, scale and zero point.
    #[test]
    fn matches_torchao() {
        let h1 = seq(1000, 37, 101, 50, 16.0);
        let outliers = h1.iter().copied().chain([40.0, -60.0]).collect();
        let fifth = |v: &f32| v.powi(5) / 1e4;
        let cases = [
            ("H1", vec![h1.clone()], (-3.125, 3.125), 2046, 0.024_497_837, 0),
            ("H2", vec![h1.iter().map(|v| v.powi(3)).collect()], (-30.517_578, 30.517_578), 2046, 0.239_236_68, 0),
            ("H3", vec![h1.iter().map(|v| v.max(0.0)).collect()], (0.0, 3.125), 2046, 0.012_248_918, -128),
            (
                "H4",
                vec![seq(500, 37, 101, 50, 16.0), seq(500, 53, 211, 105, 8.0)],
                (-13.125, 13.125),
                2046,
                0.102_890_91,
                0,
            ),
            ("H5", vec![outliers], (-60.0, 40.0), 2046, 0.391_965_4, 25),
            (
                "H8",
                vec![seq(20000, 37, 1009, 504, 64.0).iter().map(fifth).collect()],
                (-3.028_676, 3.028_676),
                2036,
                0.023_626_735,
                0,
            ),
        ];
        for (name, batches, (min, max), end, scale, zero_point) in cases {
            let h = observe(&batches);
            approx::assert_relative_eq!(h.min, min, max_relative = 1e-6);
            approx::assert_relative_eq!(h.max, max, max_relative = 1e-6);
            assert_eq!(h.search(), (0, end), "{name}: kept bins");
            let (lo, hi) = h.kept_range(Window::Greedy);
            let (s, z) = crate::numerics::affine_qparams(lo, hi, -128, 127, crate::numerics::EPS);
            approx::assert_relative_eq!(s, scale, max_relative = 1e-6);
            assert_eq!(z, zero_point, "{name}");
        }
    }

    #[test]
    fn a_constant_lands_in_the_middle_bin() {
        let h = observe(&[vec![2.5; 10]]);
        assert_eq!((h.counts[1024], h.counts.iter().sum::<f32>()), (10.0, 10.0));
    }

    #[test]
    fn growing_keeps_the_mass() {
        let h = observe(&[vec![0.0; 10], seq(100, 7, 31, 15, 4.0), seq(100, 7, 31, 10, 1.0)]);
        approx::assert_relative_eq!(h.counts.iter().sum::<f32>(), 210.0, max_relative = 1e-5);
    }

    /// Enough data that a step of the search outweighs two outliers.
    #[test]
    fn a_million_normals_are_clipped() {
        let mut state = 1u64;
        let mut uniform = || {
            // SplitMix64: any generator with well-mixed bits will do.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut values: Vec<f32> = (0..1_000_000)
            .map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
            .collect();
        values.extend([40.0, -60.0]);
        let h = observe(&[values]);
        let (lo, hi) = h.kept_range(Window::Greedy);
        assert_eq!(h.min_max(), (-60.0, 40.0));
        assert!(lo > -6.0 && hi < 6.0, "kept {lo}..={hi}");
        assert!(lo < -3.0 && hi > 3.0, "kept {lo}..={hi}");
    }
}
