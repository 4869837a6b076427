//! Dimensions: given, missing, and the batch.

use super::super::proto::DimensionProto;
use super::super::{MissingDim, OnnxError};
use super::*;

#[test]
fn a_leading_symbol_is_the_batch_and_others_must_be_given() {
    let build = Build::new(17).input("x", &["batch", "seq", "2"]).input("m", &["batch", "seq", "1"]);
    let build = build.node("Mul", "x m", "y").output("y");
    let missing = MissingDim { name: "seq".to_owned(), inputs: vec!["x".to_owned(), "m".to_owned()] };
    let e = build.import(&[]).expect_err("seq is not known");
    assert_eq!(e, OnnxError::MissingDims(vec![missing]));
    let expected = "a dimension is not given: seq (of x, m); lengths are fixed at import, except that of one dimension in front, the batch; \
                    give each a length, as in seq=8";
    assert_eq!(e.to_string(), expected);
    let graph = build.done(&[("seq", 3)]);
    assert_eq!(graph.node(graph.outputs()[0]).shape.to_string(), "[rows, 3, 2]");
    let graph = build.done(&[("seq", 3), ("batch", 4)]);
    assert_eq!(graph.node(graph.outputs()[0]).shape.to_string(), "[4, 3, 2]");
    let e = build.import(&[("seq", 3), ("sequence", 4)]).expect_err("no such dimension");
    assert_eq!(e.to_string(), "the model has no dimension called sequence; it has batch, seq");
    let e = build.import(&[("seq", 0)]).expect_err("no elements");
    assert_eq!(e.to_string(), "dimension seq is 0; expected from 1 to 2147483647");
}

#[test]
fn two_batches_are_not_one() {
    let build = Build::new(17).input("x", &["a", "2"]).input("m", &["b", "2"]).node("Add", "x m", "y").output("y");
    assert!(matches!(build.import(&[]), Err(OnnxError::MissingDims(dims)) if dims.len() == 2));
    assert!(build.import(&[("a", 2), ("b", 1)]).is_ok());
    // One that is not in front everywhere is not the batch.
    let build = Build::new(17).input("x", &["a", "2"]).input("m", &["2", "a"]).node("MatMul", "x m", "y").output("y");
    assert!(matches!(build.import(&[]), Err(OnnxError::MissingDims(_))));
    // Dimensions without a name are called after their place.
    let mut build = Build::new(17).input("x", &["2", "a"]).node("Relu", "x", "y").output("y");
    let r#type = build.graph().input[0].r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
    r#type.and_then(|t| t.shape.as_mut()).expect("a shape").dim[1].dim_param = None;
    assert!(matches!(build.import(&[]), Err(OnnxError::MissingDims(dims)) if dims[0].name == "x.1"));
    assert!(build.import(&[("x.1", 5)]).is_ok());
}

/// Exporters wrote these before lengths could be symbols.
#[test]
fn lengths_of_0_and_less_have_no_name() {
    let build = Build::new(17).input("x", &["-1", "-1", "2"]).node("Relu", "x", "y").output("y");
    assert!(matches!(build.import(&[]), Err(OnnxError::MissingDims(dims)) if dims.len() == 1 && dims[0].name == "x.1"));
    // One of length 0 is an axis without elements, as caches are exported, unless the caller says that it is not.
    let build = Build::new(17).input("x", &["-1", "0", "2"]).node("Relu", "x", "y").output("y");
    let e = build.import(&[]).expect_err("no elements").to_string();
    let expected = "input x: axis 1 has length 0, so that it holds nothing; if that stands for any length, give the dimension x.1 one";
    assert_eq!(e, expected);
    let graph = build.done(&[("x.1", 3)]);
    assert_eq!(graph.node(graph.outputs()[0]).shape.to_string(), "[rows, 3, 2]");
    let graph = build.done(&[("x.1", 3), ("x.0", 4)]);
    assert_eq!(graph.node(graph.outputs()[0]).shape.to_string(), "[4, 3, 2]");
}

/// One sign for all lengths that an exporter does not know names none of them.
#[test]
fn signs_are_no_names() {
    for sign in ["?", "*", "-1", "None", "_"] {
        let mut build = Build::new(17).input("x", &["n", "3", "h", "w"]).node("Relu", "x", "y").output("y");
        let shape = build.graph().input[0].r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
        let shape = shape.and_then(|t| t.shape.as_mut()).expect("a shape");
        for axis in [0, 2, 3] {
            shape.dim[axis] = DimensionProto { dim_value: None, dim_param: Some(sign.to_owned()) };
        }
        let names = match build.import(&[]) {
            Err(OnnxError::MissingDims(dims)) => dims.into_iter().map(|dim| dim.name).collect::<Vec<_>>(),
            other => panic!("{sign}: {other:?}"),
        };
        assert_eq!(names, ["x.2", "x.3"], "{sign}");
        let graph = build.done(&[("x.2", 4), ("x.3", 5)]);
        assert_eq!(graph.node(graph.outputs()[0]).shape.to_string(), "[rows, 3, 4, 5]", "{sign}");
    }
}

