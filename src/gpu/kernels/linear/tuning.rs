//! The fastest kernels of layers, as measured on one adapter.

use super::choice::Candidate;
use super::rows::LinearRows;
use super::tile::TileShape;
use super::weights::WeightBits;
use crate::gpu::device::error::GpuError;

/// The fastest kernels of layers on one adapter, as [`Engine::tune`](crate::gpu::Engine::tune) measured them.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TuningTable {
    /// Name and driver of the adapter.
    adapter: String,
    entries: Vec<Entry>,
}

/// The fastest kernel of a layer, up to a number of matrix rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entry {
    n: usize,
    k: usize,
    /// Bits of the weight: 2, 4 or 8.
    bits: u32,
    /// Whether it is a convolution that reads its images itself.
    #[serde(default)]
    patches: bool,
    /// Whether its weight has groups of features.
    #[serde(default)]
    groups: bool,
    /// The number of matrix rows that was measured. The entry is used up to it, from the next smaller one on.
    rows: u64,
    tile: TileShape,
    split_k: bool,
}

/// What entries tell layers apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerShape {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) bits: WeightBits,
    pub(crate) rows: LinearRows,
}

impl Entry {
    fn is_of(&self, shape: LayerShape) -> bool {
        let LayerShape { n, k, bits, rows } = shape;
        (self.n, self.k, self.bits, self.patches) == (n, k, bits_of(bits), rows == LinearRows::Patches)
            && self.groups == bits.has_groups()
    }

    fn rows_of(&self) -> LinearRows {
        if self.patches { LinearRows::Patches } else { LinearRows::Matrix }
    }
}

impl TuningTable {
    /// Writes the table as JSON.
    ///
    /// # Errors
    /// Returns [`GpuError::TuningTable`] if that fails.
    pub fn to_json(&self) -> Result<String, GpuError> {
        serde_json::to_string_pretty(self).map_err(|error| GpuError::TuningTable { message: error.to_string() })
    }

    /// Reads a table from JSON. An engine ignores the table of another adapter or driver.
    ///
    /// # Errors
    /// [`GpuError::TuningTable`] says where the text is not a table.
    pub fn from_json(text: &str) -> Result<Self, GpuError> {
        serde_json::from_str(text).map_err(|error| GpuError::TuningTable { message: error.to_string() })
    }

    /// Merges two tables. If both know a layer at the same number of rows, `other` counts. Tables of different adapters do not
    /// merge: then it returns `other`.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        if self.adapter != other.adapter {
            return other;
        }
        let key = |entry: &Entry| (entry.n, entry.k, entry.bits, entry.groups, entry.patches, entry.rows);
        self.entries.retain(|entry| other.entries.iter().all(|newer| key(newer) != key(entry)));
        self.entries.extend(other.entries);
        self.entries.sort_by_key(key);
        self
    }

    /// Returns the number of entries: pairs of a layer and a number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The shapes of all entries, each once for each kind of rows that it is for.
    pub(crate) fn tiles(&self) -> Vec<(TileShape, LinearRows)> {
        let mut tiles = Vec::new();
        for entry in &self.entries {
            let tile = (entry.tile, entry.rows_of());
            if !tiles.contains(&tile) {
                tiles.push(tile);
            }
        }
        tiles
    }

    /// The table without the entries of these shapes.
    pub(crate) fn without(mut self, tiles: &[(TileShape, LinearRows)]) -> Self {
        self.entries.retain(|entry| !tiles.contains(&(entry.tile, entry.rows_of())));
        self
    }

    /// An empty table for an adapter.
    pub(crate) fn new(info: &wgpu::AdapterInfo) -> Self {
        Self { adapter: adapter(info), entries: Vec::new() }
    }

    /// Adds a measurement of a layer at `rows` matrix rows.
    pub(crate) fn add(&mut self, layer: LayerShape, rows: u64, tile: TileShape, split_k: bool) {
        let LayerShape { n, k, bits, .. } = layer;
        let patches = layer.rows == LinearRows::Patches;
        let groups = bits.has_groups();
        self.entries.push(Entry { n, k, bits: bits_of(bits), patches, groups, rows, tile, split_k });
    }

    /// Whether it has an entry for exactly this layer and number of matrix rows.
    pub(crate) fn contains(&self, layer: LayerShape, rows: u64) -> bool {
        self.entries.iter().any(|entry| entry.is_of(layer) && entry.rows == rows)
    }

    /// This table, or an empty one if it is of another adapter.
    pub(crate) fn for_adapter(self, info: &wgpu::AdapterInfo) -> Self {
        if self.adapter == adapter(info) {
            return self;
        }
        if !self.is_empty() {
            log::warn!("the tuning table of {} is not used on {}", self.adapter, adapter(info));
        }
        Self::default()
    }

    /// The candidates for a layer, by ascending rows, as far as the device can hold them.
    pub(crate) fn candidates(
        &self,
        layer: LayerShape,
        limits: &wgpu::Limits,
        allowed: impl Fn(TileShape) -> bool,
    ) -> Vec<Candidate> {
        let mut entries: Vec<&Entry> = self.entries.iter().filter(|entry| entry.is_of(layer)).collect();
        entries.sort_by_key(|entry| entry.rows);
        let candidate = |entry: &&Entry| {
            // The table may come from a file that was edited.
            let tile = TileShape::new(entry.tile.kernel(), entry.tile.rows(), entry.tile.k_step(), limits).ok()?;
            allowed(tile).then_some(())?;
            let split_below = if entry.split_k { u64::MAX } else { 0 };
            Some(Candidate { most_rows: entry.rows, split_below, ..Candidate::always(tile) })
        };
        entries.iter().filter_map(candidate).collect()
    }
}

