//! Chooses the engine that runs a model.

use std::time::Duration;

use anyhow::{Context as _, Result};
use enfold::gpu::context::Context;
use enfold::gpu::{self, Model};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::{Graph, Tensor, cpu};

use super::failure::usage;
use super::progress::Stderr;

/// The engines that can run a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Device {
    /// The wgpu engine.
    Gpu,
    /// The engine on the CPU.
    Cpu,
    /// The interpreter, which defines the right results.
    Reference,
}

/// The arguments that choose an engine and an adapter.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DeviceArgs {
    /// The device to run on [default: gpu if an adapter answers, else cpu].
    #[arg(long, value_enum)]
    pub(super) device: Option<Device>,
    /// The GPU adapter whose name contains NAME, in upper or lower case; see `enfold adapters`.
    #[arg(long, value_name = "NAME")]
    pub(super) adapter: Option<String>,
}

impl DeviceArgs {
    pub(super) fn check(&self) -> Result<()> {
        match (&self.adapter, self.device) {
            (Some(_), Some(Device::Cpu | Device::Reference)) => {
                Err(usage("--adapter names a GPU adapter; give --device gpu, or leave --adapter out"))
            }
            _ => Ok(()),
        }
    }
}

/// A graph that an engine has loaded.
#[derive(Debug)]
pub(super) enum Runner {
    Reference(Box<Interpreter>),
    Cpu(Box<cpu::Engine>),
    Gpu(Box<OnGpu>),
}

/// A model on a GPU.
#[derive(Debug)]
pub(super) struct OnGpu {
    pub(super) context: Context,
    pub(super) model: Model,
}

impl OnGpu {
    /// Loads a graph on an adapter. Returns `None` if there is no adapter.
    pub(super) fn new(graph: &Graph, adapter: Option<&str>) -> Result<Option<Self>> {
        let Some(context) = pollster::block_on(Context::request(adapter))? else { return Ok(None) };
        let program = lower(graph)?;
        let engine = pollster::block_on(gpu::Engine::new(&context.device, &context.queue, &gpu::Options::default()))?;
        let model = pollster::block_on(engine.load(&program))?;
        Ok(Some(Self { context, model }))
    }

    fn is_software(&self) -> bool {
        self.context.info.device_type == wgpu::DeviceType::Cpu
    }
}

impl Runner {
    /// Loads a graph on the chosen device.
    pub(super) fn new(graph: &Graph, choice: &DeviceArgs, stderr: &Stderr) -> Result<Self> {
        choice.check()?;
        match choice.device {
            Some(Device::Reference) => Ok(Self::Reference(Box::new(Interpreter::new(graph)))),
            Some(Device::Cpu) => Self::cpu(graph),
            Some(Device::Gpu) => Ok(Self::Gpu(Box::new(
                OnGpu::new(graph, choice.adapter.as_deref())?
                    .context("no GPU adapter answers; install a Vulkan driver, or use --device cpu")?,
            ))),
            None => match OnGpu::new(graph, choice.adapter.as_deref()) {
                // The CPU engine is faster than a software driver.
                Ok(Some(on_gpu)) if on_gpu.is_software() && choice.adapter.is_none() => {
                    stderr.note("only a software adapter answers; running on the CPU; --device gpu uses it");
                    Self::cpu(graph)
                }
                Ok(Some(on_gpu)) => Ok(Self::Gpu(Box::new(on_gpu))),
                // The user asked for this adapter, so the CPU is no substitute.
                Err(error) if choice.adapter.is_some() => Err(error),
                Ok(None) => {
                    stderr.note("no GPU adapter answers; running on the CPU");
                    Self::cpu(graph)
                }
                Err(error) => {
                    let runner = Self::cpu(graph)?;
                    stderr.note(&format!("the GPU cannot run it ({}); running on the CPU", super::one_line(&error)));
                    Ok(runner)
                }
            },
        }
    }

    fn cpu(graph: &Graph) -> Result<Self> {
        Ok(Self::Cpu(Box::new(cpu::Engine::new(&lower(graph)?)?)))
    }

    pub(super) fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(match self {
            Self::Reference(interpreter) => interpreter.run(inputs)?,
            Self::Cpu(engine) => engine.run(inputs)?,
            Self::Gpu(on_gpu) => pollster::block_on(on_gpu.model.run(inputs))?,
        })
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Reference(_) => "the reference interpreter".to_owned(),
            Self::Cpu(_) => format!("the CPU, {} threads", rayon::current_num_threads()),
            Self::Gpu(on_gpu) => on_gpu.context.describe(),
        }
    }
}

/// Formats a duration for people.
pub(super) fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 1.0 => format!("{:.0} us", ms * 1e3),
        ms if ms < 1e3 => format!("{ms:.1} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}
