//! Quantized values of few bits in files, and files of older formats.

use enfold::archive::{self, ArchiveError};
use enfold::interp::Interpreter;
use enfold::numerics::FloatProducts;
use enfold::ops::{Constant, Dequantize, Linear, MatMul, Op};
use enfold::program::StepOp;
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::{GroupQParams, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use super::edited;
use crate::random::Random;
use crate::report::report;

/// The offset of the tensors of a file.
fn data_start(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize
}

fn i8s(shape: &[usize], codes: Vec<i8>) -> Tensor {
    Tensor::from_i8(shape, codes).expect("fits")
}

/// A graph of constants, each with the smallest number of bits that holds it.
fn holding(tensors: &[Tensor]) -> Graph {
    let mut g = GraphBuilder::new();
    let constant = |(at, tensor): (usize, &Tensor)| {
        let holds = |bits: u32, v: i8| i8::MIN >> (8 - bits) <= v && v <= i8::MAX >> (8 - bits);
        let values = tensor.as_i8().expect("int8");
        let bits = (2..=8).find(|&bits| values.iter().all(|&v| holds(bits, v)));
        let op = Op::Constant(Constant { bits, ..Constant::new(tensor.clone()) });
        g.node(&format!("c{at}"), op, &[]).expect("a constant")
    };
    let outputs: Vec<_> = tensors.iter().enumerate().map(constant).collect();
    g.finish(outputs).expect("a graph")
}

/// A value of 2 bits takes a quarter of a byte, one of 3 or 4 bits half a byte, and one of 5 bits a whole byte. All are loaded unchanged.
#[test]
fn weights_of_few_bits_are_small() {
    let (n, k) = (96, 128);
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(k)).expect("an input");
    let weight = Tensor::from_f32(&[n, k], Random::new(1).normals(n * k, 0.5)).expect("fits");
    let y = g.linear("fc", x, weight, None).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    let batch = Tensor::from_f32(&[2, k], Random::new(2).normals(2 * k, 1.0)).expect("fits");
    let mut sizes = Vec::new();
    for (lo, hi) in [(-1, 1), (-2, 1), (-3, 3), (-4, 3), (-7, 7), (-8, 7), (-15, 15), (-127, 127)] {
        let config = QuantizationConfig::symmetric().weight_range(QuantRange::new(lo, hi).expect("valid"));
        let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        prepared.observe(&[&batch]).expect("observed");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        let bytes = archive::to_bytes(&quantized).expect("saved");
        // The scale is in the header, so the weight is the only tensor.
        sizes.push(bytes.len() - data_start(&bytes));
        assert_eq!(archive::from_bytes(&bytes).expect("loaded"), quantized, "{lo}..={hi}");
        let integers = to_integer(&quantized).expect("rewritten");
        let loaded = archive::from_bytes(&archive::to_bytes(&integers).expect("saved")).expect("loaded");
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&batch]).expect("run");
        assert_eq!((&loaded, run(&loaded)), (&integers, run(&integers)), "{lo}..={hi}");
    }
    let whole = n * k;
    assert_eq!(sizes, [whole / 4, whole / 4, whole / 2, whole / 2, whole / 2, whole / 2, whole, whole]);
    report(&format!("archives: a weight of {whole} codes takes {sizes:?} bytes at 2, 2, 3, 3, 4, 4, 5 and 8 bits"));
}

/// A weight states its bits from the spec to the program, whatever its values are, and files keep them.
#[test]
fn bits_are_recorded_and_not_guessed() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(2)).expect("an input");
    // The largest element is 7 times the others: with 4 bits, most values need only 2.
    let weight = Tensor::from_f32(&[2, 2], vec![0.1, 0.7, -0.1, 0.1]).expect("fits");
    let y = g.linear("fc", x, weight, None).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    for (range, bits) in [((-7, 7), 4), ((-15, 15), 5), ((-127, 127), 8)] {
        let range = QuantRange::new(range.0, range.1).expect("valid");
        let config = QuantizationConfig::symmetric().per_channel().weight_range(range);
        let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        prepared.observe(&[Tensor::from_f32(&[1, 2], vec![1.0, -1.0]).expect("fits")]).expect("observed");
        for fold_quantize in [true, false] {
            let options = ConvertOptions { fold_quantize, ..ConvertOptions::default() };
            let integers = to_integer(&convert(&prepared, &options).expect("converted")).expect("rewritten");
            let loaded = archive::from_bytes(&archive::to_bytes(&integers).expect("saved")).expect("loaded");
            let program = enfold::lower::lower(&loaded).expect("lowered");
            let recorded = program.steps().iter().find_map(|step| match &step.op {
                StepOp::QLinear(linear) => Some(linear.bits),
                _ => None,
            });
            assert_eq!(recorded, Some(bits), "{range}, folded: {fold_quantize}");
        }
    }
    let constant = |bits| Op::Constant(Constant { bits: Some(bits), ..Constant::new(i8s(&[2], vec![0, 8])) });
    for (bits, problem) in [(4, "element 1 is 8, which 4 bits do not hold"), (1, "1 bits"), (9, "9 bits")] {
        let error = GraphBuilder::new().node("c", constant(bits), &[]).expect_err("refused").to_string();
        assert!(error.contains("c: ") && error.contains(problem), "{error}");
    }
}

