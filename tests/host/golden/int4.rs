//! Group-wise weights of 4 bits, by torchao's scheme 8da4w: scales of any float for each group, activations per token.

use enfold::interp::Interpreter;
use enfold::numerics::symmetric_qparams;
use enfold::ops::{ChooseQParams, Dequantize, Op, Quantize, QuantizeDynamic};
use enfold::quantize::{
    ConvertOptions, ObservedSpec, Observer, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare,
    to_integer,
};
use enfold::values::{GroupQParams, QScheme, QuantRange, TensorQParams};
use enfold::{GraphBuilder, Shape, Tensor};

use super::file::Golden;

/// What a file says of its layer.
struct Layer<'g> {
    x: &'g Tensor,
    w: &'g Tensor,
    bias: Option<&'g [f32]>,
    size: usize,
    n: usize,
    k: usize,
    range: QuantRange,
}

impl<'g> Layer<'g> {
    fn new(golden: &'g Golden) -> Result<Self, String> {
        let range = QuantRange::new(golden.int("quant_min")?, golden.int("quant_max")?).map_err(|e| e.to_string())?;
        let (x, w) = (golden.tensor("in.x")?, golden.tensor("in.w")?);
        let size = usize::try_from(golden.int("group_size")?).map_err(|e| e.to_string())?;
        Ok(Self { x, w, bias: golden.f32s("in.bias").ok(), size, n: w.shape()[0], k: w.shape()[1], range })
    }

    /// The scales of the groups by the rule of observers: `max |w| / 7.5`, at least 2⁻²³.
    fn scales(&self) -> Result<Vec<f32>, String> {
        let spec = ObservedSpec {
            range: self.range,
            qscheme: QScheme::per_group_symmetric(self.size).with_bits(4),
            observer: ObserverKind::MinMax,
            eps: f32::EPSILON,
        };
        let mut observer = Observer::new(spec).map_err(|e| e.to_string())?;
        observer.observe(self.w).map_err(|e| e.to_string())?;
        let (lo, hi) = (self.range.quant_min(), self.range.quant_max());
        Ok(observer.min_max().iter().map(|&(min, max)| symmetric_qparams(min, max, lo, hi, spec.eps).0).collect())
    }

    /// The quantized weight, and the weight in real units.
    fn quantized(&self, scales: &[f32]) -> Result<[Tensor; 2], String> {
        let groups =
            GroupQParams::new(self.size, self.k.div_ceil(self.size), scales, &[]).map_err(|e| e.to_string())?;
        let qparams = TensorQParams::PerGroup(groups);
        let mut g = GraphBuilder::new();
        let made = (|| {
            let w = g.constant("w", self.w.clone())?;
            let q = g.node("q", Quantize::new(qparams.clone(), self.range), &[w])?;
            let dq = g.node("dq", Dequantize { qparams }, &[q])?;
            g.finish([q, dq])
        })();
        let graph = made.map_err(|e| e.to_string())?;
        let got = Interpreter::new(&graph).run::<Tensor>(&[]).map_err(|e| e.to_string())?;
        <[Tensor; 2]>::try_from(got).map_err(|_| "two outputs".to_owned())
    }

