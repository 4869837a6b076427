//! Layers whose parameters are in a file, by their names.

use super::GraphBuilder;
use crate::graph::{GraphError, NodeId, Weights};
use crate::ops::{Conv, ConvTranspose};

/// # Layers from a safetensors file
/// A layer takes its parameters by its name, as PyTorch names them: `fc1` takes `fc1.weight` and, for a linear layer or a
/// convolution, `fc1.bias` if the file has it. [`Weights::under`] says what precedes the names. [`Weights::unused`] lists what no layer has
/// taken, such as a bias with another name.
///
/// # Errors
/// Besides the errors of the layer, [`GraphError::NoWeight`] lists the nearest names and their shapes where a tensor is missing, and
/// [`GraphError::WeightType`] refuses element types that are not floats of 16 or 32 bits.
impl GraphBuilder {
    /// Adds a [`linear`](Self::linear) layer of `{name}.weight` `[N, K]` and, if the file has it, `{name}.bias` `[N]`. [`Weights`] has an
    /// example.
    pub fn linear_from(&mut self, weights: &Weights, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        let weight = weights.tensor(&format!("{name}.weight"))?;
        let bias = weights.optional(&format!("{name}.bias"))?;
        self.linear(name, x, weight, bias)
    }

    /// Adds a [`conv`](Self::conv) of `{name}.weight` and, if the file has it, `{name}.bias`.
    pub fn conv_from(&mut self, weights: &Weights, name: &str, x: NodeId, conv: Conv) -> Result<NodeId, GraphError> {
        let weight = weights.tensor(&format!("{name}.weight"))?;
        let bias = weights.optional(&format!("{name}.bias"))?;
        self.conv(name, x, weight, bias, conv)
    }

    /// Adds a [`conv_transpose`](Self::conv_transpose) of `{name}.weight` and, if the file has it, `{name}.bias`.
    pub fn conv_transpose_from(
        &mut self,
        weights: &Weights,
        name: &str,
        x: NodeId,
        conv: ConvTranspose,
    ) -> Result<NodeId, GraphError> {
        let weight = weights.tensor(&format!("{name}.weight"))?;
        let bias = weights.optional(&format!("{name}.bias"))?;
        self.conv_transpose(name, x, weight, bias, conv)
    }

    /// Adds a [`layer_norm`](Self::layer_norm) of `{name}.weight` and `{name}.bias`.
    pub fn layer_norm_from(
        &mut self,
        weights: &Weights,
        name: &str,
        x: NodeId,
        eps: f32,
    ) -> Result<NodeId, GraphError> {
        let [weight, bias] = [weights.tensor(&format!("{name}.weight"))?, weights.tensor(&format!("{name}.bias"))?];
        self.layer_norm(name, x, weight, bias, eps)
    }

    /// Adds an [`rms_norm`](Self::rms_norm) of `{name}.weight`.
    pub fn rms_norm_from(&mut self, weights: &Weights, name: &str, x: NodeId, eps: f32) -> Result<NodeId, GraphError> {
        let weight = weights.tensor(&format!("{name}.weight"))?;
        self.rms_norm(name, x, weight, eps)
    }

    /// Adds a [`group_norm`](Self::group_norm) of `{name}.weight` and `{name}.bias`.
    pub fn group_norm_from(
        &mut self,
        weights: &Weights,
        name: &str,
        x: NodeId,
        groups: usize,
        eps: f32,
    ) -> Result<NodeId, GraphError> {
        let parameters = [weights.tensor(&format!("{name}.weight"))?, weights.tensor(&format!("{name}.bias"))?];
        self.group_norm(name, x, groups, parameters, eps)
    }

    /// Adds a [`batch_norm`](Self::batch_norm) of `{name}.running_mean`, `.running_var`, `.weight` and `.bias`. It has no use for the number
    /// of batches that PyTorch stores beside them, `.num_batches_tracked`.
    pub fn batch_norm_from(
        &mut self,
        weights: &Weights,
        name: &str,
        x: NodeId,
        eps: f32,
    ) -> Result<NodeId, GraphError> {
        let tensor = |part: &str| weights.tensor(&format!("{name}.{part}"));
        let parameters = [tensor("running_mean")?, tensor("running_var")?, tensor("weight")?, tensor("bias")?];
        weights.mark(&format!("{name}.num_batches_tracked"));
        self.batch_norm(name, x, parameters, eps)
    }

    /// Adds an [`embedding`](Self::embedding) of `{name}.weight`.
    pub fn embedding_from(&mut self, weights: &Weights, name: &str, ids: NodeId) -> Result<NodeId, GraphError> {
        let table = weights.tensor(&format!("{name}.weight"))?;
        self.embedding(name, ids, table)
    }
}
