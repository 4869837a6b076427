//! A network from an archive, on both engines.

use enfold::program::{Program, ValueId, ValueType};
use enfold::values::Tensor;
use enfold::{archive, cpu, gpu, lower};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::Gpu;
use crate::error::{Result, error};

/// An input or an output.
#[wasm_bindgen(getter_with_clone)]
#[derive(Debug, Clone)]
pub struct Port {
    pub name: String,
    /// The elements: `f32`, `i32`, `i8` or `f16`.
    pub element: String,
    /// The lengths of the axes of one row.
    pub dims: Vec<usize>,
    /// Whether the rows of the batch come before these axes.
    pub batched: bool,
}

/// A network, with its CPU engine.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Network {
    cpu: cpu::Engine,
}

#[wasm_bindgen]
impl Network {
    /// Reads and lowers an archive: any graph of the flow, as the integer form or as a float network.
    ///
    /// # Errors
    /// If it is no archive, or if a node has no step.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: &[u8]) -> Result<Network> {
        let graph = archive::from_bytes(bytes).map_err(error)?;
        let program = lower(&graph).map_err(error)?;
        Ok(Network { cpu: cpu::Engine::new(&program).map_err(error)? })
    }

    #[must_use]
    pub fn inputs(&self) -> Vec<Port> {
        ports(self.cpu.program(), self.cpu.program().inputs())
    }

    #[must_use]
    pub fn outputs(&self) -> Vec<Port> {
        ports(self.cpu.program(), self.cpu.program().outputs())
    }

    /// The names of the steps, one after the other.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        self.cpu.program().steps().iter().map(|step| step.op.name().to_owned()).collect()
    }

    /// Runs a batch on the CPU.
    ///
    /// # Errors
    /// If inputs do not fit.
    pub fn run(&self, inputs: Vec<Uint8Array>, rows: usize) -> Result<Vec<Uint8Array>> {
        let inputs = tensors(self.cpu.program(), &inputs, rows)?;
        Ok(bytes(self.cpu.run(&inputs).map_err(error)?))
    }

    /// Loads the network on the GPU.
    ///
    /// # Errors
    /// If a kernel does not compute correctly on this device, or if it has no memory left.
    pub async fn load(&self, on: &Gpu) -> Result<OnGpu> {
        Ok(OnGpu { model: on.engine.load(self.cpu.program()).await.map_err(error)? })
    }
}

/// A network on the GPU.
#[wasm_bindgen]
#[derive(Debug)]
pub struct OnGpu {
    model: gpu::Model,
}

#[wasm_bindgen]
impl OnGpu {
    /// Runs a batch on the GPU: uploads the inputs, and reads the outputs back.
    ///
    /// # Errors
    /// If inputs do not fit, or if the device is lost.
    pub async fn run(&self, inputs: Vec<Uint8Array>, rows: usize) -> Result<Vec<Uint8Array>> {
        let inputs = tensors(self.model.program(), &inputs, rows)?;
        Ok(bytes(self.model.run(&inputs).await.map_err(error)?))
    }

    /// Bytes of weights and other constants on the device.
    #[must_use]
    pub fn size_bytes(&self) -> f64 {
        self.model.size_bytes() as f64
    }
}

fn ports(program: &Program, ids: &[ValueId]) -> Vec<Port> {
    let port = |&id| {
        let value = program.value(id);
        let element = match value.value_type {
            ValueType::I32 => "i32",
            ValueType::I8 => "i8",
            ValueType::F16 => "f16",
            _ => "f32",
        };
        Port {
            name: value.name.clone(),
            element: element.to_owned(),
            dims: value.shape.fixed_dims(),
            batched: value.shape.is_batched(),
        }
    };
    ids.iter().map(port).collect()
}

/// The tensors of a batch of inputs.
fn tensors(program: &Program, inputs: &[Uint8Array], rows: usize) -> Result<Vec<Tensor>> {
    if inputs.len() != program.inputs().len() {
        return Err(error(format!("{} inputs for {}", inputs.len(), program.inputs().len())));
    }
    let tensor = |(&id, input): (&ValueId, &Uint8Array)| {
        let value = program.value(id);
        let mut shape = value.shape.fixed_dims();
        if value.shape.is_batched() {
            shape.insert(0, rows);
        }
        let bytes = input.to_vec();
        let size = value.len(rows).and_then(|length| length.checked_mul(value.value_type.size_bytes()));
        if size != Some(bytes.len()) {
            return Err(error(format!("\"{}\" gets {} bytes for {rows} rows of {:?}", value.name, bytes.len(), shape)));
        }
        let words = bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
        match value.value_type {
            ValueType::F32 => Tensor::from_f32(&shape, words.map(f32::from_le_bytes).collect()),
            ValueType::I32 => Tensor::from_i32(&shape, words.map(i32::from_le_bytes).collect()),
            ValueType::I8 => Tensor::from_i8(&shape, bytemuck::cast_vec(bytes)),
            _ => return Err(error(format!("\"{}\" is an input of f16", value.name))),
        }
        .map_err(error)
    };
    program.inputs().iter().zip(inputs).map(tensor).collect()
}

/// The bytes of outputs.
fn bytes(outputs: Vec<Tensor>) -> Vec<Uint8Array> {
    let bytes = |tensor: &Tensor| match (tensor.as_f32(), tensor.as_i32(), tensor.as_i8()) {
        (Some(values), _, _) => Uint8Array::from(bytemuck::cast_slice::<_, u8>(values)),
        (_, Some(values), _) => Uint8Array::from(bytemuck::cast_slice::<_, u8>(values)),
        (_, _, values) => Uint8Array::from(bytemuck::cast_slice::<_, u8>(values.unwrap_or_default())),
    };
    outputs.iter().map(bytes).collect()
}
