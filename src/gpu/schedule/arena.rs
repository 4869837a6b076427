//! Places of intermediate values: all in one buffer, at offsets that they share over time.

/// The lifetime of a value: it needs memory from one dispatch to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) bytes: u64,
    /// The dispatch that writes it first.
    pub(crate) first: usize,
    /// The last that uses it.
    pub(crate) last: usize,
}

/// A place in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) arena: usize,
    pub(crate) offset: u64,
}

/// The sizes of arenas, and the place of every value. There is one arena, unless it would exceed the device's largest buffer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Arenas {
    pub(crate) sizes: Vec<u64>,
    pub(crate) places: Vec<Place>,
}

/// Pairs of values that the search may compare, and orders that it may try: a fraction of a second for many values, a few milliseconds
/// for few.
const SEARCH_STEPS: usize = 4_000_000;
const SEARCH_ORDERS: usize = 2_000;

impl Arenas {
    /// Places values greedily, each at the lowest offset that is free during its life, in several orders. The order with the
    /// smallest total wins, and a random search improves it. The same values always get the same places. Values that live at the
    /// same time never overlap. No value may exceed `max_bytes`.
    pub(crate) fn plan(values: &[Lifetime], alignment: u64, max_bytes: u64) -> Self {
        let order = |key: &dyn Fn(&Lifetime) -> (u64, usize)| {
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by_key(|&at| key(&values[at]));
            order
        };
        let largest_first = order(&|v| (u64::MAX - v.bytes, v.first));
        let earliest_first = order(&|v| (v.first as u64, usize::MAX - v.last));
        let longest_first = order(&|v| (u64::MAX - (v.last - v.first) as u64, usize::MAX - v.bytes as usize));
        // Values that live while most memory is needed have the least choice.
        let living = living(values, alignment);
        let pressure = |at: usize| living[at];
        let tightest = values.iter().map(|v| v.first).max_by_key(|&at| pressure(at)).unwrap_or(0);
        let distance = |v: &Lifetime| v.first.saturating_sub(tightest) + tightest.saturating_sub(v.last);
        let tightest_first = order(&|v| (distance(v) as u64, usize::MAX - v.bytes as usize));
        let orders = [largest_first, earliest_first, longest_first, tightest_first];
        let plans = orders.map(|order| (Self::in_order(values, &order, alignment, max_bytes), order));
        let Some((mut best, mut order)) = plans.into_iter().min_by_key(|(plan, _)| plan.bytes()) else {
            return Self::default();
        };
        // No plan can be smaller than the most that lives at once, up to the alignment of its last value.
        let least = values.first().map_or(0, |_| pressure(tightest));
        let mut random = fastrand::Rng::with_seed(0);
        for _ in 0..(SEARCH_STEPS / (values.len() * values.len()).max(1)).min(SEARCH_ORDERS) {
            if best.bytes() <= least + least / 50 {
                break;
            }
            let ends_last = |&at: &usize| {
                let place = best.places[at];
                place.offset + values[at].bytes == best.sizes[place.arena]
            };
            let top: Vec<usize> = (1..order.len()).filter(|&at| ends_last(&order[at])).collect();
            let mut other = order.clone();
            // Moves a value at the top to an earlier turn, or any value to any turn.
            match random.choice(&top).filter(|_| random.bool()) {
                Some(&from) => {
                    let moved = other.remove(from);
                    other.insert(random.usize(..from), moved);
                }
                None => {
                    let moved = other.remove(random.usize(..other.len()));
                    other.insert(random.usize(..=other.len()), moved);
                }
            }
            let plan = Self::in_order(values, &other, alignment, max_bytes);
            if plan.bytes() <= best.bytes() {
                (best, order) = (plan, other);
            }
        }
        best
    }

    /// Bytes of all arenas.
    pub(crate) fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    fn in_order(values: &[Lifetime], order: &[usize], alignment: u64, max_bytes: u64) -> Self {
        let mut arenas = Self { sizes: Vec::new(), places: vec![Place::default(); values.len()] };
        let mut placed: Vec<usize> = Vec::with_capacity(values.len());
        for &at in order {
            let value = values[at];
            let mut arena = 0;
            let offset = loop {
                let offset = arenas.lowest(values, &placed, value, arena, alignment);
                if offset + value.bytes <= max_bytes || arena == arenas.sizes.len() {
                    break offset;
                }
                arena += 1;
            };
            if arena == arenas.sizes.len() {
                arenas.sizes.push(0);
            }
            arenas.sizes[arena] = arenas.sizes[arena].max(offset + value.bytes);
            arenas.places[at] = Place { arena, offset };
            placed.push(at);
        }
        arenas
    }

