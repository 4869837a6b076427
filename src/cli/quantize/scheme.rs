//! Which nodes are quantized, and how.

use anyhow::Result;
use enfold::Graph;
use enfold::quantize::accuracy::Plan;
use enfold::quantize::{ObserverKind, PrepareError, PreparedGraph, QuantizationConfig, WgpuQuantizer, prepare};

use crate::cli::failure::usage;
use crate::cli::model::Model;

/// The arguments for which nodes are quantized, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Scheme {
    /// Gives each output channel of a weight a scale; the default.
    #[arg(long)]
    per_channel: bool,
    /// Gives each weight one scale.
    #[arg(long)]
    per_tensor: bool,
    /// Computes the scales of activations at run time, without calibration.
    #[arg(long)]
    pub(super) dynamic: bool,
    /// With --dynamic, computes a scale for each row along the last axis.
    #[arg(long)]
    pub(super) per_token: bool,
    /// Uses zero points of 0 for activations too, as TensorRT needs.
    #[arg(long)]
    symmetric: bool,
    /// The observer that finds the range of an activation in calibration [default: percentile].
    #[arg(long, value_enum)]
    observer: Option<Observer>,
    /// The share of the values of an activation that --observer percentile keeps, in percent [default: 99.999].
    #[arg(long, value_name = "P")]
    percentile: Option<f64>,
    /// The bits of a weight's quantized values [default: 8].
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(2..=8))]
    weight_bits: Option<u32>,
    /// Gives each group of N input features of a linear layer's weight a scale, such as 32, 64 or 128: any multiple of 4. The last group
    /// of a row may be shorter.
    #[arg(long, value_name = "N", conflicts_with_all = ["per_tensor", "per_channel"])]
    group: Option<usize>,
    /// With --group, gives each group a zero point too.
    #[arg(long, requires = "group")]
    asymmetric_weights: bool,
    /// Leaves a node in float, or a module and all nodes in it: `encoder.0` covers `encoder.0.fc1`. May be repeated.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    leave_float: Vec<String>,
    /// Quantizes products of two activations too, such as those of attention. Otherwise they stay in float.
    #[arg(long)]
    attention: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Observer {
    /// Collects a histogram, and clips it where the quantization error is smallest, as PT2E does.
    Histogram,
    /// Takes the smallest and the largest value.
    Minmax,
    /// Collects a histogram, and leaves out the outermost values; see --percentile.
    Percentile,
    /// Collects a histogram, and clips it to the range with the least squared error in a grid.
    Mse,
}

impl Scheme {
    /// The first argument that says what the choices for layers say too.
    pub(super) fn overridden(&self) -> Option<&'static str> {
        let given = [
            (self.per_tensor, "--per-tensor"),
            (self.dynamic, "--dynamic"),
            (self.symmetric, "--symmetric"),
            (self.observer.is_some(), "--observer"),
            (self.percentile.is_some(), "--percentile"),
            (self.weight_bits.is_some(), "--weight-bits"),
            (self.group.is_some(), "--group"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.per_channel && self.per_tensor {
            return Err(usage("--per-channel and --per-tensor contradict each other; give one of them"));
        }
        if self.per_token && !self.dynamic {
            return Err(usage("--per-token is for dynamic quantization; add --dynamic, or leave --per-token out"));
        }
        if self.per_token && self.symmetric {
            return Err(usage(
                "--symmetric gives one scale for the tensor, --per-token one for each row; leave one out",
            ));
        }
        if let Some(size) = self.group.filter(|size| *size == 0 || !size.is_multiple_of(4)) {
            return Err(usage(format!("--group {size}: must be a multiple of 4, such as 32, 64 or 128")));
        }
        if self.asymmetric_weights && self.weight_bits.is_none_or(|bits| bits > 7) {
            let bits = self.weight_bits.unwrap_or(8);
            return Err(usage(format!(
                "--asymmetric-weights with weights of {bits} bits: the differences to zero points must fit int8; add --weight-bits 7 or fewer"
            )));
        }
        if self.dynamic && self.observer.is_some() {
            return Err(usage("--observer is for calibration, which --dynamic has none of; leave one of them out"));
        }
        if let Some(percentile) = self.percentile {
            if !(50.0..=100.0).contains(&percentile) {
                return Err(usage(format!("--percentile {percentile}: must be in 50..=100, as in --percentile 99.99")));
            }
            if self.dynamic || self.observer.is_some_and(|observer| observer != Observer::Percentile) {
                return Err(usage("--percentile is for --observer percentile; leave one of them out"));
            }
        }
        Ok(())
    }

    fn quantizer(&self, plan: Option<&Plan>) -> Result<WgpuQuantizer> {
        let mut config = QuantizationConfig::symmetric();
        if let Some(bits) = self.weight_bits {
            config = config.weight_bits(bits);
        }
        if !self.per_tensor {
            config = config.per_channel();
        }
        if let Some(size) = self.group {
            config = config.weight_group(size);
        }
        if self.asymmetric_weights {
            config = config.asymmetric_weights();
        }
        config = match (self.dynamic, self.per_token) {
            (true, true) => config.dynamic_per_token(),
            (true, false) => config.dynamic(),
            // The library's default is PT2E's, the histogram, which loses 1.3 times as much on average; see benches/accuracy.py.
            _ => config.activation_observer(match self.observer.unwrap_or(Observer::Percentile) {
                Observer::Histogram => ObserverKind::Histogram,
                Observer::Minmax => ObserverKind::MinMax,
                Observer::Percentile => self.percentile.map_or(ObserverKind::PERCENTILE, |percent| {
                    ObserverKind::Percentile { fraction: (percent / 100.0) as f32 }
                }),
                Observer::Mse => ObserverKind::Mse,
            }),
        };
        if self.symmetric {
            config = config.symmetric_activations();
        }
        // Activations that only float nodes read stay float. No integer step is lost, and transformers lose much accuracy otherwise.
        let quantizer = WgpuQuantizer::new().set_global(config).quantize_matmul(self.attention).float_islands(true);
        let quantizer = plan.map_or_else(|| quantizer.clone(), |plan| plan.configure(quantizer.clone()));
        Ok(self.leave_float.iter().fold(quantizer, |quantizer, name| quantizer.set_module_name(name, None)))
    }

    /// Prepares a graph.
    pub(super) fn prepare(&self, model: &Model, graph: &Graph, plan: Option<&Plan>) -> Result<PreparedGraph> {
        prepare(graph, &self.quantizer(plan)?).map_err(|error| match error {
            PrepareError::NoMatch { filter, near_names } => {
                let of_plan = |plan: &&Plan| plan.layers.keys().any(|name| filter.contains(&format!("{name:?}")));
                if plan.filter(of_plan).is_some()
                    && !self.leave_float.iter().any(|name| filter.contains(&format!("{name:?}")))
                {
                    let near = near_names.join(", ");
                    return usage(format!("the plan names {filter}, which the model has not; near are: {near}"));
                }
                let name = self.leave_float.iter().find(|name| filter.contains(&format!("{name:?}")));
                let (name, near) = (name.unwrap_or(&filter), near_names.join(", "));
                usage(format!("--leave-float {name}: the model has no such node or module; near are: {near}"))
            }
            error => anyhow::Error::new(error).context(model.name()),
        })
    }
}
