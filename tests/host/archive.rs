//! Archives of every stage, and damaged files.

mod packed;

use std::sync::Arc;

use enfold::archive::{self, ArchiveError};
use enfold::interp::Interpreter;
use enfold::numerics::EPS;
use enfold::ops::{Constant, Dequantize, Op};
use enfold::quantize::{
    Annotations, ConvertOptions, DerivedRule, DerivedSpec, EdgeOrNode, ObservedSpec, ObserverKind, PrepareError,
    PreparedGraph, QuantizationAnnotation, QuantizationConfig, Quantizer, WgpuQuantizer, convert, prepare, to_integer,
};
use enfold::values::{QScheme, QuantRange, TensorQParams};
use enfold::{Error, Graph, GraphBuilder, Shape, Tensor};

use crate::configs;
use crate::nets::Net;
use crate::ops;
use crate::random::Random;
use crate::report::report;

fn prepared(seed: u64) -> (PreparedGraph, Tensor) {
    let mut random = Random::new(seed);
    let net = Net::patterns(&mut random);
    let quantizer = WgpuQuantizer::new().set_global(configs::config(&mut random, false));
    let mut prepared = prepare(&net.graph, &quantizer).expect("prepared");
    prepared.observe(&[net.batch(&mut random)]).expect("observed");
    (prepared, net.batch(&mut random))
}

/// Float, prepared, quantize/dequantize and integer graphs are the same after saving and loading, and compute the same bits.
#[test]
fn every_stage_survives() {
    let mut graphs = 0;
    for seed in 0..150 {
        let (before, x) = prepared(seed);
        let bytes = archive::prepared_to_bytes(&before).expect("saved");
        let after = archive::prepared_from_bytes(&bytes).expect("loaded");
        assert_eq!(after.observers(), before.observers(), "seed {seed}");
        assert_eq!((after.batches(), after.summary()), (before.batches(), before.summary()), "seed {seed}");
        assert_eq!(after.graph(), before.graph(), "seed {seed}");
        let quantized = convert(&before, &ConvertOptions::default()).expect("converted");
        assert_eq!(convert(&after, &ConvertOptions::default()).expect("converted"), quantized, "seed {seed}");
        let unfolded = ConvertOptions { fold_quantize: false, ..ConvertOptions::default() };
        let unfolded = convert(&before, &unfolded).expect("converted");
        let integers = to_integer(&quantized).expect("rewritten");
        for graph in [&quantized, &unfolded, &integers] {
            let bytes = archive::to_bytes(graph).expect("saved");
            let loaded = archive::from_bytes(&bytes).expect("loaded");
            assert_eq!(loaded, *graph, "seed {seed}");
            let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
            assert_eq!(run(&loaded), run(graph), "seed {seed}");
            assert_eq!(archive::to_bytes(&loaded).expect("saved").len(), bytes.len(), "seed {seed}");
            graphs += 1;
        }
    }
    // Every operator survives too.
    for case in ops::table() {
        let loaded = archive::from_bytes(&archive::to_bytes(&case.graph).expect("saved")).expect(case.name);
        // Texts are compared, in which a constant that is NaN equals itself.
        assert_eq!(format!("{loaded:?}"), format!("{:?}", case.graph), "{}", case.name);
        graphs += 1;
    }
    report(&format!("archives: {graphs} graphs and 150 prepared graphs survive"));
}