    /// The lowest offset where a value meets none that lives at the same time.
    fn lowest(&self, values: &[Lifetime], placed: &[usize], value: Lifetime, arena: usize, alignment: u64) -> u64 {
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&at| self.places[at].arena == arena)
            .filter(|&&at| values[at].first <= value.last && value.first <= values[at].last)
            .map(|&at| (self.places[at].offset, self.places[at].offset + values[at].bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (first, end) in taken {
            if offset + value.bytes <= first {
                break;
            }
            offset = offset.max(end.next_multiple_of(alignment));
        }
        offset
    }
}

/// The bytes that live at each dispatch, each value up to the next multiple of `alignment`.
fn living(values: &[Lifetime], alignment: u64) -> Vec<u64> {
    let dispatches = values.iter().map(|v| v.last + 1).max().unwrap_or(0);
    let (mut begins, mut ends) = (vec![0u64; dispatches + 1], vec![0u64; dispatches + 1]);
    for value in values {
        let bytes = value.bytes.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        begins[value.first] = begins[value.first].saturating_add(bytes);
        ends[value.last + 1] = ends[value.last + 1].saturating_add(bytes);
    }
    let mut now = 0u64;
    (0..dispatches)
        .map(|at| {
            now = now.saturating_add(begins[at]).saturating_sub(ends[at]);
            now
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[Lifetime], arenas: &Arenas, alignment: u64) {
        for (at, (a, place)) in values.iter().zip(&arenas.places).enumerate() {
            assert_eq!(place.offset % alignment, 0);
            assert!(place.offset + a.bytes <= arenas.sizes[place.arena]);
            for (b, other) in values.iter().zip(&arenas.places).skip(at + 1) {
                let together = a.first <= b.last && b.first <= a.last && place.arena == other.arena;
                let apart = place.offset + a.bytes <= other.offset || other.offset + b.bytes <= place.offset;
                assert!(!together || apart, "{a:?} at {place:?} meets {b:?} at {other:?}");
            }
        }
    }

    /// The most bytes that live at once.
    fn peak(values: &[Lifetime]) -> u64 {
        let at = |at: usize| values.iter().filter(|v| v.first <= at && at <= v.last).map(|v| v.bytes).sum();
        values.iter().map(|v| at(v.first)).max().unwrap_or(0)
    }

    #[test]
    fn a_chain_of_unlike_sizes_needs_no_more_than_two_neighbours() {
        // Two buffers that take turns would need 60 and 55.
        let bytes = [60, 40, 45, 55, 100, 1, 99];
        let values: Vec<Lifetime> =
            bytes.iter().enumerate().map(|(at, &bytes)| Lifetime { bytes, first: at, last: at + 1 }).collect();
        let arenas = Arenas::plan(&values, 1, u64::MAX);
        check(&values, &arenas, 1);
        assert_eq!(peak(&values), 155);
        assert_eq!(arenas.sizes, [155]);
    }

    #[test]
    fn random_lives_never_overlap_and_waste_little() {
        let mut random = fastrand::Rng::with_seed(5);
        for round in 0..300 {
            let values: Vec<Lifetime> = (0..random.usize(1..60))
                .map(|first| {
                    let last = first + if random.u8(..5) == 0 { random.usize(1..20) } else { 1 };
                    Lifetime { bytes: random.u64(1..5000) * 16, first, last }
                })
                .collect();
            let arenas = Arenas::plan(&values, 256, u64::MAX);
            check(&values, &arenas, 256);
            // Alignment, and a tenth.
            let allowed = peak(&values) * 11 / 10 + 64 * 256;
            assert!(arenas.bytes() <= allowed, "round {round}: {} of {}", arenas.bytes(), peak(&values));
        }
    }

    #[test]
    fn several_arenas_where_one_would_be_too_large() {
        let values = [Lifetime { bytes: 60, first: 0, last: 3 }; 5];
        let arenas = Arenas::plan(&values, 4, 130);
        check(&values, &arenas, 4);
        assert_eq!(arenas.sizes, [120, 120, 60]);
    }
}
