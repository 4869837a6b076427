//! Operations on images that are several operators of a graph.

use super::GraphBuilder;
use crate::graph::{GraphError, NodeId};
use crate::ops::{Add, LayerNorm, MaxPool, Mul, OpError, Reshape, Transpose, Window};
use crate::values::{Shape, Tensor};

impl GraphBuilder {
    /// Adds a max pool to a size of the result, as [`AveragePool::adaptive`](crate::ops::AveragePool::adaptive) averages: output `i` of `o` is the largest of the elements
    /// `⌊i · n / o⌋` to `⌈(i + 1) · n / o⌉ − 1` of `n`. A size of 1 along each axis is a global max pool.
    ///
    /// # Errors
    /// Returns [`GraphError`] if `x` is no image with as many axes, a length is 0, or the name is taken.
    pub fn adaptive_max_pool(&mut self, name: &str, x: NodeId, output: &[usize]) -> Result<NodeId, GraphError> {
        let mut size = Vec::with_capacity(output.len());
        let mut windows = Vec::with_capacity(output.len());
        for (length, &to) in self.image_axes(name, x, output)?.into_iter().zip(output) {
            let spans: Vec<[usize; 2]> = (0..to).map(|i| [i * length / to, ((i + 1) * length).div_ceil(to)]).collect();
            size.push(spans.iter().map(|[start, end]| end - start).max().unwrap_or(1));
            windows.push(spans);
        }
        // Elements that a window lacks repeat its last one, which changes no maximum.
        let mut selected = x;
        for (axis, (spans, &size)) in windows.iter().zip(&size).enumerate() {
            let indices: Vec<u32> = spans
                .iter()
                .flat_map(|&[start, end]| (0..size).map(move |at| (start + at).min(end - 1) as u32))
                .collect();
            if !indices.is_sorted() || indices.windows(2).any(|pair| pair[0] == pair[1]) || indices.first() != Some(&0)
            {
                selected = self.index_select(&format!("{name}.axis{}", axis + 2), selected, axis + 2, &indices)?;
            }
        }
        self.max_pool(name, selected, MaxPool::new(Window::new(&size).with_stride(&size)))
    }

    /// Adds an image of another size, a width or a height and a width, of the nearest elements: output `o` of `out` is element
    /// `⌊o · n / out⌋` of `n`, as PyTorch's `interpolate` with `mode="nearest"`.
    ///
    /// # Errors
    /// Returns [`GraphError`] if `x` is no image with as many axes, a length is 0, or the name is taken.
    pub fn resize_nearest(&mut self, name: &str, x: NodeId, output: &[usize]) -> Result<NodeId, GraphError> {
        let lengths = self.image_axes(name, x, output)?;
        let mut y = x;
        for (at, (n, &out)) in lengths.into_iter().zip(output).enumerate() {
            let indices: Vec<u32> = (0..out).map(|o| (o * n / out) as u32).collect();
            let name = if at + 1 == output.len() { name.to_owned() } else { format!("{name}.axis{}", at + 2) };
            y = self.index_select(&name, y, at + 2, &indices)?;
        }
        Ok(y)
    }

    /// Adds a pad whose elements repeat the first and the last one along each axis, as PyTorch's `ReplicationPad`: `before[axis]`
    /// elements before `x` and `after[axis]` after it. Both are 0 for the batch.
    ///
    /// # Errors
    /// Returns [`GraphError`] if there is not a number for each axis of `x`, an axis has no elements, or the name is taken.
    pub fn replication_pad(
        &mut self,
        name: &str,
        x: NodeId,
        before: &[usize],
        after: &[usize],
    ) -> Result<NodeId, GraphError> {
        self.padded(name, x, [before, after], |_| usize::MAX, |at, last| at.clamp(0, last))
    }

    /// Adds a pad whose elements are those of `x` in reverse order, without the first or the last one, along each axis, as PyTorch's
    /// `ReflectionPad`: `before[axis]` elements before `x` and `after[axis]` after it. Both are 0 for the batch.
    ///
    /// # Errors
    /// Returns [`GraphError`] if there is not a number for each axis of `x`, each smaller than the axis is long, or the name is taken.
    pub fn reflection_pad(
        &mut self,
        name: &str,
        x: NodeId,
        before: &[usize],
        after: &[usize],
    ) -> Result<NodeId, GraphError> {
        self.padded(name, x, [before, after], |length| length - 1, |at, last| last - (last - at.abs()).abs())
    }

