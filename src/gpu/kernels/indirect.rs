//! The kernel that computes grids from a number of rows in a buffer.

use super::dispatch::{Rows, Work};
use super::grid::{GridSize, WORKGROUP};
use super::kernel::{Kernel, KernelOptions, kernels};
use super::wgsl::shader;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};

wgsl_struct! {
    /// `IndirectParams` of `indirect/arguments.wgsl`.
    IndirectParams { slots: u32, max_rows: u32, most_groups: u32, digit_stride: u32 }
}

wgsl_struct! {
    /// `GridRule` of `indirect/arguments.wgsl`.
    GridRule {
        factor: u32, first: u32, end: u32, times: u32, over: u32, skipped: u32, most: u32, columns: u32,
    }
}

pub(crate) const COUNT: u32 = FIRST_STORAGE;
pub(crate) const RULES: u32 = 4;
pub(crate) const ARGUMENTS: u32 = 5;
pub(crate) const DIGITS: u32 = 6;

static SHADER: Shader = shader! {
    "indirect", IndirectParams, [GridRule], storage! { count: COUNT, rules: RULES, arguments: ARGUMENTS, digits: DIGITS },
    [THREAD, GRID],
    ["indirect/arguments"]
};

kernels! {
    IndirectKernel {
        GridArguments = "grid_arguments",
    }
}

impl Kernel for IndirectKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        &SHADER
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    /// It computes no value of a program: [`bind_indirect`](crate::gpu::Model::bind_indirect) tests it.
    fn promises_bits(self) -> bool {
        false
    }
}

impl GridRule {
    /// The rule of a dispatch, for the pipeline [`Work::whole_at`] the most rows: that of a linear layer does not divide K. Other pipelines
    /// give the same bits.
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] if the kernel's numbers of 32 bits do not hold the threads of the most rows.
    pub(crate) fn of<P>(name: &str, rows: Rows, work: &Work<P>, max_rows: usize) -> Result<Self, GpuError> {
        let all =
            Wide { first: 0, end: u64::from(u32::MAX), times: 1, over: 1, skipped: 0, most: u64::MAX, columns: 0 };
        let most = rows.matrix(max_rows);
        let wide = match work {
            Work::Linear(linear) => {
                let (tile, _) = linear.whole_at(most);
                let columns = (linear.n as u64).div_ceil(tile.cols() as u64);
                let (first, end) = (linear.first_row, linear.end_row);
                Wide { first, end, over: tile.rows().into(), columns, ..all }
            }
            Work::Single { size, .. } => {
                match *size {
                    GridSize::Threads(times) => Wide { times, over: WORKGROUP, ..all },
                    GridSize::RowRange { first, end, threads } => {
                        Wide { first, end, times: threads, over: WORKGROUP, ..all }
                    }
                    GridSize::DenseWords(cols) => Wide { times: cols, over: 4 * WORKGROUP, ..all },
                    GridSize::Workgroups => all,
                    GridSize::AtMost(most) => Wide { most, ..all },
                    GridSize::Single => Wide { most: 1, ..all },
                    GridSize::Tiles(tiles) => {
                        let [tile_rows, tile_cols] = tiles.tile;
                        // Each matrix of a stack has tiles of its own.
                        let (times, over) = match tiles.m {
                            0 => (1, tile_rows),
                            m => (m.div_ceil(tile_rows), m),
                        };
                        let columns = tiles.n.div_ceil(tile_cols);
                        Wide { times, over, skipped: tiles.first, most: tiles.most, columns, ..all }
                    }
                }
            }
        };
        wide.narrow(name, rows.factor, most)
    }

    /// The grid for a number of rows, as the kernel computes it.
    pub(crate) fn grid(&self, rows: u32, limit: u32) -> [u32; 3] {
        let end = rows.saturating_mul(self.factor).min(self.end);
        let in_range = u64::from(end.saturating_sub(self.first));
        let all = (in_range * u64::from(self.times)).div_ceil(self.over.max(1).into());
        let groups = all.saturating_sub(self.skipped.into()).min(self.most.into());
        if groups == 0 {
            return [0; 3];
        }
        let short = groups.min(limit.into());
        let long = groups.div_ceil(short);
        let grid = if self.columns == 0 { [short, long, 1] } else { [self.columns.into(), short, long] };
        grid.map(|along| along as u32)
    }
}

