//! `Resize`: nearest elements, linear interpolation of images, or weighted sums of elements along one axis after the other.

mod filter;

use self::filter::{Filter, Tap};
use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{self, Length, show};
use crate::onnx::proto::NodeProto;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Add, Mul, ResizeCoordinates, ResizeLinear};
use crate::values::Tensor;

/// The largest length of a resized axis: `f32` holds every index, and every half between two.
const MAX_LENGTH: usize = 1 << 23;

/// How the index of an output becomes a position among the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Of nearest elements only.
    TfHalfPixelForNn,
}

/// How a position between two elements becomes the index of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// The attributes of a node.
#[derive(Debug, Clone, Copy)]
struct Rules {
    coordinates: Coordinates,
    /// `None` if elements are interpolated.
    nearest: Option<Rounding>,
    /// The coefficient of cubic interpolation.
    cubic: Option<f32>,
    /// Whether several elements count where an axis shrinks.
    antialias: bool,
    exclude_outside: bool,
    /// Whether the nearest element is the next one on axes that shrink, as in opset 10.
    old: bool,
    sizes: Sizes,
}

/// How given sizes are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sizes {
    /// As they are.
    Stretch,
    /// All axes have the same factor, with which no size is exceeded.
    NotLarger,
    /// All axes have the same factor, with which each size is reached.
    NotSmaller,
}

/// A resized axis.
#[derive(Debug, Clone, Copy)]
struct Resized {
    input: usize,
    output: usize,
    /// The factor that the file gives; `None` if it gives the length of the output.
    scale: Option<f32>,
}

impl Rules {
    fn new(node: &NodeProto, opset: i64) -> Result<Self, String> {
        // An `Upsample`, and a `Resize` of opset 10, has neither attribute.
        let old = is_old(node, opset);
        let coordinates = match node.string("coordinate_transformation_mode", "half_pixel")? {
            _ if old => Coordinates::Asymmetric,
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
            other => {
                return Err(format!(
                    "its coordinate_transformation_mode is {other}; supported are half_pixel, half_pixel_symmetric, \
                     pytorch_half_pixel, align_corners, asymmetric and tf_half_pixel_for_nn"
                ));
            }
        };
        let rounding = match node.string("nearest_mode", "round_prefer_floor")? {
            _ if old => Rounding::Floor,
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => {
                return Err(format!(
                    "its nearest_mode is {other}; supported are round_prefer_floor, round_prefer_ceil, floor and ceil"
                ));
            }
        };
        let (nearest, cubic) = match node.string("mode", "nearest")? {
            "nearest" => (Some(rounding), None),
            "linear" => (None, None),
            "cubic" => (None, Some(node.float("cubic_coeff_a", -0.75)?)),
            other => return Err(format!("its mode is {other}; supported are nearest, linear and cubic")),
        };
        let flag = |name: &str| node.int(name, 0).map(|flag| flag != 0 && nearest.is_none());
        let (antialias, exclude_outside) = (flag("antialias")?, flag("exclude_outside")?);
        let sizes = match node.string("keep_aspect_ratio_policy", "stretch")? {
            "stretch" => Sizes::Stretch,
            "not_larger" => Sizes::NotLarger,
            "not_smaller" => Sizes::NotSmaller,
            other => {
                return Err(format!(
                    "its keep_aspect_ratio_policy is {other}; supported are stretch, not_larger and not_smaller"
                ));
            }
        };
        Ok(Self { coordinates, nearest, cubic, antialias, exclude_outside, old, sizes })
    }

