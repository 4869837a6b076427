//! Linear layers.

#[cfg(feature = "threads")]
use super::conv::PaddedImages;
use super::conv::by_patches;
use super::fusion::{Before, apply_to_all, apply_to_part};
use super::int8_layer::Weight;
use super::quantize::{by_rows, quantize_rows};
use super::step_run::{Output, StepRun};
use crate::kernels::Activations;
use crate::numerics::float::products;
use crate::numerics::{FloatProducts, gemm};
use crate::ops::{ImageLayout, Images, Linear, Op, Unfold};
use crate::parallel::current_num_threads;
use crate::program::StepOp;
use crate::values::slices::{CHECKED, f32s, i8s, rows_before_last, tensor};

/// Rows of a thread from which on an int8 layer quantizes rows as it reads them. Its tasks divide the rows then, so that each is quantized once.
const ROWS_OF_A_THREAD: usize = 64;

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let (shape, rest) = (run.shape, run.rest);
    Some(Ok(match &run.step.op {
        StepOp::QLinear(linear) => {
            let Some(Weight::Int8(layer)) = run.weight else { unreachable!("{CHECKED}") };
            let dynamic_qparams = rest.first().map(|qparams| f32s(qparams));
            let x = run.first.as_deref().expect(CHECKED);
            match (&run.before, dynamic_qparams) {
                (Some(Before::Quantize(range)), Some(qparams)) => {
                    let quantize = |row: usize, q: &mut [i8]| {
                        let x = &f32s(x)[row * linear.k..][..q.len()];
                        quantize_rows(q, x, (qparams, row), linear.k, *range);
                    };
                    if rows_before_last(shape) >= ROWS_OF_A_THREAD * current_num_threads() {
                        let x = Activations::Rows(&quantize);
                        return Some(Ok(layer.run(linear, x, dynamic_qparams, run.fused, shape, run.pool)));
                    }
                    let mut q = run.pool.take_int8(x.len());
                    by_rows(&mut q, linear.k, quantize);
                    let y = layer.run(linear, Activations::Int8(&q), dynamic_qparams, run.fused, shape, run.pool);
                    run.pool.give_int8(q);
                    y
                }
                _ => layer.run(linear, Activations::Int8(i8s(x)), dynamic_qparams, run.fused, shape, run.pool),
            }
        }
        StepOp::Op(Op::Linear(Linear { products: kind })) => {
            let (n, k) = (rest[0].shape()[0], rest[0].shape()[1]);
            let bias = rest.get(1).map(|b| f32s(b));
            let mut y = run.pool.take(rows_before_last(shape) * n);
            let x = run.first.as_deref().expect(CHECKED);
            let images = |window| Images::new(x.shape(), window, ImageLayout::ChannelsLast);
            if *kind == FloatProducts::Reproducible {
                let transposed;
                let weight = match run.weight {
                    Some(Weight::Factors(weight)) => &weight[..],
                    _ => {
                        transposed = products::transposed_factors(f32s(rest[0]), n, k);
                        &transposed
                    }
                };
                let product =
                    |y: &mut [f32], x: &[f32]| products::product(y, &products::factors(x), weight, [n, k], bias);
                match run.before {
                    Some(Before::Patches(Unfold { window }, fill)) => {
                        by_patches(&mut y, (f32s(x), &images(window), fill), [n, k], |y, _, patches| {
                            product(y, patches)
                        });
                    }
                    _ => product(&mut y, f32s(x)),
                }
                apply_to_all(run.fused, &mut y, n);
                return Some(Ok(tensor(shape.to_vec(), y)));
            }
            let packed = match run.weight {
                Some(Weight::F32(packed)) => Some(&**packed),
                _ => None,
            };
            let after = |row: usize, col: usize, cols: usize, y: &mut [f32]| {
                apply_to_part(run.fused, y, row, [col, cols], n);
            };
            let weight = f32s(rest[0]);
            let Some(Before::Patches(Unfold { window }, fill)) = run.before else {
                let sizes = [y.len() / n.max(1), n, k];
                gemm::linear_into(&mut y, f32s(x), sizes, weight, packed, bias, Some(&after));
                return Some(Ok(tensor(shape.to_vec(), y)));
            };
            let images = images(window);
            #[cfg(feature = "threads")]
            if let Some(packed) = packed
                && let Some(padded) = PaddedImages::new(f32s(x), &images, fill)
            {
                padded.convolve(&mut y, n, packed, bias, Some(&after));
                return Some(Ok(tensor(shape.to_vec(), y)));
            }
            by_patches(&mut y, (f32s(x), &images, fill), [n, k], |y, first, patches| {
                let after = |row: usize, col: usize, cols: usize, y: &mut [f32]| after(first + row, col, cols, y);
                // The order of a convolution's sums must not depend on the rows of a block.
                gemm::linear_of_block(y, patches, [y.len() / n.max(1), n, k], weight, packed, bias, Some(&after));
            });
            tensor(shape.to_vec(), y)
        }
        _ => return None,
    }))
}
