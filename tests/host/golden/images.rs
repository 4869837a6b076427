//! The float networks of the cases with convolutions.

use enfold::graph::NodeId;
use enfold::ops::{AveragePool, Conv, ConvTranspose, MaxPool, Window};
use serde_json::Value;

use super::models::Layers;

/// The output of a network, if its name is known.
pub(super) fn network(g: &mut Layers<'_>, model: &str, x: NodeId) -> Option<NodeId> {
    Some(match model {
        "conv1d" | "conv3x3" | "conv3x3_valid" | "conv1x1" | "conv_dilated" | "conv_multiplier" => {
            let y = g.conv("conv", x);
            if model == "conv1d" { g.relu("relu", y) } else { y }
        }
        "conv5x3" | "conv_grouped" | "conv_stride2" | "conv_transpose" | "conv_relu" => {
            let y = g.conv("conv", x);
            g.relu("relu", y)
        }
        "conv_depthwise" => {
            let y = g.conv("conv", x);
            g.add(|b| b.clamp("hardtanh", y, 0.0, 6.0))
        }
        "conv_bn" | "conv_bn_per_channel" => {
            let y = g.conv("conv", x);
            g.batch_norm("bn", y)
        }
        "conv_bn_relu" => {
            let y = g.conv("conv", x);
            let y = g.batch_norm("bn", y);
            g.relu("relu", y)
        }
        "inception" => {
            let a = g.conv("a", x);
            let a = g.relu("relu", a);
            let b = g.conv("b", x);
            let b = g.relu("relu_1", b);
            let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
            let b = g.add(|g| g.max_pool("max_pool2d", b, MaxPool::new(window)));
            g.add(|g| g.concat("cat", &[a, b], 1))
        }
        "residual" => {
            let y = g.conv("c1", x);
            let y = g.batch_norm("b1", y);
            let y = g.relu("relu", y);
            let y = g.conv("c2", y);
            let y = g.batch_norm("b2", y);
            let y = g.add(|b| b.add("add", y, x));
            g.relu("relu_1", y)
        }
        "mobile" => {
            let y = g.conv("up", x);
            let y = g.batch_norm("bu", y);
            let y = g.add(|b| b.clamp("hardtanh", y, 0.0, 6.0));
            let y = g.conv("dw", y);
            let y = g.batch_norm("bd", y);
            let y = g.add(|b| b.clamp("hardtanh_1", y, 0.0, 6.0));
            let y = g.conv("down", y);
            let y = g.batch_norm("bp", y);
            g.add(|b| b.add("add", x, y))
        }
        "unet" => {
            let a = g.conv("a", x);
            let a = g.relu("relu", a);
            let b = g.conv("b", a);
            let b = g.relu("relu_1", b);
            let up = g.conv("up", b);
            let up = g.relu("relu_2", up);
            let both = g.add(|g| g.concat("cat", &[a, up], 1));
            g.conv("c", both)
        }
        "classifier" => {
            let y = g.conv("c1", x);
            let y = g.relu("relu", y);
            let pool = MaxPool::new(Window::new(&[2, 2]).with_stride(&[2, 2]));
            let y = g.add(|b| b.max_pool("max_pool2d", y, pool));
            let y = g.conv("c2", y);
            let y = g.relu("relu_1", y);
            let y = g.add(|b| b.average_pool("adaptive_avg_pool2d", y, AveragePool::adaptive(&[1, 1])));
            let y = g.add(|b| b.flatten("flatten", y, 1));
            g.linear("fc", y)
        }
        _ => return None,
    })
}

/// The numbers of a list of a layer.
fn numbers(layer: &Value, key: &str) -> Vec<usize> {
    let list = layer[key].as_array().unwrap_or_else(|| panic!("no {key} in {layer}"));
    list.iter().map(|v| v.as_u64().expect("a number") as usize).collect()
}

impl Layers<'_> {
    /// The description of a layer.
    fn layer(&self, name: &str) -> Value {
        let layers = self.golden.case["layers"].as_array().expect("layers");
        layers.iter().find(|layer| layer["name"] == name).unwrap_or_else(|| panic!("no layer {name}")).clone()
    }

    fn conv(&mut self, name: &str, x: NodeId) -> NodeId {
        let layer = self.layer(name);
        let weight = self.golden.tensor(&format!("param.{name}.weight")).expect("a weight").clone();
        let bias = self.golden.tensor(&format!("param.{name}.bias")).ok().cloned();
        let window = Window::new(&weight.shape()[2..])
            .with_stride(&numbers(&layer, "stride"))
            .with_padding(&numbers(&layer, "padding"))
            .with_dilation(&numbers(&layer, "dilation"));
        let groups = layer["groups"].as_u64().expect("groups") as usize;
        if layer["kind"].as_str().expect("a kind").starts_with("ConvTranspose") {
            let conv = ConvTranspose::new(window).with_groups(groups);
            let conv = conv.with_output_padding(&numbers(&layer, "output_padding"));
            return self.add(|b| b.conv_transpose(name, x, weight, bias, conv));
        }
        self.add(|b| b.conv(name, x, weight, bias, Conv::new(window).with_groups(groups)))
    }

    fn batch_norm(&mut self, name: &str, x: NodeId) -> NodeId {
        let eps = self.layer(name)["eps"].as_f64().expect("eps") as f32;
        let parts = ["running_mean", "running_var", "weight", "bias"];
        let parts = parts.map(|part| self.golden.tensor(&format!("param.{name}.{part}")).expect(part).clone());
        self.add(|b| b.batch_norm(name, x, parts, eps))
    }

    fn relu(&mut self, name: &str, x: NodeId) -> NodeId {
        self.add(|b| b.relu(name, x))
    }
}
