//! Expected results for NaN, infinities, both zeros, subnormal and the largest numbers, by IEEE 754 and ONNX: every elementwise
//! function, and every reduction that selects. They do not use the crate's own functions.

use enfold::graph::{GraphError, NodeId};
use enfold::ops::{BinaryOp, UnaryOp};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

/// One graph, its inputs, and what each element of its output may be.
pub(crate) struct Special {
    pub(crate) name: String,
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<Tensor>,
    accepted: Vec<Vec<f32>>,
    /// Whether the bits are promised, those of NaN aside.
    exact: bool,
}

const VALUES: [f32; 24] = [
    f32::NAN,
    f32::from_bits(0xffc0_0000),
    f32::from_bits(0x7f80_0001),
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    -0.0,
    f32::from_bits(1),
    f32::from_bits(0x8000_0001),
    f32::from_bits(0x007f_ffff),
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    1.0,
    -1.0,
    0.5,
    88.0,
    -88.0,
    89.0,
    -150.0,
    1e20,
    -1e20,
    -3.0,
];
const N: usize = VALUES.len();

/// Numbers around the ends of f16, which is infinite from 65520 on, subnormal below 2^-14 and 0 up to 2^-25, and around ties of
/// f16 and bf16.
const HALVES: [f32; 12] = [
    70_000.0,
    -65_520.0,
    f32::from_bits(0x477f_efff),
    0.1,
    f32::from_bits(0x3f80_1000),
    f32::from_bits(0xbf80_3000),
    f32::from_bits(0x3f80_8001),
    f32::from_bits(0x3f81_8000),
    -6.1e-5,
    f32::from_bits(0x34f0_0000),
    f32::from_bits(0x3300_0000),
    f32::from_bits(0xb300_0001),
];

/// Returns the numbers that a device may compute with instead of `v`: it may replace a subnormal number by 0, of either sign.
fn flushed(v: f32) -> Vec<f32> {
    if v.is_subnormal() { vec![v, 0.0, -0.0] } else { vec![v] }
}

/// Returns a function that lists the results of `f` on such a device.
fn arithmetic(f: impl Fn(f32, f32) -> f32) -> impl Fn(f32, f32) -> Vec<f32> {
    move |a, b| {
        flushed(a).into_iter().flat_map(|a| flushed(b).into_iter().map(move |b| (a, b))).map(|(a, b)| f(a, b)).collect()
    }
}

fn special(
    name: String,
    build: impl FnOnce(&mut GraphBuilder) -> Result<NodeId, GraphError>,
    inputs: Vec<Tensor>,
    accepted: Vec<Vec<f32>>,
    exact: bool,
) -> Special {
    let mut g = GraphBuilder::new();
    let y = build(&mut g).unwrap_or_else(|e| panic!("{name}: {e}"));
    let graph = g.finish([y]).unwrap_or_else(|e| panic!("{name}: {e}"));
    Special { name, graph, inputs, accepted, exact }
}

fn tensor(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_f32(shape, data.to_vec()).expect("lengths fit")
}

/// Every value, in one row of whole vectors and in one that is not.
fn functions(
    name: &str,
    exact: bool,
    build: impl Fn(&mut GraphBuilder, NodeId) -> Result<NodeId, GraphError>,
    f: impl Fn(f32) -> f32,
) -> Vec<Special> {
    let all = [&VALUES[..], &HALVES].concat();
    let of = |n: usize| {
        let values = &all[..n];
        let make = |g: &mut GraphBuilder| {
            let x = g.input("x", Shape::rows(n))?;
            build(g, x)
        };
        let accepted = values.iter().map(|&v| vec![f(v)]).collect();
        special(format!("{name} of {n}"), make, vec![tensor(&[1, n], values)], accepted, exact)
    };
    vec![of(all.len()), of(all.len() - 1)]
}

/// The nearest number of so many significant bits, ties to even, of which the smallest is 2^`least`; infinite from `infinite` on.
fn rounded(x: f64, bits: i32, least: i32, infinite: f64) -> f64 {
    if !x.is_finite() || x.abs() >= infinite {
        return if x.is_nan() { x } else { f64::INFINITY.copysign(x) };
    }
    let exponent = if x == 0.0 { least } else { x.abs().log2().floor() as i32 };
    let unit = 2f64.powi((exponent - bits + 1).max(least));
    (x / unit).round_ties_even() * unit
}

