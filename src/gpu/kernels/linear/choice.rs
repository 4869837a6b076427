//! The choice of kernels for int8 linear layers.

use std::fmt;

use super::coopmat::{CHUNKS, Coopmat, Fragment};
use super::tile::{LinearKernel, TileShape};
use crate::gpu::device::error::GpuError;

/// The instruction that sums four products of int8 values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PackedDot {
    /// WGSL's packed dot product, unless the known-answer test finds that the device's is wrong.
    #[default]
    Auto,
    /// WGSL's packed dot product.
    Native,
    /// Separate multiplications.
    Emulated,
}

/// Whether K is divided among workgroups, which add their sums in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SplitK {
    /// Divides K where the grid would be too small to keep the device busy.
    #[default]
    Auto,
    /// Does not divide K.
    Never,
    /// Divides K wherever it is long enough and the sums fit.
    Always,
}

/// A tile shape, and when it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) tile: TileShape,
    /// The fewest and the most matrix rows.
    pub(crate) least_rows: u64,
    pub(crate) most_rows: u64,
    /// The fewest workgroups of the grid.
    pub(crate) least_workgroups: u64,
    /// K is divided if the grid would have fewer workgroups than this and K is long; never if it is 0, and wherever it can be if it is
    /// [`Candidate::ALWAYS_SPLIT`].
    pub(crate) split_below: u64,
}

impl Candidate {
    pub(crate) const ALWAYS_SPLIT: u64 = u64::MAX;

    /// The same for a layer with K of so many vectors of 16 features. On an H200, sums in memory took longer than a K of 24 vectors on 48
    /// workgroups or of 64 on 128, and less time than one of 256 on 128. Matrices of int8 values were done with that sooner. No other GPU
    /// has been measured.
    pub(crate) fn for_k(self, k_vecs: usize) -> Self {
        let split_below = match self.split_below {
            below @ (0 | Self::ALWAYS_SPLIT) => below,
            _ if k_vecs < 48 => 0,
            below if k_vecs >= 128 && self.tile.kernel() != LinearKernel::CoopmatInt8 => 2 * below,
            below => below,
        };
        Self { split_below, ..self }
    }

    pub(crate) fn always(tile: TileShape) -> Self {
        Self { tile, least_rows: 0, most_rows: u64::MAX, least_workgroups: 0, split_below: 0 }
    }
}

/// The kernels of an engine. The first candidate that applies is used, else the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) packed_dot: bool,
    /// The use of cooperative matrices; `None` if they are not used.
    pub(crate) coopmat: Option<Coopmat>,
}

impl Choice {
    /// One tile shape for any number of rows.
    pub(crate) fn only(tile: TileShape, packed_dot: bool, split_k: SplitK, coopmat: Option<Coopmat>) -> Self {
        let split_below = if split_k == SplitK::Always { Candidate::ALWAYS_SPLIT } else { 0 };
        let coopmat = coopmat.filter(|_| tile.kernel().uses_coopmat());
        Self { candidates: vec![Candidate { split_below, ..Candidate::always(tile) }], packed_dot, coopmat }
    }
}

/// The index of the candidate for `m` matrix rows and `n` columns.
pub(crate) fn pick<'c>(candidates: impl ExactSizeIterator<Item = &'c Candidate>, m: u64, n: usize) -> usize {
    let last = candidates.len().saturating_sub(1);
    candidates.enumerate().find(|(_, c)| applies(c, m, n)).map_or(last, |(at, _)| at)
}

fn applies(candidate: &Candidate, m: u64, n: usize) -> bool {
    // The number of workgroups does not depend on the limit along a dimension.
    (candidate.least_rows..=candidate.most_rows).contains(&m)
        && candidate.tile.grid(m, n, u32::MAX).count() >= candidate.least_workgroups
}

/// Formats for logs, as in `up to 1 rows linear_gemv 1 x 64, else linear_reg 32 x 64, emulated dot product`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &Candidate { tile, least_rows, most_rows, least_workgroups, .. } in &self.candidates {
            if most_rows < u64::MAX {
                write!(f, "up to {most_rows} rows ")?;
            } else if least_workgroups == 0 {
                write!(f, "else ")?;
            }
            if least_rows > 0 {
                write!(f, "from {least_rows} rows ")?;
            }
            if least_workgroups > 0 {
                write!(f, "from {least_workgroups} workgroups ")?;
            }
            write!(f, "{} {} x {}, ", tile.kernel().name(), tile.rows(), tile.cols())?;
        }
        write!(f, "{} dot product", if self.packed_dot { "packed" } else { "emulated" })
    }
}