/// Tensors of any bits and shape survive, also empty ones, and those that do not fill their last byte.
#[test]
fn packed_codes_survive() {
    let mut random = Random::new(3);
    let mut tensors = vec![i8s(&[], vec![-2]), i8s(&[0, 3], vec![]), i8s(&[3, 0, 5], vec![])];
    for (lo, hi) in [(-2, 1), (-4, 3), (-8, 7), (-9, 7), (-8, 8), (-128, 127)] {
        for length in 0..20 {
            let codes = (0..length).map(|_| random.between(lo, hi) as i8).collect();
            tensors.push(i8s(&[length], codes));
        }
        let (a, b, c) = (1 + random.below(4), 1 + random.below(5), 1 + random.below(6));
        tensors.push(i8s(&[a, b, c], (0..a * b * c).map(|_| random.between(lo, hi) as i8).collect()));
        // The smallest and largest value, in all places of a byte.
        tensors.push(i8s(&[5], vec![lo as i8, hi as i8, hi as i8, lo as i8, lo as i8]));
    }
    let graph = holding(&tensors);
    let bytes = archive::to_bytes(&graph).expect("saved");
    assert_eq!(archive::from_bytes(&bytes).expect("loaded"), graph);
    // A change of one value by one gives another file, which is loaded with the change.
    let mut codes = tensors[3 + 15].as_i8().expect("codes").to_vec();
    codes[14] ^= 1;
    tensors[3 + 15] = i8s(&[15], codes);
    let changed = archive::to_bytes(&holding(&tensors)).expect("saved");
    assert_eq!(changed.iter().zip(&bytes).filter(|(a, b)| a != b).count(), 1);
    assert_eq!(archive::from_bytes(&changed).expect("loaded"), holding(&tensors));
    assert_ne!(archive::from_bytes(&changed).expect("loaded"), graph);
}

/// Wrong records of packed tensors are refused by name, with both numbers.
#[test]
fn packed_tensors_that_lie_are_refused_by_name() {
    let good = archive::to_bytes(&holding(&[i8s(&[3, 3], vec![-8, 7, 3, 0, 5, -1, 2, -3, 1])])).expect("saved");
    assert!(archive::from_bytes(&good).is_ok());
    let record = |bits: &str, shape: &str| format!("\"packed\":{{\"tensor.0\":{{\"bits\":{bits},\"shape\":{shape}}}}}");
    let says = |bits: &str, shape: &str| edited(&good, &record("4", "[3,3]"), &record(bits, shape));
    let file = |from: &str, to: &str| {
        let start = data_start(&good);
        let header = std::str::from_utf8(&good[8..start]).expect("text");
        let changed = header.replacen(from, to, 1);
        assert_ne!(header, changed, "{from} is not in {header}");
        [&(changed.len() as u64).to_le_bytes()[..], changed.as_bytes(), &good[start..]].concat()
    };
    let mut padding = good.clone();
    *padding.last_mut().expect("bytes") |= 0x70;
    let unnamed = edited(&good, "\"packed\":{\"tensor.0\"", "\"packed\":{\"tensor.1\"");
    for (what, bytes, parts) in [
        ("more codes", says("4", "[3,4]"), &["5 bytes", "expected 6", "[3, 4]", "4 bits"][..]),
        ("fewer codes", says("4", "[2,3]"), &["5 bytes", "expected 3", "[2, 3]"]),
        ("no codes", says("4", "[0]"), &["5 bytes", "expected 0"]),
        ("codes beyond memory", says("4", "[4611686018427387904,8]"), &["5 bytes", "4611686018427387904"]),
        (
            "codes that wrap to as many",
            says("4", "[3,12297829382473034414]"),
            &["5 bytes", "memory", "12297829382473034414"],
        ),
        ("fewer bits", says("2", "[3,3]"), &["5 bytes", "expected 3", "2 bits"]),
        ("codes outside", says("3", "[3,3]"), &["value 0 is -8", "-4..=3"]),
        ("a bit", says("1", "[3,3]"), &["1 bits", "2 to 4"]),
        ("more bits", says("8", "[3,3]"), &["8 bits", "2 to 4"]),
        ("bits beyond all", says("4000000000", "[3,3]"), &["4000000000 bits", "2 to 4"]),
        ("something behind the last", padding, &["value 9 is 7", "after the last of 9", "expected 0"]),
        ("another type", file("\"dtype\":\"U8\"", "\"dtype\":\"I8\""), &["packed", "I8", "U8"]),
        ("a packed tensor of which nothing is said", unnamed, &["U8", "i8"]),
        ("bytes in another shape", file("\"shape\":[5]", "\"shape\":[6]"), &["safetensors"]),
    ] {
        let error = archive::from_bytes(&bytes).expect_err(what);
        let message = error.to_string();
        let named = matches!(error, ArchiveError::Format { .. }) || message.contains("tensor.0");
        assert!(named && parts.iter().all(|part| message.contains(part)), "{what}: {parts:?} are not in {message:?}");
    }
    for length in 0..good.len() {
        assert!(archive::from_bytes(&good[..length]).is_err(), "truncated to {length} of {} bytes", good.len());
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut corrupt = good.clone();
            corrupt[at] ^= 1 << bit;
            if let Ok(graph) = archive::from_bytes(&corrupt) {
                assert_eq!(graph.verify(), Ok(()), "byte {at}, bit {bit}");
            }
        }
    }
}