/// Calibration on two machines: each saves its statistics, and one merges both.
#[test]
fn calibration_is_sharded_by_files() {
    let mut random = Random::new(3);
    let net = Net::random(&mut random);
    let quantizer = WgpuQuantizer::new()
        .set_global(QuantizationConfig::symmetric().activation_observer(ObserverKind::MinMax).per_channel());
    let batches: Vec<Tensor> = (0..4).map(|_| net.batch(&mut random)).collect();
    let calibrated = |batches: &[Tensor]| {
        let mut prepared = prepare(&net.graph, &quantizer).expect("prepared");
        batches.iter().for_each(|batch| drop(prepared.observe(&[batch]).expect("observed")));
        prepared
    };
    let one_pass = convert(&calibrated(&batches), &ConvertOptions::default()).expect("converted");
    let directory = std::env::temp_dir().join(format!("enfold-archive-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a folder");
    let paths = [&batches[..1], &batches[1..]].map(|part| {
        let path = directory.join(format!("{}.safetensors", part.len()));
        archive::save_prepared(&calibrated(part), &path).expect("saved");
        path
    });
    let mut whole = archive::load_prepared(&paths[0]).expect("loaded");
    whole.merge(&archive::load_prepared(&paths[1]).expect("loaded")).expect("merged");
    assert_eq!(whole.batches(), 4);
    assert_eq!(convert(&whole, &ConvertOptions::default()).expect("converted"), one_pass);
    std::fs::remove_dir_all(directory).expect("removed");
    // Merging into and from a prepared graph without batches gives the same result.
    let mut fresh = calibrated(&[]);
    fresh.merge(&whole).expect("merged");
    assert_eq!(convert(&fresh, &ConvertOptions::default()).expect("converted"), one_pass);
    whole.merge(&calibrated(&[])).expect("merged");
    assert_eq!(convert(&whole, &ConvertOptions::default()).expect("converted"), one_pass);

    let other = prepare(&Net::random(&mut random).graph, &quantizer).expect("prepared");
    let error = whole.merge(&other).expect_err("another graph");
    assert!(
        matches!(&error, PrepareError::OtherGraph { .. }) && error.to_string().contains("another graph"),
        "{error}"
    );
    let finer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric());
    let error = whole.merge(&prepare(&net.graph, &finer).expect("prepared")).expect_err("other observers");
    assert!(error.to_string().contains("cannot be merged"), "{error}");
}

fn small() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc", x, Tensor::from_f32(&[3, 4], vec![0.5; 12]).expect("fits"), None).expect("a layer");
    let y = g.relu("relu", h).expect("a relu");
    g.finish([y]).expect("a graph")
}

/// The file with its header changed.
fn edited(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).expect("text");
    // The JSON of the header is a string inside the JSON of the file.
    let escape = |text: &str| text.replace('"', "\\\"");
    let changed = header.replacen(&escape(from), &escape(to), 1);
    assert_ne!(header, changed, "{from} is not in {header}");
    [&(changed.len() as u64).to_le_bytes()[..], changed.as_bytes(), &bytes[8 + length..]].concat()
}

#[test]
fn wrong_files_are_refused_by_name() {
    let good = archive::to_bytes(&small()).expect("saved");
    let mut calibrated =
        prepare(&small(), &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric())).expect("prepared");
    calibrated.observe(&[Tensor::from_f32(&[1, 4], vec![1.0; 4]).expect("fits")]).expect("observed");
    let good_prepared = archive::prepared_to_bytes(&calibrated).expect("saved");
    let graph = |from: &str, to: &str| archive::from_bytes(&edited(&good, from, to)).expect_err(from);
    let state = |from: &str, to: &str| archive::prepared_from_bytes(&edited(&good_prepared, from, to)).expect_err(from);
    let table: Vec<(&str, ArchiveError, &[&str])> = vec![
        ("a newer format", graph("\"format\":7", "\"format\":8,\"new\":1"), &["format 8", "up to 7"]),
        ("an unknown op", graph("\"linear\"", "\"convolution\""), &["convolution"]),
        ("an unknown function", graph("{\"op\":\"relu\"}", "{\"op\":\"gulp\"}"), &["relu", "gulp"]),
        ("a name that repeats", graph("\"name\":\"relu\"", "\"name\":\"fc\""), &["two nodes", "fc"]),
        ("a cycle", graph("\"inputs\":[0,1]", "\"inputs\":[3,1]"), &["fc", "3", "2"]),
        ("a node that reads itself", graph("\"inputs\":[0,1]", "\"inputs\":[2,1]"), &["fc", "2"]),
        ("too few inputs", graph("\"inputs\":[0,1]", "\"inputs\":[0]"), &["fc", "1 inputs", "2"]),
        ("an output that does not exist", graph("\"outputs\":[3]", "\"outputs\":[9]"), &["output"]),
        ("no output", graph("\"outputs\":[3]", "\"outputs\":[]"), &["no output"]),
        (
            "dimensions beyond memory",
            graph("\"dims\":[4]", "\"dims\":[4611686018427387904,8]"),
            &["x", "4611686018427387904"],
        ),
        ("other dimensions", graph("\"dims\":[4]", "\"dims\":[5]"), &["fc", "5", "4"]),
        ("an unknown type", graph("\"dtype\":\"f32\"", "\"dtype\":\"f64\""), &["x", "f64"]),
        ("a missing tensor", graph("\"tensor\":\"tensor.0\"", "\"tensor\":\"tensor.7\""), &["tensor.7"]),
        ("a header that is no JSON", graph("{\"format\":7,", "{\"format\":7"), &["header"]),
        ("an observer that does not exist", state("{\"observer\":1}", "{\"observer\":40}"), &["40", "3"]),
        ("one observer too many", state("{\"observer\":1}", "{\"observer\":3}"), &["3", "there are 3"]),
        ("an impossible range of codes", state("\"range\":[-128,127]", "\"range\":[-300,127]"), &["observer", "-300"]),
        (
            "an observer that contradicts itself",
            state("\"observer\":\"min_max\"", "\"observer\":\"placeholder\""),
            &["observer"],
        ),
        ("an eps of zero", state("\"eps\":0.00024414062", "\"eps\":0.0"), &["observer", "eps"]),
        ("an annotation of nothing", state("\"annotated\":[", "\"annotated\":[77,"), &["77"]),
        ("a derivation from nothing", state("\"derived_from\":[[]", "\"derived_from\":[[0]"), &["observer 0"]),
    ];
    for (what, error, parts) in &table {
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{what}: {parts:?} are not in {message:?}");
    }
    // A prepared graph whose observers are gone.
    let plain = archive::to_bytes(calibrated.graph()).expect_err("a graph of observers").to_string();
    assert!(plain.contains("observe") && plain.contains("not prepared"), "{plain}");
    let start = "\"prepared\":{";
    let lost = archive::from_bytes(&edited(&good_prepared, start, "\"was_prepared\":{")).expect_err("no observers");
    assert!(matches!(&lost, ArchiveError::Node { node, .. } if node.contains("observe")), "{lost}");
    let kinds = [archive::from_bytes(&good_prepared).map(drop), archive::prepared_from_bytes(&good).map(drop)];
    for kind in kinds {
        assert!(matches!(kind, Err(ArchiveError::Kind { .. })), "{kind:?}");
    }
    assert!(matches!(archive::load("/nowhere/at/all"), Err(ArchiveError::Io { .. })));
    assert!(matches!(archive::save(&small(), "/nowhere/at/all"), Err(ArchiveError::Io { .. })));
    assert!(Error::from(archive::load("/nowhere").expect_err("no file")).to_string().contains("/nowhere"));
    report(&format!("archives: {} kinds of wrong file refused", table.len() + 4));
}