/// The class of a device, known without measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceClass {
    /// A GPU with its own memory and many processors.
    Discrete,
    /// A GPU that shares memory with the CPU.
    Integrated,
    /// A GPU whose workgroup memory is no faster than a cache.
    Mobile,
    /// A driver that runs on a CPU.
    Software,
}

impl DeviceClass {
    pub(crate) fn of(info: &wgpu::AdapterInfo) -> Self {
        const QUALCOMM: u32 = 0x5143;
        const ARM: u32 = 0x13B5;
        const IMAGINATION: u32 = 0x1010;
        match (info.device_type, info.vendor) {
            (wgpu::DeviceType::Cpu, _) => Self::Software,
            (_, QUALCOMM | ARM | IMAGINATION) => Self::Mobile,
            (wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu, _) => Self::Discrete,
            _ => Self::Integrated,
        }
    }

    /// The most multiplications and additions of one dispatch, so that none comes near a driver's watchdog: a tenth of a second at a
    /// pessimistic rate.
    pub(crate) fn macs_per_dispatch(self) -> u64 {
        match self {
            Self::Discrete => 100_000_000_000,
            Self::Integrated => 10_000_000_000,
            Self::Mobile => 2_000_000_000,
            // No watchdog looks at a CPU.
            Self::Software => u64::MAX,
        }
    }

    /// The most partial sums of a divided layer, so that they stay small compared with everything else: 4 MiB on a GPU with its own memory,
    /// whose many processors need more parts, and 768 KiB elsewhere.
    pub(crate) fn max_partial_sums(self) -> u64 {
        if self == Self::Discrete { 1024 * 1024 } else { 192 * 1024 }
    }

    /// Workgroups that keep all processors busy.
    fn full_grid(self) -> u64 {
        match self {
            Self::Discrete => 256,
            Self::Integrated => 32,
            Self::Mobile => 16,
            Self::Software => 0,
        }
    }
}

/// The most rows for which a CPU multiplies each row alone.
const MOST_SINGLE_ROWS: u64 = 2;

/// The properties of a device that decide over kernels.
#[derive(Debug, Clone)]
pub(crate) struct Abilities {
    pub(crate) class: DeviceClass,
    pub(crate) limits: wgpu::Limits,
    /// The fewest threads of a subgroup, if it has subgroup operations and may use them.
    pub(crate) subgroup: Option<u32>,
    /// Its cooperative matrices, if it has any and may use them.
    pub(crate) coopmat: Option<Coopmat>,
}

impl Abilities {
    /// The cooperative matrices with each length of chunks, longest first, if the device can hold the tile.
    fn coopmats(&self, tile: TileShape) -> impl Iterator<Item = Coopmat> {
        let fits = move |coopmat: &Coopmat| coopmat.fits(tile, &self.limits);
        let lanes = if tile.kernel() == LinearKernel::CoopmatInt8 { 32 } else { 8 };
        let coopmat = self.coopmat.filter(|_| self.subgroup.is_some_and(|size| size >= lanes)).filter(fits);
        // Sums of integers need no chunks.
        let lengths = if tile.kernel() == LinearKernel::CoopmatInt8 { &CHUNKS[..1] } else { &CHUNKS[..] };
        lengths.iter().filter_map(move |&chunk_vecs| coopmat.map(|coopmat| coopmat.with_chunks(chunk_vecs)))
    }

    fn shape(&self, kernel: LinearKernel, rows: u32, k_step: u32) -> Result<TileShape, GpuError> {
        TileShape::new(kernel, rows, k_step, &self.limits)
    }

    /// The kernels for any number of rows, best first.
    fn mains(&self) -> Result<Vec<TileShape>, GpuError> {
        let workgroup = self.shape(LinearKernel::Workgroup, 64, 4);
        let register = self.shape(LinearKernel::Register, 32, 1);
        let mains = match self.class {
            DeviceClass::Discrete | DeviceClass::Integrated => vec![workgroup, register],
            DeviceClass::Mobile => vec![register, workgroup],
            DeviceClass::Software => {
                let lanes = self.subgroup.and_then(lanes_of);
                let subgroup = lanes.map(|lanes| self.shape(LinearKernel::Subgroup, 16, lanes));
                subgroup.into_iter().chain([register, workgroup]).collect()
            }
        };
        if mains.iter().all(Result::is_err) {
            mains.into_iter().next().transpose()?;
            return Ok(Vec::new());
        }
        Ok(mains.into_iter().flatten().collect())
    }

