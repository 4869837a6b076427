//! Functions of one element that are computed of others: of sines and cosines, exponentials and logarithms. Known values are computed in
//! `f64`.

use super::importer::Importer;
use super::operator::{Call, Operator};
use crate::graph::NodeId;
use crate::ops::{Add, Binary, BinaryOp, Clamp, Div, Mul, UnaryOp, Where};

macro_rules! function {
    ($known:path, $nodes:path) => {
        Operator::new(|f| f.floats($known), |i, c| i.on_floats(c, $nodes))
    };
}

operators! {
    "Acos" => function!(f64::acos, Importer::acos),
    "Acosh" => function!(f64::acosh, Importer::acosh),
    "Asin" => function!(f64::asin, Importer::asin),
    "Asinh" => function!(f64::asinh, Importer::asinh),
    "Atan" => function!(f64::atan, Importer::atan),
    "Atanh" => function!(f64::atanh, Importer::atanh),
    "Cosh" => function!(f64::cosh, Importer::cosh),
    "Sinh" => function!(f64::sinh, Importer::sinh),
    "Tan" => function!(f64::tan, Importer::tan),
}

/// Up to here, inverse hyperbolic functions are a polynomial: the logarithm of a number close to 1 has few digits.
const SMALL: f32 = 0.2;

impl Importer {
    /// `c[0] + c[1]·z + c[2]·z² + …`.
    fn polynomial(&mut self, call: &Call<'_>, z: NodeId, c: &[f32]) -> Result<NodeId, String> {
        let name = call.part("polynomial");
        let [front @ .., before, last] = c else { return Err("a polynomial of no degree".to_owned()) };
        let mut sum = self.mul_scalar(&name, z, *last)?;
        sum = self.add_scalar(&name, sum, *before)?;
        for c in front.iter().rev() {
            sum = self.draft.add(&name, Mul, &[sum, z])?;
            sum = self.add_scalar(&name, sum, *c)?;
        }
        Ok(sum)
    }

    fn tan(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let sin = self.unary(&call.part("sin"), UnaryOp::Sin, x)?;
        let cos = self.unary(&call.part("cos"), UnaryOp::Cos, x)?;
        self.draft.add(&call.name, Div, &[sin, cos])
    }

    /// `(e^x + e^−x) / 2`.
    fn cosh_named(&mut self, call: &Call<'_>, name: &str, x: NodeId) -> Result<NodeId, String> {
        let up = self.unary(&call.part("exp"), UnaryOp::Exp, x)?;
        let negative = self.mul_scalar(&call.part("negative"), x, -1.0)?;
        let down = self.unary(&call.part("exp.negative"), UnaryOp::Exp, negative)?;
        let sum = self.draft.add(&call.part("sum"), Add, &[up, down])?;
        self.mul_scalar(name, sum, 0.5)
    }

    fn cosh(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        self.cosh_named(call, &call.name, x)
    }

    /// `tanh(x / 2) · (cosh(x) + 1)`, which keeps its digits near 0.
    fn sinh(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let cosh = self.cosh_named(call, &call.part("cosh"), x)?;
        let more = self.add_scalar(&call.part("plus_one"), cosh, 1.0)?;
        let half = self.mul_scalar(&call.part("half"), x, 0.5)?;
        let tanh = self.unary(&call.part("tanh"), UnaryOp::Tanh, half)?;
        self.draft.add(&call.name, Mul, &[tanh, more])
    }

    /// Four times the quarter of the angle, which is up to π/8: `atan(x) = 2 · atan(x / (1 + √(1 + x²)))`, twice. The polynomial is that of
    /// Cephes for such angles.
    fn atan_named(&mut self, call: &Call<'_>, name: &str, x: NodeId) -> Result<NodeId, String> {
        // Beyond 1e9, the result is π/2 in f32.
        let x = self.draft.add(&call.part("bounded"), Clamp { min: -1e9, max: 1e9 }, &[x])?;
        let halved = |i: &mut Self, x: NodeId| {
            let square = i.draft.add(&call.part("square"), Mul, &[x, x])?;
            let more = i.add_scalar(&call.part("plus_one"), square, 1.0)?;
            let root = i.unary(&call.part("root"), UnaryOp::Sqrt, more)?;
            let below = i.add_scalar(&call.part("below"), root, 1.0)?;
            i.draft.add(&call.part("halved"), Div, &[x, below])
        };
        let y = halved(self, x)?;
        let y = halved(self, y)?;
        let z = self.draft.add(&call.part("z"), Mul, &[y, y])?;
        let factor = self.polynomial(call, z, &[1.0, -0.333_329_5, 0.199_777_11, -0.138_776_86, 0.080_537_446])?;
        let angle = self.draft.add(&call.part("angle"), Mul, &[y, factor])?;
        self.mul_scalar(name, angle, 4.0)
    }

