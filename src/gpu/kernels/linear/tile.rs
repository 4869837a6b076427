//! Kernels of int8 linear layers, and their tile shapes.

use super::weights::BLOCK_COLS;
use crate::gpu::device::error::GpuError;
use crate::gpu::kernels::grid::Grid;

/// A kernel for int8 linear layers. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinearKernel {
    /// Tiles in workgroup memory, 4 × 4 outputs a thread: for discrete and integrated GPUs.
    Workgroup,
    /// Tiles in two stages of workgroup memory, 128 × 128 outputs a workgroup and 8 × 8 a thread: for large GPUs.
    Large,
    /// No workgroup memory, 8 × 4 outputs a thread: for mobile GPUs and software adapters.
    Register,
    /// No workgroup memory, one row and 4 columns a thread: for few rows on software adapters.
    Row,
    /// Subgroup operations, 16 × 4 outputs a thread: for software adapters. Needs `Features::SUBGROUP`.
    Subgroup,
    /// One column a thread and up to 64 columns a workgroup, for up to 8 rows.
    Gemv,
    /// Cooperative matrices of floats, exactly. Needs the crate's feature `coopmat` and `Options::fragment`.
    #[serde(alias = "coop")]
    Coopmat,
    /// Cooperative matrices of int8 values, 128 columns a workgroup. Needs the crate's feature `coopmat-spirv` and `Options::fragment`.
    CoopmatInt8,
}

impl LinearKernel {
    /// Every kernel.
    pub const ALL: [Self; 8] = [
        Self::Workgroup,
        Self::Large,
        Self::Register,
        Self::Row,
        Self::Subgroup,
        Self::Gemv,
        Self::Coopmat,
        Self::CoopmatInt8,
    ];

    /// Returns the name of the entry point.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Workgroup => "linear",
            Self::Large => "linear_large",
            Self::Register => "linear_reg",
            Self::Row => "linear_row",
            Self::Subgroup => "linear_sub",
            Self::Gemv => "linear_gemv",
            Self::Coopmat => "linear_coopmat",
            Self::CoopmatInt8 => "linear_coopmat_int8",
        }
    }
}

/// The part of the output that one workgroup computes: the kernel's columns, and a number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct TileShape {
    kernel: LinearKernel,
    rows: u32,
    k_step: u32,
}

impl TileShape {
    /// Makes a shape that a device with `limits` can hold. wgpu does not check workgroup memory and invocations that come from
    /// override constants, so this does.
    ///
    /// | kernel | `rows` of a workgroup | `k_step` |
    /// |---|---|---|
    /// | [`LinearKernel::Workgroup`] | a multiple of 4 | vectors of 16 int8 values that are staged at a time |
    /// | [`LinearKernel::Large`] | 128 | 2 |
    /// | [`LinearKernel::Register`] | a multiple of 8 | 1, because nothing is staged |
    /// | [`LinearKernel::Row`] | any | 1 |
    /// | [`LinearKernel::Subgroup`] | 8 or 16 | lanes that share what they load: 8, or 4 where subgroups may be smaller |
    /// | [`LinearKernel::Gemv`] | 1, 2, 4 or 8 | threads that share a column; with 8 a workgroup has 32 columns, with 16 it has 16 |
    /// | [`LinearKernel::Coopmat`], [`LinearKernel::CoopmatInt8`] | 64 or 128 | vectors of 16 int8 values that are staged at a time, 2 or 4 |
    ///
    /// # Errors
    /// [`GpuError::Tile`] names the property, its value and the limit.
    pub fn new(kernel: LinearKernel, rows: u32, k_step: u32, limits: &wgpu::Limits) -> Result<Self, GpuError> {
        let tile = Self { kernel, rows, k_step };
        let check = |what, actual: u64, ok: bool, rule, limit: u64| {
            if ok { Ok(()) } else { Err(GpuError::Tile { kernel: kernel.name(), what, actual, rule, limit }) }
        };
        let most = |what, actual: u64, limit: u32| {
            check(what, actual, actual <= u64::from(limit), "this device allows", limit.into())
        };
        check("rows", rows.into(), rows > 0, "at least", 1)?;
        check("k_step", k_step.into(), k_step > 0, "at least", 1)?;
        match kernel {
            LinearKernel::Workgroup | LinearKernel::Register => {
                let of_thread = kernel.rows_of_thread();
                check("rows", rows.into(), rows.is_multiple_of(of_thread), "a multiple of", of_thread.into())?;
            }
            LinearKernel::Row => {}
            LinearKernel::Large => check("rows", rows.into(), rows == 128, "exactly", 128)?,
            LinearKernel::Subgroup => check("rows", rows.into(), matches!(rows, 8 | 16), "8 or", 16)?,
            LinearKernel::Gemv => check("rows", rows.into(), matches!(rows, 1 | 2 | 4 | 8), "1, 2, 4 or", 8)?,
            LinearKernel::Coopmat | LinearKernel::CoopmatInt8 => {
                check("rows", rows.into(), matches!(rows, 64 | 128), "64 or", 128)?
            }
        }
        match kernel {
            LinearKernel::Workgroup => {}
            LinearKernel::Gemv => {
                check("k_step", k_step.into(), k_step <= 4 || matches!(k_step, 8 | 16), "up to 4, 8 or", 16)?
            }
            LinearKernel::Large => check("k_step", k_step.into(), k_step == 2, "exactly", 2)?,
            LinearKernel::Register | LinearKernel::Row => check("k_step", k_step.into(), k_step == 1, "exactly", 1)?,
            LinearKernel::Subgroup => check("k_step", k_step.into(), matches!(k_step, 4 | 8), "4 or", 8)?,
            LinearKernel::Coopmat | LinearKernel::CoopmatInt8 => {
                check("k_step", k_step.into(), matches!(k_step, 2 | 4), "2 or", 4)?
            }
        }
        let [x, y] = tile.threads();
        most("threads along the columns", x.into(), limits.max_compute_workgroup_size_x)?;
        most("threads along the rows", y.into(), limits.max_compute_workgroup_size_y)?;
        most("threads", u64::from(x) * u64::from(y), limits.max_compute_invocations_per_workgroup)?;
        most("bytes of workgroup memory", tile.workgroup_bytes(), limits.max_compute_workgroup_storage_size)?;
        Ok(tile)
    }