/// Files that are truncated, have overlapping or too large tensors, or any bit flipped give an error or a graph, never a panic, and
/// take no more memory than their size justifies.
#[test]
fn damaged_files_do_no_harm() {
    let good = archive::to_bytes(&small()).expect("saved");
    for length in 0..good.len() {
        assert!(archive::from_bytes(&good[..length]).is_err(), "truncated to {length} of {} bytes", good.len());
    }
    let length = u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let header = std::str::from_utf8(&good[8..8 + length]).expect("text");
    for (from, to) in [
        ("\"data_offsets\":[0,48]", "\"data_offsets\":[0,4611686018427387904]"),
        ("\"data_offsets\":[0,48]", "\"data_offsets\":[8,48]"),
        ("\"shape\":[3,4]", "\"shape\":[3,400000000000]"),
        ("\"shape\":[3,4]", "\"shape\":[18446744073709551615,4]"),
    ] {
        let changed = header.replacen(from, to, 1);
        assert_ne!(header, changed, "{from}");
        let file = [&(changed.len() as u64).to_le_bytes()[..], changed.as_bytes(), &good[8 + length..]].concat();
        assert!(matches!(archive::from_bytes(&file), Err(ArchiveError::Format { .. })), "{to}");
    }
    // The sizes of the tensors are consistent, but their last offset is beyond the file.
    let step = 1usize << 60;
    let tensor = |at: usize| {
        let (from, to) = (at * step, (at + 1).checked_mul(step).unwrap_or(usize::MAX - 7));
        format!("\"{at:02}\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{from},{to}]}}", to - from)
    };
    let endless = format!("{{{}}}", (0..16).map(tensor).collect::<Vec<_>>().join(","));
    let file = [&(endless.len() as u64).to_le_bytes()[..], endless.as_bytes(), &[0; 8]].concat();
    let error = archive::from_bytes(&file).expect_err("an end beyond the file").to_string();
    assert!(error.contains("take 18446744073709551608 bytes, and there are 8"), "{error}");
    let mut corrupt = good.clone();
    corrupt[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(archive::from_bytes(&corrupt).is_err());
    for at in 0..good.len() {
        for bit in [0, 2, 5, 7] {
            let mut corrupt = good.clone();
            corrupt[at] ^= 1 << bit;
            if let Ok(graph) = archive::from_bytes(&corrupt) {
                assert_eq!(graph.verify(), Ok(()), "byte {at}, bit {bit}");
            }
        }
    }
}

/// A symbolic link at the path of the temporary file is neither followed nor replaced.
#[test]
#[cfg(unix)]
fn a_planted_link_is_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("precious"), "precious").expect("written");
    std::os::unix::fs::symlink("precious", at("m.enfold.partial")).expect("a link");
    archive::save(&small(), at("m.enfold")).expect("saved");
    assert_eq!(std::fs::read(at("precious")).expect("a file"), b"precious");
    assert_eq!(archive::load(at("m.enfold")).expect("loaded"), small());
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("one").file_name()).collect();
    names.sort();
    assert_eq!(names, ["m.enfold", "m.enfold.partial", "precious"]);
    // A symbolic link at the path of the file itself is followed: its target is replaced.
    std::os::unix::fs::symlink("precious", at("link.enfold")).expect("a link");
    archive::save(&small(), at("link.enfold")).expect("saved");
    assert_eq!(archive::load(at("precious")).expect("loaded"), small());
    // A device is not read.
    std::os::unix::fs::symlink("/dev/zero", at("zero.enfold")).expect("a link");
    let error = archive::load(at("zero.enfold")).expect_err("a device").to_string();
    assert!(error.contains("zero.enfold") && error.contains("a device"), "{error}");
}

