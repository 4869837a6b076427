//! Tests of data in other files: the memory that they may take, and the folders in which they may lie.

use std::path::{Path, PathBuf};

use half::f16;

use super::super::external::Folders;
use super::super::proto::{StringStringEntryProto, TensorProto, data_type as ty};
use super::super::{ImportOptions, OnnxError, import};
use super::*;

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("enfold-onnx-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder above it")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    /// Imports a model without the minimum that a small model has.
    fn import(&self, build: &Build) -> Result<Graph, OnnxError> {
        let folders = Folders { base: Some(&self.0), linked: None };
        import::import_with(build.bytes().into(), folders, &ImportOptions::default(), 0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _kept = std::fs::remove_dir_all(&self.0);
    }
}

/// A tensor whose data lie in `location`.
fn elsewhere(name: &str, data_type: i32, dims: &[i64], location: &str, offset: usize) -> TensorProto {
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type,
        data_location: 1,
        external_data: vec![entry("location", location), entry("offset", &offset.to_string())],
        ..TensorProto::default()
    }
}

const N: usize = 64;

/// Element `[row, col]` of the weight, exact in every type.
fn element(row: usize, col: usize) -> u8 {
    ((row * N + col) % 100) as u8
}

#[test]
fn weights_in_other_files_count_for_the_limit() {
    let folder = Folder::new("weights");
    let codes: Vec<u8> = (0..N * N).map(|i| element(i / N, i % N)).collect();
    folder.write("f32", &codes.iter().flat_map(|&v| f32::from(v).to_le_bytes()).collect::<Vec<_>>());
    let half: Vec<u8> = codes.iter().flat_map(|&v| f16::from_f32(v.into()).to_le_bytes()).collect();
    folder.write("f16", &half);
    folder.write("i8", &codes);
    let dims = [N as i64; 2];
    let new = |data_type: i32, file: &str| {
        Build::new(17).input("x", &["batch", "64"]).store(elsewhere("w", data_type, &dims, file, 0)).floats(
            "s",
            &[],
            &[1.0],
        )
    };
    let mut one = vec![0.0; N];
    one[1] = 1.0;
    let one = tensor(&[1, N], &one);
    let check = |build: Build, turned: bool| {
        let graph = folder.import(&build.output("y")).unwrap_or_else(|e| panic!("{e}"));
        let expected = |i: usize| f32::from(if turned { element(i, 1) } else { element(1, i) });
        assert_values(&run(&graph, std::slice::from_ref(&one)), &[1, N], &(0..N).map(expected).collect::<Vec<_>>());
        graph
    };
    let product = |b: Build| b.node("MatMul", "x t", "y");
    check(new(ty::FLOAT, "f32").node("MatMul", "x w", "y"), false);
    check(product(new(ty::FLOAT, "f32").node("Transpose", "w", "t").list("perm", &[1, 0])), true);
    check(product(new(ty::FLOAT, "f32").node("Transpose", "w", "u").node("Transpose", "u", "t")), false);
    check(product(new(ty::FLOAT16, "f16").node("Cast", "w", "t").int("to", 1)), false);
    check(product(new(ty::FLOAT16, "f16").node("Cast", "w", "c").int("to", 1).node("Transpose", "c", "t")), true);
    check(product(new(ty::INT8, "i8").node("DequantizeLinear", "w s", "t")), false);
    check(product(new(ty::INT8, "i8").node("DequantizeLinear", "w s", "d").node("Transpose", "d", "t")), true);
    // A weight that is not one of a layer is turned too, and one that is read in both ways is kept once.
    let row = new(ty::FLOAT, "f32").node("Transpose", "w", "t").ints("at", &[], &[1]).node("Gather", "t at", "g");
    check(row.node("Sub", "x x", "z").node("Add", "z g", "y"), true);
    let both = new(ty::FLOAT, "f32").node("MatMul", "x w", "m").node("Transpose", "w", "t");
    let both = both.node("Gemm", "m t", "a").node("Gemm", "m w", "b").int("transB", 1).node("Sub", "a b", "z");
    let graph = check(both.node("Add", "z m", "y"), false);
    let constants = graph.nodes().iter().filter(|node| matches!(node.op, Op::Constant(_))).count();
    assert_eq!(constants, 2, "{graph}");
    // The weight is in the file itself.
    let mut inside = elsewhere("w", ty::FLOAT16, &dims, "", 0);
    (inside.data_location, inside.external_data, inside.raw_data) = (0, Vec::new(), half.into());
    let inside = Build::new(17).input("x", &["batch", "64"]).store(inside);
    check(product(inside.node("Cast", "w", "t").int("to", 1)), false);
    // The limit is there: 16 KiB of data do not become 360 KB.
    let grown = new(ty::FLOAT, "f32").node("MatMul", "x w", "m").ints("d", &[2], &[300, 300]);
    let grown = grown.node("ConstantOfShape", "d", "c").node("ReduceSum", "c", "r").node("Add", "m r", "y");
    let e = folder.import(&grown.output("y")).expect_err("too large").to_string();
    assert!(e.contains("its value takes 360000 bytes") && e.contains("constants would exceed"), "{e}");
}

