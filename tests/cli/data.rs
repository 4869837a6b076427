//! Tests of data that do not fit the model.

use enfold::values::DType;
use enfold::{GraphBuilder, Shape, Tensor};
use ndarray_npy::WriteNpyExt;

use crate::models::{encoder, mlp};
use crate::space::{Space, has_adapter};

#[test]
fn all_that_does_not_fit_is_one_error() {
    let space = Space::new("all_that_does_not_fit_is_one_error");
    space.save("encoder.enfold", &encoder());
    space.data(
        "x.safetensors",
        &[
            ("ids", &Tensor::from_f32(&[4, 6], vec![0.0; 24]).unwrap()),
            ("biass", &Tensor::from_f32(&[4, 6, 8], vec![0.0; 192]).unwrap()),
        ],
    );
    let parts = [
        "ids is f32, expected i32",
        "bias is missing",
        "expected ids i32 [4, 6], bias f32 [4, 6, 8]",
        "there is biass f32 [4, 6, 8], ids f32 [4, 6]",
    ];
    for command in [
        "run encoder.enfold --input x.safetensors --output y.npz --device cpu",
        "quantize encoder.enfold --calibrate x.safetensors --output q.enfold",
        "bench encoder.enfold --input x.safetensors --device cpu",
    ] {
        space.fails(1, command, &parts);
    }
    space.save("mlp.enfold", &mlp());
    space.data("wide.safetensors", &[("x", &Tensor::from_f32(&[4, 13], vec![0.0; 52]).unwrap())]);
    let wide = "run mlp.enfold --input wide.safetensors --output y.npz";
    space.fails(1, wide, &["x has shape [4, 13], expected [rows, 12]"]);
    let one = ndarray::ArrayD::<f32>::zeros(vec![4, 6]);
    one.write_npy(std::fs::File::create(space.path("one.npy")).unwrap()).unwrap();
    let one = "run encoder.enfold --input one.npy --output y.npz";
    space.fails(1, one, &["ids is missing", "one array without a name", "use .npz"]);
}

#[test]
fn rows_of_two_inputs_must_agree() {
    let space = Space::new("rows_of_two_inputs_must_agree");
    let mut g = GraphBuilder::new();
    let (a, b) = (g.input("a", Shape::rows(2)).unwrap(), g.input("b", Shape::rows(2)).unwrap());
    let y = g.add("y", a, b).unwrap();
    space.save("sum.enfold", &g.finish([y]).unwrap());
    let rows = |n: usize| Tensor::from_f32(&[n, 2], vec![1.0; 2 * n]).unwrap();
    space.data("x.safetensors", &[("a", &rows(3)), ("b", &rows(4))]);
    space.fails(1, "run sum.enfold --input x.safetensors --output y.npz", &["b has 4 rows, but a has 3"]);
    space.data("x.safetensors", &[("a", &rows(3)), ("b", &rows(3)), ("c", &rows(1))]);
    let ran = space.enfold("run sum.enfold --input x.safetensors --output y.safetensors --device cpu");
    assert_eq!((ran.code, ran.err.contains("no input of the model is called c")), (Some(0), true), "{ran:?}");
    assert_eq!(space.arrays("y.safetensors")[0].2, [2.0; 6]);
}

