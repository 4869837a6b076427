//! Networks whose parameters come from a safetensors file, by their names.

use std::collections::BTreeMap;

use enfold::graph::{GraphError, NodeId, Weights};
use enfold::interp::Interpreter;
use enfold::ops::{Conv, ConvTranspose, Window};
use enfold::{DType, GraphBuilder, Shape, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A file of tensors.
#[derive(Default)]
struct File(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

/// Values that 8 significant bits hold, so that every type of floats holds them.
fn noise(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed: usize = name.bytes().map(usize::from).sum();
    (0..shape.iter().product()).map(|i| ((i * 37 + seed) % 101) as f32 / 64.0 - 0.75).collect()
}

impl File {
    fn with(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Self {
        let values = noise(name, shape);
        let bytes = match dtype {
            Dtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
            Dtype::I64 => values.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&x| x.to_le_bytes()).collect(),
        };
        self.0.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        type Entry = (Dtype, Vec<usize>, Vec<u8>);
        fn view<'f>((name, (dtype, shape, bytes)): (&'f String, &'f Entry)) -> (&'f str, TensorView<'f>) {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("fits"))
        }
        safetensors::serialize(self.0.iter().map(view).collect::<Vec<_>>(), None).expect("a file")
    }

    fn weights(&self) -> Weights {
        Weights::from_bytes(self.bytes()).expect("a file")
    }
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, noise(name, shape)).expect("fits")
}

type Built = Result<NodeId, GraphError>;

