//! Regions: while one runs on a thread of the pool, all others look for its work instead of sleeping.
//!
//! To wake a sleeping thread takes longer than many steps of a program: a region wakes threads once, for all of its steps. `rayon` wakes one
//! for every task as long as any sleeps, so a region has all threads of the pool or is none.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Searches for work after which a thread ends: some hundred microseconds without success. A thread that has another task under way must go
/// on with it, whatever the region does; the next step wakes threads once more.
const MOST_SEARCHES: u32 = 1 << 12;
/// Searches as which one with success counts.
const SUCCESS: u32 = 1 << 6;
/// Searches after which a thread lets those of other programs run.
const POLITE: u32 = 1 << 6;

/// What the threads of a region share.
#[derive(Default)]
struct State {
    has_ended: AtomicBool,
    awake: AtomicUsize,
}

struct Region {
    state: Arc<State>,
    others: usize,
}

thread_local! {
    /// The region that runs on this thread.
    static REGION: RefCell<Option<Region>> = const { RefCell::new(None) };
}

/// Ends the region of this thread, even if it panics.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        if let Some(region) = REGION.take() {
            region.state.has_ended.store(true, Ordering::Release);
        }
    }
}

/// Runs `run`, whose work is worth so many threads beside its own: on this thread if it is worth none, else on a thread of the pool, and as a
/// region if it is worth all of them. Within another region it just runs.
pub(crate) fn in_region<R: Send>(worth: usize, run: impl FnOnce() -> R + Send) -> R {
    let others = rayon::current_num_threads() - 1;
    if others == 0 || worth == 0 || is_awake() {
        return run();
    }
    let run = || {
        let _end = (worth >= others).then(|| {
            REGION.set(Some(Region { state: Arc::default(), others }));
            End
        });
        run()
    };
    if rayon::current_thread_index().is_some() { run() } else { rayon::scope(|_| run()) }
}

/// Whether a region runs on this thread.
pub(crate) fn is_awake() -> bool {
    REGION.with_borrow(Option::is_some)
}

/// Wakes the threads of the region on this thread, if there is one and none of them looks for its work.
pub(crate) fn keep_awake() {
    REGION.with_borrow(|region| {
        let Some(Region { state, others }) = region else { return };
        if state.awake.load(Ordering::Relaxed) > 0 {
            return;
        }
        state.awake.store(*others, Ordering::Relaxed);
        for _ in 0..*others {
            let state = Arc::clone(state);
            rayon::spawn(move || search(&state));
        }
    });
}

/// Runs the work that there is, until the region ends, or for [`MOST_SEARCHES`].
fn search(state: &State) {
    let mut searches = 0;
    // The thread of a region may find this task itself.
    while !is_awake() && searches < MOST_SEARCHES && !state.has_ended.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => searches += SUCCESS,
            _ => {
                searches += 1;
                if searches.is_multiple_of(POLITE) { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
        }
    }
    state.awake.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool")
    }

    /// Work of a region, in parallel parts that wait for one another.
    fn sum(n: u64) -> u64 {
        keep_awake();
        let (a, b) = rayon::join(|| (0..n).into_par_iter().sum::<u64>(), || (n..2 * n).into_par_iter().sum::<u64>());
        a + b
    }

    #[test]
    fn regions_beside_and_inside_of_others_end() {
        for threads in [1, 2, 3] {
            let sums: Vec<u64> = pool(threads).install(|| {
                let runs = (0..200u64).into_par_iter();
                runs.map(|n| in_region(8, || sum(n) + in_region(8, || sum(n)) + rayon::join(|| sum(n), || sum(n)).0))
                    .collect()
            });
            assert!(sums.iter().zip(0..).all(|(&sum, n): (&u64, u64)| sum == 3 * n * (2 * n).saturating_sub(1)));
        }
        assert_eq!(in_region(8, || sum(100)), 100 * 199);
    }

    #[test]
    fn a_region_that_panics_has_ended() {
        pool(2).install(|| {
            let failed = std::panic::catch_unwind(|| {
                in_region(1, || {
                    keep_awake();
                    assert!(is_awake());
                    panic!("as expected");
                })
            });
            assert!(failed.is_err() && !is_awake());
        });
    }

    /// A pool of more threads than the work is worth has no region, and work that is worth none stays on its thread.
    #[test]
    fn regions_have_all_threads_or_none() {
        for (threads, worth, expected) in [(1, 9, false), (2, 0, false), (2, 1, true), (4, 2, false), (4, 3, true)] {
            let pool = pool(threads);
            assert_eq!(pool.install(|| in_region(worth, is_awake)), expected, "{threads} threads, worth {worth}");
        }
        let here = std::thread::current().id();
        assert_eq!(in_region(0, || std::thread::current().id()), here);
    }

    /// While its owner waits without running tasks, the other thread of a region runs them.
    #[test]
    fn another_thread_runs_the_work() {
        pool(2).install(|| {
            in_region(1, || {
                let (owner, done) = (std::thread::current().id(), Arc::new(AtomicBool::new(false)));
                for _ in 0..100 {
                    keep_awake();
                    done.store(false, Ordering::Release);
                    let of_task = Arc::clone(&done);
                    rayon::spawn(move || of_task.store(std::thread::current().id() != owner, Ordering::Release));
                    let start = std::time::Instant::now();
                    while !done.load(Ordering::Acquire) {
                        assert!(start.elapsed().as_secs() < 60, "nobody runs the task");
                        std::hint::spin_loop();
                    }
                }
            });
        });
    }

    /// A thread that finds nothing to do for long goes on with what it did before, and the next step wakes it once more.
    #[test]
    fn searches_end_before_their_region() {
        let awake = || REGION.with_borrow(|region| region.as_ref().map(|region| Arc::clone(&region.state)));
        pool(2).install(|| {
            in_region(1, || {
                for _ in 0..2 {
                    keep_awake();
                    let state = awake().expect("a region");
                    assert_eq!(state.awake.load(Ordering::Relaxed), 1);
                    let start = std::time::Instant::now();
                    while state.awake.load(Ordering::Relaxed) > 0 {
                        assert!(start.elapsed().as_secs() < 60, "the search goes on");
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                }
            });
        });
    }
}
