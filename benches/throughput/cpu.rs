//! The series on the CPU: the interpreter, the engine, and the bare product of the library rten-gemm.

use std::hint::black_box;

use anyhow::{Context as _, Result, bail, ensure};
use enfold::cpu::Engine;
use enfold::interp::Interpreter;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

use crate::gpu::LeftOut;
use crate::layer::Layer;
use crate::{Prepared, Runner, Series, time};

pub(crate) const SERIES: [&str; 3] = ["cpu reference", "cpu engine", "rten-gemm bare"];

/// Layers with more operations are left out: a run would take long.
const MAX_OPERATIONS: f64 = 5e11;

pub(crate) fn prepare(series: &str, layer: &Layer) -> Result<Prepared> {
    let Layer { rows, k, n, .. } = *layer;
    let operations = 2.0 * rows as f64 * k as f64 * n as f64;
    if operations > MAX_OPERATIONS {
        let max = MAX_OPERATIONS;
        return Ok(LeftOut(format!("{operations:.1e} operations are more than {max:.1e}, the most on the CPU")).into());
    }
    let x = layer.x.clone();
    let (run, compared): (Runner, usize) = match series {
        "cpu reference" => {
            let interpreter = Interpreter::new(&layer.graph);
            let compared = layer.check(series, interpreter.run(&[&x])?[0].as_i8().context("an int8 output")?)?;
            let run = move || {
                black_box(interpreter.run(&[&x])?);
                Ok(())
            };
            (Box::new(move || time(&run)), compared)
        }
        "cpu engine" => {
            let engine = Engine::new(&layer.program)?;
            let compared = layer.check(series, engine.run(&[&x])?[0].as_i8().context("an int8 output")?)?;
            let run = move || {
                black_box(engine.run(&[&x])?);
                Ok(())
            };
            (Box::new(move || time(&run)), compared)
        }
        "rten-gemm bare" => bare(layer)?,
        other => bail!("no series {other}"),
    };
    Ok(Series { run, bytes: n * k + rows * k + rows * n, compared, kernel: None }.into())
}

/// Prepares the library's product alone: prepacked weights, u8 activations, and i32 sums into one buffer that is reused.
fn bare(layer: &Layer) -> Result<(Runner, usize)> {
    let (m, k, n) = (layer.rows, layer.k, layer.n);
    let executor = GemmExecutor::<u8, i8, i32>::new();
    let x: Vec<u8> = layer.x.as_i8().context("int8 values")?.iter().map(|&v| v as u8 ^ 0x80).collect();
    let w = layer.w.as_i8().context("int8 values")?.to_vec();
    let packed = executor.prepack_b(NdTensorView::from_data([n, k], w.as_slice()).transposed());
    let saturates = executor.may_saturate();
    let mut sums = vec![0i32; m * n];
    let mut run = move || -> Result<i32> {
        // For one row the library has a product of a vector, which reads unpacked weights. The engine chooses in the same way.
        let b = if m == 1 {
            GemmInputB::Unpacked(NdTensorView::from_data([n, k], w.as_slice()).transposed())
        } else {
            GemmInputB::Packed(&packed)
        };
        let a = GemmInputA::Unpacked(NdTensorView::from_data([m, k], x.as_slice()));
        if let Err(error) = executor.gemm(&mut sums, a, b, GemmOptions::default()) {
            bail!("{error:?}");
        }
        Ok(black_box(sums[m * n - 1]))
    };
    if !saturates {
        let (x, w) = (layer.x.as_i8().context("int8 values")?, layer.w.as_i8().context("int8 values")?);
        let last = x[(m - 1) * k..].iter().zip(&w[(n - 1) * k..]);
        let expected: i32 = last.map(|(&x, &w)| (i32::from(x) + 128) * i32::from(w)).sum();
        let got = run()?;
        ensure!(got == expected, "rten-gemm bare: the last sum is {got}, expected {expected}");
    }
    Ok((Box::new(move || time(|| run().map(drop))), usize::from(!saturates)))
}
