//! The series of dynamic layers, with a scale for each channel or for each group of a weight. A layer has float inputs and outputs, and
//! quantizes each row at run time.

use anyhow::{Context as _, Result, ensure};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare as annotate, to_integer};
use enfold::{GraphBuilder, Shape, Tensor};
use pollster::block_on;

use crate::gpu::{Gpu, LeftOut};
use crate::layer::Sample;
use crate::random::Random;
use crate::{Prepared, Series};

/// The largest permitted difference of outputs, relative to the largest output.
const TOLERANCE: f32 = 1e-6;

/// Prepares a series, whose name says how its weight is quantized.
pub(crate) fn prepare(gpu: &Gpu<'_>, series: &str, shape @ [rows, k, n]: [usize; 3]) -> Result<Prepared> {
    let config = QuantizationConfig::symmetric();
    // Bits of a weight as it is stored; groups of 32 features have a scale of one byte each.
    let (config, weight_bytes) = match series {
        "gpu groups" => (config.weight_bits(4).weight_group(32), n * k / 2 + n * k.div_ceil(32)),
        "gpu groups asymmetric" => {
            (config.weight_bits(4).weight_group(32).asymmetric_weights(), n * k / 2 + 2 * n * k.div_ceil(32))
        }
        _ => (config.per_channel(), n * k),
    };
    if let Some(left_out) = LeftOut::too_large(gpu.context, [rows * k * 4, rows * n * 4]) {
        return Ok(left_out.into());
    }
    let mut random = Random::new((rows + k + n) as u64);
    let mut floats = |len: usize, scale: f32| random.codes(len).into_iter().map(|v| f32::from(v) * scale).collect();
    let weight = Tensor::from_f32(&[n, k], floats(n * k, 1e-3))?;
    let bias = Tensor::from_f32(&[n], floats(n, 1e-2))?;
    let x = Tensor::from_f32(&[rows, k], floats(rows * k, 1e-2))?;
    let mut g = GraphBuilder::new();
    let input = g.input("x", Shape::rows(k))?;
    let y = g.linear("fc", input, weight, Some(bias))?;
    let graph = g.finish([y])?;
    let prepared = annotate(&graph, &WgpuQuantizer::new().set_global(config.dynamic_per_token()))?;
    let integers = to_integer(&convert(&prepared, &ConvertOptions::default())?)?;
    let program = lower(&integers)?;

    let engine = gpu.engine()?;
    let got = block_on(block_on(engine.load(&program))?.run(&[&x]))?;
    let (got, values) = (got[0].as_f32().context("a float output")?, x.as_f32().context("float inputs")?);
    ensure!(got.len() == rows * n, "{series}: {} outputs, expected {}", got.len(), rows * n);
    // The output of a row does not depend on the other rows, so a sample of rows can be compared alone.
    let sample = Sample::of(shape).rows;
    let picked: Vec<f32> = sample.iter().flat_map(|&row| values[row * k..][..k].iter().copied()).collect();
    let picked = Tensor::from_f32(&[sample.len(), k], picked)?;
    let expected = Interpreter::new(&integers).run(&[&picked])?.swap_remove(0);
    let expected = expected.as_f32().context("a float output")?;
    let largest = expected.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    for (at, &row) in sample.iter().enumerate() {
        for (column, (got, expected)) in got[row * n..][..n].iter().zip(&expected[at * n..][..n]).enumerate() {
            let near = (got - expected).abs() <= TOLERANCE * largest;
            ensure!(near, "{series}: row {row}, column {column} is {got}, expected {expected}");
        }
    }
    let run = gpu.runner(engine, &program, bytemuck::cast_slice(values), [rows, rows * n * 4], n * k)?;
    let bytes = weight_bytes + 4 * (rows * k + rows * n);
    Ok(Series { run, bytes, compared: sample.len() * n, kernel: None }.into())
}
