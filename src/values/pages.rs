//! Memory of large arrays: huge pages, and pages that threads fill.

// A length that is set when all values are.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

/// An array that is filled once and then read from front to back in each run, such as a packed weight.
///
/// A processor keeps the addresses of some pages only, and a weight that is streamed leaves a page of 4 KiB after 64 lines. On Linux an array of
/// at least the size of a huge page lies in huge pages, if the system has some; elsewhere, and if it is smaller, this is a vector.
#[derive(Debug)]
pub(crate) struct Pages<T>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    Vec(Vec<T>),
    #[cfg(all(feature = "threads", target_os = "linux"))]
    Mapped(memmap2::MmapMut, std::marker::PhantomData<T>),
}

impl<T: Pod> Pages<T> {
    /// Makes an array of zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        #[cfg(all(feature = "threads", target_os = "linux"))]
        if let Some(mapped) = mapped::zeroed(len * size_of::<T>()) {
            return Self(Memory::Mapped(mapped, std::marker::PhantomData));
        }
        Self(Memory::Vec(vec![T::zeroed(); len]))
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Vec(values) => values,
            #[cfg(all(feature = "threads", target_os = "linux"))]
            Memory::Mapped(bytes, _) => bytemuck::cast_slice(bytes),
        }
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Vec(values) => values,
            #[cfg(all(feature = "threads", target_os = "linux"))]
            Memory::Mapped(bytes, _) => bytemuck::cast_slice_mut(bytes),
        }
    }
}

/// Makes a vector of default values, which threads fill if it is large: one alone would take as long as a small step, and leave all of it in
/// its own cache.
pub(crate) fn filled<T: Copy + Default + Send + Sync>(len: usize) -> Vec<T> {
    #[cfg(feature = "threads")]
    if len * size_of::<T>() >= FILLED_BY_THREADS && rayon::current_num_threads() > 1 {
        use rayon::prelude::*;
        let mut values = Vec::with_capacity(len);
        let memory = &mut values.spare_capacity_mut()[..len];
        let share = len.div_ceil(rayon::current_num_threads());
        memory.par_chunks_mut(share).for_each(|memory| {
            memory.fill(std::mem::MaybeUninit::new(T::default()));
        });
        // SAFETY: the chunks are all of the first `len` values, for which there is room.
        unsafe { values.set_len(len) };
        return values;
    }
    vec![T::default(); len]
}

/// Bytes from which on threads share the work of [`filled`].
#[cfg(feature = "threads")]
const FILLED_BY_THREADS: usize = 1 << 19;

#[cfg(all(feature = "threads", target_os = "linux"))]
mod mapped {
    use memmap2::{Advice, MmapMut};

    /// The usual size of a huge page.
    pub(super) const HUGE: usize = 1 << 21;

    /// Maps zeros, and asks for huge pages where whole ones fit; `None` for fewer bytes than one has, and if the system refuses the memory.
    pub(super) fn zeroed(size: usize) -> Option<MmapMut> {
        if size < HUGE {
            return None;
        }
        let bytes = MmapMut::map_anon(size).ok()?;
        let first = bytes.as_ptr().align_offset(HUGE);
        let whole = size.saturating_sub(first) / HUGE * HUGE;
        // A system without huge pages refuses the advice, which is no failure.
        if whole > 0 && bytes.advise_range(Advice::HugePage, first, whole).is_err() {
            log::debug!("{size} bytes of weights lie in ordinary pages");
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An array that is smaller than a huge page, of just one, and of several and a bit.
    #[test]
    fn pages_hold_what_is_written() {
        for len in [0, 1, (1 << 15) - 1, 1 << 15, (1 << 17) + 5] {
            let mut pages = Pages::<[f32; 16]>::zeroed(len);
            assert!(pages.len() == len && pages.iter().all(|values| *values == [0.0; 16]), "{len}");
            pages.iter_mut().enumerate().for_each(|(at, values)| *values = [at as f32; 16]);
            assert!(pages.iter().enumerate().all(|(at, values)| *values == [at as f32; 16]), "{len}");
        }
    }

    #[test]
    fn filled_vectors_have_default_values() {
        for len in [0, 5, (1 << 17) - 1, 1 << 17, (1 << 18) + 3] {
            // What was there before is likely to be there again.
            drop(vec![7i32; len]);
            let values = filled::<i32>(len);
            assert!(values.len() == len && values.iter().all(|&value| value == 0), "{len}");
        }
    }

    /// Whether the memory at an address is advised to have huge pages; `None` if the system has none.
    #[cfg(all(feature = "threads", target_os = "linux", target_arch = "x86_64"))]
    fn is_advised(address: usize) -> Option<bool> {
        let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        std::fs::metadata("/sys/kernel/mm/transparent_hugepage").ok()?;
        let mut within = false;
        for line in maps.lines() {
            let hex = |part: &str| usize::from_str_radix(part, 16).ok();
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((Some(start), Some(end))) = range.map(|(start, end)| (hex(start), hex(end))) {
                within = (start..end).contains(&address);
            } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| within) {
                return Some(flags.split(' ').any(|flag| flag == "hg"));
            }
        }
        None
    }

    // An emulator of another processor may say something else.
    #[cfg(all(feature = "threads", target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn large_arrays_have_huge_pages() {
        let (pages, vector) = (Pages::<u8>::zeroed(4 * mapped::HUGE), vec![0u8; 4 * mapped::HUGE]);
        let middle = |values: &[u8]| is_advised(values.as_ptr() as usize + values.len() / 2);
        let Some(advised) = middle(&pages) else { return eprintln!("left out: this system has no huge pages") };
        assert!(advised);
        assert_eq!(middle(&vector), Some(false), "the control");
    }
}
