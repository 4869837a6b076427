//! Pools over images.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use super::window::{numbers, window};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{AveragePool, AverageWindows, MaxPool, Window};

operators! {
    "AveragePool" => Operator::nodes(Importer::average_pool),
    "GlobalAveragePool" => Operator::nodes(Importer::global_average_pool),
    "GlobalMaxPool" => Operator::nodes(Importer::global_max_pool),
    "MaxPool" => Operator::nodes(Importer::max_pool),
}

impl Importer {
    fn max_pool(&mut self, call: &Call<'_>) -> Values {
        let order = call.node.int("storage_order", 0)?;
        if order != 0 {
            return Err(format!("its storage_order is {order}; supported is 0"));
        }
        let (x, image) = self.ordered(call)?;
        let window = pool_window(call, &image)?;
        let pool = MaxPool::new(window).with_ceil_mode(call.node.int("ceil_mode", 0)? != 0);
        one(Run { id: self.draft.add(&call.name, pool, &[x.id])?, ..x })
    }

    fn global_max_pool(&mut self, call: &Call<'_>) -> Values {
        let (x, image) = self.ordered(call)?;
        one(Run { id: self.draft.add(&call.name, MaxPool::new(Window::new(&image)), &[x.id])?, ..x })
    }

    /// An image of floats, or of quantized values, whose order is that of the floats that they stand for.
    fn ordered(&mut self, call: &Call<'_>) -> Result<(Run, Vec<usize>), String> {
        let x = match self.run(call.input(0)?)? {
            quantized @ Run { kind: Kind::Quantized { .. }, .. } => quantized,
            other => self.float(call, &Value::Run(other))?,
        };
        Ok((x, self.image(x)?))
    }

    fn average_pool(&mut self, call: &Call<'_>) -> Values {
        let x = self.float(call, call.input(0)?)?;
        let image = self.image(x)?;
        let dilations = numbers(call.node, "dilations", image.len(), 1)?;
        if dilations.iter().any(|&dilation| dilation != 1) {
            return Err(format!("its dilations are {dilations:?}; supported are dilations of 1"));
        }
        let windows = AverageWindows::Sliding {
            window: pool_window(call, &image)?,
            ceil_mode: call.node.int("ceil_mode", 0)? != 0,
            count_include_pad: call.node.int("count_include_pad", 0)? != 0,
        };
        let id = self.draft.add(&call.name, AveragePool::from(windows), &[x.id])?;
        one(Run { id, kind: Kind::Float, ..x })
    }

    fn global_average_pool(&mut self, call: &Call<'_>) -> Values {
        let x = self.float(call, call.input(0)?)?;
        let ones = vec![1; self.image(x)?.len()];
        let id = self.draft.add(&call.name, AveragePool::adaptive(&ones), &[x.id])?;
        one(Run { id, kind: Kind::Float, ..x })
    }
}

/// The window of a pool over an image with these axes.
fn pool_window(call: &Call<'_>, image: &[usize]) -> Result<Window, String> {
    if call.node.ints("kernel_shape")?.is_none() {
        return Err("it has no kernel_shape".to_owned());
    }
    let size = numbers(call.node, "kernel_shape", image.len(), 1)?;
    window(call.node, &size, image)
}