    /// The operator that interpolates along the axes of an image. `None` if the axes are others, the positions depend on a factor that
    /// does not make a whole number of elements, or no element lies between two others.
    fn image(self, lengths: &[Length], axes: &[(usize, Resized)], x: Run) -> Option<ResizeLinear> {
        let coordinates = match self.coordinates {
            // These two differ from half_pixel where the length is cut off, and where it is 1.
            Coordinates::HalfPixel | Coordinates::HalfPixelSymmetric => ResizeCoordinates::HalfPixel,
            Coordinates::PytorchHalfPixel if axes.iter().all(|(_, axis)| axis.output > 1) => {
                ResizeCoordinates::HalfPixel
            }
            Coordinates::PytorchHalfPixel => return None,
            Coordinates::AlignCorners => ResizeCoordinates::AlignCorners,
            Coordinates::Asymmetric => ResizeCoordinates::Asymmetric,
            Coordinates::TfHalfPixelForNn => return None,
        };
        let whole = |axis: &Resized| {
            let exact = axis.scale.map_or(axis.output as f64, |scale| f64::from(scale) * axis.input as f64);
            (exact - axis.output as f64).abs() <= 1e-6 * exact
        };
        let is_between = |axis: &Resized| {
            let positions = axis.positions(self).unwrap_or_default();
            positions.iter().any(|at| at.clamp(0.0, axis.input as f64 - 1.0).fract() != 0.0)
        };
        let is_plain = axes.iter().all(|(_, axis)| self.filter(*axis).is_none());
        let is_image = self.nearest.is_none() && is_plain && x.merged <= 1 && (3..=4).contains(&lengths.len());
        if !is_image
            || axes.iter().any(|(at, axis)| *at < 2 || !whole(axis))
            || !axes.iter().any(|(_, a)| is_between(a))
        {
            return None;
        }
        let mut output = Vec::with_capacity(2);
        for (at, length) in lengths.iter().enumerate().skip(2) {
            let Length::Known(length) = *length else { return None };
            let resized = axes.iter().find(|(axis, _)| *axis == at).map(|(_, axis)| axis.output);
            output.push(resized.unwrap_or(length as usize));
        }
        Some(ResizeLinear::new(&output).with_coordinates(coordinates))
    }
}

impl Rules {
    /// The filter of an axis, if more than two elements may count.
    fn filter(self, axis: Resized) -> Option<Filter> {
        let scale = axis.scale.map_or(axis.output as f64 / axis.input as f64, f64::from);
        let scale = if self.antialias { scale.min(1.0) } else { 1.0 };
        let filter = Filter { cubic: self.cubic, scale, exclude_outside: self.exclude_outside };
        (self.nearest.is_none() && (self.cubic.is_some() || scale < 1.0)).then_some(filter)
    }
}

impl Importer {
    pub(in crate::onnx::import) fn resize(&mut self, call: &Call<'_>) -> Values {
        let rules = Rules::new(call.node, self.opset)?;
        let mut x = self.run(call.input(0)?)?;
        if rules.nearest.is_none() {
            x = self.float(call, &Value::Run(x))?;
        }
        let lengths = self.logical(&Value::Run(x));
        let axes = self.resized_axes(call, &lengths, rules.sizes)?;
        for (_, resized) in &axes {
            // A constant and the indices of a selection for each element of a sum.
            let taps = rules.filter(*resized).map_or(Ok(2), Filter::taps)?;
            self.budget.take(resized.output, 2 * taps * size_of::<u32>())?;
        }
        if let Some(resize) = rules.image(&lengths, &axes, x) {
            return one(Run { id: self.draft.add(&call.name, resize, &[x.id])?, kind: Kind::Float, ..x });
        }
        for (axis, resized) in axes {
            let axis = self.inner_axis(x, axis)?;
            x.id = self.resized(call, x.id, axis, resized, rules)?;
        }
        one(Run { kind: if rules.nearest.is_some() { x.kind } else { Kind::Float }, ..x })
    }

