//! The sizes of parallel tasks.

/// Smallest number of elements that is worth a parallel task.
pub(super) const TASK: usize = 1 << 14;

/// The length of the parts of `len` elements that parallel tasks work on, in whole rows of `row` elements. All have about the same length,
/// of [`TASK`] or more: to wake a thread for what is left behind some tasks would take longer than to do it.
pub(super) fn task_len(len: usize, row: usize) -> usize {
    let (row, tasks) = (row.max(1), (len / TASK).max(1));
    len.div_ceil(row).div_ceil(tasks).max(1) * row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_large_and_whole_rows() {
        for len in [0, 1, 65, TASK - 1, TASK, TASK + 1, 2 * TASK - 1, 2 * TASK, 5 * TASK + 77] {
            for row in [0, 1, 64, 65, TASK + 1] {
                let (length, whole) = (task_len(len, row), row.max(1));
                assert!(length > 0 && length.is_multiple_of(whole), "{length} of {len} in rows of {row}");
                let tasks = len.div_ceil(length);
                assert!(tasks <= (len / TASK).max(1), "{tasks} tasks of {len} in rows of {row}");
                assert!(
                    length < len.max(1).div_ceil((len / TASK).max(1)) + whole,
                    "{length} of {len} in rows of {row}"
                );
            }
        }
    }
}
