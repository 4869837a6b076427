//! Random ways to quantize.

use enfold::quantize::{
    ConvertOptions, ObserverKind, PreparedGraph, QuantizationConfig, QuantizationSpec, WgpuQuantizer, convert, prepare,
    to_integer,
};
use enfold::values::QuantRange;
use enfold::{Graph, Tensor};

use crate::nets::Net;
use crate::random::Random;

/// A network of any patterns in its quantize/dequantize and its integer form, with a batch to run.
#[derive(Debug)]
pub(crate) struct Quantized {
    #[allow(dead_code)]
    pub(crate) quantized: Graph,
    pub(crate) integers: Graph,
    pub(crate) batch: Tensor,
    #[allow(dead_code)]
    pub(crate) dynamic: bool,
}

/// Any configuration: static, dynamic or dynamic per token; scales per tensor or channel; every observer; weights of 8 bits, or
/// of 2 to 4.
pub(crate) fn config(random: &mut Random, few_bits: bool) -> QuantizationConfig {
    let mut config = QuantizationConfig::symmetric();
    if random.below(2) == 0 {
        config = config.per_channel();
    }
    let observers = [
        ObserverKind::Histogram,
        ObserverKind::MinMax,
        ObserverKind::MOVING_AVERAGE,
        ObserverKind::Percentile { fraction: 0.999 },
        ObserverKind::Mse,
    ];
    config = config.activation_observer(observers[random.below(observers.len())]);
    let most = if few_bits { [1, 3, 7][random.below(3)] } else { 127 };
    config = config.weight_range(QuantRange::new(-most, most).expect("valid"));
    if let Some(QuantizationSpec::Observed(weight)) = &mut config.weight {
        weight.eps = 1e-30;
    }
    // Of weights of few bits, a third have groups.
    if few_bits && random.below(3) == 0 {
        config = config.weight_group([4, 8, 16, 32, 64, 20][random.below(6)]);
        if random.below(2) == 0 {
            config = config.asymmetric_weights();
        }
    }
    match random.below(6) {
        0 => config.dynamic(),
        1 => config.dynamic_per_token(),
        _ => config,
    }
}

/// The network of a seed.
pub(crate) fn quantized(seed: u64, few_bits: bool) -> Quantized {
    let mut random = Random::new(seed);
    let net = Net::patterns(&mut random);
    quantized_net(seed, &mut random, &net, few_bits)
}

/// The network of images of a seed.
pub(crate) fn quantized_images(seed: u64, few_bits: bool) -> Quantized {
    let mut random = Random::new(seed);
    let net = Net::images(&mut random);
    quantized_net(seed, &mut random, &net, few_bits)
}

fn quantized_net(seed: u64, random: &mut Random, net: &Net, few_bits: bool) -> Quantized {
    let config = config(random, few_bits);
    let dynamic = config.is_dynamic();
    let quantizer = WgpuQuantizer::new().set_global(config).quantize_matmul(random.below(2) == 0);
    let mut prepared: PreparedGraph =
        prepare(&net.graph, &quantizer).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", net.graph));
    for _ in 0..2 {
        let batch = net.batch(random);
        prepared.observe(&[&batch]).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", net.graph));
    }
    let quantized = convert(&prepared, &ConvertOptions::default())
        .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", prepared.graph()));
    let integers = to_integer(&quantized).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    assert_eq!(integers.verify(), Ok(()), "seed {seed}");
    Quantized { quantized, integers, batch: net.batch(random), dynamic }
}
