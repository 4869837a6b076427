//! Linear layers.

use super::int8_layer::Weight;
use super::step_run::{Output, StepRun};
use crate::numerics::float::products;
use crate::numerics::{FloatProducts, gemm};
use crate::ops::{Linear, Op};
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
            if *kind == FloatProducts::Reproducible {
                let (m, x) = (rows_before_last(run.x().shape()), products::factors(f32s(run.x())));
                let mut y = run.pool.take(m * n);
                match run.weight {
                    Some(Weight::Factors(weight)) => products::product(&mut y, &x, weight, [n, k], bias),
                    _ => {
                        let weight = products::transposed_factors(f32s(rest[0]), n, k);
                        products::product(&mut y, &x, &weight, [n, k], bias);
                    }
                }
                return Some(Ok(tensor(shape.to_vec(), y)));
            }
            let m = rows_before_last(run.x().shape());
            let mut y = run.pool.take(m * n);
            let packed = match run.weight {
                Some(Weight::F32(packed)) => Some(&**packed),
                _ => None,
            };
            gemm::linear_into(&mut y, f32s(run.x()), [m, n, k], f32s(rest[0]), packed, bias);
            tensor(shape.to_vec(), y)
        }
        _ => return None,
    }))
}
