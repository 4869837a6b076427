//! Files that are refused, and what they are told.

use super::super::build::{floats, small, value};
use super::super::proto::{FunctionProto, data_type as ty};
use super::super::{ImportOptions, OnnxError, import};
use super::*;

fn base() -> Build {
    Build::new(17).input("x", &["batch", "2"])
}

#[track_caller]
fn refused(build: Build) -> String {
    match build.import(&[]) {
        Err(e) => e.to_string(),
        Ok(graph) => panic!("imported as\n{graph}"),
    }
}

#[test]
fn all_unsupported_nodes_are_listed() {
    let mut build = base()
        .node("DeformConv", "x x", "a")
        .named("first")
        .node("Relu", "a", "b")
        .node("FusedGelu", "b", "c")
        .node("Det", "c", "d")
        .node("Mod", "x x", "e")
        .node("Add", "d e", "y")
        .output("y");
    build.graph().node[2].domain = "com.microsoft".to_owned();
    build.model.functions.push(FunctionProto::default());
    let expected = "4 nodes cannot be imported:\n  first (DeformConv): the operator is not supported\n  c (com.microsoft.FusedGelu): \
                    the operator is not supported\n  d (Det): the operator is not supported\n  e (Mod): it \
                    is supported only where its inputs are known while importing";
    assert_eq!(refused(build), expected);
}

/// One line for all nodes of an operator, and unknown operators before dimensions.
#[test]
fn many_unsupported_nodes_are_grouped() {
    let mut build = Build::new(17).input("x", &["batch", "seq"]);
    for i in 0..120 {
        build = build.node("DeformConv", "x x", &format!("c{i}"));
    }
    for i in 0..30 {
        build = build.node(&format!("Op{i}"), "x", &format!("o{i}"));
    }
    for i in 0..120 {
        build = build.output(&format!("c{i}"));
    }
    for i in 0..30 {
        build = build.output(&format!("o{i}"));
    }
    // No length of "seq" would help.
    let text = refused(build);
    assert!(
        text.starts_with("150 nodes cannot be imported:\n  DeformConv ×120, first c0: the operator is not supported\n"),
        "{text}"
    );
    assert!(text.ends_with("\n  o18 (Op18): the operator is not supported\n  and 11 more"), "{text}");
    let missing = Build::new(17).input("x", &["batch", "seq"]).node("Relu", "x", "y").output("y");
    assert!(matches!(missing.import(&[]), Err(OnnxError::MissingDims(_))));
}

/// Messages name what is wrong, and say nothing that is not so.
#[test]
fn messages_say_what_is_wrong() {
    let with = |data_type| {
        let mut build = Build::new(17).node("Relu", "x", "y").output("y");
        build.graph().input.push(value("x", data_type, &["2"]));
        refused(build)
    };
    assert_eq!(with(17), "input x: has type float8e4m3fn, which is not supported");
    assert_eq!(with(14), "input x: has type complex64, which is not supported");
    assert_eq!(with(0), "input x: has type undefined, which is not supported");
    let mut build = base().node("Relu", "x", "y").output("y");
    build.model.opset_import.clear();
    assert_eq!(refused(build), "the file does not say for which opset it is written; supported are 7 to 26");
    // The message names the input that must be known.
    let reshape = base().ids("target", &["2"]).node("Reshape", "x target", "y").output("y");
    let expected =
        "1 node cannot be imported:\n  y (Reshape): target is computed at run time, and must be known while importing";
    assert_eq!(refused(reshape), expected);
    // Floats and integers of 64 bits are not quantized values.
    let mut dequantize = base().floats("s", &[], &[0.5]).node("DequantizeLinear", "u s", "y").output("y");
    dequantize.graph().input.push(value("u", ty::INT64, &["batch", "2"]));
    assert!(refused(dequantize).ends_with("y (DequantizeLinear): its input is int64, expected quantized values"));
    let dequantize = base().floats("s", &[], &[0.5]).node("DequantizeLinear", "x s", "y").output("y");
    assert!(refused(dequantize).ends_with("y (DequantizeLinear): its input is float32, expected quantized values"));
    // The length is one that the batch needs, and shapes show it.
    let reshape = base().ints("s", &[2], &[6, 2]).node("Reshape", "x s", "y").output("y");
    let text = refused(reshape);
    assert!(text.ends_with("shape [rows, 2] does not reshape to [6, 2]; give batch a length, as in batch=6"), "{text}");
    let doubled = base().node("Concat", "x x", "c1").int("axis", 1);
    let doubled =
        (2..40).fold(doubled, |b, i| b.node("Concat", &format!("c{0} c{0}", i - 1), &format!("c{i}")).int("axis", 1));
    let text = refused(doubled.output("c39"));
    assert!(text.ends_with("its result [rows, 8589934592] is too large"), "{text}");
    // The hint is written with the argument of a program, and nothing else is changed.
    let dropout = base().ints("r", &[], &[1]).store(small("t", ty::BOOL, &[], &[1])).node("Dropout", "x _ t", "y");
    let e = dropout.output("y").import(&[]).expect_err("in training");
    assert!(e.with_argument("--dim").ends_with("it drops elements, as in training"), "{e}");
    let moved =
        base().node("Transpose", "x", "t").node("Relu", "t", "y").output("y").import(&[]).expect_err("moves it");
    assert!(moved.with_argument("--dim").ends_with("give batch a length, as in --dim batch=8"), "{moved}");
}