    /// Returns the kernel.
    #[must_use]
    pub fn kernel(&self) -> LinearKernel {
        self.kernel
    }

    /// Returns the number of output rows of a workgroup.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Returns the number of vectors of 16 int8 values that are staged at a time, or of threads that share a column.
    #[must_use]
    pub fn k_step(&self) -> u32 {
        self.k_step
    }

    /// Returns the number of output columns of a workgroup.
    #[must_use]
    pub fn cols(&self) -> usize {
        match self.kernel {
            LinearKernel::Large | LinearKernel::CoopmatInt8 => 2 * BLOCK_COLS,
            // 256 threads.
            LinearKernel::Gemv if self.k_step > 4 => 256 / self.k_step as usize,
            _ => BLOCK_COLS,
        }
    }

    /// The threads of a workgroup, along columns and rows.
    fn threads(&self) -> [u32; 2] {
        match self.kernel {
            LinearKernel::Gemv => [self.cols() as u32, self.k_step],
            // The number depends on the device's subgroups; the engine checks it.
            LinearKernel::Coopmat | LinearKernel::CoopmatInt8 => [1, 1],
            kernel => [BLOCK_COLS as u32 / 4, (self.rows / kernel.rows_of_thread()).max(1)],
        }
    }

    fn workgroup_bytes(&self) -> u64 {
        let (rows, k_step, word) = (u64::from(self.rows), u64::from(self.k_step), 16);
        match self.kernel {
            LinearKernel::Workgroup => k_step * (rows + 2 + BLOCK_COLS as u64) * word,
            // Two stages of x and w.
            LinearKernel::Large => 2 * k_step * (rows + 128) * word,
            LinearKernel::Register | LinearKernel::Row | LinearKernel::Subgroup => 0,
            // The engine checks those of cooperative matrices.
            LinearKernel::Coopmat | LinearKernel::CoopmatInt8 => 0,
            // The sums of four rows each.
            LinearKernel::Gemv => {
                let sums = k_step * self.cols() as u64;
                (sums + if rows > 4 { sums } else { 1 }) * word
            }
        }
    }

