//! Weighted sums of several elements: cubic interpolation, and filters that average where an axis shrinks.

/// The most elements that a sum has.
const MAX_TAPS: usize = 64;

/// The weights of the elements around a position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Filter {
    /// The coefficient of cubic interpolation; `None` for a linear one.
    pub(super) cubic: Option<f32>,
    /// The factor by which the axis shrinks, if the filter becomes wider by it; else 1.
    pub(super) scale: f64,
    /// Whether elements before the first and behind the last have no weight. Otherwise, they are equal to the first and the last.
    pub(super) exclude_outside: bool,
}

/// One element of each sum, with its weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tap {
    pub(super) indices: Vec<u32>,
    pub(super) weights: Vec<f32>,
}

impl Filter {
    /// The weight at a distance, before the weights of all elements are made to add up to 1.
    fn weight(self, distance: f64) -> f64 {
        let d = distance.abs();
        match self.cubic.map(f64::from) {
            None => (1.0 - d).max(0.0),
            Some(a) if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Some(a) if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Some(_) => 0.0,
        }
    }

    /// The number of elements of each sum.
    pub(super) fn taps(self) -> Result<usize, String> {
        let taps = (2.0 * self.reach()).ceil();
        if taps > MAX_TAPS as f64 {
            return Err(format!("its filter spans {taps} elements; supported are {MAX_TAPS}"));
        }
        Ok(taps as usize)
    }

    fn reach(self) -> f64 {
        if self.cubic.is_some() { 2.0 / self.scale } else { 1.0 / self.scale }
    }

    /// The sums at positions along an axis of `length` elements.
    pub(super) fn at(self, positions: &[f64], length: usize) -> Result<Vec<Tap>, String> {
        let count = self.taps()?;
        let new = || Tap { indices: Vec::with_capacity(positions.len()), weights: Vec::with_capacity(positions.len()) };
        let mut taps: Vec<Tap> = (0..count).map(|_| new()).collect();
        let last = length as f64 - 1.0;
        for &position in positions {
            let first = (position - self.reach()).floor() + 1.0;
            let place = |at: usize| first + at as f64;
            let weight = |at: usize| {
                let is_inside = (0.0..=last).contains(&place(at)) || !self.exclude_outside;
                if is_inside { self.weight(self.scale * (place(at) - position)) } else { 0.0 }
            };
            let sum: f64 = (0..count).map(weight).sum();
            for (at, tap) in taps.iter_mut().enumerate() {
                tap.indices.push(place(at).clamp(0.0, last) as u32);
                tap.weights.push((weight(at) / sum) as f32);
            }
        }
        Ok(taps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUBIC: Filter = Filter { cubic: Some(-0.75), scale: 1.0, exclude_outside: false };

    fn of(filter: Filter, position: f64, length: usize) -> Vec<(u32, f32)> {
        let taps = filter.at(&[position], length).expect("few");
        taps.iter().map(|tap| (tap.indices[0], tap.weights[0])).collect()
    }

    #[test]
    fn cubic_weights() {
        // At a half: (3a/8, 1/2 − 3a/8, …).
        assert_eq!(of(CUBIC, 2.5, 6), [(1, -0.09375), (2, 0.59375), (3, 0.59375), (4, -0.09375)]);
        assert_eq!(of(CUBIC, 2.0, 6), [(1, 0.0), (2, 1.0), (3, 0.0), (4, 0.0)]);
        assert_eq!(of(CUBIC, -0.5, 6), [(0, -0.09375), (0, 0.59375), (0, 0.59375), (1, -0.09375)]);
        let inside = of(Filter { exclude_outside: true, ..CUBIC }, -0.5, 6);
        assert_eq!(inside, [(0, 0.0), (0, 0.0), (0, 1.1875), (1, -0.1875)]);
    }

    #[test]
    fn a_filter_widens_as_an_axis_shrinks() {
        let half = Filter { cubic: None, scale: 0.5, exclude_outside: false };
        // Distances of −1.5 to 1.5 elements are 0.75 and 0.25 of the filter's width.
        assert_eq!(of(half, 2.5, 6), [(1, 0.125), (2, 0.375), (3, 0.375), (4, 0.125)]);
        assert_eq!(Filter { cubic: Some(-0.75), ..half }.taps(), Ok(8));
        let error = Filter { scale: 0.01, ..half }.taps().expect_err("wide");
        assert_eq!(error, "its filter spans 200 elements; supported are 64");
    }
}
