//! Tiles of int8 on processors with AMX: one instruction multiplies 16 rows of 64 features by 16 channels, and saturates nothing.
//!
//! The weights are the blocks of the kernel for VNNI, in which a tile's 16 groups of features lie [`PARTS`] lines apart. The activations of a
//! task are packed as tiles, so that each load reads whole lines of a cache. Two tiles of rows and two of channels keep their four tiles of
//! sums in registers.
//!
//! Stable Rust has no functions for these instructions yet, hence the assembly. The state of the tiles lives between [`Tiles::new`], which
//! sets their shapes, and its end.

// The assembly, and a call of the system that asks for AMX.
#![allow(unsafe_code)]

use std::arch::asm;
use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;

use super::Activations;
use super::block::{COLS, GROUP, PARTS, Weights};
use super::fields::{base, bits};
use super::vnni::Blocks;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Features of a tile.
pub(super) const FEATURES: usize = 64;
/// Rows from which on a product uses tiles: fewer take as long as a whole tile.
pub(super) const LEAST_ROWS: usize = 8;
/// Largest size of the activations of a task. Processors with AMX have L2 caches of 2 MiB, and each task reads all weights from beyond them.
pub(super) const TASK_BYTES: usize = 1 << 20;
/// Size of the activations that are computed and packed at a time.
const COMPUTED_BYTES: usize = 1 << 13;
/// Multiply-adds that one thread computes sooner than it wakes another.
pub(super) const ALONE: usize = 1 << 23;

/// A row of a tile, a line of a cache.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; FEATURES]);

/// The sums of two tiles of rows and a block.
#[repr(C, align(64))]
pub(super) struct Sums([[i32; COLS]; 2 * ROWS]);

impl Sums {
    pub(super) fn new() -> Self {
        Self([[0; COLS]; 2 * ROWS])
    }
}

thread_local! {
    /// The activations and the unpacked weights of the last task of this thread: fresh memory would cost page faults.
    static ACTIVATIONS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static WEIGHTS: Cell<Vec<Weights>> = const { Cell::new(Vec::new()) };
}

/// Whether this processor has AMX for int8, and the system lets this process use it.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && is_permitted())
}

/// CPUID leaf 7, EDX: AMX-TILE is bit 24, and AMX-INT8 bit 25.
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 24 & 3 == 3
}

/// Asks Linux for the state of tiles, which it gives to no process unasked. Other systems are not asked.
fn is_permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XTILEDATA: usize = 18;
        let result: i64;
        // SAFETY: the call reads and writes no memory of the process. The kernel overwrites rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// What `ldtilecfg` reads: the bytes of a row and the rows of each tile.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The activations of a task as tiles `[rows / ROWS][k / FEATURES][ROWS]`, as u8, while this thread's tiles have their shapes.
pub(super) struct Tiles<'t> {
    lines: &'t [Line],
    steps: usize,
}

/// Packs some rows of `x`, of `k` features, and calls `run` with them. AMX must be available.
///
/// `run` must compute no other product on this thread, whose end would take the tiles away: it waits for no other task.
#[inline(always)]
pub(super) fn with_activations(x: Activations<'_>, rows: Range<usize>, k: usize, run: impl FnOnce(&Tiles<'_>)) {
    let mut lines = ACTIVATIONS.take();
    let steps = k.div_ceil(FEATURES);
    lines.resize(rows.len().div_ceil(ROWS) * steps * ROWS, Line([0; FEATURES]));
    // As many rows at a time as an L1 cache keeps beside their lines.
    let some = (COMPUTED_BYTES / k).clamp(1, ROWS);
    for first in rows.clone().step_by(some) {
        x.with_rows(first..rows.end.min(first + some), k, |x| {
            for (row, x) in (first - rows.start..).zip(x.chunks_exact(k)) {
                let lines = lines[row / ROWS * steps * ROWS + row % ROWS..].iter_mut().step_by(ROWS);
                for (line, x) in lines.zip(x.chunks(FEATURES)) {
                    let line = &mut line.0;
                    // The weights of what pads a row are 0, and the sums of what pads a tile are not read.
                    match x.try_into() {
                        Ok::<&[i8; FEATURES], _>(x) => *line = x.map(flip),
                        Err(_) => line.iter_mut().zip(x).for_each(|(line, &x)| *line = flip(x)),
                    }
                }
            }
        });
    }
    let tiles = Tiles::new(&lines, steps);
    run(&tiles);
    drop(tiles);
    ACTIVATIONS.set(lines);
}

/// An int8 value as u8, 128 higher.
fn flip(x: i8) -> u8 {
    x.cast_unsigned() ^ 0x80
}

impl<'t> Tiles<'t> {
    fn new(lines: &'t [Line], steps: usize) -> Self {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(FEATURES as u16);
        config.rows[..8].fill(ROWS as u8);
        // SAFETY: AMX is available, and the instruction reads 64 bytes, those of `config`.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags, readonly)) };
        Self { lines, steps }
    }

