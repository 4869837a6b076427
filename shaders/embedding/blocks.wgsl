// Blocks of a tensor at coordinates that are computed at run time, one element of the result a thread.

struct BlocksParams {
    // The lengths of the axes that coordinates select along.
    lengths: array<vec4<u32>, 2>,
    // Rows of the result for each row of the batch, and their elements.
    rows_factor: u32,
    cols: u32,
    // The number of coordinates, and that of the blocks that they can name.
    depth: u32,
    whole: u32,
    // Blocks that the ids of one batch name, and the elements of a block.
    of_batch: u32,
    block: u32,
    // A number of the host's enum `ScatterReduction`.
    reduction: u32,
    // Always 0, for operations on bits that a compiler must not see through.
    zero: u32,
}

@group(0) @binding(0) var<uniform> params: BlocksParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> x: array<u32>;
@group(0) @binding(4) var<storage, read_write> ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> updates: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<u32>;

// The block that coordinates name. An id outside its axis names the nearest element.
fn place_of(first: u32) -> u32 {
    var place = 0u;
    for (var axis = 0u; axis < params.depth; axis++) {
        let length = params.lengths[axis / 4u][axis % 4u];
        let id = bitcast<i32>(ids[first + axis]);
        let from_start = id + select(0, i32(length), id < 0);
        place = place * length + u32(clamp(from_start, 0, i32(length) - 1));
    }
    return place;
}

@compute @workgroup_size(64)
fn gather_nd_f32_f32(thread: Thread) {
    let index = thread_index(thread);
    if index / params.cols >= batch_rows() * params.rows_factor {
        return;
    }
    let at = index / params.block;
    let batch = at / params.of_batch;
    let place = batch * params.whole + place_of(at * params.depth);
    y[index] = x[place * params.block + index - at * params.block];
}

// The bits of an element after an update.
fn updated(bits: u32, update: u32) -> u32 {
    switch params.reduction {
        case 0u: {
            return update;
        }
        case 1u: {
            return sum_of(bits, update);
        }
        case 2u: {
            return product_of(bits, update);
        }
        case 3u: {
            return larger(bits, update);
        }
        default: {
            return smaller(bits, update);
        }
    }
}

// Each element looks for its updates among all of its batch, in their order, so that the result does not depend on timing.
@compute @workgroup_size(64)
fn scatter_nd_f32_f32(thread: Thread) {
    let index = thread_index(thread);
    if index / params.cols >= batch_rows() * params.rows_factor {
        return;
    }
    let at = index / params.block;
    let inner = index - at * params.block;
    let batch = at / params.whole;
    let place = at - batch * params.whole;
    var bits = x[index];
    for (var i = batch * params.of_batch; i < (batch + 1u) * params.of_batch; i++) {
        if place_of(i * params.depth) == place {
            bits = updated(bits, updates[i * params.block + inner]);
        }
    }
    y[index] = bits;
}
