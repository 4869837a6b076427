//! The test with known answers: some drivers sum packed products wrongly, and Vulkan permits other roundings.

mod coop;
mod steps;

use std::collections::BTreeSet;

use steps::Family;

use super::choice::Choice;
use super::engine::{Engine, SplitK};
use super::error::GpuError;
use super::model::Model;
use super::tile::TileShape;
use crate::numerics;
use crate::ops::{Dequantize, Op, Quantize};
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, Value, ValueId, ValueType};
use crate::values::{QParams, QuantRange, Shape, Tensor};

// Past one block of columns, one part of divided features, and two groups of few rows.
const M: usize = 9;
const N: usize = 70;
const K: usize = 150;
/// As many as equation 4 considers, so that sums pass 2^24 and their conversion to float must round.
const FRACTION_BITS: u32 = numerics::MAX_FRACTION_BITS;

/// Runs every kernel of the engine's choice, and the quantize kernels, on values whose results are known.
///
/// # Errors
/// [`GpuError::KnownAnswer`] for the first wrong element.
pub(super) async fn check(engine: &Engine) -> Result<(), GpuError> {
    check_quantize(engine).await?;
    for candidate in &engine.choice.candidates {
        check_tile(engine, candidate.tile, candidate.split_below > 0).await?;
    }
    Ok(())
}

/// Whether a shape that the engine's choice lacks computes correctly here; a driver that cannot compile it is as wrong.
///
/// # Errors
/// [`GpuError::DeviceLost`].
pub(super) async fn is_right(engine: &Engine, tile: TileShape) -> Result<bool, GpuError> {
    match check_tile(engine, tile, true).await {
        Ok(()) => Ok(true),
        Err(GpuError::DeviceLost) => Err(GpuError::DeviceLost),
        Err(error) => {
            log::warn!("{tile:?} is not used: {error}");
            Ok(false)
        }
    }
}

/// Runs the cases of the kernels that a program is the first of its engine to need.
///
/// # Errors
/// [`GpuError::KnownAnswer`] for the first wrong element.
pub(super) async fn check_program(engine: &Engine, program: &Program) -> Result<(), GpuError> {
    // Products of codes are summed in one of two ways.
    let packed_dot = engine.choice.packed_dot;
    let mut needed = Model::kernels(engine, program)?;
    needed.extend(steps::packed(program, !engine.settings.unpacked_weights));
    needed.retain(|kernel| !engine.shared.known().contains(&(*kernel, packed_dot)));
    for family in Family::ALL {
        check_family(engine, family, Some(&needed)).await?;
    }
    engine.shared.known().extend(needed.into_iter().map(|kernel| (kernel, packed_dot)));
    Ok(())
}

/// `needed`: only these kernels.
async fn check_family(
    engine: &Engine,
    family: Family,
    needed: Option<&BTreeSet<&'static str>>,
) -> Result<(), GpuError> {
    let device = |message: String| GpuError::Device { what: "known-answer test".to_owned(), message };
    let case = family.case(needed).map_err(|e| device(e.to_string()))?;
    let Some(case) = case else { return Ok(()) };
    let outputs = Model::load(engine, &case.program).await?.run(&case.inputs).await?;
    let mut expected = case.expected.iter();
    outputs.iter().try_for_each(|output| match expected.next() {
        Some((kernel, expected)) => compare(kernel, bits(output).into_iter(), bits(expected).into_iter()),
        None => Ok(()),
    })
}

/// What is compared of a tensor: codes and integers as they are, floats by their bits, of which NaN has one pattern.
fn bits(tensor: &Tensor) -> Vec<i64> {
    let float = |v: &f32| i64::from(if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() });
    match tensor {
        Tensor::F32(a) => a.iter().map(float).collect(),
        Tensor::I8(a) => a.iter().map(|&v| v.into()).collect(),
        Tensor::I32(a) => a.iter().map(|&v| v.into()).collect(),
        Tensor::I64(a) => a.iter().copied().collect(),
    }
}

