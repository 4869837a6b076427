//! The activations of a product.

use std::cell::Cell;
use std::ops::Range;

/// The activations `[m, k]` of a product, row-major.
#[derive(Clone, Copy)]
pub(crate) enum Activations<'a> {
    Int8(&'a [i8]),
    /// A function that computes whole rows from a row on: `rows(first, q)`. Each task calls it just before it packs some rows, so that no
    /// step has to write them to memory. Where tasks divide the channels, each of them computes all rows.
    Rows(&'a (dyn Fn(usize, &mut [i8]) + Sync)),
}

thread_local! {
    /// The rows that this thread has computed last: fresh memory would cost page faults.
    static COMPUTED: Cell<Vec<i8>> = const { Cell::new(Vec::new()) };
}

impl Activations<'_> {
    /// Calls `run` with some rows of `k` features.
    #[inline(always)]
    pub(super) fn with_rows<R>(self, rows: Range<usize>, k: usize, run: impl FnOnce(&[i8]) -> R) -> R {
        match self {
            Self::Int8(x) => run(&x[rows.start * k..rows.end * k]),
            Self::Rows(compute) => {
                let mut computed = COMPUTED.take();
                computed.resize(rows.len() * k, 0);
                compute(rows.start, &mut computed);
                let result = run(&computed);
                COMPUTED.set(computed);
                result
            }
        }
    }
}
