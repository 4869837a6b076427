//! The number of workgroups of a dispatch.

use crate::gpu::device::error::GpuError;

/// Threads of a workgroup of all kernels that take the number of their thread from [`Grid::threads`].
pub(super) const WORKGROUP: u64 = 64;

/// The rule by which the number of workgroups follows from the number of matrix rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GridSize {
    /// This many threads for each row.
    Threads(u64),
    /// This many threads for each row of a range.
    RowRange { first: u64, end: u64, threads: u64 },
    /// A thread for each word of dense int8 rows of this many columns; rows may share words.
    DenseWords(u64),
    /// One workgroup for each row.
    Workgroups,
    /// One workgroup for each row, up to this many, and at least one.
    AtMost(u64),
    /// One workgroup.
    Single,
    /// Tiles of a stack of matrices.
    Tiles(Tiles),
}

/// Tiles: of a stack of matrices of `m` rows, or of one matrix with all rows if `m` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub(crate) m: u64,
    pub(crate) n: u64,
    /// Rows and columns of a tile.
    pub(crate) tile: [u64; 2],
    /// The first row tile of this dispatch, and the most that it may have.
    pub(crate) first: u64,
    pub(crate) most: u64,
}

impl Tiles {
    /// Tiles along all `rows`.
    pub(crate) fn along_rows(self, rows: u64) -> u64 {
        let [tile_rows, _] = self.tile;
        rows.checked_div(self.m).map_or(rows.div_ceil(tile_rows), |stack| stack * self.m.div_ceil(tile_rows))
    }
}

impl GridSize {
    /// The grid for `m` matrix rows; `None` if this dispatch has no work then.
    pub(crate) fn grid(self, m: u64, limit: u32) -> Option<Grid> {
        Some(match self {
            Self::Threads(per_row) => Grid::threads(m.saturating_mul(per_row), limit),
            Self::RowRange { first, end, threads } => {
                let rows = m.min(end).saturating_sub(first);
                if rows == 0 {
                    return None;
                }
                Grid::threads(rows.saturating_mul(threads), limit)
            }
            Self::DenseWords(cols) => Grid::threads(m.saturating_mul(cols).div_ceil(4), limit),
            Self::Workgroups => Grid::workgroups(m, limit),
            Self::AtMost(most) => Grid::workgroups(m.clamp(1, most), limit),
            Self::Single => Grid([1, 1, 1]),
            Self::Tiles(tiles) => {
                let rows = tiles.along_rows(m).saturating_sub(tiles.first).min(tiles.most);
                if rows == 0 {
                    return None;
                }
                let y = rows.min(limit.into());
                Grid([tiles.n.div_ceil(tiles.tile[1]), y, rows.div_ceil(y)])
            }
        })
    }
}

/// Workgroups along each dimension, before they are known to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid(pub(crate) [u64; 3]);

impl Grid {
    /// The number of workgroups.
    pub(crate) fn count(self) -> u64 {
        self.0.iter().fold(1, |count, &along| count.saturating_mul(along))
    }

    /// Workgroups of 64 threads, along two dimensions, for `threads` threads.
    pub(crate) fn threads(threads: u64, limit: u32) -> Self {
        Self::workgroups(threads.div_ceil(WORKGROUP), limit)
    }

    /// `count` workgroups along two dimensions.
    pub(crate) fn workgroups(count: u64, limit: u32) -> Self {
        let x = count.min(limit.into()).max(1);
        Self([x, count.div_ceil(x), 1])
    }

    /// Returns the grid.
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] if a dimension is too long.
    pub(crate) fn check(self, name: &str, limit: u32) -> Result<[u32; 3], GpuError> {
        let mut grid = [0; 3];
        for (slot, actual) in grid.iter_mut().zip(self.0) {
            *slot = u32::try_from(actual).ok().filter(|&g| g <= limit).ok_or_else(|| GpuError::Limit {
                name: name.to_owned(),
                what: "workgroups along one dimension",
                actual,
                limit: limit.into(),
            })?;
        }
        Ok(grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_split_and_checked() {
        assert_eq!(Grid::threads(64 * 65536, 65535), Grid([65535, 2, 1]));
        assert!(Grid([65536, 1, 1]).check("fc", 65535).is_err());
        assert_eq!(GridSize::DenseWords(5).grid(3, 65535), Some(Grid([1, 1, 1])));
    }
}