/// Both ways to build a layer give the same bits; a changed parameter gives others.
fn same(
    x: &[usize],
    dtype: DType,
    from_file: impl Fn(&mut GraphBuilder, NodeId) -> Built,
    by_hand: impl Fn(&mut GraphBuilder, NodeId, f32) -> Built,
) {
    let run = |build: &dyn Fn(&mut GraphBuilder, NodeId) -> Built| {
        let mut g = GraphBuilder::new();
        let input = g.typed_input("x", Shape::batched(&x[1..]), dtype).expect("an input");
        let y = build(&mut g, input).expect("a layer");
        let graph = g.finish([y]).expect("a graph");
        let input = match dtype {
            DType::I32 => Tensor::from_i32(x, (0..x.iter().product::<usize>() as i32).collect()).expect("fits"),
            _ => tensor("x", x),
        };
        let y = Interpreter::new(&graph).run(&[input]).expect("run").swap_remove(0);
        y.as_f32().expect("floats").iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let right = run(&|g, x| by_hand(g, x, 0.0));
    assert_eq!(run(&from_file), right);
    assert_ne!(run(&|g, x| by_hand(g, x, 1.0)), right, "the parameters matter");
}

/// A tensor whose first element is larger by `more`.
fn moved(name: &str, shape: &[usize], more: f32) -> Tensor {
    let mut values = noise(name, shape);
    values[0] += more;
    Tensor::from_f32(shape, values).expect("fits")
}

#[test]
fn layers_take_their_parameters_by_name() {
    let file = File::default()
        .with("net.fc1.weight", Dtype::F16, &[4, 3])
        .with("net.fc1.bias", Dtype::BF16, &[4])
        .with("net.fc2.weight", Dtype::BF16, &[2, 3])
        .with("net.conv.weight", Dtype::F16, &[4, 2, 3, 3])
        .with("net.conv.bias", Dtype::F32, &[4])
        .with("net.up.weight", Dtype::F32, &[2, 3, 2, 2])
        .with("net.ln.weight", Dtype::F16, &[3])
        .with("net.ln.bias", Dtype::F32, &[3])
        .with("net.rms.weight", Dtype::F32, &[3])
        .with("net.gn.weight", Dtype::F32, &[2])
        .with("net.gn.bias", Dtype::F32, &[2])
        .with("net.bn.weight", Dtype::F32, &[2])
        .with("net.bn.bias", Dtype::F32, &[2])
        .with("net.bn.running_mean", Dtype::F32, &[2])
        .with("net.bn.running_var", Dtype::F32, &[2])
        .with("net.bn.num_batches_tracked", Dtype::I64, &[])
        .with("net.words.weight", Dtype::BF16, &[5, 3]);
    let weights = file.weights().under("net");
    assert_eq!(weights.names().len(), 17);
    assert_eq!(weights.unused(), weights.names());
    let of = |name: &str, shape: &[usize], more| moved(&format!("net.{name}"), shape, more);
    let (image, floats) = ([2, 2, 4, 4], DType::F32);
    same(
        &[2, 3],
        floats,
        |g, x| g.linear_from(&weights, "fc1", x),
        |g, x, more| g.linear("fc1", x, of("fc1.weight", &[4, 3], more), Some(of("fc1.bias", &[4], 0.0))),
    );
    same(
        &[2, 3],
        floats,
        |g, x| g.linear_from(&weights, "fc2", x),
        |g, x, more| g.linear("fc2", x, of("fc2.weight", &[2, 3], more), None),
    );
    let conv = || Conv::new(Window::new(&[3, 3]));
    same(
        &image,
        floats,
        |g, x| g.conv_from(&weights, "conv", x, conv()),
        |g, x, more| {
            g.conv("conv", x, of("conv.weight", &[4, 2, 3, 3], more), Some(of("conv.bias", &[4], 0.0)), conv())
        },
    );
    let up = || ConvTranspose::new(Window::new(&[2, 2]).with_stride(&[2, 2]));
    same(
        &image,
        floats,
        |g, x| g.conv_transpose_from(&weights, "up", x, up()),
        |g, x, more| g.conv_transpose("up", x, of("up.weight", &[2, 3, 2, 2], more), None, up()),
    );
    same(
        &[2, 3],
        floats,
        |g, x| g.layer_norm_from(&weights, "ln", x, 1e-5),
        |g, x, more| g.layer_norm("ln", x, of("ln.weight", &[3], more), of("ln.bias", &[3], 0.0), 1e-5),
    );
    same(
        &[2, 3],
        floats,
        |g, x| g.rms_norm_from(&weights, "rms", x, 1e-5),
        |g, x, more| g.rms_norm("rms", x, of("rms.weight", &[3], more), 1e-5),
    );
    same(
        &image,
        floats,
        |g, x| g.group_norm_from(&weights, "gn", x, 1, 1e-5),
        |g, x, more| g.group_norm("gn", x, 1, [of("gn.weight", &[2], more), of("gn.bias", &[2], 0.0)], 1e-5),
    );
    same(
        &image,
        floats,
        |g, x| g.batch_norm_from(&weights, "bn", x, 1.0),
        |g, x, more| {
            let part = |part: &str, more| of(&format!("bn.{part}"), &[2], more);
            let parts = [part("running_mean", more), part("running_var", 0.0), part("weight", 0.0), part("bias", 0.0)];
            g.batch_norm("bn", x, parts, 1.0)
        },
    );
    same(
        &[5],
        DType::I32,
        |g, ids| g.embedding_from(&weights, "words", ids),
        |g, ids, more| g.embedding("words", ids, of("words.weight", &[5, 3], more)),
    );
    assert_eq!(weights.unused(), Vec::<String>::new());
}

#[test]
fn what_is_missing_is_named_with_what_is_near() {
    let file = File::default()
        .with("encoder.fc1.weight", Dtype::F32, &[4, 3])
        .with("encoder.fc1.bias", Dtype::F32, &[4])
        .with("encoder.fc1.gain", Dtype::F64, &[4]);
    let weights = file.weights();
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let error = g.linear_from(&weights.under("encoder"), "fcl", x).expect_err("a letter for a digit");
    assert_eq!(
        error.to_string(),
        "weights has no tensor encoder.fcl.weight among 3; the nearest are: \
         encoder.fc1.weight [4, 3], encoder.fc1.bias [4], encoder.fc1.gain [4]"
    );
    let error = weights.tensor("encoder.fc1.gain").expect_err("f64 would lose bits");
    assert!(error.to_string().starts_with("encoder.fc1.gain: its elements are F64, expected one of"), "{error}");
    assert_eq!(weights.unused().len(), 3, "what was refused is not used");
    // A layer that does not fit its input gives both shapes.
    let narrow = g.input("narrow", Shape::rows(2)).expect("an input");
    let error = g.linear_from(&weights, "encoder.fc1", narrow).expect_err("3 features for 2").to_string();
    assert!(error.starts_with("encoder.fc1: ") && error.contains('3') && error.contains('2'), "{error}");
}

#[test]
fn files_that_are_not_sound_are_refused() {
    let bytes = File::default().with("fc1.weight", Dtype::F32, &[4, 3]).bytes();
    assert!(Weights::from_bytes(bytes.clone()).is_ok());
    for (cut, what) in [(4, "4 bytes"), (20, "cut short"), (bytes.len() - 1, "its tensors take 48 bytes")] {
        let error = Weights::from_bytes(&bytes[..cut]).expect_err("cut").to_string();
        assert!(error.starts_with("weights: ") && error.contains(what), "{error}");
    }
    let error = Weights::read("/nowhere/at.all").expect_err("no file").to_string();
    assert!(error.starts_with("/nowhere/at.all: "), "{error}");
}
