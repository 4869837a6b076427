//! Series on the CPU.

use std::hint::black_box;

use anyhow::{Result, bail, ensure};
use enfold::cpu::Engine;
use enfold::interp::Interpreter;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

use crate::layer::Layer;
use crate::{Runner, time};

pub(crate) const SERIES: [&str; 3] = ["cpu reference", "cpu engine", "rten-gemm bare"];

pub(crate) fn runner(series: &str, layer: &Layer) -> Result<Runner> {
    let x = layer.x.clone();
    Ok(match series {
        "cpu reference" => {
            let interpreter = Interpreter::new(&layer.graph);
            layer.check(series, interpreter.run(&[&x])?[0].as_i8().unwrap_or_default())?;
            Box::new(move || {
                time(|| {
                    black_box(interpreter.run(&[&x])?);
                    Ok(())
                })
            })
        }
        "cpu engine" => {
            let engine = Engine::new(&layer.program)?;
            layer.check(series, engine.run(&[&x])?[0].as_i8().unwrap_or_default())?;
            Box::new(move || {
                time(|| {
                    black_box(engine.run(&[&x])?);
                    Ok(())
                })
            })
        }
        "rten-gemm bare" => bare(layer)?,
        other => bail!("no series {other}"),
    })
}

/// The library's product alone: prepacked weights, u8 activations, i32 sums into one buffer that is used again.
fn bare(layer: &Layer) -> Result<Runner> {
    let (m, k, n) = (layer.rows, layer.k, layer.n);
    let executor = GemmExecutor::<u8, i8, i32>::new();
    let x: Vec<u8> = layer.x.as_i8().unwrap_or_default().iter().map(|&v| v as u8 ^ 0x80).collect();
    let w = layer.w.as_i8().unwrap_or_default().to_vec();
    let packed = executor.prepack_b(NdTensorView::from_data([n, k], w.as_slice()).transposed());
    let saturates = executor.may_saturate();
    let mut sums = vec![0i32; m * n];
    let mut run = move || -> Result<i32> {
        // As the engine does: for one row the library has a vector product, which reads the weight as it is.
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
        let (x, w) = (layer.x.as_i8().unwrap_or_default(), layer.w.as_i8().unwrap_or_default());
        let last = x[(m - 1) * k..].iter().zip(&w[(n - 1) * k..]);
        let expected: i32 = last.map(|(&x, &w)| (i32::from(x) + 128) * i32::from(w)).sum();
        let got = run()?;
        ensure!(got == expected, "rten-gemm bare: the last sum is {got}, expected {expected}");
    }
    Ok(Box::new(move || time(|| run().map(drop))))
}
