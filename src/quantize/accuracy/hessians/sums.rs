//! Sums of matrices that do not depend on the order of the addition.

/// Bits of a limb.
const BITS: i32 = 30;

/// The sum of symmetric matrices `[features, features]` of f32 numbers, times a power of two each.
///
/// Each number is cut into limbs of 30 bits, whose places are multiples of 2³⁰ whatever the number, and the two uppermost limbs of the largest
/// number are added as integers. So the sum has the same bits in whatever order and in whatever parts it is added, and what is left
/// out is at most 2⁻³⁰ of the largest number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sums {
    features: usize,
    /// The place of the upper limb, in multiples of 30 bits; `None` before the first number that is not 0.
    place: Option<i32>,
    /// The upper triangle row by row, in units of 2^(30 · place).
    upper: Vec<i64>,
    /// The same, in units of 2^(30 · (place − 1)).
    lower: Vec<i64>,
}

impl Sums {
    pub(super) fn new(features: usize) -> Self {
        Self { features, place: None, upper: Vec::new(), lower: Vec::new() }
    }

    /// Sums from a file; `None` if they do not fit together.
    pub(crate) fn from_parts(features: usize, place: Option<i32>, upper: Vec<i64>, lower: Vec<i64>) -> Option<Self> {
        let length = if place.is_some() { triangle(features) } else { 0 };
        // Far more than squares of f32 numbers reach.
        let sound = place.is_none_or(|place| (-24..=24).contains(&place));
        (sound && upper.len() == length && lower.len() == length).then_some(Self { features, place, upper, lower })
    }

    pub(crate) fn features(&self) -> usize {
        self.features
    }

    pub(crate) fn place(&self) -> Option<i32> {
        self.place
    }

    /// The upper and the lower limbs.
    pub(crate) fn limbs(&self) -> [&[i64]; 2] {
        [&self.upper, &self.lower]
    }

    /// Adds a symmetric matrix, times 2^`exponent`.
    pub(super) fn add(&mut self, matrix: &[f32], exponent: i32) {
        let largest = matrix.iter().fold(0f32, |max, v| max.max(v.abs()));
        if largest == 0.0 {
            return;
        }
        self.raise((exponent_of(largest) + exponent).div_euclid(BITS));
        let place = self.place.unwrap_or_default();
        let to_limb = 2f64.powi(exponent - BITS * place);
        let rows = (0..self.features).flat_map(|i| &matrix[i * self.features + i..(i + 1) * self.features]);
        for (&v, (upper, lower)) in rows.zip(self.upper.iter_mut().zip(&mut self.lower)) {
            let v = f64::from(v) * to_limb;
            let whole = v.trunc();
            *upper = upper.saturating_add(whole as i64);
            *lower = lower.saturating_add(((v - whole) * 2f64.powi(BITS)) as i64);
        }
    }

    /// Adds other sums of as many features.
    pub(super) fn merge(&mut self, other: &Self) {
        let Some(place) = other.place else { return };
        self.raise(place);
        let add = |mine: &mut [i64], theirs: &[i64]| {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.saturating_add(*theirs));
        };
        match self.place.unwrap_or_default() - place {
            0 => {
                add(&mut self.upper, &other.upper);
                add(&mut self.lower, &other.lower);
            }
            1 => add(&mut self.lower, &other.upper),
            _ => {}
        }
    }

    /// Makes room for numbers whose upper limb is at a place.
    fn raise(&mut self, place: i32) {
        let length = triangle(self.features);
        match self.place {
            Some(old) if old >= place => return,
            // The upper limbs of before are lower ones now.
            Some(old) if old + 1 == place => {
                self.lower = std::mem::replace(&mut self.upper, vec![0; length]);
            }
            _ => (self.upper, self.lower) = (vec![0; length], vec![0; length]),
        }
        self.place = Some(place);
    }

    /// Returns the sum, both triangles of it.
    pub(crate) fn matrix(&self) -> Vec<f64> {
        let k = self.features;
        let mut matrix = vec![0f64; k * k];
        let Some(place) = self.place else { return matrix };
        let [unit, small] = [place, place - 1].map(|place| 2f64.powi(BITS * place));
        let mut limbs = self.upper.iter().zip(&self.lower);
        for i in 0..k {
            for (j, (&upper, &lower)) in (i..k).zip(&mut limbs) {
                let sum = upper as f64 * unit + lower as f64 * small;
                (matrix[i * k + j], matrix[j * k + i]) = (sum, sum);
            }
        }
        matrix
    }
}