#[test]
fn tensors_that_share_their_data_are_counted() {
    let folder = Folder::new("shared");
    folder.write("data", &[0; 2048]);
    let with = |offsets: &[usize]| {
        let mut build = Build::new(17).input("x", &["batch", "256"]).node("Add", "x c0", "y").output("y");
        for (at, &offset) in offsets.iter().enumerate() {
            build = build.store(elsewhere(&format!("c{at}"), ty::FLOAT, &[256], "data", offset));
        }
        build
    };
    for good in [&[0, 1024][..], &[0, 0], &[0, 512, 512]] {
        assert!(folder.import(&with(good)).is_ok(), "{good:?}");
    }
    let e = folder.import(&with(&[0; 10])).expect_err("shared ten times");
    assert_eq!(e, OnnxError::Overlap { referred: 10240, covered: 1024 });
    let expected = "tensors refer to 10240 bytes of other files, but only to 1024 different ones; at most twice as many are allowed";
    assert_eq!(e.to_string(), expected);
    let e = folder.import(&with(&[0, 512, 512, 512])).expect_err("shared in part");
    assert_eq!(e, OnnxError::Overlap { referred: 4096, covered: 1536 });
    // So few bytes do not matter.
    assert!(import(with(&[0; 10]).bytes(), Some(&folder.0), &ImportOptions::default()).is_ok());
}

/// Model caches have folders of links to files that are named after their contents.
#[cfg(unix)]
#[test]
fn links_lead_to_the_folder_of_the_linked_model_only() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new("links");
    let data: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let build = Build::new(17).input("x", &["batch", "2"]).node("Add", "x c", "y").output("y");
    let build = build.store(elsewhere("c", ty::FLOAT, &[2], "model.onnx_data", 0));
    folder.write("blobs/aaa", &build.bytes());
    folder.write("blobs/bbb", &data);
    folder.write("secret", &data);
    let copy = folder.write("snapshots/copy/model.onnx", &build.bytes());
    let lay = |name: &str, target: &str| {
        let path = folder.0.join("snapshots").join(name);
        std::fs::create_dir_all(path.parent().expect("a folder above it")).expect("a folder");
        symlink(target, &path).expect("a link");
        path
    };
    let load = |path: &Path| super::super::load(path, &ImportOptions::default());
    let model = lay("good/model.onnx", "../../blobs/aaa");
    lay("good/model.onnx_data", "../../blobs/bbb");
    let graph = load(&model).unwrap_or_else(|e| panic!("{e}"));
    assert_values(&run(&graph, &[tensor(&[1, 2], &[0.0; 2])]), &[1, 2], &[1.0, 2.0]);
    let refused = |path: &Path| match load(path) {
        Err(OnnxError::External { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    let outside = "it lies outside the model's folder";
    let bad = lay("bad/model.onnx", "../../blobs/aaa");
    lay("bad/model.onnx_data", "../../secret");
    assert_eq!(refused(&bad), outside);
    // The model is no link, so its data may not be one to another folder.
    lay("copy/model.onnx_data", "../../blobs/bbb");
    assert_eq!(refused(&copy), outside);
}
