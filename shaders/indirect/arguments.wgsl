// The grids of a program's dispatches, from a number of rows that is in a buffer.

struct IndirectParams {
    // Dispatches, the most rows, and the most workgroups along a dimension.
    slots: u32,
    max_rows: u32,
    most_groups: u32,
    // Words from the quotient of the number of rows by 256 to its remainder.
    digit_stride: u32,
}

// How the workgroups of a dispatch follow from the number of rows.
struct GridRule {
    // Matrix rows for each row of the batch, and the range of them.
    factor: u32,
    first: u32,
    end: u32,
    // Workgroups are the rows of that range, times `times` by `over`, rounded up, without the first `skipped` and up to `most`.
    times: u32,
    over: u32,
    skipped: u32,
    most: u32,
    // Workgroups along the columns, which have the first dimension for themselves; 0 if there are none.
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: IndirectParams;
// One number, which the application has computed.
@group(0) @binding(3) var<storage, read_write> count: array<u32>;
@group(0) @binding(4) var<storage, read_write> rules: array<GridRule>;
// Three dimensions for each dispatch.
@group(0) @binding(5) var<storage, read_write> arguments: array<u32>;
// The number of rows as the other kernels read it.
@group(0) @binding(6) var<storage, read_write> digits: array<u32>;

@compute @workgroup_size(64)
fn grid_arguments(thread: Thread) {
    let slot = thread_index(thread);
    let rows = min(count[0], params.max_rows);
    if slot == 0u {
        digits[0] = rows / 256u;
        digits[params.digit_stride] = rows % 256u;
    }
    if slot >= params.slots {
        return;
    }
    let rule = rules[slot];
    let end = min(rows * rule.factor, rule.end);
    let in_range = end - min(end, rule.first);
    let all = (in_range * rule.times + rule.over - 1u) / rule.over;
    let groups = min(all - min(all, rule.skipped), rule.most);
    let short = min(groups, params.most_groups);
    let long = (groups + max(short, 1u) - 1u) / max(short, 1u);
    var grid = vec3<u32>(short, long, min(groups, 1u));
    if rule.columns != 0u {
        grid = vec3<u32>(rule.columns * min(groups, 1u), short, long);
    }
    arguments[3u * slot] = grid.x;
    arguments[3u * slot + 1u] = grid.y;
    arguments[3u * slot + 2u] = grid.z;
}
