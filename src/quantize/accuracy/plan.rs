//! Mixed precision: a choice for each layer.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::AccuracyError;
use super::sensitivity::{ChoiceError, LayerSensitivities, LayerSensitivity};
use crate::quantize::{ObserverKind, QuantizationConfig, WgpuQuantizer};

/// Input features that share a scale in [`LayerChoice::Int4PerToken`].
const INT4_GROUP: usize = 32;

/// How a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, strum::EnumIter)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LayerChoice {
    /// Weights of 4 bits with a scale for each group of 32 features, activations of 8 bits with qparams for each token.
    Int4PerToken,
    /// Weights and activations of 8 bits, with a scale for each channel of the weight. Activations have the range of 99.999 % of the values of
    /// calibration ([`ObserverKind::PERCENTILE`]).
    Int8,
    /// As [`Int8`](Self::Int8), but activations have qparams for each token, which are computed at run time.
    Int8PerToken,
    /// All in float.
    Float,
}

impl LayerChoice {
    /// Returns the configuration; `None` for float.
    #[must_use]
    pub fn config(self) -> Option<QuantizationConfig> {
        let int8 = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::PERCENTILE);
        match self {
            Self::Int4PerToken => Some(int8.weight_bits(4).weight_group(INT4_GROUP).dynamic_per_token()),
            Self::Int8 => Some(int8),
            Self::Int8PerToken => Some(int8.dynamic_per_token()),
            Self::Float => None,
        }
    }

    /// Returns the bytes of a weight with this number of elements and the scales of its groups, without those of channels.
    #[must_use]
    pub fn bytes(self, elements: usize) -> usize {
        match self {
            Self::Int4PerToken => elements.div_ceil(2) + elements.div_ceil(INT4_GROUP),
            Self::Int8 | Self::Int8PerToken => elements,
            Self::Float => elements.saturating_mul(4),
        }
    }

    /// The cost that a search weighs against the error: bytes, and a little for qparams that are computed at run time.
    fn cost(self, elements: usize) -> f64 {
        let at_run_time = matches!(self, Self::Int4PerToken | Self::Int8PerToken);
        self.bytes(elements) as f64 * if at_run_time { 1.02 } else { 1.0 }
    }
}

impl fmt::Display for LayerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int4PerToken => "int4_per_token",
            Self::Int8 => "int8",
            Self::Int8PerToken => "int8_per_token",
            Self::Float => "float",
        })
    }
}

/// What a search for choices has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// A signal to quantization noise ratio of the worst output, in dB.
    Sqnr(f64),
    /// A size of all weights, in bytes.
    Bytes(usize),
}

impl Target {
    /// Returns the ratio at which outputs have this cosine with those of the float network: noise that is not correlated with the signal
    /// makes a cosine of `1 / √(1 + noise)`.
    ///
    /// # Errors
    /// Returns [`AccuracyError::Parameter`] for a cosine outside 0.5..=1.
    pub fn cosine(cosine: f64) -> Result<Self, AccuracyError> {
        AccuracyError::check("target cosine", cosine, 0.5, 1.0)?;
        Ok(Self::Sqnr(-10.0 * (1.0 / (cosine * cosine) - 1.0).log10()))
    }
}

/// A choice for each layer, by name. Its JSON form is the file that `enfold quantize --plan` reads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The layers, by their names in the float graph.
    pub layers: BTreeMap<String, LayerChoice>,
}

impl Plan {
    /// Returns the quantizer with a configuration for each layer.
    #[must_use]
    pub fn configure(&self, quantizer: WgpuQuantizer) -> WgpuQuantizer {
        self.layers.iter().fold(quantizer, |quantizer, (name, choice)| quantizer.set_module_name(name, choice.config()))
    }

    /// Chooses for each layer, so that the sum of the layers' errors at the outputs reaches the target at the least size, or is least at
    /// the size of the target. Errors of layers add up nearly, but not quite: measure the result, and ask for more if it falls short.
    ///
    /// # Errors
    /// Returns [`AccuracyError::Parameter`] for a target outside −20..=200 dB, and for a size that even the smallest choices exceed.
    pub fn choose(sensitivities: &LayerSensitivities, target: Target) -> Result<Self, AccuracyError> {
        let layers = &sensitivities.layers;
        // For each layer, its choices by cost. A choice that costs more and is no better is of no use.
        let choices: Vec<Vec<Candidate>> = layers.iter().map(candidates).collect();
        let mut chosen = vec![0; layers.len()];
        let noise = |chosen: &[usize]| choices.iter().zip(chosen).map(|(c, &at)| c[at].noise).sum::<f64>();
        let bytes = |chosen: &[usize]| -> f64 {
            let of_layer = choices.iter().zip(chosen).zip(layers);
            of_layer.map(|((c, &at), layer)| c[at].choice.bytes(layer.elements) as f64).sum()
        };
        match target {
            Target::Sqnr(db) => {
                AccuracyError::check("target ratio", db, -20.0, 200.0)?;
                let allowed = 10f64.powf(-db / 10.0);
                while noise(&chosen) > allowed {
                    let Some(layer) = best_step(&choices, &chosen, |_, _| true) else { break };
                    chosen[layer] += 1;
                }
            }
            Target::Bytes(most) => {
                let least = bytes(&chosen);
                AccuracyError::check("target size", most as f64, least, f64::MAX)?;
                // A step that does not fit is not tried again, since all later ones of its layer are larger.
                while let Some(layer) = best_step(&choices, &chosen, |layer, next| {
                    let now = choices[layer][chosen[layer]].choice.bytes(layers[layer].elements) as f64;
                    bytes(&chosen) - now + next.choice.bytes(layers[layer].elements) as f64 <= most as f64
                }) {
                    chosen[layer] += 1;
                }
            }
        }
        let named = layers.iter().zip(&choices).zip(&chosen);
        Ok(Self { layers: named.map(|((layer, c), &at)| (layer.name.clone(), c[at].choice)).collect() })
    }
}

/// A choice for one layer, with its noise at the outputs and its cost.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    choice: LayerChoice,
    noise: f64,
    cost: f64,
}

fn candidates(layer: &LayerSensitivity) -> Vec<Candidate> {
    let of = |error: &ChoiceError| Candidate {
        choice: error.choice,
        noise: error.output_noise,
        cost: error.choice.cost(layer.elements),
    };
    let mut all: Vec<Candidate> = layer.errors.iter().map(of).collect();
    all.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let mut useful: Vec<Candidate> = Vec::new();
    for candidate in all {
        if useful.last().is_none_or(|last| candidate.noise < last.noise) {
            useful.push(candidate);
        }
    }
    useful
}

/// The layer whose next choice takes away the most noise for its cost.
fn best_step(choices: &[Vec<Candidate>], chosen: &[usize], fits: impl Fn(usize, &Candidate) -> bool) -> Option<usize> {
    let gain = |layer: &usize| {
        let (now, next) = (choices[*layer][chosen[*layer]], choices[*layer].get(chosen[*layer] + 1)?);
        fits(*layer, next).then(|| (now.noise - next.noise) / (next.cost - now.cost).max(1.0))
    };
    let gains = (0..choices.len()).filter_map(|layer| Some((layer, gain(&layer)?)));
    gains.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(layer, _)| layer)
}
