//! What is refused of ONNX Runtime's own operators and of operators that become several. `tests/onnx/check_files_of_onnxruntime.py`
//! compares what is not.

use super::super::proto::data_type as ty;
use super::*;
use crate::onnx::build::{floats, ints, small, value};

/// A model of one node of ONNX Runtime's domain, of `x [batch, 4, 6]` and these tensors.
fn own(op: &str, inputs: &str) -> Build {
    let mut build = Build::new(17).input("x", &["batch", "4", "6"]).node(op, inputs, "y").output("y");
    build.graph().node[0].domain = "com.microsoft".to_owned();
    build
}

#[track_caller]
fn refused(build: &Build, expected: &str) {
    let error = build.import(&[]).expect_err(expected).to_string();
    assert!(error.contains("\n  y (") && error.contains(expected), "{error}, not {expected}");
}

#[test]
fn weights_of_blocks() {
    // Three rows of 6 numbers of 4 bits in blocks of 4, of which the last one has two numbers that nothing reads.
    let weight = |bytes: usize, scales: usize| {
        let mut build = own("MatMulNBits", "x w s").int("N", 3).int("K", 6).int("bits", 4).int("block_size", 4);
        let packed: Vec<i32> = (0..bytes as i32).map(|at| at * 37 % 256).collect();
        build.graph().initializer =
            vec![small("w", ty::UINT8, &[bytes as i64], &packed), floats("s", &[scales as i64], &vec![0.5; scales])];
        build
    };
    let graph = weight(12, 6).done(&[]);
    let x: Vec<f32> = (0..24).map(|at| f32::from(u8::from(at % 6 == 5))).collect();
    // Number 5 of a row is the second of block 1: the high half of byte 2 of 4. Zero points are 8.
    let expected = [2, 6, 10].map(|byte: i32| (f64::from((byte * 37 % 256) >> 4) - 8.0) as f32 * 0.5);
    let y = run(&graph, &[tensor(&[1, 4, 6], &x)]);
    assert_values(&y, &[1, 4, 3], &expected.repeat(4));
    refused(&weight(11, 6), "it has 11 bytes of packed numbers, expected 12");
    refused(&weight(12, 5), "it has 5 scales for 3 rows of 2 blocks");
    let with = |name: &'static str, value: i64| {
        let mut build = weight(12, 6);
        build.graph().node[0].attribute.retain(|attribute| attribute.name != name);
        build.int(name, value)
    };
    refused(&with("bits", 3), "its bits are 3; supported are 2, 4 and 8");
    refused(&with("N", -1), "its N is -1");
    refused(&with("K", i64::MAX), "its K is 9223372036854775807");
    refused(&with("N", 1 << 28), "bytes of packed numbers, expected");
    refused(&with("block_size", 0), "its block_size is 0");
    let mut floats_in_place = weight(12, 6);
    floats_in_place.graph().initializer[0] = floats("w", &[12], &[0.0; 12]);
    refused(&floats_in_place, "its packed numbers are of float32, expected uint8");
    let mut reordered = weight(12, 6);
    reordered.graph().node[0].input.extend(["".to_owned(), "g".to_owned()]);
    reordered.graph().initializer.push(ints("g", &[6], &[0, 0, 0, 1, 1, 1]));
    refused(&reordered, "its blocks are in another order (g_idx)");
}

/// A weight of 4 bits with a scale for each block, as a matrix of either order, becomes a group-wise integer weight on request.
#[test]
fn weights_of_blocks_become_groups() {
    let codes: Vec<i32> = (0..24).map(|at| at * 7 % 16).collect();
    let scales: Vec<f32> = (0..6).map(|at| 0.1 + at as f32 * 0.05).collect();
    let zero_points: Vec<i32> = (0..6).map(|at| at * 5 % 16).collect();
    // Eight features in blocks of 4 for three outputs, `[K, N]` or `[N, K]`.
    for (axis, dims, blocks) in [(0, [8, 3], [2, 3]), (1, [3, 8], [3, 2])] {
        let mut build = Build::new(21).input("x", &["batch", "8"]).node("DequantizeLinear", "w s z", "d");
        build = build.int("axis", axis).int("block_size", 4);
        build = build.node("Gemm", "x d", "y").int("transB", axis).output("y");
        build.graph().initializer = vec![
            small("w", ty::UINT8, &dims, &codes.iter().map(|code| code + 120).collect::<Vec<_>>()),
            floats("s", &blocks, &scales),
            small("z", ty::UINT8, &blocks, &[128; 6]),
        ];
        let import = |build: &mut Build, integer_groups| {
            let options = super::super::ImportOptions { integer_groups, ..Default::default() };
            super::super::import::import_with(build.bytes().into(), Default::default(), &options, 1 << 20)
                .expect("imported")
        };
        let float = import(&mut build, false);
        let x = tensor(&[2, 8], &(0..16).map(|at| (at as f32 - 7.0) * 0.3).collect::<Vec<_>>());
        let expected = run(&float, std::slice::from_ref(&x));
        let groups = import(&mut build, true);
        let text = groups.to_string();
        assert!(text.contains("of groups of 4") && text.contains("quantize_dynamic"), "{text}");
        let got = run(&groups, &[x]);
        let values = |y: &Tensor| y.as_f32().expect("floats").to_vec();
        for (a, b) in values(&got).into_iter().zip(values(&expected)) {
            assert!((a - b).abs() < 0.1, "{a} {b}");
        }
        // Zero points of 8 bits do not fit, so that the layer stays float.
        build.graph().initializer[2] = small("z", ty::UINT8, &blocks, &zero_points);
        assert_eq!(import(&mut build, true), import(&mut build, false));
    }
}

