//! Quantize and dequantize of one tensor.

use enfold::interp::Interpreter;
use enfold::ops::{ChooseQParams, Dequantize, DequantizeDynamic, Op, Quantize, QuantizeDynamic};
use enfold::values::{QParams, QScheme, QuantRange, TensorQParams};
use enfold::{GraphBuilder, Shape};

use super::file::Golden;

pub(super) fn compare(golden: &Golden) -> Result<(), String> {
    let range = QuantRange::new(golden.int("quant_min")?, golden.int("quant_max")?).map_err(|e| e.to_string())?;
    let qparams = if golden.text("kind")? == "quantize_per_channel" {
        let axis = usize::try_from(golden.int("axis")?).map_err(|e| e.to_string())?;
        TensorQParams::per_channel(golden.f32s("in.scale")?, golden.i32s("in.zero_point")?, axis)
    } else {
        QParams::new(golden.float("scale")?, golden.int("zero_point")?).map(TensorQParams::PerTensor)
    };
    let qparams = qparams.map_err(|e| e.to_string())?;

    let x = golden.tensor("in.x")?;
    let mut g = GraphBuilder::new();
    let build = |g: &mut GraphBuilder| {
        let id = g.input("x", Shape::fixed(x.shape()))?;
        let q = g.node("q", Op::Quantize(Quantize::new(qparams.clone(), range)), &[id])?;
        let dq = g.node("dq", Op::Dequantize(Dequantize { qparams }), &[q])?;
        Ok::<_, enfold::graph::GraphError>([q, dq])
    };
    let outputs = build(&mut g).map_err(|e| e.to_string())?;
    let graph = g.finish(outputs).map_err(|e| e.to_string())?;
    let got = Interpreter::new(&graph).run(&[x]).map_err(|e| e.to_string())?;

    let (codes, expected) = (got[0].as_i8().unwrap_or_default(), golden.i8s("out.q")?);
    if let Some(at) = (0..expected.len()).find(|&at| codes.get(at) != Some(&expected[at])) {
        return Err(format!("out.q: element {at} is {:?}, expected {}", codes.get(at), expected[at]));
    }
    let (reals, expected) = (got[1].as_f32().unwrap_or_default(), golden.f32s("out.dq")?);
    if let Some(at) = (0..expected.len()).find(|&at| reals.get(at) != Some(&expected[at])) {
        return Err(format!("out.dq: element {at} is {:?}, expected {}", reals.get(at), expected[at]));
    }
    Ok(())
}

/// Dynamic qparams: scale and zero point, and the quantized values.
pub(super) fn compare_dynamic(golden: &Golden) -> Result<(), String> {
    let per_token = golden.kind == "choose_qparams_per_token_asymmetric";
    let x = golden.tensor("in.x")?;
    let range = QuantRange::new(golden.int("quant_min")?, golden.int("quant_max")?).map_err(|e| e.to_string())?;
    let (qscheme, eps) = if per_token {
        (QScheme::per_token_affine(), f32::EPSILON)
    } else {
        (QScheme::per_tensor_affine(), golden.float("eps")?)
    };
    let mut g = GraphBuilder::new();
    let built = (|| {
        let x = g.input("x", Shape::batched(&x.shape()[1..]))?;
        let pairs = g.node("pairs", Op::ChooseQParams(ChooseQParams { qscheme, range, eps }), &[x])?;
        let q = g.node("q", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, pairs])?;
        let dq = g.node("dq", Op::DequantizeDynamic(DequantizeDynamic), &[q, pairs])?;
        Ok([pairs, q, dq])
    })();
    let outputs = built.map_err(|e: enfold::graph::GraphError| e.to_string())?;
    let graph = g.finish(outputs).map_err(|e| e.to_string())?;
    let run = Interpreter::new(&graph).run(&[x]).map_err(|e| e.to_string())?;
    let pairs = run[0].as_f32().unwrap_or_default();
    let (scales, zero_points): (Vec<f32>, Vec<i32>) = pairs.chunks(2).map(|p| (p[0], p[1] as i32)).unzip();
    if scales != golden.f32s("out.scale")? {
        return Err(format!("scale {scales:?}, expected {:?}", golden.f32s("out.scale")?));
    }
    if zero_points != golden.i32s("out.zero_point")? {
        return Err(format!("zero point {zero_points:?}, expected {:?}", golden.i32s("out.zero_point")?));
    }
    let (codes, expected) = (run[1].as_i8().unwrap_or_default(), golden.i8s("out.q")?);
    if let Some(at) = (0..expected.len()).find(|&at| codes[at] != expected[at]) {
        return Err(format!("element {at} is {}, expected {}", codes[at], expected[at]));
    }
    match golden.f32s("out.dq") {
        Ok(expected) if run[2].as_f32() != Some(expected) => Err("dequantized values differ".to_owned()),
        _ => Ok(()),
    }
}