/// A rule before its numbers are known to fit.
#[derive(Clone, Copy)]
struct Wide {
    first: u64,
    end: u64,
    times: u64,
    over: u64,
    skipped: u64,
    most: u64,
    columns: u64,
}

impl Wide {
    fn narrow(self, name: &str, factor: u64, most_rows: u64) -> Result<GridRule, GpuError> {
        let limit = u64::from(u32::MAX);
        let largest = most_rows.saturating_mul(self.times.max(1)).saturating_add(self.over);
        for actual in [largest, factor, self.columns] {
            if actual > limit {
                let what = "threads of a grid whose rows a buffer gives";
                return Err(GpuError::Limit { name: name.to_owned(), what, actual, limit });
            }
        }
        let narrow = |number: u64| number.min(limit) as u32;
        Ok(GridRule {
            factor: narrow(factor),
            first: narrow(self.first),
            end: narrow(self.end),
            times: narrow(self.times),
            over: narrow(self.over),
            skipped: narrow(self.skipped),
            most: narrow(self.most),
            columns: narrow(self.columns),
        })
    }
}

/// Rules of every form, for the known answer.
pub(crate) fn rules_of_all_forms() -> Vec<GridRule> {
    let all = GridRule { factor: 1, end: u32::MAX, times: 1, over: 1, most: u32::MAX, ..GridRule::default() };
    vec![
        all,
        GridRule { factor: 3, times: 7, over: 64, ..all },
        GridRule { first: 20, end: 300, times: 5, over: 64, ..all },
        GridRule { times: 37, over: 256, ..all },
        GridRule { factor: 2, most: 9, ..all },
        GridRule { most: 1, ..all },
        GridRule { factor: 12, times: 2, over: 6, skipped: 3, most: 17, columns: 5, ..all },
        GridRule { first: 128, end: 256, over: 64, columns: 3, ..all },
        GridRule { factor: 1000, columns: 2, ..all },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::grid::{Grid, Tiles};
    use super::*;

    /// The grid of the rule is that of the host, wherever there is work.
    #[test]
    fn rules_give_the_grids_of_the_host() {
        let limit = 40;
        let tiles = |m, first, most| GridSize::Tiles(Tiles { m, n: 70, tile: [16, 32], first, most });
        let sizes = [
            GridSize::Threads(7),
            GridSize::RowRange { first: 20, end: 300, threads: 5 },
            GridSize::DenseWords(5),
            GridSize::DenseWords(300),
            GridSize::Workgroups,
            GridSize::AtMost(9),
            GridSize::Single,
            tiles(0, 0, u64::MAX),
            tiles(0, 3, 5),
            tiles(50, 0, u64::MAX),
            tiles(50, 7, 11),
        ];
        for size in sizes {
            for factor in [1, 50, 100] {
                // The matrices of a stack are whole.
                if matches!(size, GridSize::Tiles(Tiles { m, .. }) if m > 0 && factor < m) {
                    continue;
                }
                let rows = Rows { factor, batched: true };
                let work = Work::Single { pipeline: (), size };
                let rule = GridRule::of("step", rows, &work, 1000).expect("fits");
                for count in [1, 2, 3, 17, 64, 129, 640, 1000u32] {
                    let expected = size.grid(rows.matrix(count as usize), limit);
                    let expected = expected.map_or([0; 3], |Grid(grid)| grid.map(|along| along as u32));
                    assert_eq!(rule.grid(count, limit), expected, "{size:?} at {count} rows of {factor}");
                }
                assert_eq!(rule.grid(0, limit), [0; 3], "{size:?}");
            }
        }
        // The control: a tile of another height gives another grid.
        let rows = Rows { factor: 1, batched: true };
        let rule = |tile| {
            let size = GridSize::Tiles(Tiles { m: 0, n: 70, tile: [tile, 32], first: 0, most: u64::MAX });
            GridRule::of("step", rows, &Work::Single { pipeline: (), size }, 1000).expect("fits")
        };
        assert_ne!(rule(16).grid(640, limit), rule(17).grid(640, limit));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let work = Work::Single { pipeline: (), size: GridSize::Threads(1 << 20) };
        let error = GridRule::of("fc1", Rows { factor: 1, batched: true }, &work, 1 << 13).expect_err("2 to the 33");
        assert!(error.to_string().starts_with("fc1: threads of a grid"), "{error}");
    }
}