    /// The axes whose length a node changes.
    fn resized_axes(
        &mut self,
        call: &Call<'_>,
        lengths: &[Length],
        policy: Sizes,
    ) -> Result<Vec<(usize, Resized)>, String> {
        let node = call.node;
        let axes = match node.ints("axes")? {
            Some(axes) => axes.iter().map(|&axis| host::axis(axis, lengths.len())).collect::<Result<Vec<_>, _>>()?,
            None => (0..lengths.len()).collect(),
        };
        if let Some(twice) = (1..axes.len()).find(|&at| axes[..at].contains(&axes[at])) {
            return Err(format!("it resizes axis {} twice", axes[twice]));
        }
        let scales = call.optional(if is_old(node, self.opset) { 1 } else { 2 });
        // Files give an empty tensor in place of an input that is missing.
        let scales = scales.filter(|&value| self.logical(value) != [Length::Known(0)]);
        let scales = match (scales, node.floats("scales")?) {
            (Some(scales), _) => Some(self.host(scales)?.floats().ok_or("its scales are not floats")?.to_vec()),
            // An attribute of opset 7.
            (None, scales) => scales.map(<[f32]>::to_vec),
        };
        let sizes = call.optional(3).filter(|&value| self.logical(value) != [Length::Known(0)]);
        let count = |count: usize, what: &str| match count == axes.len() {
            true => Ok(()),
            false => Err(format!("it has {count} {what} for {} axes", axes.len())),
        };
        let mut resized = Vec::new();
        let batch = || format!("it resizes the batch of its input {}", show(lengths));
        match (scales, sizes) {
            (Some(scales), None) => {
                count(scales.len(), "scales")?;
                for (&axis, scale) in axes.iter().zip(scales).filter(|(_, scale)| *scale != 1.0) {
                    let Length::Known(input) = lengths[axis] else { return Err(batch()) };
                    let output = (input as f32 * scale).floor();
                    if !(1.0..=MAX_LENGTH as f32).contains(&output) {
                        return Err(format!(
                            "its scale {scale} makes {output} of {input} elements, expected from 1 to {MAX_LENGTH}"
                        ));
                    }
                    resized.push((axis, Resized::new(input, output as i64, Some(scale))?));
                }
            }
            (None, Some(sizes)) => {
                let sizes = self.host(sizes)?.shape()?;
                count(sizes.len(), "sizes")?;
                let changes = |(axis, size): &(&usize, &Length)| policy != Sizes::Stretch || lengths[**axis] != **size;
                for (&axis, &size) in axes.iter().zip(&sizes).filter(changes) {
                    let (Length::Known(input), Length::Known(output)) = (lengths[axis], size) else {
                        return Err(batch());
                    };
                    resized.push((axis, Resized::new(input, output, None)?));
                }
                policy.apply(&mut resized)?;
            }
            _ => return Err("it has not exactly one of scales and sizes".to_owned()),
        }
        Ok(resized)
    }

    /// The nodes that resize one axis.
    fn resized(
        &mut self,
        call: &Call<'_>,
        x: NodeId,
        axis: usize,
        resized: Resized,
        rules: Rules,
    ) -> Result<NodeId, String> {
        let positions = resized.positions(rules)?;
        let last = resized.input as f64 - 1.0;
        if let Some(mut rounding) = rules.nearest {
            if rules.old && resized.scale.is_some_and(|scale| scale < 1.0) {
                rounding = Rounding::Ceil;
            }
            let indices = positions.into_iter().map(|at| rounding.round(at).clamp(0.0, last) as u32).collect();
            return self.selected(&call.name, x, axis, indices);
        }
        if let Some(filter) = rules.filter(resized) {
            let taps = filter.at(&positions, resized.input)?;
            return self.sum_of_taps(call, x, axis, taps);
        }
        let positions: Vec<f64> = positions.into_iter().map(|at| at.clamp(0.0, last)).collect();
        let floor: Vec<u32> = positions.iter().map(|at| at.floor() as u32).collect();
        if positions.iter().zip(&floor).all(|(&at, &floor)| at == f64::from(floor)) {
            return self.selected(&call.name, x, axis, floor);
        }
        let next = floor.iter().map(|&at| (at + 1).min(last as u32)).collect();
        let shares: Vec<f32> =
            positions.iter().zip(&floor).map(|(at, &floor)| (at - f64::from(floor)) as f32).collect();
        let before = Tap { indices: floor, weights: shares.iter().map(|share| 1.0 - share).collect() };
        let after = Tap { indices: next, weights: shares };
        self.sum_of_taps(call, x, axis, vec![before, after])
    }

    /// The sum of elements with weights, each of a selection along an axis.
    fn sum_of_taps(&mut self, call: &Call<'_>, x: NodeId, axis: usize, taps: Vec<Tap>) -> Result<NodeId, String> {
        let mut dims = vec![1; self.draft.shape(x).rank() - axis];
        let count = taps.len();
        let mut sum = None;
        for (at, Tap { indices, weights }) in taps.into_iter().enumerate() {
            let part = call.part(&format!("tap{at}"));
            let selected = self.selected(&part, x, axis, indices)?;
            let part = format!("{part}.share");
            let term = match weights[..] {
                [weight] => self.mul_scalar(&part, selected, weight)?,
                _ => {
                    dims[0] = weights.len();
                    let weights = Tensor::from_f32(&dims, weights).map_err(|e| e.to_string())?;
                    let weights = self.draft.constant("", weights);
                    self.draft.add(&part, Mul, &[selected, weights])?
                }
            };
            let name = if at + 1 == count { call.name.clone() } else { call.part(&format!("sum{at}")) };
            sum = Some(match sum {
                Some(sum) => self.draft.add(&name, Add, &[sum, term])?,
                None => term,
            });
        }
        sum.ok_or_else(|| "it sums no elements".to_owned())
    }
}