#[test]
fn ids_that_do_not_fit_are_named() {
    let space = Space::new("ids_that_do_not_fit_are_named");
    let mut g = GraphBuilder::new();
    let ids = g.typed_input("ids", Shape::rows(1), DType::I32).unwrap();
    let table = Tensor::from_f32(&[3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let y = g.embedding("rows", ids, table).unwrap();
    space.save("table.enfold", &g.finish([y]).unwrap());
    let run = "run table.enfold --input x.safetensors --output y.safetensors --device cpu";
    space.data("x.safetensors", &[("ids", &Tensor::from_i64(&[2, 1], vec![1, 5_000_000_000]).unwrap())]);
    space.fails(1, run, &["ids: element 1 is 5000000000, which does not fit i32"]);
    // The id fits i32, but the embedding table has no such row.
    space.data("x.safetensors", &[("ids", &Tensor::from_i64(&[2, 1], vec![1, 3]).unwrap())]);
    space.fails(1, run, &["id 3", "rows 0 to 2"]);
    if has_adapter(&space) {
        space.fails(1, &run.replace("cpu", "gpu"), &["id 3", "rows 0 to 2"]);
    }
    space.data("x.safetensors", &[("ids", &Tensor::from_i8(&[2, 1], vec![2, 0]).unwrap())]);
    space.ok(run);
    assert_eq!(space.arrays("y.safetensors")[0].2, [5.0, 6.0, 1.0, 2.0]);
}

#[test]
fn values_that_cannot_be_calibrated_with_are_named() {
    let space = Space::new("values_that_cannot_be_calibrated_with_are_named");
    space.save("mlp.enfold", &mlp());
    let mut x = vec![0.5; 24];
    x[13] = f32::NAN;
    space.data("x.safetensors", &[("x", &Tensor::from_f32(&[2, 12], x).unwrap())]);
    let quantize = "quantize mlp.enfold --calibrate x.safetensors --output q.enfold";
    space.fails(1, quantize, &["x.safetensors", "element 13", "NaN"]);
    // A quantized model refuses NaN on every device.
    space.ok("quantize mlp.enfold --dynamic --output q.enfold");
    for device in ["cpu", "reference", "gpu"] {
        if device != "gpu" || has_adapter(&space) {
            let run = format!("run q.enfold --input x.safetensors --output y.npz --device {device}");
            space.fails(1, &run, &["input x", "element 13", "NaN"]);
        }
    }
}

#[test]
fn data_shorter_than_its_shape_is_refused() {
    let space = Space::new("data_shorter_than_its_shape_is_refused");
    space.save("mlp.enfold", &mlp());
    let array = ndarray::ArrayD::<f32>::zeros(vec![2, 12]);
    let mut npy = Vec::new();
    array.write_npy(&mut npy).unwrap();
    // The changed header has the same length, and a shape that no memory can hold.
    let at = npy.windows(7).position(|bytes| bytes == b"(2, 12)").unwrap();
    let mut huge = npy.clone();
    huge.splice(at..at + 7, *b"(200000000000, 12)");
    let end = huge.iter().position(|byte| *byte == b'\n').unwrap();
    huge.drain(end - 11..end);
    assert_eq!(huge.len(), npy.len());
    std::fs::write(space.path("huge.npy"), &huge).unwrap();
    let run = "run mlp.enfold --output y.npy --device cpu --input";
    space.fails(1, &format!("{run} huge.npy"), &["huge.npy", "cut short", "2400000000000 elements"]);
    std::fs::write(space.path("short.npy"), &npy[..npy.len() - 4]).unwrap();
    space.fails(1, &format!("{run} short.npy"), &["short.npy"]);
    let mut zip = zip::ZipWriter::new(std::fs::File::create(space.path("huge.npz")).unwrap());
    zip.start_file("x.npy", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut zip, &huge).unwrap();
    zip.finish().unwrap();
    space.fails(1, &format!("{run} huge.npz"), &["array x.npy", "cut short"]);
    std::fs::write(space.path("whole.npy"), &npy).unwrap();
    space.ok(&format!("{run} whole.npy"));
}

#[test]
#[cfg(unix)]
fn links_and_pipes_are_written_to_and_not_replaced() {
    let space = Space::new("links_and_pipes_are_written_to_and_not_replaced");
    space.save("mlp.enfold", &mlp());
    std::fs::write(space.path("target.enfold"), "").unwrap();
    std::os::unix::fs::symlink("target.enfold", space.path("link.enfold")).unwrap();
    space.ok("quantize mlp.enfold --dynamic --output link.enfold");
    assert!(std::fs::symlink_metadata(space.path("link.enfold")).unwrap().is_symlink());
    assert!(std::fs::metadata(space.path("target.enfold")).unwrap().len() > 0);
    space.ok("quantize mlp.enfold --dynamic --output /dev/null");
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}