    /// The kernels for few rows.
    fn few(&self) -> Vec<Candidate> {
        // The most matrix rows, rows of a workgroup, threads that share a column, and the fewest workgroups. On a GPU more threads hide the
        // latency of memory, the more so the larger it is and the fewer columns there are, and up to 8 rows the weights' bytes decide; a CPU
        // is limited by its arithmetic from 3 rows on.
        let few: &[(u64, u32, u32, u64)] = match self.class {
            DeviceClass::Software => return self.row(),
            DeviceClass::Discrete => {
                &[(1, 1, 8, 512), (1, 1, 16, 0), (2, 2, 16, 0), (4, 4, 16, 0), (8, 8, 16, 1024), (8, 4, 16, 0)]
            }
            DeviceClass::Integrated | DeviceClass::Mobile => &[(1, 1, 4, 0), (2, 2, 4, 0), (4, 4, 4, 0), (8, 8, 4, 0)],
        };
        let candidate = |&(most_rows, rows, k_step, least_workgroups): &(u64, u32, u32, u64)| {
            let tile = self.shape(LinearKernel::Gemv, rows, k_step).ok()?;
            Some(Candidate { most_rows, least_workgroups, ..Candidate::always(tile) })
        };
        few.iter().filter_map(candidate).collect()
    }

    /// The kernel for few rows on a CPU, which is compiled in less time than those whose threads share a column.
    fn row(&self) -> Vec<Candidate> {
        let row = self.shape(LinearKernel::Row, 1, 1).ok();
        row.map(|tile| Candidate { most_rows: MOST_SINGLE_ROWS, ..Candidate::always(tile) }).into_iter().collect()
    }

    /// The kernel for large grids.
    fn large(&self) -> Vec<Candidate> {
        let large = self.shape(LinearKernel::Large, 128, 2).ok().filter(|_| self.class == DeviceClass::Discrete);
        // With half of its rows empty, smaller tiles take half of the time.
        let candidate = |tile: TileShape| Candidate {
            least_rows: u64::from(tile.rows()) / 2 + 1,
            least_workgroups: self.class.full_grid() / 2,
            ..Candidate::always(tile)
        };
        large.map(candidate).into_iter().collect()
    }

    /// The dot products to try, best first.
    fn dots(&self, wanted: PackedDot) -> &'static [bool] {
        match wanted {
            // Software adapters are no faster, and SwiftShader is slower, with the packed form.
            PackedDot::Auto if self.class == DeviceClass::Software => &[false, true],
            PackedDot::Auto => &[true, false],
            PackedDot::Native => &[true],
            PackedDot::Emulated => &[false],
        }
    }

    /// The choices for one tile shape.
    fn only(&self, tile: TileShape, wanted: &Wanted) -> Result<Vec<Choice>, GpuError> {
        // The shape may have been made for other limits.
        let tile = self.shape(tile.kernel(), tile.rows(), tile.k_step())?;
        if tile.kernel() == LinearKernel::Subgroup && self.subgroup.is_none_or(|size| size < tile.k_step()) {
            let actual = self.subgroup.unwrap_or(0).into();
            let (what, rule, limit) = ("lanes of a subgroup", "needed are", tile.k_step().into());
            return Err(GpuError::Tile { kernel: tile.kernel().name(), what, actual, rule, limit });
        }
        let dots = self.dots(wanted.packed_dot);
        if tile.kernel().uses_coopmat() {
            let choice = |coopmat| Choice::only(tile, dots[0], wanted.split_k, Some(coopmat));
            let choices: Vec<Choice> = self.coopmats(tile).map(choice).collect();
            let int8 = tile.kernel() == LinearKernel::CoopmatInt8;
            let needed = if int8 { Fragment::INT8_FEATURES } else { Fragment::FEATURES };
            return match choices.is_empty() {
                true => Err(GpuError::Feature { what: tile.kernel().name(), needed }),
                false => Ok(choices),
            };
        }
        Ok(dots.iter().map(|&packed_dot| Choice::only(tile, packed_dot, wanted.split_k, None)).collect())
    }

    /// The choices with cooperative matrices: those of floats for grids that keep most of them busy.
    fn with_coopmat(&self, main: TileShape, few: &[Candidate], packed_dot: bool) -> Vec<Choice> {
        if self.class == DeviceClass::Software {
            return Vec::new();
        }
        let Some(kernel) = self.coopmat.map(|coopmat| coopmat.fragment.kernel()) else { return Vec::new() };
        let usable = |&(rows, k_step): &(u32, u32)| {
            let tile = self.shape(kernel, rows, k_step).ok()?;
            let coopmats: Vec<Coopmat> = self.coopmats(tile).collect();
            (!coopmats.is_empty()).then_some((tile, coopmats))
        };
        let full = self.class.full_grid();
        let at_least = |least_workgroups, tile| Candidate { least_workgroups, ..Candidate::always(tile) };
        let (coopmats, matrices) = if kernel == LinearKernel::CoopmatInt8 {
            let [most, fewer] = [128, 64].map(|rows| [(rows, 4), (rows, 2)].iter().find_map(usable));
            let Some((fewer, coopmats)) = fewer else { return Vec::new() };
            // Even where a grid is small they are faster than other kernels.
            let most = most.map(|(tile, _)| at_least(full / 4, tile));
            (coopmats, most.into_iter().chain([Candidate::always(fewer)]).collect::<Vec<_>>())
        } else {
            let Some((tile, coopmats)) = [(128, 2), (64, 2)].iter().find_map(usable) else { return Vec::new() };
            (coopmats, vec![at_least(full / 4, tile), Candidate::always(main)])
        };
        let candidates = [few, &matrices].concat();
        let choice = |coopmat| Choice { candidates: candidates.clone(), packed_dot, coopmat: Some(coopmat) };
        coopmats.into_iter().map(choice).collect()
    }
}