fn unary(op: UnaryOp) -> Vec<Special> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let wide = move |x: f64| match op {
        UnaryOp::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        UnaryOp::Sigmoid => sigmoid(x),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        UnaryOp::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        UnaryOp::Silu => x * sigmoid(x),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Erf => libm::erf(x),
        UnaryOp::Abs => x.abs(),
        UnaryOp::Step => {
            if x > 0.0 {
                1.0
            } else {
                0.0
            }
        }
        UnaryOp::Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }
        UnaryOp::RoundF16 => rounded(x, 11, -24, 65_520.0),
        UnaryOp::RoundBf16 => rounded(x, 8, -133, 2f64.powi(128) - 2f64.powi(119)),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Round => x.round_ties_even(),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::IsNan => {
            if x.is_nan() {
                1.0
            } else {
                0.0
            }
        }
        other => panic!("{other} has no special values here"),
    };
    let rounds = matches!(op, UnaryOp::Round | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::RoundF16 | UnaryOp::RoundBf16);
    let selects = matches!(op, UnaryOp::Relu | UnaryOp::Abs | UnaryOp::Step | UnaryOp::Sign | UnaryOp::IsNan);
    let exact = rounds || selects;
    functions(&format!("{op:?}"), exact, |g, x| g.unary("y", op, x), move |x| wide(x.into()) as f32)
}

/// Lists every pair of values, side by side and as a column with a row; `f` returns the accepted results.
fn pairs(
    name: &str,
    exact: bool,
    build: impl Fn(&mut GraphBuilder, NodeId, NodeId) -> Result<NodeId, GraphError>,
    f: impl Fn(f32, f32) -> Vec<f32>,
) -> Vec<Special> {
    let all: Vec<(f32, f32)> = VALUES.iter().flat_map(|&a| VALUES.iter().map(move |&b| (a, b))).collect();
    let [a, b]: [Vec<f32>; 2] = [all.iter().map(|p| p.0).collect(), all.iter().map(|p| p.1).collect()];
    let given = |how: &str, dims: [&[usize]; 2], data: [&[f32]; 2]| {
        let make = |g: &mut GraphBuilder| {
            let [a, b] = [g.input("a", Shape::batched(dims[0]))?, g.input("b", Shape::batched(dims[1]))?];
            build(g, a, b)
        };
        let accepted = all.iter().map(|&(a, b)| f(a, b)).collect();
        let inputs = [0, 1].map(|at| tensor(&[&[1], dims[at]].concat(), data[at])).to_vec();
        special(format!("{name}, {how}"), make, inputs, accepted, exact)
    };
    vec![
        given("side by side", [&[N * N], &[N * N]], [&a, &b]),
        given("a column with a row", [&[N, 1], &[1, N]], [&VALUES, &VALUES]),
    ]
}

fn binary(op: BinaryOp) -> Vec<Special> {
    let bit = |holds: bool| if holds { 1.0 } else { 0.0 };
    let f = move |a: f32, b: f32| match op {
        BinaryOp::Equal => bit(a == b),
        BinaryOp::Less => bit(a < b),
        BinaryOp::LessOrEqual => bit(a <= b),
        BinaryOp::Maximum | BinaryOp::Minimum if a.is_nan() || b.is_nan() => f32::NAN,
        BinaryOp::Maximum => {
            if b > a {
                b
            } else {
                a
            }
        }
        BinaryOp::Minimum => {
            if b < a {
                b
            } else {
                a
            }
        }
        other => panic!("{other} has no special values here"),
    };
    pairs(&format!("{op:?}"), true, |g, a, b| g.binary("y", op, a, b), move |a, b| vec![f(a, b)])
}

/// A reduction of rows, along the last axis and along the one before.
fn reductions(
    name: &str,
    exact: bool,
    rows: &[Vec<f32>],
    build: impl Fn(&mut GraphBuilder, NodeId, usize) -> Result<NodeId, GraphError>,
    f: impl Fn(&[f32]) -> Vec<f32>,
) -> Vec<Special> {
    let (n, k) = (rows.len(), rows[0].len());
    let results: Vec<Vec<f32>> = rows.iter().map(|row| f(row)).collect();
    let turned = |rows: &[Vec<f32>]| -> Vec<f32> {
        (0..rows[0].len()).flat_map(|i| rows.iter().map(move |row| row[i])).collect()
    };
    let of = |axis: usize| {
        let (dims, data, results) = match axis {
            2 => ([n, k], rows.concat(), results.concat()),
            _ => ([k, n], turned(rows), turned(&results)),
        };
        let make = |g: &mut GraphBuilder| {
            let x = g.input("x", Shape::batched(&dims))?;
            build(g, x, axis)
        };
        let accepted = results.into_iter().map(|v| vec![v]).collect();
        special(
            format!("{name} of {k}, axis {axis}"),
            make,
            vec![tensor(&[1, dims[0], dims[1]], &data)],
            accepted,
            exact,
        )
    };
    vec![of(2), of(1)]
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let largest = row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v.into()));
    let e: Vec<f64> = row.iter().map(|&v| (f64::from(v) - largest).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| (e / sum) as f32).collect()
}