/// The test runs itself again where no file may be longer than a block, which is as good as a full disk.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_what_was_there() {
    const FOLDER: &str = "ENFOLD_TEST_FULL_DISK";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let path = std::path::Path::new(&folder).join("m.enfold");
        assert!(matches!(archive::save_prepared(&prepared(0).0, path), Err(ArchiveError::Io { .. })));
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.enfold");
    archive::save(&small(), &path).expect("saved");
    let test = std::env::current_exe().expect("this test");
    let limited = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"])
        .arg(test)
        .args(["--exact", "archive::a_full_disk_leaves_what_was_there"])
        .env(FOLDER, folder.path())
        .output()
        .expect("a shell");
    assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stdout));
    assert_eq!(archive::load(&path).expect("loaded"), small());
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

/// A tensor that a header names several times is in memory once.
#[test]
fn a_tensor_is_in_memory_once() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let shared = std::sync::Arc::new(Tensor::from_f32(&[4], vec![1.0; 4]).expect("fits"));
    let constant = |g: &mut GraphBuilder, name| {
        g.node(name, Op::Constant(Constant::new(Arc::clone(&shared))), &[]).expect("a constant")
    };
    let (a, b) = (constant(&mut g, "a"), constant(&mut g, "b"));
    let h = g.add("add", x, a).expect("a sum");
    let y = g.mul("mul", h, b).expect("a product");
    let loaded =
        archive::from_bytes(&archive::to_bytes(&g.finish([y]).expect("a graph")).expect("saved")).expect("loaded");
    let of = |name: &str| match &loaded.node(loaded.find(name).expect(name)).op {
        Op::Constant(Constant { tensor, .. }) => Arc::clone(tensor),
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&of("a"), &of("b")));
    // Equal constants are stored once too.
    let bytes = |different: usize| {
        let mut g = GraphBuilder::new();
        let mut x = g.input("x", Shape::rows(64)).expect("an input");
        for at in 0..8 {
            let value = if at < different { at as f32 } else { 0.5 };
            let row = Tensor::from_f32(&[64], vec![value; 64]).expect("fits");
            let row = g.constant(&format!("row{at}"), row).expect("a constant");
            x = g.add(&format!("sum{at}"), x, row).expect("a sum");
        }
        archive::to_bytes(&g.finish([x]).expect("a graph")).expect("saved").len()
    };
    let (shared, apart) = (bytes(0), bytes(8));
    assert!(
        (7 * 256..7 * 256 + 800).contains(&(apart - shared)),
        "{shared} bytes, and {apart} of eight different ones"
    );

    let config = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::MinMax);
    let mut prepared = prepare(&small(), &WgpuQuantizer::new().set_global(config)).expect("prepared");
    prepared.observe(&[Tensor::from_f32(&[1, 4], vec![1.0, -1.0, 3.0, 0.0]).expect("fits")]).expect("observed");
    let bytes = archive::prepared_to_bytes(&prepared).expect("saved");
    let header = String::from_utf8_lossy(&bytes).into_owned();
    let ranges = header.split("min\\\":\\\"").nth(1).and_then(|rest| rest.split('\\').next()).expect("a range");
    let max = header.split("max\\\":\\\"").nth(1).and_then(|rest| rest.split('\\').next()).expect("a range");
    let twice = edited(&bytes, &format!("\"max\":\"{max}\""), &format!("\"max\":\"{ranges}\""));
    let error = archive::prepared_from_bytes(&twice).expect_err("a list that is named twice").to_string();
    assert!(error.contains(ranges) && error.contains("twice"), "{error}");
    let both = |min: &str, max: &str| format!("\"min\":\"{min}\",\"max\":\"{max}\"");
    let swapped = edited(&bytes, &both(ranges, max), &both(max, ranges));
    let error = archive::prepared_from_bytes(&swapped).expect_err("a range from large to small").to_string();
    assert!(error.contains("observer") && error.contains("range is 3e0..=-1e0"), "{error}");
}