    /// The result for quantized weights, in f32 in the order of the text: the groups ascend.
    fn product(&self, q: &[i8], scales: &[f32]) -> Result<Vec<f32>, String> {
        let mut g = GraphBuilder::new();
        let made = (|| {
            let x = g.input("x", Shape::rows(self.k))?;
            let (qscheme, range) = (QScheme::per_token_affine(), QuantRange::INT8);
            let qparams = g.node("p", Op::ChooseQParams(ChooseQParams { qscheme, range, eps: f32::EPSILON }), &[x])?;
            let q = g.node("q", QuantizeDynamic { range }, &[x, qparams])?;
            g.finish([qparams, q])
        })();
        let got = Interpreter::new(&made.map_err(|e| e.to_string())?).run(&[self.x]).map_err(|e| e.to_string())?;
        let (qparams, x) = (got[0].as_f32().unwrap_or_default(), got[1].as_i8().unwrap_or_default());
        let bf16 = |s: f32| half::bf16::from_f32(s).to_f32();
        let of_row = self.k.div_ceil(self.size);
        let mut y = Vec::new();
        for (row, x) in x.chunks(self.k).enumerate() {
            let (s_x, z) = (qparams[2 * row], qparams[2 * row + 1]);
            for channel in 0..self.n {
                let mut acc = 0f32;
                for (group, (x, w)) in
                    x.chunks(self.size).zip(q[channel * self.k..][..self.k].chunks(self.size)).enumerate()
                {
                    let s = bf16(scales[channel * of_row + group]);
                    let dot: i32 = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum();
                    let sum: i32 = w.iter().map(|&w| i32::from(w)).sum();
                    acc += dot as f32 * s;
                    acc -= (sum as f32 * z) * s;
                }
                y.push(acc * s_x + self.bias.map_or(0.0, |bias| bias[channel]));
            }
        }
        Ok(y)
    }

    /// The result of the flow, whose group scales are products of integers.
    fn by_flow(&self) -> Result<Vec<f32>, String> {
        let mut g = GraphBuilder::new();
        let made = (|| {
            let x = g.input("x", Shape::rows(self.k))?;
            let bias = self.bias.map(|bias| Tensor::from_f32(&[self.n], bias.to_vec()).expect("fits"));
            let y = g.linear("fc", x, self.w.clone(), bias)?;
            g.finish([y])
        })();
        let graph = made.map_err(|e| e.to_string())?;
        let config = QuantizationConfig::symmetric().dynamic_per_token().weight_bits(4).weight_group(self.size);
        let prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).map_err(|e| e.to_string())?;
        let quantized = convert(&prepared, &ConvertOptions::default()).map_err(|e| e.to_string())?;
        let integers = to_integer(&quantized).map_err(|e| e.to_string())?;
        if !integers.summary().float.is_empty() {
            return Err(format!("a layer is float: {}", integers.summary()));
        }
        let got = Interpreter::new(&integers).run(&[self.x]).map_err(|e| e.to_string())?;
        Ok(got[0].as_f32().unwrap_or_default().to_vec())
    }
}

/// Scales, quantized values, weights and results are equal, bit for bit; the flow's own scales move results by little.
pub(super) fn compare(golden: &Golden) -> Result<(), String> {
    let layer = Layer::new(golden)?;
    let scales = layer.scales()?;
    equal("out.scale", &scales, golden.f32s("out.scale")?)?;
    let [q, weight] = layer.quantized(&scales)?;
    equal("out.q", q.as_i8().unwrap_or_default(), golden.i8s("out.q")?)?;
    equal("out.weight", weight.as_f32().unwrap_or_default(), golden.f32s("out.weight")?)?;
    let expected = golden.f32s("out.y_bf16_scales")?;
    let y = layer.product(golden.i8s("out.q")?, &scales)?;
    equal("out.y_bf16_scales", &y, expected)?;
    // The comparison notices one value that is changed by one.
    let mut changed = golden.i8s("out.q")?.to_vec();
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    if equal("y", &layer.product(&changed, &scales)?, expected).is_ok() {
        return Err("a changed weight goes unnoticed".to_owned());
    }
    // Scales of 8 bits beside those of bf16, which has 8 bits as well: both are off by up to 0.4 %.
    let largest = expected.iter().fold(0f32, |m, y| m.max(y.abs()));
    let apart = layer.by_flow()?.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
    if apart > 0.03 {
        return Err(format!("the flow's result is {apart} of the largest away"));
    }
    Ok(())
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], expected: &[T]) -> Result<(), String> {
    match (0..expected.len().max(got.len())).find(|&at| got.get(at) != expected.get(at)) {
        None => Ok(()),
        Some(at) => Err(format!("{what}: element {at} is {:?}, expected {:?}", got.get(at), expected.get(at))),
    }
}