fn maximum(row: &[f32]) -> Vec<f32> {
    let nan = row.iter().any(|v| v.is_nan());
    vec![if nan { f32::NAN } else { row.iter().fold(row[0], |a, &b| if b > a { b } else { a }) }]
}

/// Lists all cases.
pub(crate) fn specials() -> Vec<Special> {
    let mut all: Vec<Special> = UnaryOp::ALL.iter().copied().flat_map(unary).collect();
    all.extend(BinaryOp::ALL.iter().copied().flat_map(binary));
    let infinity = f32::INFINITY;
    for (low, high) in [(-1.0, 2.0), (0.0, infinity), (-infinity, -0.0), (-infinity, infinity), (VALUES[8], VALUES[7])]
    {
        // It is `f32::clamp`, written out.
        let f = |v: f32| {
            if v < low {
                low
            } else if v > high {
                high
            } else {
                v
            }
        };
        all.extend(functions(&format!("clamp to {low:e}..={high:e}"), true, |g, x| g.clamp("y", x, low, high), f));
    }
    all.extend(pairs("add", false, |g, a, b| g.add("y", a, b), arithmetic(|a, b| a + b)));
    all.extend(pairs("mul", false, |g, a, b| g.mul("y", a, b), arithmetic(|a, b| a * b)));
    all.extend(pairs("div", false, |g, a, b| g.div("y", a, b), arithmetic(|a, b| a / b)));
    let chosen = |g: &mut GraphBuilder, c, a| {
        let b = g.constant("seven", tensor(&[], &[7.0]))?;
        g.where_("y", c, a, b)
    };
    // NaN is not 0. Conditions are told apart by their bits, but on a device a choice ends in a sum.
    all.extend(pairs("where", true, chosen, |c, a| if c == 0.0 { vec![7.0] } else { flushed(a) }));
    let of_two: Vec<Vec<f32>> = VALUES.iter().flat_map(|&a| VALUES.iter().map(move |&b| vec![a, b])).collect();
    // Longer than a group of threads: nothing but one value, and one value at the end.
    let long = |v: f32| [vec![v; 130], [vec![f32::MIN; 129], vec![v]].concat()];
    let long: Vec<Vec<f32>> = VALUES.into_iter().flat_map(long).collect();
    for rows in [of_two, long] {
        all.extend(reductions("max", true, &rows, |g, x, axis| g.max("y", x, axis), maximum));
        all.extend(reductions("softmax", false, &rows, |g, x, axis| g.softmax("y", x, axis), softmax));
    }
    all
}

/// The first element that is none of those accepted.
pub(crate) fn disagreement(special: &Special, got: &Tensor) -> Option<String> {
    let got = got.as_f32().expect("floats");
    assert_eq!(got.len(), special.accepted.len(), "{}", special.name);
    let fits = |got: f32, expected: f32| match special.exact {
        _ if got.is_nan() || expected.is_nan() => got.is_nan() && expected.is_nan(),
        true => got.to_bits() == expected.to_bits(),
        false if got.is_infinite() || expected.is_infinite() => got == expected,
        false => (got - expected).abs() <= 3e-5 * expected.abs().max(1.0),
    };
    let at = (0..got.len()).find(|&at| !special.accepted[at].iter().any(|&expected| fits(got[at], expected)))?;
    Some(format!("{}: element {at} is {:e}, expected {:?}", special.name, got[at], special.accepted[at]))
}

#[allow(dead_code)] // One of the two crates of tests does so for both.
/// Checks that a lost NaN, a finite number for an infinity and a zero of the other sign do not pass.
pub(crate) fn assert_that_errors_are_seen(special: &Special) {
    let right: Vec<f32> = special.accepted.iter().map(|accepted| accepted[0]).collect();
    let as_tensor = |data: &[f32]| tensor(&[data.len()], data);
    assert_eq!(disagreement(special, &as_tensor(&right)), None);
    for at in 0..right.len() {
        let wrong = match right[at] {
            v if v.is_nan() => 0.0,
            v if v.is_infinite() => f32::MAX.copysign(v),
            v if special.exact => f32::from_bits(v.to_bits() ^ 0x8000_0000),
            _ => f32::NAN,
        };
        let mut changed = right.clone();
        changed[at] = wrong;
        let named = disagreement(special, &as_tensor(&changed));
        assert!(
            named.as_ref().is_some_and(|n| n.contains(&format!("element {at} "))),
            "{wrong} for {}: {named:?}",
            right[at]
        );
    }
}