/// A quantizer that derives the bias of a linear layer by a rule.
struct Rule(DerivedRule);

impl Quantizer for Rule {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        let id = graph.find("fc").expect("the layer");
        let [x, w, b] = graph.node(id).inputs[..] else { panic!("no bias") };
        let edge = |producer| EdgeOrNode::Edge { producer, consumer: id };
        let observed =
            |qscheme, range| ObservedSpec { range, qscheme, observer: ObserverKind::MinMax, eps: EPS }.into();
        let bias = DerivedSpec { derived_from: vec![edge(x), edge(w)], rule: self.0.clone(), range: QuantRange::INT32 };
        let channels = QScheme::per_channel_symmetric(0);
        let input_qspec_map = vec![
            (x, Some(observed(QScheme::per_tensor_affine(), QuantRange::INT8))),
            (w, Some(observed(channels, QuantRange::INT8_NARROW))),
            (b, Some(bias.into())),
        ];
        annotations.set(id, QuantizationAnnotation { input_qspec_map, ..Default::default() });
        Ok(annotations)
    }
}

#[test]
fn derived_biases_have_the_scales_of_their_layer_and_custom_rules_stay_here() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let w = Tensor::from_f32(&[2, 4], vec![0.5, -0.25, 0.1, 0.9, 0.01, 0.02, -0.03, 0.04]).expect("fits");
    let y = g.linear("fc", x, w, Some(Tensor::from_f32(&[2], vec![0.3, -0.7]).expect("fits"))).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    let batch = Tensor::from_f32(&[1, 4], vec![1.0, -2.0, 0.5, 3.0]).expect("fits");
    let prepared = |rule| {
        let mut prepared = prepare(&graph, &Rule(rule)).expect("prepared");
        prepared.observe(&[&batch]).expect("observed");
        prepared
    };
    let by_rule = prepared(DerivedRule::BiasScale);
    let quantized = convert(&by_rule, &ConvertOptions::default()).expect("converted");
    let of = |name: &str| match &quantized.node(quantized.find(name).expect(name)).op {
        Op::Dequantize(Dequantize { qparams: TensorQParams::PerChannel { channels, .. } }) => channels.to_vec(),
        Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(q) }) => vec![*q],
        other => panic!("{name} is {other:?}"),
    };
    let (x, w, b) = (of("x.dequantize"), of("fc.weight.dequantize"), of("fc.bias.dequantize"));
    for (w, b) in w.iter().zip(&b) {
        assert_eq!((b.scale(), b.zero_point()), (x[0].scale() * w.scale(), 0));
    }
    let loaded = archive::prepared_from_bytes(&archive::prepared_to_bytes(&by_rule).expect("saved")).expect("loaded");
    assert_eq!(convert(&loaded, &ConvertOptions::default()).expect("converted"), quantized);
    // The integer form folds the bias into the accumulator, derived or not.
    assert!(to_integer(&quantized).expect("rewritten").summary().float.is_empty());

    let custom = |scale: f32| {
        DerivedRule::Custom(Arc::new(move |from: &[TensorQParams]| {
            assert_eq!(from.len(), 2);
            enfold::values::QParams::new(scale, 0).map(TensorQParams::PerTensor).map_err(|e| e.to_string())
        }))
    };
    let mine = prepared(custom(0.001));
    assert!(convert(&mine, &ConvertOptions::default()).is_ok());
    let error = archive::prepared_to_bytes(&mine).expect_err("a function");
    assert!(matches!(&error, ArchiveError::CustomRule { .. }) && error.to_string().contains("fc.bias"), "{error}");
    let error = convert(&prepared(custom(f32::NAN)), &ConvertOptions::default()).expect_err("no scale");
    assert!(error.to_string().contains("fc.bias") && error.to_string().contains("derived"), "{error}");
}
