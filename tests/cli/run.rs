//! Tests of `run`, and of the data files that it reads and writes.

use enfold::interp::Interpreter;
use enfold::quantize::to_integer;
use enfold::{Tensor, archive};
use ndarray::{ArrayD, Ix2};
use ndarray_npy::{NpzReader, NpzWriter, ReadNpyExt, WriteNpyExt};

use crate::models::{encoder, mlp};
use crate::space::{Space, has_adapter};

#[test]
fn float_models_run_in_float() {
    let space = Space::new("float_models_run_in_float");
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 7);
    let out = space.ok("run mlp.enfold --input x.safetensors --output y.safetensors --device reference");
    assert!(out.starts_with("y.safetensors: <head>&co [7, 5] (7 rows, "), "{out}");
    let expected = Interpreter::new(&mlp()).run(&[x]).unwrap();
    let [(name, shape, values)] = &space.arrays("y.safetensors")[..] else { panic!("one output") };
    assert_eq!((name.as_str(), shape.as_slice()), ("<head>&co", [7, 5].as_slice()));
    assert_eq!(values.as_slice(), expected[0].as_f32().unwrap());
}

#[test]
fn the_cpu_equals_the_reference() {
    let space = Space::new("the_cpu_equals_the_reference");
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 40);
    space.ok("quantize mlp.enfold --calibrate x.safetensors --output q.enfold");
    for device in ["cpu", "reference"] {
        space.ok(&format!("run q.enfold --input x.safetensors --output {device}.safetensors --device {device}"));
    }
    assert_eq!(space.arrays("cpu.safetensors"), space.arrays("reference.safetensors"));
    let integers = to_integer(&archive::load(space.path("q.enfold")).unwrap()).unwrap();
    let expected = Interpreter::new(&integers).run(&[&x]).unwrap();
    assert_eq!(space.arrays("cpu.safetensors")[0].2, expected[0].as_f32().unwrap());
    // The outputs of the float model differ, so the comparison would notice a run of the wrong graph.
    let float = Interpreter::new(&mlp()).run(&[&x]).unwrap();
    assert_ne!(space.arrays("cpu.safetensors")[0].2, float[0].as_f32().unwrap());
    // Batches of 16, 16 and 8 rows give the same rows.
    space.ok("run q.enfold --input x.safetensors --output batches.safetensors --device cpu --batch-size 16");
    assert_eq!(space.arrays("cpu.safetensors"), space.arrays("batches.safetensors"));
}

#[test]
fn the_gpu_equals_the_reference() {
    let space = Space::new("the_gpu_equals_the_reference");
    if !has_adapter(&space) {
        return;
    }
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 40);
    space.ok("quantize mlp.enfold --calibrate x.safetensors --output q.enfold");
    let out = space.ok("run q.enfold --input x.safetensors --output gpu.safetensors --device gpu");
    assert!(!out.contains("CPU,"), "{out}");
    space.ok("run q.enfold --input x.safetensors --output r.safetensors --device reference");
    assert_eq!(space.arrays("gpu.safetensors"), space.arrays("r.safetensors"));
    space.fails(1, "run q.enfold --input x.safetensors --output z.npz --adapter no-such-adapter", &["no-such-adapter"]);
}

#[test]
fn a_fixed_batch_is_run_again_and_again() {
    let space = Space::new("a_fixed_batch_is_run_again_and_again");
    space.save("encoder.enfold", &encoder());
    space.encoder_data("data.safetensors", 12);
    let run = "run encoder.enfold --input data.safetensors --device cpu";
    let json = space.json(&format!("{run} --output y.safetensors --json"));
    assert_eq!((json["rows"].as_u64(), json["batches"].as_u64()), (Some(12), Some(3)));
    let arrays = space.arrays("y.safetensors");
    let shapes: Vec<_> = arrays.iter().map(|(name, shape, _)| (name.as_str(), shape.clone())).collect();
    assert_eq!(shapes, [("attention.mixed", vec![12, 6, 8]), ("attention.softmax", vec![12, 6, 6])]);
    // The rows of a softmax sum to 1, in the last batch too.
    let last: f32 = arrays[1].2[11 * 36 + 30..].iter().sum();
    assert!((last - 1.0).abs() < 1e-5, "{last}");
    // An .npy file cannot hold two outputs, and rows that fill no batch are refused.
    space.fails(2, &format!("{run} --output y.npy"), &["one array", "2 outputs", ".npz"]);
    space.encoder_data("more.safetensors", 13);
    let more = "run encoder.enfold --input more.safetensors --output z.npz --device cpu";
    space.fails(1, more, &["last 1 of 13 rows", "no batch of 4"]);
    space.fails(2, &format!("{run} --output z.npz --batch-size 2"), &["fixed at 4"]);
}

#[test]
fn numpy_files_go_in_and_out() {
    let space = Space::new("numpy_files_go_in_and_out");
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 3);
    let Tensor::F32(x) = x else { panic!("floats") };
    let x = ArrayD::from(x);
    x.write_npy(std::fs::File::create(space.path("x.npy")).unwrap()).unwrap();
    // NumPy may write f64, and column-major arrays.
    let mut npz = NpzWriter::new_compressed(std::fs::File::create(space.path("x.npz")).unwrap());
    let wide = x.mapv(f64::from).into_dimensionality::<Ix2>().unwrap();
    let columns = wide.t().as_standard_layout().into_owned().reversed_axes();
    npz.add_array("x", &columns).unwrap();
    npz.finish().unwrap();
    for (input, output) in [("x.safetensors", "a.safetensors"), ("x.npy", "b.npy"), ("x.npz", "c.npz")] {
        space.ok(&format!("run mlp.enfold --input {input} --output {output} --device cpu"));
    }
    let expected = &space.arrays("a.safetensors")[0];
    let npy = ArrayD::<f32>::read_npy(std::fs::File::open(space.path("b.npy")).unwrap()).unwrap();
    let mut npz = NpzReader::new(std::fs::File::open(space.path("c.npz")).unwrap()).unwrap();
    assert_eq!(npz.names().unwrap(), ["<head>&co"]);
    let npz: ArrayD<f32> = npz.by_index(0).unwrap();
    assert_eq!((npy.shape(), npy.iter().copied().collect::<Vec<_>>()), (expected.1.as_slice(), expected.2.clone()));
    assert_eq!(npz, npy);
}