/// Results that no node reads may be missing.
#[test]
fn results_that_nobody_reads() {
    let dropout = || base().node("Dropout", "x", "d mask").node("Relu", "d", "y").output("y");
    assert_eq!(ops(&dropout().done(&[])), ["relu"]);
    let norm = base().floats("w", &[2], &[1.0, 2.0]).node("LayerNormalization", "x w", "y mean deviation");
    assert_eq!(ops(&norm.clone().output("y").done(&[])), ["layer_norm"]);
    let expected = "1 node cannot be imported:\n  y (LayerNormalization): its output deviation is read, and only its first 1 of 3 \
                    outputs are supported";
    assert_eq!(refused(norm.output("y").output("deviation")), expected);
    // The mask is read by a node that an output needs, or by one that no output needs.
    assert!(refused(dropout().node("Cast", "mask", "z").int("to", 1).output("z")).contains("its output mask is read"));
    assert_eq!(ops(&dropout().node("Cast", "mask", "z").int("to", 1).done(&[])), ["relu"]);
}

#[test]
fn structure() {
    let relu = || base().node("Relu", "x", "y").output("y");
    assert_eq!(
        refused(Build {
            model: {
                let mut b = relu();
                b.model.opset_import[0].version = 27;
                b.model
            }
        }),
        "the file is written for opset 27; supported are 7 to 26"
    );
    assert_eq!(refused(base().node("Relu", "z", "y").output("y")), "y: reads z, which nothing in the file gives");
    assert_eq!(refused(base().output("q")), "outputs: reads q, which nothing in the file gives");
    let cycle = base().node("Add", "x b", "a").node("Relu", "a", "b").output("b");
    assert_eq!(refused(cycle), "a: reads, by way of other nodes, its own result");
    assert_eq!(refused(relu().node("Neg", "x", "y")), "two values are called y");
    assert_eq!(refused(relu().node("Neg", "x", "x")), "two values are called x");
    assert_eq!(refused(relu().floats("c", &[], &[0.0]).floats("c", &[], &[0.0])), "two values are called c");
    // Order does not matter where there is one.
    let turned = base().node("Relu", "a", "y").node("Neg", "x", "a").output("y");
    assert_eq!(ops(&turned.done(&[])), ["mul_scalar", "relu"]);
    // Nodes that no output needs are not checked.
    assert_eq!(ops(&relu().node("DeformConv", "x", "unused").done(&[])), ["relu"]);
    assert!(matches!(import(vec![0u8; 3], None, &ImportOptions::default()), Err(OnnxError::Decode { .. })));
    assert!(matches!(import(Vec::new(), None, &ImportOptions::default()), Err(OnnxError::Decode { .. })));
}

