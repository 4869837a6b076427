//! Quantize and dequantize of one tensor.

use enfold::graph::Op;
use enfold::interp::Interpreter;
use enfold::qparams::{QParams, QuantRange, TensorQParams};
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
        let q = g.node("q", Op::Quantize { qparams: qparams.clone(), range }, &[id])?;
        let dq = g.node("dq", Op::Dequantize { qparams }, &[q])?;
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