/// `divided`: also where K is divided.
async fn check_tile(engine: &Engine, tile: TileShape, divided: bool) -> Result<(), GpuError> {
    let only = |split_k| Choice::only(tile, engine.choice.packed_dot, split_k, engine.choice.coop);
    if divided {
        check_linear(&engine.with(only(SplitK::Always)), tile.kernel().name()).await?;
    }
    let only = only(SplitK::Never);
    let coop = only.coop;
    let only = engine.with(only);
    check_linear(&only, tile.kernel().name()).await?;
    if let Some(coop) = coop {
        check_coop(&only, coop.chunk_vecs as usize).await?;
    }
    Ok(())
}

async fn check_linear(engine: &Engine, kernel: &str) -> Result<(), GpuError> {
    let layer = Layer::new();
    let model = Model::load(engine, &layer.program()?).await?;
    let outputs = model.run(&[layer.x()]).await?;
    let codes = outputs[0].as_i8().unwrap_or_default().iter().map(|&c| i64::from(c));
    compare(&format!("{kernel}_i8_i8"), codes, layer.codes())?;
    let bits = outputs[1].as_f32().unwrap_or_default().iter().map(|v| i64::from(v.to_bits()));
    compare(&format!("{kernel}_i8_f32"), bits, layer.floats().map(|v| i64::from(v.to_bits())))
}

/// What matrix units can get wrong beyond what every kernel can.
async fn check_coop(engine: &Engine, chunk_vecs: usize) -> Result<(), GpuError> {
    let device = |message: String| GpuError::Device { what: "known-answer test".to_owned(), message };
    let layer = coop::CoopLayer::new(chunk_vecs);
    let qparams = QParams::new(1.0, 0).map_err(|e| device(e.to_string()))?;
    let op = StepOp::QLinear(QLinear {
        weight: layer.w.as_slice().into(),
        bits: 8,
        n: layer.n,
        k: layer.k,
        bias: vec![0; layer.n].into(),
        fraction_bits: 0,
        epilogue: Epilogue::Scale { scale: vec![1.0; layer.n].into(), relu: false },
    });
    let (input, output) = (ValueId::new(0), ValueId::new(1));
    let step = Step { name: "known".to_owned(), op, inputs: vec![input], output };
    let values = vec![value("x", Some(qparams), layer.k), value("y", None, layer.n)];
    let program = Program::new(values, Vec::new(), vec![input], vec![output], vec![step]);
    let model = Model::load(engine, &program.map_err(|e| device(e.to_string()))?).await?;
    let x = ndarray::ArrayD::from_shape_vec(vec![layer.m, layer.k], layer.x.clone()).unwrap_or_default();
    let outputs = model.run(&[Tensor::from(x)]).await?;
    let sums = outputs[0].as_f32().unwrap_or_default().iter().map(|&v| v as i64);
    compare("linear_coop", sums, layer.sums().map(i64::from))
}