/// Whether a node has the rules of `Upsample`, which `Resize` has in opset 10 too.
fn is_old(node: &NodeProto, opset: i64) -> bool {
    node.op_type == "Upsample" || opset < 11
}

impl Sizes {
    /// Gives all axes the same factor, unless they may be stretched.
    fn apply(self, axes: &mut [(usize, Resized)]) -> Result<(), String> {
        let factors = axes.iter().map(|(_, axis)| axis.output as f32 / axis.input as f32);
        let scale = match self {
            Self::Stretch => return Ok(()),
            Self::NotLarger => factors.fold(f32::INFINITY, f32::min),
            Self::NotSmaller => factors.fold(0.0, f32::max),
        };
        for (_, axis) in axes {
            let output = (axis.input as f32 * scale + 0.5).floor();
            *axis = Resized::new(axis.input as i64, output as i64, Some(scale))?;
        }
        Ok(())
    }
}

impl Resized {
    fn new(input: i64, output: i64, scale: Option<f32>) -> Result<Self, String> {
        let most = MAX_LENGTH as i64;
        if !(1..=most).contains(&input) || !(1..=most).contains(&output) {
            return Err(format!("it makes {output} of {input} elements, expected from 1 to {MAX_LENGTH} of both"));
        }
        Ok(Self { input: input as usize, output: output as usize, scale })
    }

    /// The position of each output among the inputs.
    fn positions(self, Rules { coordinates, nearest, .. }: Rules) -> Result<Vec<f64>, String> {
        let (input, output) = (self.input as f64, self.output as f64);
        // The length before it is rounded down.
        let exact = self.scale.map_or(output, |scale| f64::from(scale) * input);
        if coordinates == Coordinates::AlignCorners && (exact - output).abs() > 1e-3 {
            return Err(format!(
                "its scale makes {exact:.3} of {input} elements, of which it has {output}; align_corners has no corner there"
            ));
        }
        // As ONNX Runtime does, a scale is divided by in `f32`, where a third of 3 is 1; of a length that the file gives, if a position is
        // rounded down or up.
        let is_rounded = matches!(nearest, Some(Rounding::Floor | Rounding::Ceil));
        let scale = self.scale.or_else(|| is_rounded.then(|| self.output as f32 / self.input as f32));
        let unscaled = |at: f64| match scale {
            Some(scale) => f64::from(at as f32 / scale),
            None => at * input / output,
        };
        let centre = |at: f64| unscaled(at + 0.5) - 0.5;
        // In `f32`, as ONNX Runtime does.
        let offset = input as f32 / 2.0 * (1.0 - output as f32 / exact as f32);
        let symmetric = |at: f64| match scale {
            Some(scale) => f64::from(offset + (at as f32 + 0.5) / scale - 0.5),
            None => f64::from(offset) + centre(at),
        };
        let position = |at: f64| match coordinates {
            Coordinates::HalfPixel => centre(at),
            Coordinates::HalfPixelSymmetric => symmetric(at),
            Coordinates::PytorchHalfPixel if self.output == 1 => 0.0,
            Coordinates::PytorchHalfPixel => centre(at),
            Coordinates::AlignCorners if self.output == 1 => 0.0,
            Coordinates::AlignCorners => at * (input - 1.0) / (output - 1.0),
            Coordinates::Asymmetric => unscaled(at),
            Coordinates::TfHalfPixelForNn => unscaled(at + 0.5),
        };
        Ok((0..self.output).map(|at| position(at as f64)).collect())
    }
}

impl Rounding {
    fn round(self, at: f64) -> f64 {
        match self {
            Self::PreferFloor => (at - 0.5).ceil(),
            Self::PreferCeil => (at + 0.5).floor(),
            Self::Floor => at.floor(),
            Self::Ceil => at.ceil(),
        }
    }
}