#[test]
fn tensors() {
    let with = |tensor| refused(base().store(tensor).node("Add", "x c", "y").output("y"));
    assert_eq!(with(floats("c", &[3], &[1.0, 2.0])), "tensor c: it has 2 elements, but shape [3] holds 3");
    assert_eq!(with(floats("c", &[-1], &[1.0])), "tensor c: its shape [-1] has a negative length");
    let huge = with(floats("c", &[1 << 40, 1 << 40], &[1.0]));
    assert_eq!(huge, "tensor c: its shape [1099511627776, 1099511627776] is too large");
    assert_eq!(with(small("c", 8, &[1], &[1])), "tensor c: it has type string, which is not a type of numbers");
    assert_eq!(with(small("c", 77, &[1], &[1])), "tensor c: it has type number 77, which is not a type of numbers");
    let mut raw = floats("c", &[2], &[]);
    raw.raw_data = vec![0u8; 7].into();
    assert_eq!(with(raw), "tensor c: it has 7 bytes, but shape [2] of float32 takes 8");
    let many = with(floats("c", &[1; 40], &[1.0]));
    assert_eq!(many, "tensor c: it has 40 axes, expected up to 32");
}

#[test]
fn inputs() {
    let with = |elem_type, dims: &[&str]| {
        let mut build = Build::new(17).node("Relu", "x", "y").output("y");
        build.graph().input.push(value("x", elem_type, dims));
        refused(build)
    };
    assert_eq!(with(ty::STRING, &["2"]), "input x: has type string, which is not supported");
    assert_eq!(with(ty::FLOAT, &["-2"]), "input x: axis 0 has length -2, expected from 1 to 2147483647");
    let huge = with(ty::FLOAT, &["2147483647", "2147483647", "2147483647"]);
    assert!(huge.starts_with("input x: shape [2147483647, 2147483647, 2147483647] has more than"), "{huge}");
}

#[test]
fn constants_do_not_grow() {
    let grow = |build: Build| {
        let e = refused(build.node("Add", "x c", "y").output("y"));
        assert!(e.contains("constants would exceed 67108864 bytes"), "{e}");
    };
    grow(base().ints("s", &[2], &[30000, 30000]).node("ConstantOfShape", "s", "c"));
    grow(base().floats("f", &[1], &[1.0]).ints("s", &[2], &[30000, 30000]).node("Expand", "f s", "c"));
    grow(base().floats("f", &[1], &[1.0]).ints("n", &[1], &[1 << 31]).node("Tile", "f n", "c"));
    let range = base().ints("a", &[], &[i64::MIN]).ints("b", &[], &[i64::MAX]).ints("d", &[], &[1]);
    grow(range.node("Range", "a b d", "c"));
    // Each is small, but there are many.
    let mut build = base().ints("s", &[1], &[1 << 20]);
    for i in 0..20 {
        build = build.node("ConstantOfShape", "s", &format!("c{i}"));
    }
    let all: Vec<String> = (0..20).map(|i| format!("c{i}")).collect();
    grow(build.node("Sum", &all.join(" "), "c"));
}

