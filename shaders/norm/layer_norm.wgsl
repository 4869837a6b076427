// Layer norm and RMS norm (equation 11), with a sum before it if the step has one. Other files store the result.

@group(0) @binding(5) var<storage, read_write> weight: array<u32>;
@group(0) @binding(6) var<storage, read_write> bias: array<u32>;
// A value that is added to a before the norm, and where that sum is written.
@group(0) @binding(7) var<storage, read_write> addend: array<u32>;
@group(0) @binding(8) var<storage, read_write> sum: array<u32>;

// Whether the mean is subtracted and a bias added. Without both it is an RMS norm.
override CENTER: bool = false;
// Whether `addend` is added first, and whether that sum is written too.
override ADD: bool = false;
override KEEP_SUM: bool = false;

// The elements of a line that workgroup memory holds: as many as any line of these has, or 1 if it holds none.
override HELD: u32 = 1u;

// Their bits, canonical.
var<workgroup> held: array<u32, HELD>;

// The bits of an element before the norm.
fn element_bits(at: u32) -> u32 {
    if ADD {
        return sum_of(a[at], addend[at]);
    }
    return a[at];
}

// Element `i` of the line at `start`, canonical.
fn element(start: u32, i: u32) -> f32 {
    if HELD > 1u {
        return bitcast<f32>(held[i]);
    }
    return bitcast<f32>(canonical_bits(element_bits(start + i)));
}

fn read_element(start: u32, i: u32, bits: u32, inside: bool) {
    if KEEP_SUM && inside {
        sum[start + i] = bits;
    }
    if HELD > 1u {
        held[i] = canonical_bits(bits);
    }
}

// Reads a line once, where workgroup memory holds it or its sums are kept. Four loads are in flight before the first is waited for.
fn read_line(local: u32, start: u32, inside: bool) {
    if HELD == 1u && !KEEP_SUM {
        return;
    }
    var i = local;
    for (; i + 3u * THREADS < params.length; i += 4u * THREADS) {
        let b0 = element_bits(start + i);
        let b1 = element_bits(start + i + THREADS);
        let b2 = element_bits(start + i + 2u * THREADS);
        let b3 = element_bits(start + i + 3u * THREADS);
        read_element(start, i, b0, inside);
        read_element(start, i + THREADS, b1, inside);
        read_element(start, i + 2u * THREADS, b2, inside);
        read_element(start, i + 3u * THREADS, b3, inside);
    }
    for (; i < params.length; i += THREADS) {
        read_element(start, i, element_bits(start + i), inside);
    }
    workgroupBarrier();
}

// The square, at least 2^-100. Both the floor and the test of bits keep the product from being contracted.
fn square(x: f32) -> f32 {
    return bitcast<f32>(max(bitcast<u32>(mul_f(x, x)), TINY));
}

// The number, or 1 where a line is not defined.
fn or_one(x: f32, defined: bool) -> f32 {
    return bitcast<f32>(select(ONE, bitcast<u32>(x), defined));
}

// sum / count of a canonical sum, canonical.
fn mean_of(sum: f32) -> f32 {
    return flush(quotient(sum, f32(params.length)));
}

// One of the 64 sums of equation 11: of every 64th element or its square, or of the squares of its distance from the mean.
fn partial_sum(local: u32, start: u32, mean: f32, of_squares: bool) -> f32 {
    var total = 0.0f;
    if local >= 64u {
        return total;
    }
    var i = local;
    for (; i + 192u < params.length; i += 256u) {
        let x0 = element(start, i);
        let x1 = element(start, i + 64u);
        let x2 = element(start, i + 128u);
        let x3 = element(start, i + 192u);
        total = add_f(total, summand(x0, mean, of_squares));
        total = add_f(total, summand(x1, mean, of_squares));
        total = add_f(total, summand(x2, mean, of_squares));
        total = add_f(total, summand(x3, mean, of_squares));
    }
    for (; i < params.length; i += 64u) {
        total = add_f(total, summand(element(start, i), mean, of_squares));
    }
    return total;
}

fn summand(x: f32, mean: f32, of_squares: bool) -> f32 {
    if of_squares {
        if CENTER {
            return square(sub_f(x, mean));
        }
        return square(x);
    }
    return x;
}

// What all elements of a line have in common.
struct Line {
    // Its number, and whether there is such a line.
    index: u32,
    inside: bool,
    start: u32,
    mean: f32,
    inv_std: f32,
    defined: bool,
}

fn normalized(line: Line, i: u32) -> u32 {
    let scale = bitcast<f32>(canonical_bits(weight[i]));
    let scaled = flush(mul_f(flush(mul_f(sub_f(element(line.start, i), line.mean), line.inv_std)), scale));
    if CENTER {
        let y = canonical_bits(bitcast<u32>(add_f(scaled, bitcast<f32>(canonical_bits(bias[i])))));
        return select(NAN, y, line.defined);
    }
    return select(NAN, canonical_bits(bitcast<u32>(scaled)), line.defined);
}

// Reads the line of a workgroup. Without a line, a workgroup reads the first one, because all workgroups meet the barriers.
fn read(thread: Thread) -> Line {
    let index = group_index(thread);
    let inside = index < batch_rows() * params.rows_factor;
    let start = select(0u, index * params.length, inside);
    let local = thread.local;
    read_line(local, start, inside);
    // The sum of the elements, or of their squares.
    var line_sum = workgroup_sum(thread, partial_sum(local, start, 0.0f, !CENTER));
    var defined = !is_special(bitcast<u32>(line_sum));
    var mean = 0.0f;
    if CENTER {
        mean = mean_of(or_one(line_sum, defined));
        line_sum = workgroup_sum(thread, partial_sum(local, start, mean, true));
        defined = defined && !is_special(bitcast<u32>(line_sum));
    }
    let variance = add_f(mean_of(or_one(line_sum, defined)), canonical(params.eps));
    defined = defined && !is_special(bitcast<u32>(variance));
    return Line(index, inside, start, mean, inverse_root(or_one(variance, defined)), defined);
}