    /// The override constants of its pipelines.
    pub(crate) fn overrides(&self) -> Vec<(&'static str, u32)> {
        let threads_y = self.threads()[1];
        match self.kernel {
            LinearKernel::Workgroup => vec![("THREADS_Y", threads_y), ("K_STEP", self.k_step)],
            LinearKernel::Large => Vec::new(),
            LinearKernel::Register | LinearKernel::Row => vec![("THREADS_Y", threads_y)],
            LinearKernel::Subgroup => vec![("LANES", self.k_step), ("ROWS", self.rows)],
            LinearKernel::Gemv => {
                vec![("ROWS", self.rows), ("K_LANES", self.k_step), ("QUADS", self.cols() as u32 / 4)]
            }
            LinearKernel::Coopmat | LinearKernel::CoopmatInt8 => {
                vec![("PATCH_ROWS", self.rows / 32), ("K_STEP", self.k_step)]
            }
        }
    }

    /// The grid for `m` matrix rows and `n` columns. The rows take two dimensions, because one is short.
    pub(crate) fn grid(&self, m: u64, n: usize, limit: u32) -> Grid {
        let row_tiles = m.div_ceil(self.rows.into());
        let y = row_tiles.min(limit.into()).max(1);
        Grid([(n as u64).div_ceil(self.cols() as u64), y, row_tiles.div_ceil(y)])
    }
}

impl LinearKernel {
    /// Whether it computes on cooperative matrices.
    pub(crate) fn uses_coopmat(self) -> bool {
        matches!(self, Self::Coopmat | Self::CoopmatInt8)
    }

    fn rows_of_thread(self) -> u32 {
        match self {
            Self::Workgroup => 4,
            Self::Large | Self::Register => 8,
            Self::Subgroup => 16,
            Self::Row | Self::Gemv | Self::Coopmat | Self::CoopmatInt8 => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_held_to_the_limits() {
        let limits = wgpu::Limits::default();
        for (kernel, rows, k_step) in [
            (LinearKernel::Workgroup, 64, 4),
            (LinearKernel::Workgroup, 4, 1),
            (LinearKernel::Register, 128, 1),
            (LinearKernel::Row, 3, 1),
            (LinearKernel::Gemv, 8, 4),
            (LinearKernel::Large, 128, 2),
            (LinearKernel::Subgroup, 16, 8),
        ] {
            assert!(TileShape::new(kernel, rows, k_step, &limits).is_ok(), "{kernel:?} {rows} {k_step}");
        }
        let small = wgpu::Limits { max_compute_workgroup_storage_size: 4096, ..limits.clone() };
        for (kernel, rows, k_step, limits, what) in [
            (LinearKernel::Workgroup, 68, 4, &limits, "threads"),
            (LinearKernel::Workgroup, 64, 9, &limits, "bytes of workgroup memory"),
            (LinearKernel::Workgroup, 64, 4, &small, "bytes of workgroup memory"),
            (LinearKernel::Workgroup, 6, 4, &limits, "rows"),
            (LinearKernel::Workgroup, 0, 4, &limits, "rows"),
            (LinearKernel::Register, 8, 0, &limits, "k_step"),
            (LinearKernel::Register, 8, 2, &limits, "k_step"),
            (LinearKernel::Row, 1, 2, &limits, "k_step"),
            (LinearKernel::Row, 257, 1, &limits, "threads along the rows"),
            (LinearKernel::Register, 8 * 257, 1, &limits, "threads along the rows"),
            (LinearKernel::Large, 128, 2, &small, "bytes of workgroup memory"),
            (LinearKernel::Large, 64, 2, &limits, "rows"),
            (LinearKernel::Large, 128, 4, &limits, "k_step"),
            (LinearKernel::Subgroup, 4, 8, &limits, "rows"),
            (LinearKernel::Subgroup, 8, 2, &limits, "k_step"),
            (LinearKernel::Gemv, 3, 4, &limits, "rows"),
            (LinearKernel::Gemv, 1, 6, &limits, "k_step"),
            (LinearKernel::Gemv, 1, 32, &limits, "k_step"),
        ] {
            let error = TileShape::new(kernel, rows, k_step, limits).expect_err("too large");
            assert!(matches!(error, GpuError::Tile { what: w, .. } if w == what), "{error}");
        }
    }

    #[test]
    fn grids_cover_the_rows() {
        let limits = wgpu::Limits::default();
        let tile = TileShape::new(LinearKernel::Workgroup, 64, 4, &limits).expect("fits");
        assert_eq!(tile.grid(65, 65, 65535), Grid([2, 2, 1]));
        assert_eq!(tile.grid(64 * 65536, 1, 65535), Grid([1, 65535, 2]));
    }
}