/// The part of an engine's options that concerns the choice.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) tile: Option<TileShape>,
    pub(crate) packed_dot: PackedDot,
    pub(crate) split_k: SplitK,
}

/// The choices to try on a device, best first.
pub(crate) fn choices(abilities: &Abilities, wanted: &Wanted) -> Result<Vec<Choice>, GpuError> {
    if let Some(tile) = wanted.tile {
        return abilities.only(tile, wanted);
    }
    let dots = abilities.dots(wanted.packed_dot);
    let mains = abilities.mains()?;
    let (few, large) = (abilities.few(), abilities.large());
    let mut choices = match mains.first() {
        Some(&main) => abilities.with_coopmat(main, &few, dots[0]),
        None => Vec::new(),
    };
    for &packed_dot in dots {
        for &main in &mains {
            for (few, large) in [(few.as_slice(), large.as_slice()), (few.as_slice(), &[]), (&[], &[])] {
                let candidates = [few, large, &[Candidate::always(main)]].concat();
                choices.push(Choice { candidates, packed_dot, coopmat: None });
            }
        }
    }
    let full = abilities.class.full_grid();
    for candidate in choices.iter_mut().flat_map(|choice| &mut choice.candidates) {
        candidate.split_below = match wanted.split_k {
            // Sums in memory cost more than a grid that is half full. Matrices of int8 values are done sooner than the sums.
            SplitK::Auto if candidate.tile.kernel() == LinearKernel::CoopmatInt8 => full / 4,
            SplitK::Auto => full / 2,
            SplitK::Never => 0,
            SplitK::Always => Candidate::ALWAYS_SPLIT,
        };
    }
    choices.dedup();
    Ok(choices)
}