async fn check_quantize(engine: &Engine) -> Result<(), GpuError> {
    let x =
        [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.499_999_97, 1e-40, 1e9, -1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let device = |message: String| GpuError::Device { what: "known-answer test".to_owned(), message };
    let qparams = QParams::new(1.0, -3).map_err(|e| device(e.to_string()))?;
    let range = QuantRange::INT8;
    let (name, input, codes, floats) = ("known".to_owned(), ValueId::new(0), ValueId::new(1), ValueId::new(2));
    let steps = vec![
        Step {
            name: name.clone(),
            op: StepOp::Op(Op::Quantize(Quantize { qparams: qparams.into(), range })),
            inputs: vec![input],
            output: codes,
        },
        Step {
            name,
            op: StepOp::Op(Op::Dequantize(Dequantize { qparams: qparams.into() })),
            inputs: vec![codes],
            output: floats,
        },
    ];
    let values = vec![value("x", None, x.len()), value("q", Some(qparams), x.len()), value("y", None, x.len())];
    let program =
        Program::new(values, Vec::new(), vec![input], vec![codes, floats], steps).map_err(|e| device(e.to_string()))?;
    let tensor = Tensor::from_f32(&[1, x.len()], x.to_vec()).map_err(|e| device(e.to_string()))?;
    let outputs = Model::load(engine, &program).await?.run(&[tensor]).await?;
    let right = x.map(|x| numerics::quantize(x, qparams.inv_scale(), qparams.zero_point(), -128, 127));
    let codes = outputs[0].as_i8().unwrap_or_default().iter().map(|&c| i64::from(c));
    compare("quantize_f32_i8", codes, right.iter().map(|&c| i64::from(c)))?;
    let bits = outputs[1].as_f32().unwrap_or_default().iter().map(|v| i64::from(v.to_bits()));
    let right = right.map(|q| numerics::dequantize(q, qparams.scale(), qparams.zero_point()));
    compare("dequantize_i8_f32", bits, right.iter().map(|v| i64::from(v.to_bits())))
}

fn value(name: &str, qparams: Option<QParams>, cols: usize) -> Value {
    let value_type = if qparams.is_some() { ValueType::I8 } else { ValueType::F32 };
    Value { name: name.to_owned(), value_type, shape: Shape::rows(cols), qparams }
}

/// Every element, and as many: what was not read back, or was of another type, is no right answer.
fn compare(
    kernel: &str,
    mut actual: impl Iterator<Item = i64>,
    mut expected: impl Iterator<Item = i64>,
) -> Result<(), GpuError> {
    for index in 0.. {
        match (actual.next(), expected.next()) {
            (None, None) => break,
            (Some(actual), Some(expected)) if actual == expected => {}
            (Some(actual), Some(expected)) => {
                return Err(GpuError::KnownAnswer { kernel: kernel.to_owned(), index, actual, expected });
            }
            (more, missing) => {
                let count = |first: Option<i64>, rest: usize| index + usize::from(first.is_some()) + rest;
                let (actual, expected) = (count(more, actual.count()), count(missing, expected.count()));
                let message = format!("known-answer test: {actual} elements, expected {expected}");
                return Err(GpuError::Device { what: kernel.to_owned(), message });
            }
        }
    }
    Ok(())
}

/// A linear layer with extremes, ties, sums beyond 2^24 and saturating multipliers.
struct Layer {
    x: Vec<i8>,
    w: Vec<i8>,
    bias: Vec<i32>,
    multiplier: Vec<f32>,
    scale: Vec<f32>,
}

const ZERO_POINT: i32 = -3;

impl Layer {
    fn new() -> Self {
        let extremes = [-128, 127, -127, -1, 1, 0, 64];
        let pick = |i: usize, step: usize| extremes[(i * step + i / 5) % extremes.len()];
        let mut x: Vec<i8> = (0..M * K).map(|i| pick(i, 3)).collect();
        let mut w: Vec<i8> = (0..N * K).map(|i| pick(i, 5)).collect();
        // The largest sums of either sign.
        x[..K].fill(-128);
        w[N / 2 * K..][..K].fill(-128);
        w[(N / 2 + 1) * K..][..K].fill(127);
        // Channels without weights: their accumulator is the bias.
        const TIES: [i32; 8] = [1, 3, 5, -1, -3, -5, 7, 255];
        const ROUNDED: [i32; 6] = [(1 << 24) + 1, (1 << 24) + 3, -(1 << 24) - 1, (1 << 25) + 6, i32::MAX, 1 - i32::MAX];
        let mut bias: Vec<i32> = (0..N as i32).map(|i| i * 7919 - 200_000).collect();
        let mut multiplier: Vec<f32> = [3e-8f32, 1.0 / 3.0, 1e-6, 1e30, 7e-7].into_iter().cycle().take(N).collect();
        let mut scale: Vec<f32> = [1.0f32, 1e-6, 0.1].into_iter().cycle().take(N).collect();
        for (channel, &b) in TIES.iter().chain(&ROUNDED).enumerate() {
            w[channel * K..][..K].fill(0);
            bias[channel] = b;
            (multiplier[channel], scale[channel]) = if channel < TIES.len() { (0.5, 0.5) } else { (1e-7, 1.0) };
        }
        Self { x, w, bias, multiplier, scale }
    }

    fn program(&self) -> Result<Program, GpuError> {
        let error = |message: String| GpuError::Device { what: "known-answer test".to_owned(), message };
        let qparams = QParams::new(1.0, ZERO_POINT).map_err(|e| error(e.to_string()))?;
        let linear = |output, epilogue| {
            let op = StepOp::QLinear(QLinear {
                weight: self.w.as_slice().into(),
                bits: 8,
                n: N,
                k: K,
                bias: self.bias.as_slice().into(),
                fraction_bits: FRACTION_BITS,
                epilogue,
            });
            Step { name: "known".to_owned(), op, inputs: vec![ValueId::new(0)], output: ValueId::new(output) }
        };
        let multiplier = self.multiplier.as_slice().into();
        let requantize = Epilogue::Requantize { multiplier, zero_point: ZERO_POINT, lo: -128, hi: 127 };
        let scale = Epilogue::Scale { scale: self.scale.as_slice().into(), relu: false };
        let values = vec![value("x", Some(qparams), K), value("q", Some(qparams), N), value("y", None, N)];
        let outputs = vec![ValueId::new(1), ValueId::new(2)];
        let steps = vec![linear(1, requantize), linear(2, scale)];
        Program::new(values, Vec::new(), vec![ValueId::new(0)], outputs, steps).map_err(|e| error(e.to_string()))
    }

    fn x(&self) -> Tensor {
        Tensor::from(ndarray::ArrayD::from_shape_vec(vec![M, K], self.x.clone()).unwrap_or_default())
    }

    /// Equation 4, row by row.
    fn accumulators(&self) -> impl Iterator<Item = (usize, i32)> + '_ {
        (0..M * N).map(|at| {
            let (row, channel) = (&self.x[at / N * K..][..K], at % N);
            let products = row.iter().zip(&self.w[channel * K..][..K]).map(|(&x, &w)| i32::from(x) * i32::from(w));
            (channel, (products.sum::<i32>() << FRACTION_BITS) + self.bias[channel])
        })
    }

    fn codes(&self) -> impl Iterator<Item = i64> + '_ {
        let code = |(n, acc)| numerics::requantize(acc, self.multiplier[n], ZERO_POINT, -128, 127);
        self.accumulators().map(code).map(i64::from)
    }

    fn floats(&self) -> impl Iterator<Item = f32> + '_ {
        self.accumulators().map(|(n, acc)| numerics::scale_accumulator(acc, self.scale[n], false))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::gpu::context::Context;
    use crate::gpu::engine::Options;
    use crate::gpu::pipeline::{GeneralKernel, Key};

    #[test]
    fn the_layer_is_valid_and_covers_what_it_should() {
        let layer = Layer::new();
        assert!(layer.program().is_ok());
        let accs: Vec<i32> = layer.accumulators().map(|(_, acc)| acc).collect();
        assert!(accs.iter().any(|acc| acc.abs() > 1 << 24 && *acc as f32 as i64 != i64::from(*acc)));
        let codes: Vec<i64> = layer.codes().collect();
        assert!(codes.contains(&-128) && codes.contains(&127));
        let inside = codes.iter().filter(|c| (-127..127).contains(*c)).count();
        assert!(inside > codes.len() / 4, "{inside} of {} codes are not saturated", codes.len());
        // Rounding half away from zero would show.
        let away = |(n, acc): (usize, i32)| {
            let v = acc as f32 * layer.multiplier[n];
            (v.abs() + 0.5).floor().copysign(v)
        };
        let even = |(n, acc): (usize, i32)| (acc as f32 * layer.multiplier[n]).round_ties_even();
        assert!(layer.accumulators().any(|a| away(a) != even(a)));
    }

    /// An engine of its own, on the one device of this process; `None` where there is no adapter, and that is allowed.
    fn engine() -> Option<(&'static wgpu::Device, Engine)> {
        static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();
        let context = CONTEXT.get_or_init(|| {
            let name = std::env::var("ENFOLD_ADAPTER").ok();
            pollster::block_on(Context::request(name.as_deref())).expect("an adapter that gives a device")
        });
        let Some(Context { device, queue, .. }) = context else {
            assert!(std::env::var("ENFOLD_ALLOW_NO_GPU").is_ok_and(|v| v == "1"), "no adapter");
            return None;
        };
        let engine = pollster::block_on(Engine::new(device, queue, &Options::default())).expect("an engine");
        Some((device, engine))
    }

    #[test]
    fn every_family_is_right_here_and_notices_a_kernel_that_does_nothing() {
        let Some((device, engine)) = engine() else { return };
        let pipelines = &engine.shared.pipelines;
        for family in Family::ALL {
            pipelines.clear();
            let check = || pollster::block_on(check_family(&engine, family, None));
            check().unwrap_or_else(|e| panic!("{family:?}: {e}"));
            // A layer has kernels for more rows than the case, of which none runs.
            let (layers, others): (Vec<Key>, Vec<Key>) =
                pipelines.keys().into_iter().partition(|key| matches!(key, Key::Linear { .. } | Key::Finish { .. }));
            let sets = others.into_iter().map(|key| vec![key]).chain([layers]).filter(|set| !set.is_empty());
            for keys in sets {
                let kept: Vec<_> = keys.iter().map(|&key| (key, pipelines.replace(device, key, None))).collect();
                let error = check();
                assert!(matches!(error, Err(GpuError::KnownAnswer { .. })), "{family:?} without {keys:?}: {error:?}");
                kept.into_iter().for_each(|(key, pipeline)| drop(pipelines.replace(device, key, pipeline)));
            }
            assert_eq!(check(), Ok(()), "{family:?}");
        }
    }

    /// What a program needs is tested when it is loaded, once.
    #[test]
    fn a_program_is_refused_whose_kernels_are_wrong() {
        let Some((device, engine)) = engine() else { return };
        let program = Family::Mul.case(None).expect("valid").expect("a case").program;
        let load = || pollster::block_on(engine.load(&program)).map(drop);
        let key = Key::General(GeneralKernel::new("mul_flat_i8_i8"));
        engine.shared.pipelines.replace(device, key, None);
        assert!(matches!(load(), Err(GpuError::KnownAnswer { kernel, .. }) if kernel == "mul_flat_i8_i8"));
        engine.shared.pipelines.clear();
        assert_eq!(load(), Ok(()));
        engine.shared.pipelines.replace(device, key, None);
        assert_eq!(load(), Ok(()), "once is enough");
    }

    #[test]
    fn a_wrong_element_is_named() {
        let error = compare("linear_i8_i8", [1, 2, 3].into_iter(), [1, 5, 3].into_iter()).expect_err("differs");
        let kernel = "linear_i8_i8".to_owned();
        assert_eq!(error, GpuError::KnownAnswer { kernel, index: 1, actual: 2, expected: 5 });
    }

    #[test]
    fn answers_that_are_missing_are_wrong() {
        let of = |actual: &[i64], expected: &[i64]| {
            compare("table_i8_i8", actual.iter().copied(), expected.iter().copied()).map_err(|e| e.to_string())
        };
        assert_eq!(of(&[1, 2], &[1, 2]), Ok(()));
        for (actual, expected, numbers) in
            [(&[][..], &[1, 2][..], "0 elements, expected 2"), (&[1, 2, 3], &[1, 2], "3 elements, expected 2")]
        {
            let error = of(actual, expected).expect_err(numbers);
            assert!(error.contains("table_i8_i8") && error.contains(numbers), "{error}");
        }
    }
}
