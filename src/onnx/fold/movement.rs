//! What moves, repeats or makes elements.

use super::{Fold, Folded};
use crate::onnx::dims::elements;
use crate::onnx::external::Folders;
use crate::onnx::host::{self, Data, Host, Length, NEEDS_ROWS, Walk, axis, kept, strides};
use crate::onnx::slices::{self, Part};
use crate::onnx::tensor::Stored;

impl Fold<'_> {
    pub(super) fn movement(&mut self) -> Folded {
        let one = |host: Host| Ok(Some(vec![host]));
        match self.node.op_type.as_str() {
            "Identity" => one((*self.input(0)?).clone()),
            "Dropout" => {
                if let Some(training) = self.optional(2)
                    && training.scalar() != Some(0.0)
                {
                    return Err("it drops elements, as in training".to_owned());
                }
                one((*self.input(0)?).clone())
            }
            "Reshape" => one(self.reshape()?),
            "Flatten" => {
                let x = self.input(0)?;
                let target = slices::flatten(&x.logical(), self.node.int("axis", 1)?)?;
                one(self.reshaped(&x, target)?)
            }
            "Squeeze" => {
                let x = self.input(0)?;
                let target = slices::squeeze(&x.logical(), self.list("axes", 1)?.as_deref())?;
                one(self.reshaped(&x, target)?)
            }
            "Unsqueeze" => {
                let x = self.input(0)?;
                let axes = self.list("axes", 1)?.ok_or("it has no axes")?;
                one(self.reshaped(&x, slices::unsqueeze(&x.logical(), &axes)?)?)
            }
            "Transpose" => one(self.transpose()?),
            "Concat" => one(self.concat()?),
            "Slice" => one(self.slice()?),
            "Split" => Ok(Some(self.split()?)),
            "Gather" => one(self.gather()?),
            "GatherElements" => one(self.gather_elements()?),
            "Expand" => one(self.expand()?),
            "Tile" => one(self.tile()?),
            "ConstantOfShape" => one(self.constant_of_shape()?),
            "Range" => one(self.range()?),
            "Trilu" => one(self.trilu()?),
            _ => Ok(None),
        }
    }

    fn take(&mut self, x: &Host, count: usize) -> Result<(), String> {
        self.budget.take(count, x.data.size())
    }

    /// The elements of `x` at some places, as a tensor of shape `dims`.
    fn picked(&mut self, x: &Host, dims: Vec<usize>, places: impl Iterator<Item = usize>) -> Result<Host, String> {
        let count = elements(&dims).ok_or_else(|| format!("shape {dims:?} is too large"))?;
        self.take(x, count)?;
        Ok(Host { rows: x.rows, data: x.data.pick(places), dims, data_type: x.data_type, name: x.name.clone() })
    }

    fn reshape(&mut self) -> Result<Host, String> {
        let x = self.input(0)?;
        let target = self.input(1)?.shape()?;
        let target = host::reshape(&x.logical(), &target, self.node.int("allowzero", 0)? != 0)?;
        self.reshaped(&x, target)
    }

    fn reshaped(&mut self, x: &Host, target: Vec<Length>) -> Result<Host, String> {
        let (rows, dims) = kept(&target)?;
        if rows != x.rows {
            return Err(NEEDS_ROWS.to_owned());
        }
        self.take(x, x.data.len())?;
        Ok(Host { dims, ..x.clone() })
    }

    fn transpose(&mut self) -> Result<Host, String> {
        let x = self.input(0)?;
        let perm = slices::perm(self.node.ints("perm")?, x.dims.len())?;
        if x.rows.is_some() && perm[0] != 0 {
            return Err(NEEDS_ROWS.to_owned());
        }
        let own = strides(&x.dims);
        let dims: Vec<usize> = perm.iter().map(|&axis| x.dims[axis]).collect();
        let walk = Walk::new(&dims, perm.iter().map(|&axis| own[axis]).collect(), 0);
        self.picked(&x, dims, walk)
    }

    fn concat(&mut self) -> Result<Host, String> {
        let parts: Vec<_> = (0..self.inputs.len()).map(|at| self.input(at)).collect::<Result<_, _>>()?;
        let first = parts.first().ok_or("it has no inputs")?;
        let at = axis(self.node.int("axis", 0)?, first.dims.len())?;
        let mut dims = first.dims.clone();
        dims[at] = 0;
        for part in &parts {
            part.fixed()?;
            let mut other = part.dims.clone();
            if other.len() != dims.len() {
                return Err(format!("joins shapes {:?} and {other:?}", first.dims));
            }
            dims[at] += std::mem::replace(&mut other[at], dims[at]);
            if other.iter().enumerate().any(|(axis, &d)| axis != at && d != dims[axis]) {
                return Err(format!("joins shapes {:?} and {:?} along axis {at}", first.dims, part.dims));
            }
        }
        let count = elements(&dims).ok_or_else(|| format!("shape {dims:?} is too large"))?;
        let lengths = parts.iter().any(|part| matches!(part.data, Data::Lengths(_)));
        self.budget.take(count, if lengths { size_of::<Length>() } else { first.data.size() })?;
        let outer: usize = dims[..at].iter().product();
        let blocks: Vec<usize> = parts.iter().map(|part| part.dims[at..].iter().product()).collect();
        macro_rules! join {
            ($variant:ident, $read:expr) => {{
                let lists = parts.iter().map(|part| $read(part)).collect::<Result<Vec<_>, String>>()?;
                let mut joined = Vec::with_capacity(count);
                for row in 0..outer {
                    for (list, &block) in lists.iter().zip(&blocks) {
                        joined.extend_from_slice(&list[row * block..(row + 1) * block]);
                    }
                }
                Data::$variant(joined)
            }};
        }
        let mixed = || "joins tensors of different types".to_owned();
        let data = if lengths {
            let Data::Lengths(joined) = join!(Lengths, |part: &std::sync::Arc<Host>| match &part.data {
                Data::I64(v) => Ok(v.iter().map(|&v| Length::Known(v)).collect::<Vec<_>>()),
                Data::Lengths(v) => Ok(v.clone()),
                _ => Err(mixed()),
            }) else {
                return Err(mixed());
            };
            Data::lengths(joined)
        } else {
            match &first.data {
                Data::F32(_) => join!(F32, |part: &std::sync::Arc<Host>| match &part.data {
                    Data::F32(v) => Ok(v.clone()),
                    _ => Err(mixed()),
                }),
                Data::Bool(_) => join!(Bool, |part: &std::sync::Arc<Host>| match &part.data {
                    Data::Bool(v) => Ok(v.clone()),
                    _ => Err(mixed()),
                }),
                _ => join!(I64, |part: &std::sync::Arc<Host>| part.integers()),
            }
        };
        Ok(Host::new(dims, data).typed(first.data_type))
    }

    fn slice(&mut self) -> Result<Host, String> {
        let x = self.input(0)?;
        let list = |at: usize, name: &str| self.list(name, at);
        let starts = list(1, "starts")?.ok_or("it has no starts")?;
        let ends = list(2, "ends")?.ok_or("it has no ends")?;
        let (axes, steps) = (list(3, "axes")?, list(4, "steps")?);
        let parts = slices::parts(&x.dims, &starts, &ends, axes.as_deref(), steps.as_deref())?;
        let mut dims = x.dims.clone();
        let mut step = strides(&x.dims);
        let mut start = 0isize;
        for Part { axis, start: from, length, step: by } in parts {
            if axis == 0 && x.rows.is_some() {
                return Err(NEEDS_ROWS.to_owned());
            }
            start += step[axis] * from as isize;
            // A step is shorter than its axis if it is ever taken.
            step[axis] = if length > 1 { step[axis] * by as isize } else { 0 };
            dims[axis] = length;
        }
        let walk = Walk::new(&dims, step, start);
        self.picked(&x, dims, walk)
    }

    fn split(&mut self) -> Result<Vec<Host>, String> {
        let x = self.input(0)?;
        let at = axis(self.node.int("axis", 0)?, x.dims.len())?;
        if at == 0 {
            x.fixed()?;
        }
        let list = self.list("split", 1)?;
        let lengths = slices::split(x.dims[at], self.node.output.len(), list.as_deref(), self.opset)?;
        let own = strides(&x.dims);
        let mut start = 0;
        let mut parts = Vec::with_capacity(lengths.len());
        for length in lengths {
            let mut dims = x.dims.clone();
            dims[at] = length;
            let walk = Walk::new(&dims, own.clone(), own[at] * start as isize);
            parts.push(self.picked(&x, dims, walk)?);
            start += length;
        }
        Ok(parts)
    }

    fn gather(&mut self) -> Result<Host, String> {
        let (x, indices) = (self.input(0)?, self.input(1)?);
        let at = axis(self.node.int("axis", 0)?, x.dims.len())?;
        // Rows of indices stay in front only if they are put there; rows of data must not be gathered from.
        if (indices.rows.is_some() && at != 0) || (x.rows.is_some() && at == 0) {
            return Err(NEEDS_ROWS.to_owned());
        }
        let length = x.dims[at];
        let places = slices::indices(&indices.integers()?, length)?;
        let mut dims = x.dims[..at].to_vec();
        dims.extend(&indices.dims);
        dims.extend(&x.dims[at + 1..]);
        let (outer, inner): (usize, usize) = (x.dims[..at].iter().product(), x.dims[at + 1..].iter().product());
        let places = &places;
        let walk = (0..outer)
            .flat_map(move |o| places.iter().flat_map(move |&i| (0..inner).map(move |n| (o * length + i) * inner + n)));
        let gathered = self.picked(&x, dims, walk)?;
        Ok(Host { rows: indices.rows.or(x.rows), ..gathered })
    }

    fn gather_elements(&mut self) -> Result<Host, String> {
        let (x, indices) = (self.input(0)?, self.input(1)?);
        let at = axis(self.node.int("axis", 0)?, x.dims.len())?;
        let inside = |axis: usize| axis == at || indices.dims[axis] <= x.dims[axis];
        if indices.dims.len() != x.dims.len() || !(0..x.dims.len()).all(inside) {
            return Err(format!("indices of shape {:?} into data of shape {:?}", indices.dims, x.dims));
        }
        // The same along the batch, unless it is the batch that is gathered from.
        let rows = match (x.rows, indices.rows) {
            (None, None) => None,
            (a, b) if at != 0 && (a == b || b.is_none() && indices.dims[0] == 1) => b,
            _ => return Err(NEEDS_ROWS.to_owned()),
        };
        let picked = slices::indices(&indices.integers()?, x.dims[at])?;
        let mut own = strides(&x.dims);
        let step = std::mem::replace(&mut own[at], 0);
        let walk = Walk::new(&indices.dims, own, 0);
        let places = walk.zip(picked).map(|(place, i)| place + i * step as usize);
        let gathered = self.picked(&x, indices.dims.clone(), places)?;
        Ok(Host { rows, ..gathered })
    }

    fn expand(&mut self) -> Result<Host, String> {
        let x = self.input(0)?;
        let target = self.input(1)?.shape()?;
        let (rows, dims) = kept(&host::broadcast(&x.logical(), &target)?)?;
        let walk = Walk::broadcast(&x.dims, &dims);
        let expanded = self.picked(&x, dims, walk)?;
        Ok(Host { rows, ..expanded })
    }

    fn tile(&mut self) -> Result<Host, String> {
        let x = self.input(0)?;
        x.fixed()?;
        let repeats = self.input(1)?.integers()?;
        let repeats = repeats.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>();
        let repeats = repeats.map_err(|_| "a number of repeats that is negative")?;
        if repeats.len() != x.dims.len() {
            return Err(format!("{} repeats for {} axes", repeats.len(), x.dims.len()));
        }
        let dims: Vec<usize> = x.dims.iter().zip(&repeats).map(|(&d, &n)| d.saturating_mul(n)).collect();
        if elements(&dims).is_none() {
            return Err(format!("shape {dims:?} is too large"));
        }
        // Each axis is two: the repeats, which do not move, and the axis itself.
        let own = strides(&x.dims);
        let double: Vec<usize> = repeats.iter().zip(&x.dims).flat_map(|(&n, &d)| [n, d]).collect();
        let walk = Walk::new(&double, own.into_iter().flat_map(|stride| [0, stride]).collect(), 0);
        self.picked(&x, dims, walk)
    }

    fn constant_of_shape(&mut self) -> Result<Host, String> {
        let (rows, dims) = kept(&self.input(0)?.shape()?)?;
        let value = match self.node.tensor("value")? {
            None => Host::new(vec![1], Data::F32(vec![0.0])),
            Some(proto) => {
                let stored = Stored::new(proto.clone(), Folders::default()).map_err(|e| e.to_string())?;
                if stored.len() != 1 {
                    return Err(format!("its value has {} elements, expected 1", stored.len()));
                }
                Host::new(vec![1], stored.data()?).typed(stored.data_type)
            }
        };
        let count = elements(&dims).unwrap_or(usize::MAX);
        let filled = self.picked(&value, dims, std::iter::repeat_n(0, count))?;
        Ok(Host { rows, ..filled })
    }

    fn range(&mut self) -> Result<Host, String> {
        let (start, limit, delta) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let data_type = start.data_type;
        if let (Some(start), Some(limit), Some(delta)) = (start.floats(), limit.floats(), delta.floats()) {
            let (&[start], &[limit], &[delta]) = (start, limit, delta) else {
                return Err("its bounds are not single numbers".to_owned());
            };
            let count = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil();
            // A NaN becomes 0.
            let count = count.max(0.0) as usize;
            self.budget.take(count, 4)?;
            let values = (0..count).map(|i| (f64::from(start) + i as f64 * f64::from(delta)) as f32).collect();
            return Ok(Host::new(vec![count], Data::F32(values)).typed(data_type));
        }
        let (start, limit, delta) = (start.integers()?, limit.integers()?, delta.integers()?);
        let (&[start], &[limit], &[delta]) = (start.as_slice(), limit.as_slice(), delta.as_slice()) else {
            return Err("its bounds are not single numbers".to_owned());
        };
        if delta == 0 {
            return Err("its step is 0".to_owned());
        }
        let (start, distance, delta) = (i128::from(start), i128::from(limit) - i128::from(start), i128::from(delta));
        let count = (distance + delta - delta.signum()) / delta;
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        self.budget.take(count, 8)?;
        let values = (0..count).map(|i| (start + i as i128 * delta) as i64).collect();
        Ok(Host::new(vec![count], Data::I64(values)).typed(data_type))
    }

    fn trilu(&mut self) -> Result<Host, String> {
        let x = self.input(0)?;
        let k = match self.optional(1) {
            Some(k) => k.integers()?.first().copied().unwrap_or(0),
            None => 0,
        };
        let upper = self.node.int("upper", 1)? != 0;
        let &[.., rows, cols] = x.dims.as_slice() else {
            return Err(format!("data of {} axes, expected 2 or more", x.dims.len()));
        };
        if x.rows.is_some() && x.dims.len() == 2 {
            return Err(NEEDS_ROWS.to_owned());
        }
        let keep = |i: usize| {
            let (row, col) = ((i / cols % rows) as i64, (i % cols) as i64);
            let diagonal = (col - row).cmp(&k);
            if upper { diagonal.is_ge() } else { diagonal.is_le() }
        };
        self.take(&x, x.data.len())?;
        macro_rules! cut {
            ($variant:ident, $v:expr, $zero:expr) => {
                Data::$variant($v.iter().enumerate().map(|(i, &v)| if keep(i) { v } else { $zero }).collect())
            };
        }
        let data = match &x.data {
            Data::F32(v) => cut!(F32, v, 0.0),
            Data::I64(v) => cut!(I64, v, 0),
            Data::Bool(v) => cut!(Bool, v, false),
            Data::Lengths(_) => return Err(NEEDS_ROWS.to_owned()),
        };
        Ok(Host { data, ..(*x).clone() })
    }
}