/// A file of format 1, which stored weights of 2, 4 and 8 bits as int8, is loaded, computes the same as when it was written, and is saved
/// smaller.
#[test]
fn files_of_format_1_are_read() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/format_1.safetensors");
    let old = std::fs::read(&path).expect("the file");
    let header = String::from_utf8_lossy(&old[..data_start(&old)]).into_owned();
    assert!(header.contains("\\\"format\\\":1,") && !header.contains("packed") && !header.contains("U8"), "{header}");
    let graph = archive::load(&path).expect("loaded");
    let x = [
        -0.1745658,
        0.46573132,
        -0.19219142,
        0.5488553,
        0.63897234,
        0.18338868,
        -0.08793751,
        0.0021848746,
        0.020149784,
        -0.38437942,
        0.36432734,
        -0.10433999,
    ];
    let x = Tensor::from_f32(&[2, 6], x.to_vec()).expect("fits");
    let y = Interpreter::new(&graph).run(&[&x]).expect("run");
    for (got, expected) in y[0].as_f32().expect("floats").iter().zip([-0.20020318, 0.28809726, 0.02197352, 0.15625614])
    {
        approx::assert_abs_diff_eq!(*got, expected, epsilon = 1e-6);
    }
    let new = archive::to_bytes(&graph).expect("saved");
    assert_eq!(archive::from_bytes(&new).expect("loaded"), graph);
    let data = |bytes: &[u8]| bytes.len() - data_start(bytes);
    // 30 values of 2 bits take 8 bytes, 15 values of 4 bits too. Scale and zero point of 10 channels are in the header.
    assert_eq!(data(&old) - data(&new), (30 - 8) + (15 - 8) + 10 * 8);
}

/// A file of format 2: dynamically quantized attention.
#[test]
fn files_of_format_2_are_read() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/format_2.safetensors");
    let old = std::fs::read(&path).expect("the file");
    assert!(String::from_utf8_lossy(&old[..data_start(&old)]).contains("\\\"format\\\":2,"), "another format");
    let graph = archive::load(&path).expect("loaded");
    let x = (0..192).map(|i| (i * 37 % 41) as f32 / 16.0 - 1.0).collect();
    let y = Interpreter::new(&graph).run(&[Tensor::from_f32(&[2, 6, 16], x).expect("fits")]).expect("run");
    // Column 3 of each token, as the version that wrote the file computed it.
    let expected = [
        -2.2228482,
        -1.3742682,
        -0.7613266,
        -0.79048336,
        -0.35790154,
        0.1999783,
        -1.6315845,
        -1.536202,
        -1.1571645,
        -1.3716669,
        -2.0234118,
        -0.96531516,
    ];
    let got = y[0].as_f32().expect("floats").iter().skip(3).step_by(16);
    for (got, expected) in got.zip(expected) {
        approx::assert_abs_diff_eq!(*got, expected, epsilon = 1e-5);
    }
    assert_eq!(archive::from_bytes(&archive::to_bytes(&graph).expect("saved")).expect("loaded"), graph);
}

