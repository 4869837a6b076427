//! The grids of an int8 linear layer, for any number of rows.

use super::choice::{Candidate, pick};
use super::tile::TileShape;
use crate::gpu::kernels::grid::Grid;

/// Some columns and rows of a linear layer. `P` is the key of a pipeline, or a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LinearWork<P> {
    /// Columns.
    pub(crate) n: usize,
    pub(crate) first_row: u64,
    pub(crate) end_row: u64,
    pub(crate) quads: u64,
    pub(crate) tiles: Vec<LinearTile<P>>,
    /// Finishes layers whose K was divided.
    pub(crate) finish: Option<P>,
    /// Parts into which K is divided.
    pub(crate) parts: u32,
    /// The most rows at which K is divided.
    pub(crate) most_divided: u64,
    /// The most partial sums.
    pub(crate) partial_sums: u64,
}

/// A tile shape with its pipelines.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LinearTile<P> {
    pub(crate) candidate: Candidate,
    /// The pipeline for all of K.
    pub(crate) whole: P,
    /// The pipeline for a part of K.
    pub(crate) part: Option<P>,
}

impl<P> LinearWork<P> {
    /// The commands for `m` matrix rows of the whole layer.
    pub(crate) fn at(&self, m: u64, limit: u32) -> [Option<(&P, Grid)>; 2] {
        let rows = m.min(self.end_row).saturating_sub(self.first_row);
        if rows == 0 {
            return [None, None];
        }
        let at = pick(self.tiles.iter().map(|tile| &tile.candidate), m, self.n);
        let LinearTile { candidate, whole, part } = &self.tiles[at];
        let grid = candidate.tile.grid(rows, self.n, limit);
        let divided = grid.count() < candidate.split_below && rows <= self.most_divided && grid.0[2] == 1;
        match (part, &self.finish) {
            (Some(part), Some(finish)) if divided => {
                let Grid([x, y, _]) = grid;
                let quads = Grid::threads(rows * self.quads, limit);
                [Some((part, Grid([x, y, self.parts.into()]))), Some((finish, quads))]
            }
            _ => [Some((whole, grid)), None],
        }
    }

    /// The tile for `m` matrix rows of the whole layer, and its pipeline for all of K.
    pub(crate) fn whole_at(&self, m: u64) -> (TileShape, &P) {
        let at = pick(self.tiles.iter().map(|tile| &tile.candidate), m, self.n);
        (self.tiles[at].candidate.tile, &self.tiles[at].whole)
    }

    /// The grids for one row: fewer rows may take another tile, with more workgroups along the columns.
    pub(crate) fn grids_of_one_row(&self, limit: u32) -> impl Iterator<Item = Grid> {
        self.tiles.iter().map(move |tile| tile.candidate.tile.grid(1, self.n, limit))
    }
}
