//! Loops that threads share: those of `rayon`, or without the feature `threads` the same names for one thread.

#[cfg(feature = "threads")]
pub(crate) use rayon::{current_num_threads, prelude::*};

#[cfg(not(feature = "threads"))]
pub(crate) use one_thread::*;

#[cfg(feature = "threads")]
mod region;
#[cfg(feature = "threads")]
pub(crate) use region::{in_region, is_awake, keep_awake};

#[cfg(not(feature = "threads"))]
mod one_thread {
    use std::slice::{Chunks, ChunksExact, ChunksExactMut, ChunksMut, Iter, IterMut};

    pub(crate) fn current_num_threads() -> usize {
        1
    }

    pub(crate) fn in_region<R>(_: usize, run: impl FnOnce() -> R) -> R {
        run()
    }

    pub(crate) fn keep_awake() {}

    pub(crate) fn is_awake() -> bool {
        false
    }

    /// The methods of `rayon::slice::ParallelSlice`.
    pub(crate) trait ParallelSlice<T> {
        fn par_iter(&self) -> Iter<'_, T>;
        fn par_chunks(&self, size: usize) -> Chunks<'_, T>;
        fn par_chunks_exact(&self, size: usize) -> ChunksExact<'_, T>;
    }

    impl<T> ParallelSlice<T> for [T] {
        fn par_iter(&self) -> Iter<'_, T> {
            self.iter()
        }

        fn par_chunks(&self, size: usize) -> Chunks<'_, T> {
            self.chunks(size)
        }

        fn par_chunks_exact(&self, size: usize) -> ChunksExact<'_, T> {
            self.chunks_exact(size)
        }
    }

    /// The methods of `rayon::slice::ParallelSliceMut`.
    pub(crate) trait ParallelSliceMut<T> {
        fn par_iter_mut(&mut self) -> IterMut<'_, T>;
        fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T>;
        fn par_chunks_exact_mut(&mut self, size: usize) -> ChunksExactMut<'_, T>;
    }

    impl<T> ParallelSliceMut<T> for [T] {
        fn par_iter_mut(&mut self) -> IterMut<'_, T> {
            self.iter_mut()
        }

        fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T> {
            self.chunks_mut(size)
        }

        fn par_chunks_exact_mut(&mut self, size: usize) -> ChunksExactMut<'_, T> {
            self.chunks_exact_mut(size)
        }
    }

    /// The method of `rayon::iter::IntoParallelIterator`.
    pub(crate) trait IntoParallelIterator: IntoIterator + Sized {
        fn into_par_iter(self) -> Self::IntoIter {
            self.into_iter()
        }
    }

    impl<I: IntoIterator> IntoParallelIterator for I {}

    /// The methods of `rayon::iter::ParallelIterator` that iterators do not have.
    pub(crate) trait ParallelIterator: Iterator + Sized {
        fn with_min_len(self, _: usize) -> Self {
            self
        }

        fn for_each_init<S>(self, init: impl Fn() -> S, mut run: impl FnMut(&mut S, Self::Item)) {
            let mut state = init();
            self.for_each(|item| run(&mut state, item));
        }

        fn map_init<S, R>(
            self,
            init: impl Fn() -> S,
            mut run: impl FnMut(&mut S, Self::Item) -> R,
        ) -> impl Iterator<Item = R> {
            let mut state = init();
            self.map(move |item| run(&mut state, item))
        }

        fn position_first(mut self, is_wanted: impl FnMut(Self::Item) -> bool) -> Option<usize> {
            self.position(is_wanted)
        }

        fn reduce_with(self, merge: impl FnMut(Self::Item, Self::Item) -> Self::Item) -> Option<Self::Item> {
            self.reduce(merge)
        }
    }

    impl<I: Iterator> ParallelIterator for I {}
}