fn adapter(info: &wgpu::AdapterInfo) -> String {
    format!("{} [{:?}], {} {}", info.name, info.backend, info.driver, info.driver_info)
}

fn bits_of(bits: WeightBits) -> u32 {
    bits.vec_bytes() as u32 / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernels::linear::tile::LinearKernel;

    fn entry(rows: u64, tile_rows: u32) -> Entry {
        let limits = wgpu::Limits::default();
        let tile = TileShape::new(LinearKernel::Register, tile_rows, 1, &limits).expect("fits");
        Entry { n: 64, k: 32, bits: 8, patches: false, groups: false, rows, tile, split_k: rows == 1 }
    }

    #[test]
    fn tables_survive_a_file_and_merge() {
        let table = TuningTable { adapter: "a".to_owned(), entries: vec![entry(1, 8), entry(64, 32)] };
        let read = TuningTable::from_json(&table.to_json().expect("written")).expect("read");
        assert_eq!(read, table);
        let newer = TuningTable { adapter: "a".to_owned(), entries: vec![entry(64, 64)] };
        let merged = table.clone().merged(newer);
        assert_eq!(merged.entries, [entry(1, 8), entry(64, 64)]);
        let other = TuningTable { adapter: "b".to_owned(), entries: Vec::new() };
        assert_eq!(table.merged(other.clone()), other);
        let error = TuningTable::from_json("{\"adapter\": 3}").expect_err("no table");
        assert!(error.to_string().contains("tuning table: invalid type"), "{error}");
    }

    #[test]
    fn entries_serve_up_to_their_rows() {
        let table = TuningTable { adapter: "a".to_owned(), entries: vec![entry(64, 32), entry(1, 8)] };
        let limits = wgpu::Limits::default();
        let layer = LayerShape { n: 64, k: 32, bits: WeightBits::Eight, rows: LinearRows::Matrix };
        let candidates = table.candidates(layer, &limits, |_| true);
        assert_eq!(candidates.iter().map(|c| c.most_rows).collect::<Vec<_>>(), [1, 64]);
        assert_eq!(candidates[0].split_below, u64::MAX);
        let others = [
            LayerShape { k: 33, ..layer },
            LayerShape { bits: WeightBits::Four, ..layer },
            LayerShape { rows: LinearRows::Patches, ..layer },
        ];
        assert!(others.iter().all(|&other| table.candidates(other, &limits, |_| true).is_empty()));
        let small = wgpu::Limits { max_compute_invocations_per_workgroup: 32, ..limits.clone() };
        assert_eq!(table.candidates(layer, &small, |_| true).len(), 1);
        assert!(table.candidates(layer, &limits, |tile| tile.kernel() == LinearKernel::Coopmat).is_empty());
    }
}