    /// Computes the sums of a block for two tiles of rows, and calls `run(row, sums)`, for all rows. The sums of rows that pad a tile mean
    /// nothing.
    #[inline(always)]
    pub(super) fn for_block(
        &self,
        blocks: &Blocks,
        block: usize,
        sums: &mut Sums,
        mut run: impl FnMut(usize, &[[i32; COLS]]),
    ) {
        let mut scratch = Vec::new();
        let weights = match blocks.fields {
            1 => blocks.block(block),
            _ => {
                scratch = WEIGHTS.take();
                unpack(&mut scratch, blocks, block);
                &scratch
            }
        };
        let tile = self.steps * ROWS;
        assert_eq!(weights.len(), tile * PARTS, "a block has the features of the activations");
        for (at, lines) in self.lines.chunks(2 * tile).enumerate() {
            let rows = lines.len() / self.steps;
            for half in 0..2 {
                // SAFETY: AMX is available, and the tiles have their shapes. The activations are one or two times `steps` tiles of `ROWS`
                // lines, the weights as many steps of `ROWS * PARTS` lines, and the sums have room for a half of the columns of two tiles.
                unsafe {
                    let sums = sums.0.as_mut_ptr().cast::<i32>().add(half * COLS / 2);
                    let weights = weights.as_ptr().add(half * PARTS / 2);
                    if rows == 2 * ROWS {
                        product_of_two(sums, lines.as_ptr(), weights, self.steps);
                    } else {
                        product_of_one(sums, lines.as_ptr(), weights, self.steps);
                    }
                }
            }
            run(at * 2 * ROWS, &sums.0[..rows]);
        }
        if blocks.fields > 1 {
            WEIGHTS.set(scratch);
        }
    }
}

impl Drop for Tiles<'_> {
    fn drop(&mut self) {
        // SAFETY: AMX is available.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// Unpacks weights of which several share a byte, to one in each.
#[inline(always)]
fn unpack(to: &mut Vec<Weights>, blocks: &Blocks, block: usize) {
    let fields = blocks.fields;
    to.resize(blocks.groups * PARTS, Weights([0; 64]));
    for (to, from) in to.chunks_exact_mut(PARTS).zip(blocks.block(block).chunks_exact(PARTS / fields)) {
        for part in 0..PARTS {
            let field = part % fields;
            let (shift, base) = (bits(fields) * field as u32, base(field, fields, blocks.lowest) as i8);
            // All but the highest field, which has the byte's sign, lie below others.
            let above = 8 - bits(fields) - shift;
            for (to, &from) in to[part].0.iter_mut().zip(&from[part / fields].0) {
                let field = if above == 0 {
                    from >> shift
                } else {
                    ((from.cast_unsigned() << above) >> (above + shift)).cast_signed()
                };
                *to = field.wrapping_add(base);
            }
        }
    }
}

/// Bytes from a line of a block's group to that of the next group, and from a row of sums to the next.
const ROW_BYTES: usize = PARTS * 64;
const _: () = assert!(ROW_BYTES == size_of::<[i32; COLS]>() && FEATURES / GROUP == ROWS);

/// Computes the sums of two tiles of rows and two parts of a block.
///
/// # Safety
/// AMX is available, and eight tiles have [`ROWS`] rows of 64 bytes. `x` has 2 · `steps` tiles, `weights` has `steps` · [`ROWS`] groups, and
/// `sums` has 2 · [`ROWS`] rows.
#[inline]
unsafe fn product_of_two(sums: *mut i32, x: *const Line, weights: *const Weights, steps: usize) {
    // SAFETY: as the caller promises. The loads and stores stay in what it names.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{w} + {row}]",
            "tileloadd tmm4, [{x} + {line}]",
            "tileloadd tmm7, [{w} + {row} + 64]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{x2} + {line}]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {x}, 1024",
            "add {x2}, 1024",
            "add {w}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 64], tmm1",
            "add {sums}, 4096",
            "tilestored [{sums} + {row}], tmm2",
            "tilestored [{sums} + {row} + 64], tmm3",
            x = inout(reg) x => _,
            x2 = inout(reg) x.add(steps * ROWS) => _,
            w = inout(reg) weights => _,
            sums = inout(reg) sums => _,
            steps = inout(reg) steps => _,
            row = in(reg) ROW_BYTES,
            line = in(reg) FEATURES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Computes the sums of one tile of rows and two parts of a block.
///
/// # Safety
/// As [`product_of_two`], with `steps` tiles in `x` and [`ROWS`] rows in `sums`.
#[inline]
unsafe fn product_of_one(sums: *mut i32, x: *const Line, weights: *const Weights, steps: usize) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{x} + {line}]",
            "tileloadd tmm6, [{w} + {row}]",
            "tileloadd tmm7, [{w} + {row} + 64]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tdpbusd tmm1, tmm4, tmm7",
            "add {x}, 1024",
            "add {w}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 64], tmm1",
            x = inout(reg) x => _,
            w = inout(reg) weights => _,
            sums = in(reg) sums,
            steps = inout(reg) steps => _,
            row = in(reg) ROW_BYTES,
            line = in(reg) FEATURES,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
