// Numbers of workgroups and threads. A grid has two dimensions, because one dimension holds no more than 65535 workgroups.

fn group_index(thread: Thread) -> u32 {
    return thread.group.y * thread.groups.x + thread.group.x;
}

// The number of a thread, for workgroups of 64 threads.
fn thread_index(thread: Thread) -> u32 {
    return group_index(thread) * 64u + thread.local;
}
