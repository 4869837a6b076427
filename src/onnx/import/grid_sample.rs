//! `GridSample`: elements of an image at positions that a grid gives, as gathered elements and arithmetic on the grid. What a known grid
//! gives is computed while importing.

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::{Data, Host, Length, show};
use crate::onnx::proto::data_type as ty;
use crate::onnx::value::Value;

operators! {
    "GridSample" => Operator::nodes(Importer::grid_sample),
}

/// What lies outside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// How many elements along each axis count, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One.
    Nearest,
    /// Two, by their distances.
    Linear,
    /// Four, by polynomials of their distances (Keys 1981, with a slope of −0.75).
    Cubic,
}

/// The positions along one axis of an image, as floats, which may lie outside of it.
struct Axis {
    length: usize,
    positions: Value,
}

/// An element of each sum along one axis: its index as an integer, and its weight.
struct Neighbour {
    index: Value,
    weight: Option<Value>,
}

/// Emits operators of ONNX with names that count up.
struct Emit<'i, 'c> {
    importer: &'i mut Importer,
    call: &'c Call<'c>,
    count: usize,
}

impl Emit<'_, '_> {
    fn op(&mut self, op_type: &str, inputs: &[&Value]) -> Result<Value, String> {
        self.count += 1;
        self.importer.emitted(self.call, &format!("{op_type}{}", self.count), op_type, inputs, &[])
    }

    /// An operator with a number.
    fn with(&mut self, op_type: &str, x: &Value, number: f32) -> Result<Value, String> {
        let number = self.importer.number_value(number);
        self.op(op_type, &[x, &number])
    }

    fn cast(&mut self, x: &Value, to: i32) -> Result<Value, String> {
        self.count += 1;
        let part = format!("Cast{}", self.count);
        self.importer.emitted(self.call, &part, "Cast", &[x], &[int_attribute("to", to.into())])
    }

    fn limited(&mut self, x: &Value, low: f32, high: f32) -> Result<Value, String> {
        let x = self.with("Max", x, low)?;
        self.with("Min", &x, high)
    }

    /// Positions that are reflected at two ends until they lie between them.
    fn reflected(&mut self, x: &Value, low: f32, high: f32) -> Result<Value, String> {
        let span = high - low;
        if span <= 0.0 {
            return self.with("Mul", x, 0.0);
        }
        let distance = self.with("Sub", x, low)?;
        let distance = self.op("Abs", &[&distance])?;
        let times = self.with("Div", &distance, span)?;
        let times = self.op("Floor", &[&times])?;
        let whole = self.with("Mul", &times, span)?;
        let rest = self.op("Sub", &[&distance, &whole])?;
        // 1 where it is reflected an odd number of times.
        let half = self.with("Mul", &times, 0.5)?;
        let half = self.op("Floor", &[&half])?;
        let even = self.with("Mul", &half, 2.0)?;
        let odd = self.op("Sub", &[&times, &even])?;
        // rest + odd · (span − 2 · rest).
        let double = self.with("Mul", &rest, -2.0)?;
        let back = self.with("Add", &double, span)?;
        let moved = self.op("Mul", &[&odd, &back])?;
        let sum = self.op("Add", &[&rest, &moved])?;
        self.with("Add", &sum, low)
    }

    /// Positions −1 to 1 of a grid as positions among the elements of an axis.
    fn positions(&mut self, grid: &Value, length: usize, align_corners: bool) -> Result<Value, String> {
        let (span, shift) = if align_corners { (length as f32 - 1.0, 0.0) } else { (length as f32, 0.5) };
        let from_first = self.with("Add", grid, 1.0)?;
        let scaled = self.with("Mul", &from_first, span / 2.0)?;
        if shift == 0.0 { Ok(scaled) } else { self.with("Sub", &scaled, shift) }
    }

    /// Whole positions as indices of elements of the image, and a weight of 0 outside of it where zeros lie there.
    fn neighbour(
        &mut self,
        axis: &Axis,
        whole: &Value,
        weight: Option<Value>,
        padding: Padding,
    ) -> Result<Neighbour, String> {
        let inside = self.limited(whole, 0.0, axis.length as f32 - 1.0)?;
        let index = self.cast(&inside, ty::INT64)?;
        if padding != Padding::Zeros {
            return Ok(Neighbour { index, weight });
        }
        let is_inside = self.op("Equal", &[whole, &inside])?;
        let is_inside = self.cast(&is_inside, ty::FLOAT)?;
        let weight = match weight {
            Some(weight) => self.op("Mul", &[&weight, &is_inside])?,
            None => is_inside,
        };
        Ok(Neighbour { index, weight: Some(weight) })
    }