/// Packed weights may become larger than four times the file, once for each tensor.
#[test]
fn unpacked_weights_are_not_out_of_proportion() {
    let (n, k) = (256, 512);
    let bytes: Vec<i32> = (0..n * k / 2).map(|at| at * 37 % 256).collect();
    let model = |readers: usize| {
        let mut build = Build::new(17).input("x", &["batch", "512"]);
        for reader in 0..readers {
            build = build.node("MatMulNBits", "x w s", &format!("y{reader}")).output(&format!("y{reader}"));
            build = build.int("N", n.into()).int("K", k.into()).int("bits", 4).int("block_size", 32);
            build.graph().node[reader].domain = "com.microsoft".to_owned();
        }
        let mut packed = small("w", ty::UINT8, &[i64::from(n * k / 2)], &[]);
        packed.raw_data = bytes.iter().map(|&byte| byte as u8).collect::<Vec<u8>>().into();
        build.graph().initializer =
            vec![packed, floats("s", &[i64::from(n * k / 32)], &vec![0.5; (n * k / 32) as usize])];
        let options = super::super::ImportOptions::default();
        super::super::import::import_with(build.bytes().into(), Default::default(), &options, 0)
    };
    assert!(model(1).is_ok(), "{:?}", model(1));
    let error = model(9).expect_err("nine copies").to_string();
    assert!(error.contains("constants would exceed"), "{error}");
}

#[test]
fn heads_and_masks() {
    let packed = |heads: i64, features: i64| {
        let mut build = own("Attention", "x w").int("num_heads", heads);
        let count = 6 * features as usize;
        build.graph().initializer = vec![floats("w", &[6, features], &vec![0.1; count])];
        build
    };
    packed(2, 12).done(&[]);
    refused(&packed(0, 12), "its num_heads is 0, expected from 1 to 65536");
    refused(&packed(1 << 17, 12), "its num_heads is 131072, expected from 1 to 65536");
    let many = Build::new(24).input("x", &["batch", "20000000", "1", "1"]).input("k", &["batch", "1", "1", "1"]);
    refused(&many.node("Attention", "x k k", "y").output("y"), "it has 20000000 heads, expected up to 65536");
    let skip = own("SkipLayerNormalization", "x x v");
    let mut mean = Build { model: skip.model };
    mean.graph().initializer = vec![floats("v", &[6], &[1.0; 6])];
    mean.graph().node[0].output.push("mean".to_owned());
    refused(&mean.output("mean"), "its output mean is read, which is not supported");
    refused(&packed(3, 12), "its 4 features are not those of 3 heads");
    refused(&packed(1, 13), "its 13 features are not those of queries, keys and values of [4, 4, 4]");
    let mask = |dims: &[&str], data_type: i32| {
        let mut build = packed(2, 12);
        build.graph().node[0].input.extend(["".to_owned(), "m".to_owned()]);
        build.graph().input.push(value("m", data_type, dims));
        build
    };
    mask(&["batch", "4"], ty::INT32).done(&[]);
    refused(&mask(&["batch", "5"], ty::INT32), "its mask has shape [rows, 5], which is not supported for 4 keys");
    refused(&mask(&["batch"], ty::FLOAT), "its lengths of sequences are no integers");
    let mut past = packed(2, 12);
    past.graph().node[0].input.extend(["", "", "p"].map(str::to_owned));
    past.graph().initializer.push(floats("p", &[1], &[0.0]));
    refused(&past, "its input 4 is a past state, which is not supported");
    refused(&own("FusedMatMul", "x x").int("transBatchA", 1), "its transBatchA is 1; supported is 0");
    refused(&own("FusedMatMul", "x"), "input 1 is missing");
    refused(&own("QuickGelu", ""), "input 0 is missing");
    refused(&own("Nothing", "x"), "the operator is not supported");
}

#[test]
fn letters_of_axes() {
    let sum = |equation: &'static str, inputs: &str| {
        let build = Build::new(17).input("x", &["batch", "4", "6"]).floats("w", &[6, 2], &[0.5; 12]);
        build.node("Einsum", inputs, "y").text("equation", equation).output("y")
    };
    assert_eq!(ops(&sum("bij,jk->bik", "x w").done(&[])), ["linear"]);
    refused(&sum("b...,jk->bjk", "x w"), "has '.'; supported are letters");
    refused(&sum("bij,jj->bi", "x w"), "has j twice in one term");
    refused(&sum("bij,jk->bz", "x w"), "has z in the result only");
    refused(&sum("bij,ik->bjk", "x w"), "its letter i has lengths [4] and [6]");
    refused(&sum("bij,jk->bik", "x"), "its equation has 2 terms for 1 inputs");
    refused(&sum("bi,jk->bik", "x w"), "its term 0 has 2 letters for [rows, 4, 6]");
    refused(&sum("", "x"), "its term 0 has 0 letters");
}