/// The number of elements on and above a diagonal.
fn triangle(features: usize) -> usize {
    features.saturating_mul(features.saturating_add(1)) / 2
}

/// The `e` for which a positive number is in `2^e .. 2^(e+1)`.
pub(super) fn exponent_of(value: f32) -> i32 {
    (f64::from(value).to_bits() >> 52) as i32 - 1023
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix of numbers of many magnitudes.
    fn matrix(random: &mut fastrand::Rng, k: usize) -> Vec<f32> {
        let mut matrix = vec![0f32; k * k];
        for i in 0..k {
            for j in i..k {
                let v = (random.f32() - 0.4) * 2f32.powi(random.i32(-30..30));
                (matrix[i * k + j], matrix[j * k + i]) = (v, v);
            }
        }
        matrix
    }

    #[test]
    fn the_order_of_the_addition_makes_no_difference() {
        let mut random = fastrand::Rng::with_seed(3);
        let k = 5;
        let parts: Vec<(Vec<f32>, i32)> = (0..40).map(|_| (matrix(&mut random, k), random.i32(-40..120))).collect();
        let sum = |parts: &[(Vec<f32>, i32)]| {
            let mut sums = Sums::new(k);
            parts.iter().for_each(|(part, exponent)| sums.add(part, *exponent));
            sums
        };
        let whole = sum(&parts);
        for _ in 0..20 {
            let mut shuffled = parts.clone();
            random.shuffle(&mut shuffled);
            assert_eq!(sum(&shuffled), whole);
            let (a, b) = shuffled.split_at(random.usize(0..parts.len()));
            let mut merged = sum(a);
            merged.merge(&sum(b));
            assert_eq!(merged, whole);
        }
        // Floats, whose sums depend on the order, are near.
        let exact = |at: usize| parts.iter().map(|(part, e)| f64::from(part[at]) * 2f64.powi(*e)).sum::<f64>();
        let largest = (0..k * k).map(exact).fold(0f64, |max, v| max.max(v.abs()));
        for (at, &found) in whole.matrix().iter().enumerate() {
            approx::assert_abs_diff_eq!(found, exact(at), epsilon = largest * 1e-8);
        }
        // Another number in the part of the largest, or without that part, and they differ.
        let largest = (0..parts.len()).max_by_key(|&at| parts[at].1).expect("parts");
        let mut more = parts.clone();
        more[largest].0[0] *= 1.5;
        assert_ne!(sum(&more), whole);
        more.remove(largest);
        assert_ne!(sum(&more), whole);
    }

    #[test]
    fn sums_hold_what_f32_cannot() {
        let mut sums = Sums::new(1);
        assert_eq!(sums.matrix(), [0.0]);
        sums.add(&[0.0], 7);
        assert_eq!((sums.place(), sums.matrix()), (None, vec![0.0]));
        for (value, exponent) in [(f32::MIN_POSITIVE, -200), (1.5, -290), (1.0, 250), (3.0, 251)] {
            let mut sums = Sums::new(1);
            sums.add(&[value], exponent);
            assert_eq!(sums.matrix(), [f64::from(value) * 2f64.powi(exponent)]);
        }
        assert_eq!([1.0, 1.9, 0.25, f32::from_bits(1)].map(exponent_of), [0, 0, -2, -149]);
    }
}
