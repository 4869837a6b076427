//! Operators that move or repeat elements.
//!
//! They visit the positions of the elements one after the other, so that they serve all kinds of data and need no memory besides.

use super::{Fold, Folded, one};
use crate::onnx::dims::elements;
use crate::onnx::host::{self, Data, Host, NEEDS_ROWS, Walk, axis, kept, strides};
use crate::onnx::places;
use crate::onnx::slices::{self, Part, Target};

impl Fold<'_> {
    fn take(&mut self, x: &Host, count: usize) -> Result<(), String> {
        self.budget.take(count, x.data.size())
    }

    /// The elements of `x` at some positions, as a tensor of shape `dims`.
    pub(super) fn picked(
        &mut self,
        x: &Host,
        dims: Vec<usize>,
        places: impl Iterator<Item = usize>,
    ) -> Result<Host, String> {
        let count = elements(&dims).ok_or_else(|| format!("shape {dims:?} is too large"))?;
        self.take(x, count)?;
        Ok(Host { rows: x.rows, data: x.data.pick(places), dims, data_type: x.data_type, name: x.name.clone() })
    }

    pub(in crate::onnx) fn dropout(&mut self) -> Folded {
        if let Some(training) = self.optional(2)
            && training.scalar() != Some(0.0)
        {
            return Err("it drops elements, as in training".to_owned());
        }
        one((*self.input(0)?).clone())
    }

    pub(in crate::onnx) fn reshape(&mut self, target: Target) -> Folded {
        let x = self.input(0)?;
        let (rows, dims) = kept(&target(self.node, &x.logical(), self.optional(1).as_deref())?)?;
        if rows != x.rows {
            return Err(NEEDS_ROWS.to_owned());
        }
        self.take(&x, x.data.len())?;
        one(Host { dims, ..(*x).clone() })
    }

    pub(in crate::onnx) fn transpose(&mut self) -> Folded {
        let x = self.input(0)?;
        let perm = slices::perm(self.node.ints("perm")?, x.dims.len())?;
        if x.rows.is_some() && perm[0] != 0 {
            return Err(NEEDS_ROWS.to_owned());
        }
        let own = strides(&x.dims);
        let dims: Vec<usize> = perm.iter().map(|&axis| x.dims[axis]).collect();
        let walk = Walk::new(&dims, perm.iter().map(|&axis| own[axis]).collect(), 0);
        one(self.picked(&x, dims, walk)?)
    }

    pub(in crate::onnx) fn concat(&mut self) -> Folded {
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
        let size = parts.iter().map(|part| part.data.size()).max().unwrap_or(0);
        self.budget.take(count, size)?;
        // The elements of all parts, one part after the other. The result takes a block of each part in turn.
        let mut all = first.data.clone();
        let mut starts = vec![0];
        for part in &parts[1..] {
            starts.push(all.len());
            all = all.followed_by(&part.data).ok_or("joins tensors of different types")?;
        }
        let outer: usize = dims[..at].iter().product();
        let blocks = parts.iter().map(|part| part.dims[at..].iter().product::<usize>());
        let ranges: Vec<(usize, usize)> = starts.into_iter().zip(blocks).collect();
        let row =
            |row: usize| ranges.iter().flat_map(move |&(start, block)| start + row * block..start + (row + 1) * block);
        let data = if outer == 1 { all } else { all.pick((0..outer).flat_map(row)) };
        one(Host::new(dims, data).typed(first.data_type))
    }

    pub(in crate::onnx) fn slice(&mut self) -> Folded {
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
            // An axis with one element needs no step, and its step could overflow.
            step[axis] = if length > 1 { step[axis] * by as isize } else { 0 };
            dims[axis] = length;
        }
        let walk = Walk::new(&dims, step, start);
        one(self.picked(&x, dims, walk)?)
    }

    pub(in crate::onnx) fn split(&mut self) -> Folded {
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
        Ok(Some(parts))
    }

    pub(in crate::onnx) fn gather(&mut self) -> Folded {
        let (x, indices) = (self.input(0)?, self.input(1)?);
        let at = axis(self.node.int("axis", 0)?, x.dims.len())?;
        // The batch of the indices stays in front only for axis 0; elements cannot be gathered along the batch of the data.
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
        one(Host { rows: indices.rows.or(x.rows), ..gathered })
    }

    pub(in crate::onnx) fn gather_elements(&mut self) -> Folded {
        let (x, indices) = (self.input(0)?, self.input(1)?);
        // Data and indices may have the same batch, unless elements are gathered along it.
        let at = axis(self.node.int("axis", 0)?, x.dims.len())?;
        let rows = match (x.rows, indices.rows) {
            (None, None) => None,
            (a, b) if at != 0 && (a == b || b.is_none() && indices.dims.first() == Some(&1)) => b,
            _ => return Err(NEEDS_ROWS.to_owned()),
        };
        let places = places::elementwise(&x.dims, &indices, at as i64, self.budget)?;
        let gathered = self.picked(&x, indices.dims.clone(), places.into_iter())?;
        one(Host { rows, ..gathered })
    }

    pub(in crate::onnx) fn expand(&mut self) -> Folded {
        let x = self.input(0)?;
        let target = self.input(1)?.shape()?;
        let (rows, dims) = kept(&host::broadcast(&x.logical(), &target)?)?;
        let walk = Walk::broadcast(&x.dims, &dims);
        let expanded = self.picked(&x, dims, walk)?;
        one(Host { rows, ..expanded })
    }

    pub(in crate::onnx) fn tile(&mut self) -> Folded {
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
        // Each axis becomes two: the repeats, whose stride is 0, and the axis itself.
        let own = strides(&x.dims);
        let double: Vec<usize> = repeats.iter().zip(&x.dims).flat_map(|(&n, &d)| [n, d]).collect();
        let walk = Walk::new(&double, own.into_iter().flat_map(|stride| [0, stride]).collect(), 0);
        one(self.picked(&x, dims, walk)?)
    }

    pub(in crate::onnx) fn trilu(&mut self) -> Folded {
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
        one(Host { data, ..(*x).clone() })
    }
}
