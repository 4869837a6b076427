//! Which kernel computes which layer.

use std::fmt;

use super::coop::{CHUNKS, Coop, Fragment};
use super::engine::{Options, PackedDot, SplitK};
use super::error::GpuError;
use super::pipeline::lanes_of;
use super::tile::{LinearKernel, TileShape};

/// A tile shape, and when it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) tile: TileShape,
    /// For at most so many matrix rows.
    pub(super) most_rows: u64,
    /// For grids of at least so many groups.
    pub(super) least_groups: u64,
    /// K is divided where the grid would have fewer groups than this; never, if it is 0.
    pub(super) split_below: u64,
}

impl Candidate {
    pub(super) fn always(tile: TileShape) -> Self {
        Self { tile, most_rows: u64::MAX, least_groups: 0, split_below: 0 }
    }
}

/// Which kernels to use: the first candidate that applies, else the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) candidates: Vec<Candidate>,
    pub(super) packed_dot: bool,
    /// How matrix units are used, if they are.
    pub(super) coop: Option<Coop>,
}

impl Choice {
    /// One tile for any number of rows.
    pub(super) fn only(tile: TileShape, packed_dot: bool, split_k: SplitK, coop: Option<Coop>) -> Self {
        let split_below = if split_k == SplitK::Always { u64::MAX } else { 0 };
        let coop = coop.filter(|_| tile.kernel() == LinearKernel::Coop);
        Self { candidates: vec![Candidate { split_below, ..Candidate::always(tile) }], packed_dot, coop }
    }
}

/// Where in `candidates` the one for `m` matrix rows of `n` columns is.
pub(super) fn pick<'c>(candidates: impl ExactSizeIterator<Item = &'c Candidate>, m: u64, n: usize) -> usize {
    let last = candidates.len().saturating_sub(1);
    candidates.enumerate().find(|(_, c)| applies(c, m, n)).map_or(last, |(at, _)| at)
}

fn applies(candidate: &Candidate, m: u64, n: usize) -> bool {
    // Any limit along a dimension gives as many groups.
    m <= candidate.most_rows && candidate.tile.grid(m, n, u32::MAX).groups() >= candidate.least_groups
}

/// For logs, as in `up to 1 rows linear_gemv 1 x 64, else linear_reg 32 x 64, emulated dot product`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Candidate { tile, most_rows, least_groups, .. } in &self.candidates {
            match (*most_rows, *least_groups) {
                (u64::MAX, 0) => write!(f, "else ")?,
                (u64::MAX, groups) => write!(f, "from {groups} groups ")?,
                (rows, _) => write!(f, "up to {rows} rows ")?,
            }
            write!(f, "{} {} x {}, ", tile.kernel().name(), tile.rows(), tile.kernel().cols())?;
        }
        write!(f, "{} dot product", if self.packed_dot { "packed" } else { "emulated" })
    }
}

/// What is known of a device without measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceClass {
    /// Of its own memory, with many processors.
    Discrete,
    Integrated,
    /// Whose workgroup memory is no faster than a cache.
    Mobile,
    /// A driver that runs on a CPU.
    Software,
}