/// Lanes that can share what they load, in subgroups of at least `size` threads.
pub(crate) fn lanes_of(size: u32) -> Option<u32> {
    match size {
        0..4 => None,
        4..8 => Some(4),
        _ => Some(8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(class: DeviceClass, limits: wgpu::Limits, subgroup: Option<u32>) -> Abilities {
        Abilities { class, limits, subgroup, coopmat: None }
    }

    fn kernel(choice: &Choice, m: u64, n: usize) -> LinearKernel {
        choice.candidates[pick(choice.candidates.iter(), m, n)].tile.kernel()
    }

    #[test]
    fn choices_fall_back_step_by_step() {
        let limits = wgpu::Limits::default();
        let discrete = abilities(DeviceClass::Discrete, limits.clone(), Some(32));
        let all = choices(&discrete, &Wanted::default()).expect("fit");
        let shapes = [(1, 4096), (8, 4096), (9, 4096), (64, 16384), (65, 16384), (4096, 4096), (4096, 64)];
        assert_eq!(shapes.map(|(m, n)| kernel(&all[0], m, n)), {
            use LinearKernel::{Gemv, Large, Workgroup};
            [Gemv, Gemv, Workgroup, Workgroup, Large, Large, Workgroup]
        });
        let lanes = |n| all[0].candidates[pick(all[0].candidates.iter(), 1, n)].tile.k_step();
        assert_eq!([4096, 16383, 16384].map(lanes), [16, 8, 8]);
        assert_eq!(lanes(16 * 1024 - 32), 16);
        let rows_of = |m, n| all[0].candidates[pick(all[0].candidates.iter(), m, n)].tile.rows();
        assert_eq!(
            [(8, 4096), (8, 16368), (8, 16384), (5, 16384), (4, 16384)].map(|(m, n)| rows_of(m, n)),
            [4, 4, 8, 8, 4]
        );
        assert!(all[0].to_string().contains("up to 1 rows from 512 workgroups linear_gemv 1 x 32, "), "{}", all[0]);
        assert_eq!(kernel(&all[1], 4096, 4096), LinearKernel::Workgroup);
        assert_eq!(kernel(&all[2], 1, 4096), LinearKernel::Workgroup);
        assert_eq!(kernel(&all[3], 4096, 64), LinearKernel::Register);
        assert!(all[..6].iter().all(|c| c.packed_dot) && all[6..].iter().all(|c| !c.packed_dot));

        let software = abilities(DeviceClass::Software, limits.clone(), Some(8));
        let all = choices(&software, &Wanted::default()).expect("fit");
        assert_eq!([1, 2].map(|rows| kernel(&all[0], rows, 64)), [LinearKernel::Row; 2]);
        assert_eq!(kernel(&all[0], 9, 64), LinearKernel::Subgroup);
        assert!(!all[0].packed_dot && all.last().is_some_and(|c| c.packed_dot));
        let software = abilities(DeviceClass::Software, limits.clone(), None);
        let all = choices(&software, &Wanted::default()).expect("fit");
        assert_eq!(kernel(&all[0], 9, 64), LinearKernel::Register);
        let mobile = abilities(DeviceClass::Mobile, limits, None);
        assert_eq!(kernel(&choices(&mobile, &Wanted::default()).expect("fit")[0], 9, 64), LinearKernel::Register);
    }

    #[test]
    fn cooperative_matrices_come_first_and_with_shorter_chunks_before_none() {
        let coopmat = Some(Coopmat { fragment: Fragment::Sixteen, lanes: 32, chunk_vecs: 64 });
        let limits = wgpu::Limits { max_compute_workgroup_storage_size: 49_152, ..wgpu::Limits::default() };
        let units = Abilities { coopmat, ..abilities(DeviceClass::Discrete, limits, Some(32)) };
        let all = choices(&units, &Wanted::default()).expect("fit");
        let chunks: Vec<Option<u32>> = all[..5].iter().map(|c| c.coopmat.map(|coopmat| coopmat.chunk_vecs)).collect();
        assert_eq!(chunks, [Some(64), Some(32), Some(16), Some(8), None]);
        assert_eq!([1, 9, 4096].map(|m| kernel(&all[0], m, 4096)), {
            [LinearKernel::Gemv, LinearKernel::Coopmat, LinearKernel::Coopmat]
        });
        assert_eq!(kernel(&all[0], 9, 64), LinearKernel::Workgroup);
        // 16 KiB hold half of the rows, and subgroups of four lanes are too small.
        let small = Abilities { limits: wgpu::Limits::default(), ..units.clone() };
        let all = choices(&small, &Wanted::default()).expect("fit");
        assert_eq!(all[0].candidates[all[0].candidates.len() - 2].tile.rows(), 64);
        let narrow = Abilities { subgroup: Some(4), ..units };
        assert!(choices(&narrow, &Wanted::default()).expect("fit").iter().all(|c| c.coopmat.is_none()));
    }

    #[test]
    fn small_devices_get_what_fits() {
        let limits = wgpu::Limits { max_compute_workgroup_storage_size: 0, ..wgpu::Limits::default() };
        let small = abilities(DeviceClass::Integrated, limits, None);
        let all = choices(&small, &Wanted::default()).expect("fit");
        assert!(all.iter().all(|c| kernel(c, 1, 64) == LinearKernel::Register));
        let limits = wgpu::Limits { max_compute_invocations_per_workgroup: 8, ..wgpu::Limits::default() };
        assert!(choices(&abilities(DeviceClass::Integrated, limits, None), &Wanted::default()).is_err());
    }
}