    /// Selects the elements `index(at, last)` of the positions `−before` to `length + after` along each axis.
    fn padded(
        &mut self,
        name: &str,
        x: NodeId,
        [before, after]: [&[usize]; 2],
        most: fn(usize) -> usize,
        index: fn(i64, i64) -> i64,
    ) -> Result<NodeId, GraphError> {
        let shape = self.shape(x).cloned().unwrap_or_else(|| Shape::fixed(&[]));
        let rank = shape.rank();
        if before.len() != rank || after.len() != rank {
            let value = format!("{before:?} and {after:?} around {rank} axes");
            return Err(refused(name, "padding", value, "it needs a number for each axis"));
        }
        let axes: Vec<usize> = (0..rank).filter(|&axis| before[axis] > 0 || after[axis] > 0).collect();
        let Some(&last_axis) = axes.last() else {
            return Err(refused(name, "padding", format!("{before:?}"), "it must add an element along an axis"));
        };
        let mut y = x;
        for axis in axes {
            let (before, after) = (before[axis], after[axis]);
            let added = format!("{before} and {after} around axis {axis} of {shape}");
            let Some(length) = shape.axis(axis).filter(|&length| length > 0) else {
                return Err(refused(name, "padding", added, "the axis must have a length and an element"));
            };
            if before.max(after) > most(length).min(1 << 24) || length > 1 << 24 {
                return Err(refused(
                    name,
                    "padding",
                    added,
                    "a reflection must be smaller than the axis, all at most 16777216",
                ));
            }
            let last = length as i64 - 1;
            let indices: Vec<u32> =
                (-(before as i64)..(length + after) as i64).map(|at| index(at, last) as u32).collect();
            let name = if axis == last_axis { name.to_owned() } else { format!("{name}.axis{axis}") };
            y = self.index_select(&name, y, axis, &indices)?;
        }
        Ok(y)
    }

    /// Adds a pixel shuffle, `[rows, C·r², H, W]` to `[rows, C, H·r, W·r]`, as PyTorch's `PixelShuffle(r)`.
    ///
    /// # Errors
    /// Returns [`GraphError`] if `x` is no image with two axes, `r²` does not divide its channels, or the name is taken.
    pub fn pixel_shuffle(&mut self, name: &str, x: NodeId, r: usize) -> Result<NodeId, GraphError> {
        let [channels, height, width] = self.image(name, x)?;
        let of = match r.checked_mul(r) {
            Some(area @ 1..) if channels % area == 0 => channels / area,
            _ => {
                return Err(refused(
                    name,
                    "upscale factor",
                    format!("{r} of {channels} channels"),
                    "its square must divide them",
                ));
            }
        };
        let dims = [of, r, r, height, width];
        self.rearranged(name, x, &dims, &[0, 1, 4, 2, 5, 3], &[of, height * r, width * r])
    }

    /// Adds the inverse of a pixel shuffle, `[rows, C, H·r, W·r]` to `[rows, C·r², H, W]`, as PyTorch's `PixelUnshuffle(r)`.
    ///
    /// # Errors
    /// Returns [`GraphError`] if `x` is no image with two axes, `r` does not divide both, or the name is taken.
    pub fn pixel_unshuffle(&mut self, name: &str, x: NodeId, r: usize) -> Result<NodeId, GraphError> {
        let [channels, height, width] = self.image(name, x)?;
        if r == 0 || height % r != 0 || width % r != 0 {
            return Err(refused(
                name,
                "downscale factor",
                format!("{r} of {height} by {width}"),
                "it must divide both",
            ));
        }
        let (height, width) = (height / r, width / r);
        let dims = [channels, height, r, width, r];
        self.rearranged(name, x, &dims, &[0, 1, 3, 5, 2, 4], &[channels * r * r, height, width])
    }

    fn rearranged(
        &mut self,
        name: &str,
        x: NodeId,
        split: &[usize],
        perm: &[usize],
        merged: &[usize],
    ) -> Result<NodeId, GraphError> {
        let x = self.node(&format!("{name}.split"), Reshape { dims: split.to_vec() }, &[x])?;
        let x = self.node(&format!("{name}.moved"), Transpose { perm: perm.to_vec() }, &[x])?;
        self.node(name, Reshape { dims: merged.to_vec() }, &[x])
    }