    /// The elements that count along an axis.
    fn neighbours(
        &mut self,
        axis: &Axis,
        padding: Padding,
        mode: Mode,
        align_corners: bool,
    ) -> Result<Vec<Neighbour>, String> {
        let nearest = mode == Mode::Nearest;
        let last = axis.length as f32 - 1.0;
        let (low, high) = if align_corners { (0.0, last) } else { (-0.5, last + 0.5) };
        let mut x = axis.positions.clone();
        if mode == Mode::Cubic {
            return self.cubic(axis, padding, [low, high]);
        }
        if nearest {
            x = self.op("Round", &[&x])?;
        }
        match padding {
            Padding::Border => x = self.limited(&x, 0.0, last)?,
            Padding::Reflection => x = self.reflected(&x, low, high)?,
            // Farther away, there is nothing but zeros either, and infinity has no difference to its whole part.
            Padding::Zeros => x = self.limited(&x, -2.0, last + 2.0)?,
        }
        if nearest {
            // A reflection at an edge between two elements is rounded again.
            let whole = if padding == Padding::Reflection { self.op("Round", &[&x])? } else { x };
            return Ok(vec![self.neighbour(axis, &whole, None, padding)?]);
        }
        let before = self.op("Floor", &[&x])?;
        let share = self.op("Sub", &[&x, &before])?;
        let negative = self.op("Neg", &[&share])?;
        let rest = self.with("Add", &negative, 1.0)?;
        let after = self.with("Add", &before, 1.0)?;
        let before = self.neighbour(axis, &before, Some(rest), padding)?;
        Ok(vec![before, self.neighbour(axis, &after, Some(share), padding)?])
    }

    /// The four elements around positions. Each of them is moved into the image, not the position.
    fn cubic(&mut self, axis: &Axis, padding: Padding, [low, high]: [f32; 2]) -> Result<Vec<Neighbour>, String> {
        const SLOPE: f32 = -0.75;
        let last = axis.length as f32 - 1.0;
        let x = match padding {
            // Farther away, all four are outside.
            Padding::Zeros | Padding::Border => self.limited(&axis.positions, -3.0, last + 3.0)?,
            Padding::Reflection => axis.positions.clone(),
        };
        let before = self.op("Floor", &[&x])?;
        let share = self.op("Sub", &[&x, &before])?;
        let mut neighbours = Vec::with_capacity(4);
        for step in [-1.0, 0.0, 1.0, 2.0] {
            // The distance from the element, and the polynomial of it, highest power first.
            let distance = self.with("Sub", &share, step)?;
            let distance = self.op("Abs", &[&distance])?;
            let polynomial = if step == 0.0 || step == 1.0 {
                [SLOPE + 2.0, -(SLOPE + 3.0), 0.0, 1.0]
            } else {
                [SLOPE, -5.0 * SLOPE, 8.0 * SLOPE, -4.0 * SLOPE]
            };
            let mut weight = self.with("Mul", &distance, polynomial[0])?;
            for (at, &term) in polynomial[1..].iter().enumerate() {
                weight = self.with("Add", &weight, term)?;
                if at < 2 {
                    weight = self.op("Mul", &[&weight, &distance])?;
                }
            }
            let mut whole = self.with("Add", &before, step)?;
            if padding == Padding::Reflection {
                let place = self.reflected(&whole, low, high)?;
                whole = self.op("Round", &[&place])?;
            }
            neighbours.push(self.neighbour(axis, &whole, Some(weight), padding)?);
        }
        Ok(neighbours)
    }