#[test]
fn integers_do_not_overflow() {
    let with = |op: &str, a: i64, b: i64| {
        let build = base().ints("a", &[1], &[a]).ints("b", &[1], &[b]).node(op, "a b", "c").node("Add", "x c", "y");
        refused(build.output("y"))
    };
    for (op, a, b) in [
        ("Add", i64::MAX, 1),
        ("Sub", i64::MIN, 1),
        ("Mul", i64::MAX, 2),
        ("Div", 1, 0),
        ("Div", i64::MIN, -1),
        ("Mod", 1, 0),
        ("Pow", 10, 100),
        ("Reshape", 1, i64::MAX),
        ("Gather", 0, i64::MIN),
        ("Unsqueeze", 0, i64::MIN),
        ("Expand", 0, -3),
        ("Tile", 0, -3),
    ] {
        assert!(with(op, a, b).starts_with("1 node cannot be imported:"), "{op}");
    }
    let slice = base().ints("s", &[1], &[i64::MIN]).ints("e", &[1], &[i64::MAX]).ints("t", &[1], &[i64::MAX]);
    let slice =
        slice.ints("z", &[1], &[0]).ints("d", &[3], &[7, 8, 9]).node("Slice", "d s e z t", "f").node("Cast", "f", "c");
    let graph = slice.int("to", 1).node("Add", "x c", "y").output("y").done(&[]);
    assert_values(&run(&graph, &[tensor(&[1, 2], &[0.0; 2])]), &[1, 2], &[7.0, 7.0]);
}

/// A long chain is imported in time that grows with its length only.
#[test]
fn long_chains_are_quick() {
    let mut build = base();
    let mut last = "x".to_owned();
    for i in 0..20_000 {
        let next = format!("v{i}");
        build = build.node(if i % 2 == 0 { "Relu" } else { "Neg" }, &last, &next);
        last = next;
    }
    let bytes = build.output(&last).bytes();
    let start = std::time::Instant::now();
    let graph = import(bytes, None, &ImportOptions::default()).expect("a chain");
    assert_eq!(graph.nodes().len(), 20_001);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn data_in_other_files() {
    use super::super::proto::StringStringEntryProto;
    let folder = std::env::temp_dir().join(format!("enfold-onnx-{}", std::process::id()));
    let inside = folder.join("model");
    std::fs::create_dir_all(&inside).expect("a folder");
    let data: Vec<u8> = [9.0f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(inside.join("weights.bin"), &data).expect("a file");
    std::fs::write(folder.join("secret.bin"), &data).expect("a file");
    let with = |folder: Option<&std::path::Path>, entries: &[(&str, &str)]| {
        let mut tensor = floats("c", &[2], &[]);
        tensor.data_location = 1;
        let entry =
            |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).to_owned(), value: (*value).to_owned() };
        tensor.external_data = entries.iter().map(entry).collect();
        let build = base().store(tensor).node("Add", "x c", "y").output("y");
        import(build.bytes(), folder, &ImportOptions::default())
    };
    let good = with(Some(&inside), &[("location", "weights.bin"), ("offset", "4"), ("length", "8")]).expect("sound");
    assert_values(&run(&good, &[tensor(&[1, 2], &[0.0; 2])]), &[1, 2], &[1.0, 2.0]);
    let refused = |entries: &[(&str, &str)]| match with(Some(&inside), entries) {
        Err(OnnxError::External { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    let outside = "the path must be relative, and stay inside the model's folder";
    assert_eq!(refused(&[("location", "../secret.bin")]), outside);
    assert_eq!(refused(&[("location", &folder.join("secret.bin").display().to_string())]), outside);
    assert_eq!(refused(&[]), outside);
    assert_eq!(
        refused(&[("location", "weights.bin"), ("offset", "8")]),
        "bytes from 8, 8 of them, lie beyond its end at 12"
    );
    let far = [("location", "weights.bin"), ("offset", "18446744073709551615")];
    assert!(refused(&far).starts_with("bytes from 18446744073709551615"));
    assert_eq!(refused(&[("location", "weights.bin"), ("length", "12")]), "it has 12 bytes, expected 8");
    assert_eq!(refused(&[("location", "weights.bin"), ("offset", "x")]), "offset is \"x\"");
    assert!(!refused(&[("location", "none.bin")]).is_empty());
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.join("secret.bin"), inside.join("link.bin")).expect("a link");
        assert_eq!(refused(&[("location", "link.bin")]), "it lies outside the model's folder");
    }
    assert!(matches!(with(None, &[("location", "weights.bin")]), Err(OnnxError::External { .. })));
    std::fs::remove_dir_all(&folder).expect("the folder is removed");
}