    /// Adds a group normalization of `x` `[rows, C, …]`: each of `groups` groups of neighbouring channels is normalized over all its
    /// elements, then multiplied by `weight` `[C]` and added to `bias` `[C]`. With `C` groups it is an instance normalization. The
    /// constants are called `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// Returns [`GraphError`] if `x` has no channels, `groups` does not divide them, a parameter does not fit or is not finite, or the
    /// name is taken.
    pub fn group_norm(
        &mut self,
        name: &str,
        x: NodeId,
        groups: usize,
        [weight, bias]: [Tensor; 2],
        eps: f32,
    ) -> Result<NodeId, GraphError> {
        let dims = self.shape(x).map(|shape| shape.fixed_dims()).unwrap_or_default();
        let is_batched = self.shape(x).is_some_and(Shape::is_batched);
        let &[channels, ..] = dims.as_slice() else {
            return Err(refused(name, "input", format!("{dims:?}"), "it must have the shape [rows, C, …]"));
        };
        if !is_batched || groups == 0 || channels % groups != 0 {
            return Err(refused(
                name,
                "number of groups",
                format!("{groups} of {channels} channels"),
                "it must divide those of a batch",
            ));
        }
        let size = dims.iter().product::<usize>() / groups;
        let parameter = |value: f32| ndarray::Array1::from_elem(size, value);
        let ones = self.constant(&format!("{name}.ones"), parameter(1.0))?;
        let zeros = self.constant(&format!("{name}.zeros"), parameter(0.0))?;
        let x = self.node(&format!("{name}.groups"), Reshape { dims: vec![groups, size] }, &[x])?;
        let x = self.node(&format!("{name}.normalized"), LayerNorm { eps }, &[x, ones, zeros])?;
        let x = self.node(&format!("{name}.channels"), Reshape { dims: dims.clone() }, &[x])?;
        let mut for_channels = vec![1; dims.len()];
        for_channels[0] = channels;
        let mut parameters = Vec::with_capacity(2);
        for (part, value) in [("weight", weight), ("bias", bias)] {
            let value = self.parameter(&format!("{name}.{part}"), value)?;
            let shape = Reshape { dims: for_channels.clone() };
            parameters.push(self.node(&format!("{name}.{part}.channels"), shape, &[value])?);
        }
        let x = self.node(&format!("{name}.scaled"), Mul, &[x, parameters[0]])?;
        self.node(name, Add, &[x, parameters[1]])
    }

    /// The lengths of the axes of an image that an operator with these outputs works along.
    fn image_axes(&self, name: &str, x: NodeId, output: &[usize]) -> Result<Vec<usize>, GraphError> {
        let dims = self.shape(x).map(|shape| shape.fixed_dims()).unwrap_or_default();
        let is_batched = self.shape(x).is_some_and(Shape::is_batched);
        if !is_batched || !(1..=2).contains(&output.len()) || dims.len() != output.len() + 1 {
            return Err(refused(
                name,
                "input",
                format!("{dims:?}"),
                "it must be an image with an axis for each length of the output",
            ));
        }
        let most = 1 << 24;
        match dims[1..].iter().chain(output).find(|length| !(1..=most).contains(*length)) {
            Some(length) => Err(refused(name, "length of an axis", length, "it must be 1 to 16777216")),
            None => Ok(dims[1..].to_vec()),
        }
    }

    /// Channels, height and width of an image.
    fn image(&self, name: &str, x: NodeId) -> Result<[usize; 3], GraphError> {
        let dims = self.shape(x).map(|shape| shape.fixed_dims()).unwrap_or_default();
        let is_batched = self.shape(x).is_some_and(Shape::is_batched);
        match dims[..] {
            [channels, height, width] if is_batched => Ok([channels, height, width]),
            _ => Err(refused(name, "input", format!("{dims:?}"), "it must have the shape [rows, C, H, W]")),
        }
    }
}

fn refused(node: &str, what: &'static str, value: impl ToString, rule: &'static str) -> GraphError {
    GraphError::Op { node: node.to_owned(), source: OpError::Parameter { what, value: value.to_string(), rule } }
}