    /// The sum over the neighbours along all axes: `x` is `[batch, elements, channels]`, indices and weights are `[batch, points]`.
    fn sum(&mut self, x: &Value, axes: &[(usize, Vec<Neighbour>)]) -> Result<Value, String> {
        let corners: usize = axes.iter().map(|(_, neighbours)| neighbours.len()).product();
        let mut sum: Option<Value> = None;
        for corner in 0..corners {
            let (mut at, mut place, mut weight) = (corner, None::<Value>, None::<Value>);
            for (length, neighbours) in axes {
                let neighbour = &neighbours[at % neighbours.len()];
                at /= neighbours.len();
                place = Some(match place {
                    None => neighbour.index.clone(),
                    Some(place) => {
                        let length = Value::Host(Host::new(vec![1], Data::I64(vec![*length as i64])).into());
                        let rows = self.op("Mul", &[&place, &length])?;
                        self.op("Add", &[&rows, &neighbour.index])?
                    }
                });
                weight = match (weight, &neighbour.weight) {
                    (Some(weight), Some(other)) => Some(self.op("Mul", &[&weight, other])?),
                    (weight, other) => weight.or_else(|| other.clone()),
                };
            }
            let place = place.ok_or("its X has no axes behind the channels")?;
            let last = Value::Host(Host::new(vec![1], Data::I64(vec![2])).into());
            let place = self.op("Unsqueeze", &[&place, &last])?;
            self.count += 1;
            let part = format!("corner{corner}");
            let batch_dims = int_attribute("batch_dims", 1);
            let mut term = self.importer.emitted(self.call, &part, "GatherND", &[x, &place], &[batch_dims])?;
            if let Some(weight) = weight {
                let weight = self.op("Unsqueeze", &[&weight, &last])?;
                term = self.op("Mul", &[&term, &weight])?;
            }
            sum = Some(match sum {
                Some(sum) => self.op("Add", &[&sum, &term])?,
                None => term,
            });
        }
        sum.ok_or_else(|| "it sums nothing".to_owned())
    }
}

impl Importer {
    fn grid_sample(&mut self, call: &Call<'_>) -> Values {
        let mode = match call.node.string("mode", "linear")? {
            "linear" | "bilinear" => Mode::Linear,
            "nearest" => Mode::Nearest,
            "cubic" | "bicubic" => Mode::Cubic,
            other => return Err(format!("its mode is {other}; supported are linear, nearest and cubic")),
        };
        let padding = match call.node.string("padding_mode", "zeros")? {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => return Err(format!("its padding_mode is {other}; supported are zeros, border and reflection")),
        };
        let align_corners = call.node.int("align_corners", 0)? != 0;
        let (x, grid) = (call.input(0)?, call.input(1)?);
        let (of_x, of_grid) = (self.logical(x), self.logical(grid));
        let refuse = || format!("its X has shape {}, and its grid {}", show(&of_x), show(&of_grid));
        let known = |lengths: &[Length]| -> Option<Vec<usize>> {
            let known = lengths.iter().map(|length| match length {
                Length::Known(n) => usize::try_from(*n).ok().filter(|n| *n > 0),
                Length::Rows(_) => None,
            });
            known.collect()
        };
        let rank = of_x.len();
        if !(3..=5).contains(&rank) || of_grid.len() != rank || of_x[0] != of_grid[0] {
            return Err(refuse());
        }
        let (dims, points) = (known(&of_x[1..]).ok_or_else(refuse)?, known(&of_grid[1..]).ok_or_else(refuse)?);
        let (channels, image) = (dims[0], &dims[1..]);
        let (&coordinates, to) = points.split_last().ok_or_else(refuse)?;
        if coordinates != image.len() {
            return Err(refuse());
        }
        if mode == Mode::Cubic && image.len() != 2 {
            return Err(format!("its mode is cubic over {} axes, expected 2", image.len()));
        }
        let product = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("it is too large");
        let (elements, points) = (product(image)?, product(to)?);
        let flat = self.in_shape(call, "flat", x, &[0, channels, elements])?;
        let flat = self.moved(call, "elements", &flat, &[0, 2, 1])?;
        let grid = self.in_shape(call, "grid", grid, &[0, points, coordinates])?;
        let mut axes = Vec::with_capacity(image.len());
        for (at, &length) in image.iter().enumerate() {
            // The coordinates of a grid begin with the last axis.
            let place = coordinates - 1 - at;
            let own = self.part_of(call, &format!("axis{at}"), &grid, 2, [place, place + 1])?;
            let own = self.in_shape(call, &format!("positions{at}"), &own, &[0, points])?;
            let mut emit = Emit { importer: self, call, count: 100 * at };
            let positions = emit.positions(&own, length, align_corners)?;
            let neighbours = emit.neighbours(&Axis { length, positions }, padding, mode, align_corners)?;
            axes.push((length, neighbours));
        }
        let mut emit = Emit { importer: self, call, count: 1000 };
        let sum = emit.sum(&flat, &axes)?;
        let back = self.moved(call, "channels", &sum, &[0, 2, 1])?;
        let shape: Vec<i64> = [0, channels].iter().chain(to).map(|&d| d as i64).collect();
        let shape = Value::Host(Host::new(vec![shape.len()], Data::I64(shape)).into());
        self.result(call, "Reshape", &[&back, &shape], &[])
    }
}