/// Files of format 3 hold operators in a form that was written by hand. There is one for each graph of the table of operators.
#[test]
fn files_of_format_3_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/format_3");
    let mut read = 0;
    for case in crate::ops::table() {
        let name: String = case.name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        let path = folder.join(format!("{name}.safetensors"));
        // Operators that are newer than the format have no file.
        let Ok(old) = std::fs::read(&path) else { continue };
        assert!(String::from_utf8_lossy(&old[..data_start(&old)]).contains("\\\"format\\\":3,"), "another format");
        // The comparison is of text, since NaN does not equal itself; without the bits, which old files do not record.
        let text = |graph: &Graph| {
            let without = |text: String, bits: u32| text.replace(&format!("bits: Some({bits})"), "bits: None");
            (2..=4).fold(format!("{graph:?}"), without)
        };
        assert_eq!(text(&archive::from_bytes(&old).expect("loaded")), text(&case.graph), "{name}");
        read += 1;
    }
    assert_eq!(
        read,
        std::fs::read_dir(&folder).expect("the folder").count(),
        "every file belongs to a graph of the table"
    );
}

/// Files of format 4 say nothing of products, which are full.
#[test]
fn files_of_format_4_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/format_4");
    for (name, op) in [("linear", Op::from(Linear::default())), ("matmul", Op::from(MatMul::default()))] {
        let old = std::fs::read(folder.join(format!("{name}.safetensors"))).expect(name);
        assert!(String::from_utf8_lossy(&old[..data_start(&old)]).contains("\\\"format\\\":4,"), "another format");
        let graph = archive::from_bytes(&old).expect("loaded");
        assert!(graph.nodes().iter().any(|node| node.op == op), "{graph}");
        assert_eq!(archive::from_bytes(&archive::to_bytes(&graph).expect("saved")).expect("loaded"), graph);
    }
}

/// A file of format 5, which knew no groups: a layer that is quantized dynamically for each row.
#[test]
fn files_of_format_5_are_read() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/format_5/dynamic.safetensors");
    let old = std::fs::read(path).expect("the file");
    assert!(String::from_utf8_lossy(&old[..data_start(&old)]).contains("\\\"format\\\":5,"), "another format");
    let graph = archive::from_bytes(&old).expect("loaded");
    assert!(to_integer(&graph).expect("integers").summary().float.is_empty(), "{graph}");
    assert_eq!(archive::from_bytes(&archive::to_bytes(&graph).expect("saved")).expect("loaded"), graph);
}

/// Scales of groups take two hexadecimal digits each. A header with wrong ones is refused.
#[test]
fn groups_are_kept_and_checked() {
    let groups = GroupQParams::from_integer_scales(4, &[0.5, 0.25], &[255, 1, 16, 255], &[0, 1, -2, 3]).expect("valid");
    let mut g = GraphBuilder::new();
    let w = g.constant("w", i8s(&[2, 6], vec![1, 2, 3, -4, 5, 6, 7, -8, 0, 1, 2, 3])).expect("a constant");
    let y = g.node("y", Dequantize { qparams: TensorQParams::PerGroup(groups) }, &[w]).expect("reals");
    let graph = g.finish([y]).expect("a graph");
    let bytes = archive::to_bytes(&graph).expect("saved");
    assert_eq!(archive::from_bytes(&bytes).expect("loaded"), graph);
    for (from, to, part) in [
        ("ff0110ff", "ff0010ff", "the integer scale of group 1 is 0"),
        ("ff0110ff", "ff0110", "3 integer scales of groups, expected 4"),
        ("\"size\":4", "\"size\":6", "groups of 6 elements"),
        ("\"size\":4", "\"size\":8", "number of group scales"),
    ] {
        let error = archive::from_bytes(&edited(&bytes, from, to)).expect_err(to).to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// The kind of products survives.
#[test]
fn reproducible_products_are_kept() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(2)).expect("an input");
    let w = g.constant("w", Tensor::from_f32(&[1, 2], vec![1.0, 2.0]).expect("fits")).expect("a weight");
    let products = FloatProducts::Reproducible;
    let y = g.node("y", Linear { products }, &[x, w]).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    assert_eq!(archive::from_bytes(&archive::to_bytes(&graph).expect("saved")).expect("loaded"), graph);
}
