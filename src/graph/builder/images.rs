//! Operators on images `[rows, C, H, W]` and `[rows, C, W]`.

use super::GraphBuilder;
use crate::graph::{GraphError, NodeId};
use crate::ops::{AveragePool, Conv, ConvTranspose, IndexSelect, MaxPool, ResizeLinear};
use crate::values::Tensor;

impl GraphBuilder {
    /// Adds a convolution of `x` `[rows, C, H, W]` or `[rows, C, W]` with weight `[N, C / groups, kh, kw]` or `[N, C / groups, kw]` and
    /// bias `[N]`. Weight and bias become the constants `{name}.weight` and `{name}.bias`.
    ///
    /// ```
    /// use enfold::ops::{Conv, Window};
    /// use enfold::{GraphBuilder, Shape, Tensor};
    ///
    /// let mut g = GraphBuilder::new();
    /// let x = g.input("x", Shape::batched(&[3, 32, 32]))?;
    /// let weight = Tensor::from_f32(&[8, 3, 3, 3], vec![0.1; 8 * 27])?;
    /// let window = Window::new(&[3, 3]).with_stride(&[2, 2]).with_padding(&[1, 1]);
    /// let y = g.conv("conv1", x, weight, None, Conv::new(window))?;
    /// let graph = g.finish([y])?;
    /// assert_eq!(graph.node(y).shape, Shape::batched(&[8, 16, 16]));
    /// # Ok::<(), enfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`GraphError`] if shapes and window do not fit, the name is taken, or a parameter is not finite.
    pub fn conv(
        &mut self,
        name: &str,
        x: NodeId,
        weight: impl Into<Tensor>,
        bias: Option<Tensor>,
        conv: Conv,
    ) -> Result<NodeId, GraphError> {
        let inputs = self.layer_inputs(name, x, weight.into(), bias)?;
        self.node(name, conv, &inputs)
    }

    /// Adds a transposed convolution of `x` `[rows, C, H, W]` or `[rows, C, W]` with weight `[C, N / groups, kh, kw]` or
    /// `[C, N / groups, kw]` and bias `[N]`. Weight and bias become the constants `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// Returns [`GraphError`] if shapes and window do not fit, the name is taken, or a parameter is not finite.
    pub fn conv_transpose(
        &mut self,
        name: &str,
        x: NodeId,
        weight: impl Into<Tensor>,
        bias: Option<Tensor>,
        conv: ConvTranspose,
    ) -> Result<NodeId, GraphError> {
        let inputs = self.layer_inputs(name, x, weight.into(), bias)?;
        self.node(name, conv, &inputs)
    }

    fn layer_inputs(
        &mut self,
        name: &str,
        x: NodeId,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> Result<Vec<NodeId>, GraphError> {
        let weight = self.parameter(&format!("{name}.weight"), weight)?;
        let bias = bias.map(|bias| self.parameter(&format!("{name}.bias"), bias)).transpose()?;
        Ok([x, weight].into_iter().chain(bias).collect())
    }

    /// Adds the largest element under each position of a window.
    ///
    /// # Errors
    /// Returns [`GraphError`] if the window does not fit the image or the name is taken.
    pub fn max_pool(&mut self, name: &str, x: NodeId, pool: MaxPool) -> Result<NodeId, GraphError> {
        self.node(name, pool, &[x])
    }

    /// Adds the mean of the elements under each position of a window.
    ///
    /// # Errors
    /// Returns [`GraphError`] if the windows do not fit the image or the name is taken.
    pub fn average_pool(&mut self, name: &str, x: NodeId, pool: AveragePool) -> Result<NodeId, GraphError> {
        self.node(name, pool, &[x])
    }

    /// Adds the elements at known indices along an axis.
    ///
    /// # Errors
    /// Returns [`GraphError`] if an index is outside the axis, the axis is the batch, or the name is taken.
    pub fn index_select(&mut self, name: &str, x: NodeId, axis: usize, indices: &[u32]) -> Result<NodeId, GraphError> {
        self.node(name, IndexSelect { axis, indices: indices.to_vec() }, &[x])
    }

    /// Adds an image of another size by linear interpolation.
    ///
    /// ```
    /// use enfold::ops::{ResizeCoordinates, ResizeLinear};
    /// use enfold::{GraphBuilder, Shape};
    ///
    /// let mut g = GraphBuilder::new();
    /// let x = g.input("x", Shape::batched(&[3, 16, 16]))?;
    /// // As `interpolate(x, (32, 32), mode="bilinear", align_corners=True)` in PyTorch.
    /// let resize = ResizeLinear::new(&[32, 32]).with_coordinates(ResizeCoordinates::AlignCorners);
    /// let y = g.resize_linear("up", x, resize)?;
    /// let graph = g.finish([y])?;
    /// assert_eq!(graph.node(y).shape, Shape::batched(&[3, 32, 32]));
    /// # Ok::<(), enfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`GraphError`] if `x` is no image with as many axes, a length is 0, or the name is taken.
    pub fn resize_linear(&mut self, name: &str, x: NodeId, resize: ResizeLinear) -> Result<NodeId, GraphError> {
        self.node(name, resize, &[x])
    }
}
