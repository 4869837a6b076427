//! Exports of quantized networks, read again: they have the same layers of integers, which give the same.

use enfold::Graph;
use enfold::interp::Interpreter;
use enfold::onnx::{ExportOptions, ImportOptions, export, import};
use enfold::ops::Op;
use enfold::quantize::to_integer;

use super::nets;
use super::write::{Variant, quantize, variants};
use crate::random::Random;

/// The numbers of layers and products of integers.
fn products(graph: &Graph) -> [usize; 4] {
    let mut counts = [0; 4];
    for node in graph.nodes() {
        match node.op {
            Op::IntegerLinear(_) => counts[0] += 1,
            Op::IntegerConv(_) => counts[1] += 1,
            Op::IntegerMatMul(_) => counts[2] += 1,
            Op::IntegerMatMulDynamic(_) => counts[3] += 1,
            _ => {}
        }
    }
    counts
}

/// The integer form of a quantized graph, and of its export.
fn forms(net: &nets::Net, variant: &Variant) -> [Graph; 2] {
    let name = format!("{}.{}", net.name, variant.name);
    let graph = quantize(net, variant);
    let options = ExportOptions { preset: variant.preset, ..ExportOptions::default() };
    let bytes = export(&graph, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let read = import(bytes, None, &ImportOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    [graph, read].map(|graph| to_integer(&graph).unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// What floats may differ by, as a part of the largest value: where a bias was rounded to 32 bits and the layer's result stays float, and
/// behind an RMS norm, which files of this opset hold as several operators, whose sums have another order.
const OF_FLOATS: f32 = 1.0 / (1 << 21) as f32;

/// The largest difference of two graphs' outputs, as a part of the largest value, and the part of all values that differ by more than
/// floats may: where a quantized value was flipped.
fn difference(net: &nets::Net, [a, b]: [&Graph; 2]) -> (f32, f64) {
    let inputs = net.batch(&mut Random::new(3), 8);
    let run = |graph: &Graph| Interpreter::new(graph).run(&inputs).expect("outputs");
    let (mut worst, mut apart, mut count) = (0f32, 0, 0);
    for (a, b) in run(a).iter().zip(&run(b)) {
        let (a, b) = (a.as_f32().expect("floats"), b.as_f32().expect("floats"));
        let largest = a.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
        for (a, b) in a.iter().zip(b) {
            // A NaN is a difference.
            let difference = if a.to_bits() == b.to_bits() { 0.0 } else { (a - b).abs() / largest };
            worst = if difference.is_nan() { f32::INFINITY } else { worst.max(difference) };
            apart += usize::from(difference.is_nan() || difference > OF_FLOATS);
            count += 1;
        }
    }
    (worst, apart as f64 / count as f64)
}

/// Biases that an export rounds to 32 bits flip a few quantized values, and change floats by as much as they were rounded; all else is the
/// same to the bit.
#[test]
fn exports_of_every_mode_are_read_as_the_same_integers() {
    let mut checked = 0;
    for net in nets::all() {
        for variant in variants() {
            let name = format!("{}.{}", net.name, variant.name);
            let [graph, read] = forms(&net, &variant);
            assert_eq!(products(&graph), products(&read), "{name}");
            let (worst, apart) = difference(&net, [&graph, &read]);
            let rounds = !variant.name.starts_with("dynamic") && variant.name != "per_token";
            if rounds {
                assert!(worst <= 0.05 && apart < 0.2, "{name}: {worst} of the largest apart, {apart} of all values");
            } else {
                let most = if net.name == "decoder" { OF_FLOATS } else { 0.0 };
                assert!(worst <= most, "{name}: {worst} of the largest apart");
            }
            checked += products(&read).iter().sum::<usize>();
        }
    }
    assert!(checked > 200, "{checked} products of integers");
}

/// The comparison notices other weights: those with a scale for the tensor.
#[test]
fn other_weights_are_noticed() {
    let net = nets::mlp();
    let of = |name: &str| {
        let variant = variants().into_iter().find(|variant| variant.name == name).expect("a variant");
        forms(&net, &variant)
    };
    let ([a, _], [_, b]) = (of("dynamic"), of("dynamic_symmetric"));
    let (worst, apart) = difference(&net, [&a, &b]);
    assert!(worst > 0.0 && apart > 0.9, "{worst} {apart}");
}
