//! `Pad` in all modes.

use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use crate::onnx::host::{self, Data, Host};
use crate::onnx::value::{Kind, Run};
use crate::ops::Pad;

/// What the elements of padding are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One value.
    Constant,
    /// The first or the last element.
    Edge,
    /// The elements in reverse order, without the first or the last.
    Reflect,
    /// The elements once more, from the other end.
    Wrap,
}

impl Importer {
    /// Negative padding removes elements.
    pub(in crate::onnx::import) fn pad(&mut self, call: &Call<'_>) -> Values {
        let mode = match call.node.string("mode", "constant")? {
            "constant" => Mode::Constant,
            "edge" => Mode::Edge,
            "reflect" => Mode::Reflect,
            "wrap" => Mode::Wrap,
            other => return Err(format!("its mode is {other}; supported are constant, edge, reflect and wrap")),
        };
        let lengths = self.logical(call.input(0)?);
        let pads = self.list(call, "pads", 1)?.ok_or("it has no pads")?;
        let axes = call.optional(3).map(|axes| self.host(axes)?.integers()).transpose()?;
        let axes = axes.unwrap_or_else(|| (0..lengths.len() as i64).collect());
        if pads.len() != 2 * axes.len() {
            return Err(format!("{} pads for {} axes, expected {}", pads.len(), axes.len(), 2 * axes.len()));
        }
        let mut x = self.run(call.input(0)?)?;
        let rank = self.draft.shape(x.id).rank();
        let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
        for (at, &axis) in axes.iter().enumerate() {
            let ends = [pads[at], pads[at + axes.len()]];
            if ends == [0, 0] {
                continue;
            }
            let axis = self.inner_axis(x, host::axis(axis, lengths.len())?)?;
            let length = self.axis_length(x, axis)? as i64;
            let [start, end] = ends.map(|n| n.min(0).saturating_neg());
            if start.saturating_add(end) > length {
                return Err(format!("it removes {start} and {end} of {length} elements"));
            }
            let left = (length - start - end) as usize;
            x.id = self.cut(&call.part("cut"), x.id, axis, start as usize, left)?;
            let added = ends.map(|n| usize::try_from(n).unwrap_or(0));
            if mode == Mode::Constant {
                [before[axis], after[axis]] = added;
            } else if added != [0, 0] {
                self.budget.take(added[0].saturating_add(added[1]).saturating_add(left), size_of::<u32>())?;
                let indices = mode.indices(left, added)?;
                x.id = self.selected(&call.name, x.id, axis, indices)?;
            }
        }
        if before.iter().chain(&after).all(|&n| n == 0) {
            return one(x);
        }
        if matches!(x.kind, Kind::Quantized { .. }) {
            return Err("it pads quantized values with a constant; supported are floats and integers".to_owned());
        }
        let integers = matches!(x.kind, Kind::Int(_));
        let value = match call.optional(2) {
            Some(value) => Host { dims: Vec::new(), ..(*self.host(value)?).clone() },
            None if integers => Host::new(Vec::new(), Data::I64(vec![0])),
            None => Host::new(Vec::new(), Data::F32(vec![call.node.float("value", 0.0)?])),
        };
        if value.data.len() != 1 {
            return Err("its value is not one number".to_owned());
        }
        let value = if integers { self.integer_constant(&value)? } else { self.host_constant(&value)? };
        let id = self.draft.add(&call.name, Pad { before, after }, &[x.id, value])?;
        one(Run { id, ..x })
    }
}

impl Mode {
    /// The elements of an axis of `length` that a padded axis consists of.
    fn indices(self, length: usize, [before, after]: [usize; 2]) -> Result<Vec<u32>, String> {
        if length == 0 {
            return Err(format!("it repeats elements of an axis of 0, {before} before and {after} after"));
        }
        if self == Self::Reflect && before.max(after) >= length {
            return Err(format!("it reflects {} elements of an axis of {length}", before.max(after)));
        }
        let last = length as i64 - 1;
        let index = |at: i64| match self {
            Self::Constant | Self::Edge => at.clamp(0, last),
            Self::Reflect => last - (last - at.abs()).abs(),
            Self::Wrap => at.rem_euclid(length as i64),
        };
        Ok((-(before as i64)..(length + after) as i64).map(|at| index(at) as u32).collect())
    }
}