impl DeviceClass {
    pub(super) fn of(info: &wgpu::AdapterInfo) -> Self {
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

    /// Multiplications and additions of one dispatch, so that none comes near a driver's watchdog: at most a tenth of a second
    /// at a pessimistic rate.
    pub(super) fn macs_per_dispatch(self) -> u64 {
        match self {
            Self::Discrete => 100_000_000_000,
            Self::Integrated => 10_000_000_000,
            Self::Mobile => 2_000_000_000,
            // No watchdog looks at a CPU.
            Self::Software => u64::MAX,
        }
    }

    /// Groups that keep all processors busy.
    fn full_grid(self) -> u64 {
        match self {
            Self::Discrete => 256,
            Self::Integrated => 32,
            Self::Mobile => 16,
            Self::Software => 0,
        }
    }
}

/// What decides over kernels, of a device.
#[derive(Debug, Clone)]
pub(super) struct Abilities {
    pub(super) class: DeviceClass,
    pub(super) limits: wgpu::Limits,
    /// The fewest threads of a subgroup, if it has subgroup operations and may use them.
    pub(super) subgroup: Option<u32>,
    /// Its matrix units, if it has any and may use them.
    pub(super) coop: Option<Coop>,
}

impl Abilities {
    /// The matrix units with each length of chunks, longest first, where the device can hold the tile.
    fn coops(&self, tile: TileShape) -> impl Iterator<Item = Coop> {
        let fits = move |coop: &Coop| coop.fits(tile, &self.limits);
        let coop = self.coop.filter(|_| self.subgroup.is_some_and(|size| size >= 8)).filter(fits);
        CHUNKS.into_iter().filter_map(move |chunk_vecs| Some(Coop { chunk_vecs, ..coop? }))
    }
}

/// What to try on a device, best first.
pub(super) fn choices(abilities: &Abilities, options: &Options) -> Result<Vec<Choice>, GpuError> {
    let Abilities { class, limits, subgroup, .. } = abilities;
    let software = *class == DeviceClass::Software;
    let dots: &[bool] = match options.packed_dot {
        // Drivers that run on a CPU are no faster, and SwiftShader is slower, with the packed form.
        PackedDot::Auto if software => &[false, true],
        PackedDot::Auto => &[true, false],
        PackedDot::Native => &[true],
        PackedDot::Emulated => &[false],
    };
    if let Some(tile) = options.tile {
        // The shape may have been made for other limits.
        let main = TileShape::new(tile.kernel(), tile.rows(), tile.k_step(), limits)?;
        if main.kernel() == LinearKernel::Subgroup && subgroup.is_none_or(|size| size < main.k_step()) {
            let actual = subgroup.unwrap_or(0).into();
            let (what, rule, limit) = ("lanes of a subgroup", "needed are", main.k_step().into());
            return Err(GpuError::Tile { kernel: main.kernel().name(), what, actual, rule, limit });
        }
        if main.kernel() == LinearKernel::Coop {
            let coops = abilities.coops(main);
            let choices: Vec<Choice> =
                coops.map(|coop| Choice::only(main, dots[0], options.split_k, Some(coop))).collect();
            let needed = Fragment::FEATURES;
            return if choices.is_empty() {
                Err(GpuError::Feature { what: "linear_coop", needed })
            } else {
                Ok(choices)
            };
        }
        return Ok(dots.iter().map(|&packed_dot| Choice::only(main, packed_dot, options.split_k, None)).collect());
    }
    let shape = |kernel, rows, k_step| TileShape::new(kernel, rows, k_step, limits);
    let workgroup = shape(LinearKernel::Workgroup, 64, 4);
    let register = shape(LinearKernel::Register, 32, 1);
    let mains = match class {
        DeviceClass::Discrete | DeviceClass::Integrated => vec![workgroup, register],
        DeviceClass::Mobile => vec![register, workgroup],
        DeviceClass::Software => {
            let by_subgroups = subgroup.and_then(lanes_of).map(|lanes| shape(LinearKernel::Subgroup, 16, lanes));
            by_subgroups.into_iter().chain([register, workgroup]).collect()
        }
    };
    if mains.iter().all(Result::is_err) {
        mains.into_iter().next().transpose()?;
        return Ok(Vec::new());
    }
    // Most matrix rows, rows of a workgroup, threads that share a column. For a GPU more threads hide the latency of memory, and
    // up to 8 rows the weights' bytes decide; a processor computes from 3 rows on.
    let few: &[(u64, u32, u32)] =
        if software { &[(1, 1, 1), (2, 2, 1)] } else { &[(1, 1, 4), (2, 2, 4), (4, 4, 4), (8, 8, 4)] };
    let few = few.iter().map(|&(most, rows, k_step)| {
        shape(LinearKernel::Gemv, rows, k_step).map(|tile| Candidate { most_rows: most, ..Candidate::always(tile) })
    });
    let few: Vec<Candidate> = few.flatten().collect();
    let large = shape(LinearKernel::Large, 128, 2).ok().filter(|_| *class == DeviceClass::Discrete);
    let large: Vec<Candidate> = large
        .map(|tile| Candidate { least_groups: class.full_grid() / 2, ..Candidate::always(tile) })
        .into_iter()
        .collect();
    let split_below = match options.split_k {
        SplitK::Auto => class.full_grid(),
        SplitK::Never => 0,
        SplitK::Always => u64::MAX,
    };
    let mut choices = Vec::new();
    // Matrix units first, from so many groups on that most of them have work.
    let by_units = shape(LinearKernel::Coop, 128, 2).into_iter().chain(shape(LinearKernel::Coop, 64, 2));
    let by_units = by_units.map(|tile| (tile, abilities.coops(tile).collect::<Vec<_>>()));
    let by_units = by_units.filter(|_| !software).find(|(_, coops)| !coops.is_empty());
    if let (Some((tile, coops)), [main, ..]) = (&by_units, &mains.iter().flatten().collect::<Vec<_>>()[..]) {
        let units = Candidate { least_groups: class.full_grid() / 4, ..Candidate::always(*tile) };
        let mut candidates = [few.as_slice(), &[units, Candidate::always(**main)]].concat();
        candidates.iter_mut().for_each(|candidate| candidate.split_below = split_below);
        let choice = |&coop: &Coop| Choice { candidates: candidates.clone(), packed_dot: dots[0], coop: Some(coop) };
        choices.extend(coops.iter().map(choice));
    }
    for &packed_dot in dots {
        for &main in mains.iter().flatten() {
            for (few, large) in [(few.as_slice(), large.as_slice()), (few.as_slice(), &[]), (&[], &[])] {
                let mut candidates = [few, large, &[Candidate::always(main)]].concat();
                candidates.iter_mut().for_each(|candidate| candidate.split_below = split_below);
                choices.push(Choice { candidates, packed_dot, coop: None });
            }
        }
    }
    choices.dedup();
    Ok(choices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(class: DeviceClass, limits: wgpu::Limits, subgroup: Option<u32>) -> Abilities {
        Abilities { class, limits, subgroup, coop: None }
    }

    fn kernel(choice: &Choice, m: u64, n: usize) -> LinearKernel {
        choice.candidates[pick(choice.candidates.iter(), m, n)].tile.kernel()
    }

    #[test]
    fn choices_fall_back_step_by_step() {
        let limits = wgpu::Limits::default();
        let discrete = abilities(DeviceClass::Discrete, limits.clone(), Some(32));
        let all = choices(&discrete, &Options::default()).expect("fit");
        let shapes = [(1, 4096), (8, 4096), (9, 4096), (4096, 4096), (4096, 64)];
        assert_eq!(shapes.map(|(m, n)| kernel(&all[0], m, n)), {
            use LinearKernel::{Gemv, Large, Workgroup};
            [Gemv, Gemv, Workgroup, Large, Workgroup]
        });
        assert_eq!(kernel(&all[1], 4096, 4096), LinearKernel::Workgroup);
        assert_eq!(kernel(&all[2], 1, 4096), LinearKernel::Workgroup);
        assert_eq!(kernel(&all[3], 4096, 64), LinearKernel::Register);
        assert!(all[..6].iter().all(|c| c.packed_dot) && all[6..].iter().all(|c| !c.packed_dot));

        let software = abilities(DeviceClass::Software, limits.clone(), Some(8));
        let all = choices(&software, &Options::default()).expect("fit");
        assert_eq!(kernel(&all[0], 9, 64), LinearKernel::Subgroup);
        assert!(!all[0].packed_dot && all.last().is_some_and(|c| c.packed_dot));
        let software = abilities(DeviceClass::Software, limits.clone(), None);
        let all = choices(&software, &Options::default()).expect("fit");
        assert_eq!(kernel(&all[0], 9, 64), LinearKernel::Register);
        let mobile = abilities(DeviceClass::Mobile, limits, None);
        assert_eq!(kernel(&choices(&mobile, &Options::default()).expect("fit")[0], 9, 64), LinearKernel::Register);
    }

    #[test]
    fn matrix_units_come_first_and_with_shorter_chunks_before_none() {
        let coop = Some(Coop { fragment: Fragment::Sixteen, lanes: 32, chunk_vecs: 64 });
        let limits = wgpu::Limits { max_compute_workgroup_storage_size: 49_152, ..wgpu::Limits::default() };
        let units = Abilities { coop, ..abilities(DeviceClass::Discrete, limits, Some(32)) };
        let all = choices(&units, &Options::default()).expect("fit");
        let chunks: Vec<Option<u32>> = all[..5].iter().map(|c| c.coop.map(|coop| coop.chunk_vecs)).collect();
        assert_eq!(chunks, [Some(64), Some(32), Some(16), Some(8), None]);
        assert_eq!([1, 9, 4096].map(|m| kernel(&all[0], m, 4096)), {
            [LinearKernel::Gemv, LinearKernel::Coop, LinearKernel::Coop]
        });
        assert_eq!(kernel(&all[0], 9, 64), LinearKernel::Workgroup);
        // 16 KiB hold half of the rows, and lanes of four are too few.
        let small = Abilities { limits: wgpu::Limits::default(), ..units.clone() };
        let all = choices(&small, &Options::default()).expect("fit");
        assert_eq!(all[0].candidates[all[0].candidates.len() - 2].tile.rows(), 64);
        let narrow = Abilities { subgroup: Some(4), ..units };
        assert!(choices(&narrow, &Options::default()).expect("fit").iter().all(|c| c.coop.is_none()));
    }

    #[test]
    fn small_devices_get_what_fits() {
        let limits = wgpu::Limits { max_compute_workgroup_storage_size: 0, ..wgpu::Limits::default() };
        let small = abilities(DeviceClass::Integrated, limits, None);
        let all = choices(&small, &Options::default()).expect("fit");
        assert!(all.iter().all(|c| kernel(c, 1, 64) == LinearKernel::Register));
        let limits = wgpu::Limits { max_compute_invocations_per_workgroup: 8, ..wgpu::Limits::default() };
        assert!(choices(&abilities(DeviceClass::Integrated, limits, None), &Options::default()).is_err());
    }
}