    fn atan(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        self.atan_named(call, &call.name, x)
    }

    /// `a · x + b`.
    fn line(&mut self, call: &Call<'_>, part: &str, x: NodeId, a: f32, b: f32) -> Result<NodeId, String> {
        let scaled = self.mul_scalar(&call.part(&format!("{part}.scaled")), x, a)?;
        self.add_scalar(&call.part(part), scaled, b)
    }

    /// `atan(x / √((1 − x)·(1 + x)))`.
    fn asin(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let (less, more) = (self.line(call, "less", x, -1.0, 1.0)?, self.line(call, "more", x, 1.0, 1.0)?);
        let product = self.draft.add(&call.part("product"), Mul, &[less, more])?;
        let root = self.unary(&call.part("cos"), UnaryOp::Sqrt, product)?;
        let tan = self.draft.add(&call.part("tan"), Div, &[x, root])?;
        self.atan_named(call, &call.name, tan)
    }

    /// `2 · atan(√((1 − x) / (1 + x)))`.
    fn acos(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let (less, more) = (self.line(call, "less", x, -1.0, 1.0)?, self.line(call, "more", x, 1.0, 1.0)?);
        let quotient = self.draft.add(&call.part("quotient"), Div, &[less, more])?;
        let tan = self.unary(&call.part("tan"), UnaryOp::Sqrt, quotient)?;
        let half = self.atan_named(call, &call.part("half"), tan)?;
        self.mul_scalar(&call.name, half, 2.0)
    }

    /// `log(x) + log(1 + √(1 ± 1/x²))`, which does not overflow.
    fn inverse_cosh(&mut self, call: &Call<'_>, x: NodeId, sign: f32) -> Result<NodeId, String> {
        let inverse = self.inverse(&call.part("inverse"), x)?;
        let (a, b) = if sign < 0.0 {
            (self.line(call, "less", inverse, -1.0, 1.0)?, self.line(call, "more", inverse, 1.0, 1.0)?)
        } else {
            (inverse, inverse)
        };
        let mut square = self.draft.add(&call.part("square"), Mul, &[a, b])?;
        if sign > 0.0 {
            square = self.add_scalar(&call.part("plus_one"), square, 1.0)?;
        }
        let root = self.unary(&call.part("root"), UnaryOp::Sqrt, square)?;
        let more = self.add_scalar(&call.part("sum"), root, 1.0)?;
        let rest = self.unary(&call.part("rest"), UnaryOp::Log, more)?;
        let log = self.unary(&call.part("log"), UnaryOp::Log, x)?;
        self.draft.add(&call.name, Add, &[log, rest])
    }

    fn acosh(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        self.inverse_cosh(call, x, -1.0)
    }

    /// `x · P(x²)` where `|x|` is small, and elsewhere another value.
    fn small_or(
        &mut self,
        call: &Call<'_>,
        x: NodeId,
        abs: NodeId,
        c: &[f32],
        other: NodeId,
    ) -> Result<NodeId, String> {
        let z = self.draft.add(&call.part("z"), Mul, &[x, x])?;
        let factor = self.polynomial(call, z, c)?;
        let small = self.draft.add(&call.part("small"), Mul, &[x, factor])?;
        let limit = self.number(SMALL);
        let is_small = self.draft.add(&call.part("is_small"), Binary { op: BinaryOp::Less }, &[abs, limit])?;
        self.draft.add(&call.name, Where, &[is_small, small, other])
    }

    fn asinh(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x)?;
        let far = self.inverse_cosh(call, abs, 1.0)?;
        let sign = self.unary(&call.part("sign"), UnaryOp::Sign, x)?;
        let far = self.draft.add(&call.part("far"), Mul, &[sign, far])?;
        self.small_or(call, x, abs, &[1.0, -1.0 / 6.0, 3.0 / 40.0, -15.0 / 336.0], far)
    }

    fn atanh(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let (less, more) = (self.line(call, "less", x, -1.0, 1.0)?, self.line(call, "more", x, 1.0, 1.0)?);
        let quotient = self.draft.add(&call.part("quotient"), Div, &[more, less])?;
        let log = self.unary(&call.part("log"), UnaryOp::Log, quotient)?;
        let far = self.mul_scalar(&call.part("far"), log, 0.5)?;
        let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x)?;
        self.small_or(call, x, abs, &[1.0, 1.0 / 3.0, 0.2, 1.0 / 7.0, 1.0 / 9.0], far)
    }
}
