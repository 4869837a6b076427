//! Linear layers.

use super::conv::of_patches;
use super::int8_layer::Weight;
use super::step_run::{Output, StepRun};
use crate::numerics::float::products;
use crate::numerics::{FloatProducts, gemm};
use crate::ops::{ImageLayout, Images, Linear, Op, Unfold};
use crate::program::StepOp;
use crate::values::slices::{CHECKED, f32s, i8s, rows_before_last, tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let (shape, rest) = (run.shape, run.rest);
    Some(Ok(match &run.step.op {
        StepOp::QLinear(linear) => {
            let Some(Weight::Int8(layer)) = run.weight else { unreachable!("{CHECKED}") };
            let dynamic_qparams = rest.first().map(|qparams| f32s(qparams));
            let x = run.first.as_deref().expect(CHECKED);
            layer.run(linear, i8s(x), dynamic_qparams, run.fused, shape, run.pool)
        }
        StepOp::Op(Op::Linear(Linear { products: kind })) => {
            let (n, k) = (rest[0].shape()[0], rest[0].shape()[1]);
            let bias = rest.get(1).map(|b| f32s(b));
            let mut y = run.pool.take(rows_before_last(shape) * n);
            let x = run.first.as_deref().expect(CHECKED);
            let mut multiply = |product: &(dyn Fn(&mut [f32], &[f32]) + Sync)| match run.patches {
                Some((Unfold { window }, fill)) => {
                    let images = Images::new(x.shape(), window, ImageLayout::ChannelsLast);
                    of_patches(&mut y, f32s(x), &images, fill, [n, k], product);
                }
                None => product(&mut y, f32s(x)),
            };
            if *kind == FloatProducts::Reproducible {
                let transposed;
                let weight = match run.weight {
                    Some(Weight::Factors(weight)) => &weight[..],
                    _ => {
                        transposed = products::transposed_factors(f32s(rest[0]), n, k);
                        &transposed
                    }
                };
                multiply(&|y, x| products::product(y, &products::factors(x), weight, [n, k], bias));
            } else {
                let packed = match run.weight {
                    Some(Weight::F32(packed)) => Some(&**packed),
                    _ => None,
                };
                // The order of a convolution's sums must not depend on the rows of a block.
                let linear = if run.patches.is_some() { gemm::linear_of_block } else { gemm::linear_into };
                multiply(&|y, x| linear(y, x, [y.len() / n.max(1), n, k], f32s(rest[0]), packed, bias));
            }
            tensor(shape.to_vec(), y)
        }
        _ => return None,
    }))
}
