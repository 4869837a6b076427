//! Everything but linear layers.

use ndarray::Array1;

use super::{End, FITS, Fused, Matcher};
use crate::graph::{NodeId, Rewriter};
use crate::numerics::{self, AddMultipliers, MAX_MATMUL_K};
use crate::ops::{
    Clamp, DequantizeDynamic, IntegerAdd, IntegerMatMul, IntegerMatMulDynamic, IntegerMul, Lut, Op, Quantize, Unary,
};
use crate::values::{QParams, QuantRange, Shape, Tensor};

const NOT_INPUTS: &str = "its inputs are not all quantized per tensor";
const NOT_OUTPUT: &str = "its output is not quantized, or others read it before it is";

impl Matcher<'_> {
    /// The codes of all inputs, and what they mean.
    fn operands(&self, id: NodeId) -> Result<Vec<(NodeId, QParams)>, String> {
        let operands = self.graph.node(id).inputs.iter().map(|&input| self.operand(input));
        operands.collect::<Option<_>>().ok_or_else(|| NOT_INPUTS.to_owned())
    }

    /// Equation 8.
    pub(super) fn add(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let operands = self.operands(id)?;
        let [(a, a_qparams), (b, b_qparams)] = operands[..] else { return Err(NOT_INPUTS.to_owned()) };
        let (End::Int8 { qparams, lo, hi }, fused) = self.end(id) else { return Err(NOT_OUTPUT.to_owned()) };
        let scales = [a_qparams.scale(), b_qparams.scale(), qparams.scale()];
        let multipliers = AddMultipliers::new(scales[0], scales[1], scales[2]).ok_or_else(|| {
            let [a, b, y] = scales;
            format!("input scales {a:e} and {b:e} are out of proportion to the output scale {y:e} (equation 8)")
        })?;
        let (a_zero_point, b_zero_point) = (a_qparams.zero_point(), b_qparams.zero_point());
        let op = Op::IntegerAdd(IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi });
        Ok(self.replace(rewriter, fused, op, &[a, b]))
    }

    /// Equation 9 of single elements.
    pub(super) fn mul(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let operands = self.operands(id)?;
        let [(a, a_qparams), (b, b_qparams)] = operands[..] else { return Err(NOT_INPUTS.to_owned()) };
        let (End::Int8 { qparams, lo, hi }, fused) = self.end(id) else { return Err(NOT_OUTPUT.to_owned()) };
        let multiplier = multiplier(a_qparams, b_qparams, Some(qparams))?;
        let (a_zero_point, b_zero_point) = (a_qparams.zero_point(), b_qparams.zero_point());
        let op = Op::IntegerMul(IntegerMul { a_zero_point, b_zero_point, multiplier, qparams, lo, hi });
        Ok(self.replace(rewriter, fused, op, &[a, b]))
    }

    /// Equation 9, static or dynamic.
    pub(super) fn matmul(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let k = self.graph.node(node.inputs[0]).shape.last().expect(FITS);
        let fits = || match k {
            0..=MAX_MATMUL_K => Ok(()),
            _ => Err(format!("it sums {k} products, at most {MAX_MATMUL_K} fit the i32 accumulator (equation 9)")),
        };
        match [0, 1].map(|at| self.dynamic_operand(node.inputs[at])) {
            [Some(a), Some(b)] => return fits().and_then(|()| self.dynamic_matmul(rewriter, id, a, b)),
            [None, None] => {}
            [a, _] => {
                let (dynamic, other) = if a.is_some() { ("left", "right") } else { ("right", "left") };
                return Err(format!("its {dynamic} factor is quantized dynamically, its {other} one is not"));
            }
        }
        let operands = self.operands(id)?;
        let [(a, a_qparams), (b, b_qparams)] = operands[..] else { return Err(NOT_INPUTS.to_owned()) };
        fits()?;
        let (end, fused) = self.end(id);
        let factor = match end {
            End::Int8 { qparams, .. } => multiplier(a_qparams, b_qparams, Some(qparams))?,
            End::Float { .. } => multiplier(a_qparams, b_qparams, None)?,
        };
        let (a_zero_point, b_zero_point) = (a_qparams.zero_point(), b_qparams.zero_point());
        let inputs = [a, b].map(|input| rewriter.get(input).expect(FITS)).to_vec();
        let acc = Op::IntegerMatMul(IntegerMatMul { a_zero_point, b_zero_point });
        let acc = rewriter.add(&node.name, acc, inputs, &node.origin).expect(FITS);
        let factors = vec![factor; node.shape.last().expect(FITS)];
        Ok(self.finish(rewriter, id, acc, end, factors, fused))
    }

    /// Equation 9d. What follows is dynamic again, so only a ReLU is taken in.
    fn dynamic_matmul(
        &self,
        rewriter: &mut Rewriter<'_>,
        id: NodeId,
        [a, a_pairs]: [NodeId; 2],
        [b, b_pairs]: [NodeId; 2],
    ) -> Result<Fused, String> {
        let pairs = &self.graph.node(b_pairs).shape;
        if *pairs != Shape::fixed(&[2]) {
            return Err(format!(
                "its right factor has scales {pairs}, one a row, which vary along the sum; expected [2], one for the tensor \
                 (equation 9d)"
            ));
        }
        let relu = self.only_user(id).filter(|&id| self.is_relu(id));
        let last = relu.unwrap_or(id);
        let inputs = [a, b, a_pairs, b_pairs].map(|input| rewriter.get(input).expect(FITS)).to_vec();
        let op = Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: relu.is_some() });
        let (name, origin) = (&self.graph.node(id).name, &self.graph.node(last).origin);
        let new = rewriter.add(name, op, inputs, origin).expect(FITS);
        rewriter.replace(last, new);
        Ok(relu.into_iter().collect())
    }

    /// The codes and the pairs behind a value that was dequantized dynamically.
    fn dynamic_operand(&self, id: NodeId) -> Option<[NodeId; 2]> {
        let node = self.graph.node(id);
        matches!(node.op, Op::DequantizeDynamic(DequantizeDynamic)).then(|| [node.inputs[0], node.inputs[1]])
    }

    /// A chain of functions of one element between codes: one table, unless it makes NaN of a code that may come.
    pub(super) fn table(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let operands = self.operands(id).map_err(|_| "its input is not quantized per tensor".to_owned())?;
        let (x, x_qparams) = operands[0];
        let mut fused = Vec::new();
        let mut next = Some(id);
        while let Some(function) = next
            && matches!(self.graph.node(function).op, Op::Unary(_) | Op::Clamp(_))
            && self.graph.node(function).float_reason.is_none()
        {
            fused.push(function);
            next = self.only_user(function);
        }
        let chain: Vec<&Op> = fused.iter().map(|&id| &self.graph.node(id).op).collect();
        let Some((quantize, qparams, range)) = next.and_then(|id| self.quantize(id)) else {
            return Err(NOT_OUTPUT.to_owned());
        };
        if let Some((code, function)) = self.nan(x, x_qparams, &fused) {
            let (function, of) =
                (self.graph.node(function), numerics::dequantize(code, x_qparams.scale(), x_qparams.zero_point()));
            let (name, op) = (&function.name, function.op.name());
            return Err(format!(
                "{op} at {name} makes NaN of code {code}, which is {of:e}, and no code stands for NaN"
            ));
        }
        fused.push(quantize);
        let x = rewriter.get(x).expect(FITS);
        let name = &self.graph.node(quantize).name;
        let table = self.table_node(rewriter, quantize, name, x, x_qparams, &chain, (qparams, range));
        rewriter.replace(quantize, table);
        Ok(fused)
    }

    /// The first code among those that `x` may hold of which a chain makes NaN, and the function that does.
    fn nan(&self, x: NodeId, qparams: QParams, chain: &[NodeId]) -> Option<(i32, NodeId)> {
        let range = match &self.graph.node(x).op {
            Op::Quantize(Quantize { range, .. }) => *range,
            _ => QuantRange::INT8,
        };
        (range.quant_min()..=range.quant_max()).find_map(|code| {
            let mut real = numerics::dequantize(code, qparams.scale(), qparams.zero_point());
            let function = chain.iter().find(|&&id| {
                real = apply(&self.graph.node(id).op, real);
                real.is_nan()
            });
            function.map(|&id| (code, id))
        })
    }

    /// What a quantize node makes of codes: the same codes, or a table. False if it reads no codes.
    pub(super) fn requantize(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let (Some((x, x_qparams)), Some((_, qparams, range))) = (self.operand(node.inputs[0]), self.quantize(id))
        else {
            return false;
        };
        let codes = rewriter.get(x).expect(FITS);
        let new = if self.same(x, x_qparams, qparams, range) {
            codes
        } else {
            self.table_node(rewriter, id, &node.name, codes, x_qparams, &[], (qparams, range))
        };
        rewriter.replace(id, new);
        true
    }

    /// Joined codes; inputs with other parameters than the output pass through a table.
    pub(super) fn concat(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let operands = self.operands(id)?;
        let quantize = self.only_user(id).and_then(|id| self.quantize(id));
        let (quantize, qparams, range) = quantize.ok_or_else(|| NOT_OUTPUT.to_owned())?;
        let mut inputs = Vec::with_capacity(operands.len());
        for (at, &(x, x_qparams)) in operands.iter().enumerate() {
            let codes = rewriter.get(x).expect(FITS);
            inputs.push(if self.same(x, x_qparams, qparams, range) {
                codes
            } else {
                let name = format!("{}.input{at}", node.name);
                self.table_node(rewriter, quantize, &name, codes, x_qparams, &[], (qparams, range))
            });
        }
        let name = &self.graph.node(quantize).name;
        let new = rewriter.add(name, node.op.clone(), inputs, &node.origin).expect(FITS);
        rewriter.replace(quantize, new);
        Ok(vec![quantize])
    }

    /// Moved codes, through a table if the output has other parameters.
    pub(super) fn movement(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let (x, x_qparams) = self.operands(id).map_err(|_| "its input is not quantized per tensor".to_owned())?[0];
        let quantize = self.only_user(id).and_then(|id| self.quantize(id));
        let (quantize, qparams, range) = quantize.ok_or_else(|| NOT_OUTPUT.to_owned())?;
        let codes = rewriter.get(x).expect(FITS);
        let same = self.same(x, x_qparams, qparams, range);
        let quantized = &self.graph.node(quantize).name;
        let name = if same { quantized } else { &node.name };
        let mut new = rewriter.add(name, node.op.clone(), vec![codes], &node.origin).expect(FITS);
        if !same {
            new = self.table_node(rewriter, quantize, quantized, new, x_qparams, &[], (qparams, range));
        }
        rewriter.replace(quantize, new);
        Ok(vec![quantize])
    }

    /// Whether codes mean the same, and fit the range, as they are.
    fn same(&self, x: NodeId, x_qparams: QParams, qparams: QParams, range: QuantRange) -> bool {
        let fits = match &self.graph.node(x).op {
            Op::Quantize(Quantize { range: own, .. }) => {
                own.quant_min() >= range.quant_min() && own.quant_max() <= range.quant_max()
            }
            _ => range == QuantRange::INT8,
        };
        x_qparams == qparams && fits
    }

    /// Each code dequantized, passed through the chain and quantized, by the very functions that the graph would apply.
    #[allow(clippy::too_many_arguments)] // One number each, and all of them different.
    fn table_node(
        &self,
        rewriter: &mut Rewriter<'_>,
        quantize: NodeId,
        name: &str,
        codes: NodeId,
        x: QParams,
        chain: &[&Op],
        (y, range): (QParams, QuantRange),
    ) -> NodeId {
        let entry = |code: i8| {
            let real = numerics::dequantize(code.into(), x.scale(), x.zero_point());
            let real = chain.iter().fold(real, |v, op| apply(op, v));
            numerics::quantize(real, y.inv_scale(), y.zero_point(), range.quant_min(), range.quant_max()) as i8
        };
        let table: Array1<i8> = (i8::MIN..=i8::MAX).map(entry).collect();
        let table = self.constant(rewriter, quantize, "table", Tensor::from(table));
        let node = self.graph.node(quantize);
        rewriter.add(name, Op::Lut(Lut { qparams: y }), vec![codes, table], &node.origin).expect(FITS)
    }

    /// Adds an op on codes that stands for the quantize node at the end.
    fn replace(&self, rewriter: &mut Rewriter<'_>, fused: Fused, op: Op, inputs: &[NodeId]) -> Fused {
        if let Some(&last) = fused.last() {
            let node = self.graph.node(last);
            let inputs = inputs.iter().map(|&input| rewriter.get(input).expect(FITS)).collect();
            let new = rewriter.add(&node.name, op, inputs, &node.origin).expect(FITS);
            rewriter.replace(last, new);
        }
        fused
    }
}

/// A function of one element, as the interpreter evaluates it.
fn apply(op: &Op, v: f32) -> f32 {
    match op {
        Op::Unary(Unary { op }) => op.eval(f64::from(v)) as f32,
        Op::Clamp(Clamp { min, max }) => v.clamp(*min, *max),
        _ => v,
    }
}

/// `s_a · s_b / s_y`, or without an output scale `s_a · s_b`.
fn multiplier(a: QParams, b: QParams, y: Option<QParams>) -> Result<f32, String> {
    let y = y.map_or(1.0, |y| y.scale());
    numerics::multiplier(a.scale(), b.scale(), y, 0).ok_or_else(|| {
        let (a, b) = (a.scale(), b.scale());
        format!("input scales {a:e} and {b:e} over {y:e} give a multiplier that is not a normal f32 (equation 9)")
    })
}