#[test]
fn shapes_follow_the_batch() {
    // PyTorch writes: shape → gather → concat → reshape.
    let heads = Build::new(17)
        .input("x", &["batch", "4", "6"])
        .ints("zero", &[], &[0])
        .ints("axis", &[1], &[0])
        .ints("rest", &[3], &[4, 2, -1])
        .node("Shape", "x", "s")
        .node("Gather", "s zero", "b")
        .node("Unsqueeze", "b axis", "bu")
        .node("Concat", "bu rest", "target")
        .int("axis", 0)
        .node("Reshape", "x target", "h")
        .node("Transpose", "h", "y")
        .list("perm", &[0, 2, 1, 3])
        .output("y");
    let graph = heads.done(&[]);
    assert_eq!(ops(&graph), ["reshape", "transpose"]);
    assert_eq!(graph.node(graph.outputs()[0]).shape.to_string(), "[rows, 2, 4, 3]");
    // Batch and tokens as one axis, and apart again.
    let merged = Build::new(17)
        .input("x", &["batch", "3", "2"])
        .ints("flat", &[2], &[-1, 2])
        .floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])
        .ints("apart", &[3], &[-1, 3, 2])
        .node("Reshape", "x flat", "f")
        .node("MatMul", "f w", "m")
        .node("Reshape", "m apart", "y")
        .output("y");
    let graph = merged.done(&[]);
    assert_eq!(ops(&graph), ["linear"]);
    let x = tensor(&[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_values(&run(&graph, &[x]), &[1, 3, 2], &[1.0, 2.0, 3.0, 4.0, 4.0, 6.0]);
    // A constant that is expanded along the batch is kept once.
    let expanded = Build::new(17)
        .input("x", &["batch", "3"])
        .floats("c", &[1, 3], &[1.0, 2.0, 3.0])
        .node("Shape", "x", "s")
        .node("Expand", "c s", "e")
        .node("Add", "x e", "y")
        .output("y");
    let graph = expanded.done(&[]);
    assert_eq!(ops(&graph), ["add"]);
    assert_values(&run(&graph, &[tensor(&[2, 3], &[0.0; 6])]), &[2, 3], &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}

/// Exporters write lengths that they saw into shapes, bounds and tables, so that a file has names for lengths that only one number fits.
#[test]
fn a_length_that_the_file_fixes_is_named() {
    let base = || Build::new(17).input("x", &["batch", "seq", "4"]);
    let cases = [
        // A shape, a table of positions, and a mask that was traced.
        ("y (Reshape)", base().ints("s", &[3], &[-1, 6, 4]).node("Reshape", "x s", "y").output("y")),
        ("y (Add)", base().floats("p", &[1, 6, 4], &[0.5; 24]).node("Add", "x p", "y").output("y")),
        ("y (MatMul)", base().floats("m", &[5, 6], &[0.5; 30]).node("MatMul", "m x", "y").output("y")),
        (
            "e (Expand)",
            base().ints("s", &[3], &[1, 6, 4]).node("Expand", "x s", "e").node("Add", "e e", "y").output("y"),
        ),
    ];
    for (node, build) in cases {
        let text = build.import(&[("seq", 5)]).expect_err("another length").to_string();
        let hint = "the file can be imported with seq=6, not with seq=5";
        assert!(text.contains(node) && text.ends_with(hint), "{text}");
        assert!(build.import(&[("seq", 6)]).is_ok(), "{node}");
    }
    // What no length mends has no such advice.
    let build = base().ints("s", &[3], &[-1, 7, 3]).node("Reshape", "x s", "y").output("y");
    let text = build.import(&[("seq", 5)]).expect_err("no length fits").to_string();
    assert!(text.contains("y (Reshape)") && !text.contains("can be imported with"), "{text}");
    let text = base().node("NonZero", "x", "y").output("y").import(&[("seq", 5)]).expect_err("refused").to_string();
    assert!(!text.contains("can be imported with"), "{text}");
}

#[test]
fn what_needs_the_length_of_the_batch_says_so() {
    let build = Build::new(17)
        .input("x", &["batch", "3"])
        .node("Transpose", "x", "t")
        .named("/m/Transpose")
        .node("ReduceMean", "x", "r")
        .list("axes", &[0])
        .named("/m/Mean")
        .node("Relu", "t", "y")
        .output("y")
        .output("r");
    let e = build.import(&[]).expect_err("it works along the batch").to_string();
    let expected = "1 node cannot be imported:\n  /m/Mean (ReduceMean): it works along the batch; give batch a length, as in batch=8";
    assert_eq!(e, expected);
    assert!(build.import(&[("batch", 2)]).is_ok());
}
