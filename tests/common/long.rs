//! The number of random tests.

/// `all` with `ENFOLD_LONG=1`, else `some`, which is what the test command has time for.
pub(crate) fn count(all: u64, some: u64) -> u64 {
    if std::env::var("ENFOLD_LONG").is_ok_and(|long| long == "1") { all } else { some }
}
