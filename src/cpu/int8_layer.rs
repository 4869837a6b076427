//! Packed weights, and int8 linear layers with their epilogues.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::buffer_pool::BufferPool;
use super::epilogue::{Channels, Int8Output, qparams_of_row, requantize_row, scale_dynamic_row, scale_row};
use super::error::CpuError;
use super::fusion::{Fused, apply_to_part};
use super::options::GemmBackend;
use crate::kernels::{Activations, Int8Gemm, Int8Weight};
use crate::numerics::float::canonical;
use crate::numerics::gemm::{After, PackedWeight};
use crate::program::{Epilogue, QLinear};
use crate::values::Tensor;
use crate::values::slices::{self, CHECKED, tensor};

/// The packed weight of a step.
#[derive(Debug)]
pub(super) enum Weight {
    Int8(Int8Layer),
    F32(Arc<PackedWeight>),
    /// The rounded factors of reproducible products, `[k, n]`.
    Factors(Arc<Vec<f32>>),
    /// The weight `[taps, C]` of a convolution whose every channel is a group.
    Taps(Vec<i8>),
    /// The weight of the step is read as it is.
    Unpacked,
}

/// An int8 linear layer, ready to run.
#[derive(Debug)]
pub(super) struct Int8Layer {
    pub(super) weight: Arc<Int8Weight>,
    /// The bias of equation 4, minus the offsets of the packed weight, shifted left by the fraction bits.
    pub(super) bias: Vec<i32>,
    /// The bias in real units that [`Epilogue::Dynamic`] has, canonical.
    float_bias: Vec<f32>,
}

impl Int8Layer {
    /// Packs a layer. `packed` is the entry of its weight among those that are already packed.
    pub(super) fn new<K>(
        step: &str,
        linear: &QLinear,
        backend: GemmBackend,
        packed: Entry<'_, K, Arc<Int8Weight>>,
    ) -> Result<Self, CpuError> {
        let gemm = match backend {
            GemmBackend::Auto => Int8Gemm::best(linear.k),
            GemmBackend::Amx => Int8Gemm::Amx,
            GemmBackend::Avx512Vnni => Int8Gemm::Avx512Vnni,
            GemmBackend::AvxVnni => Int8Gemm::AvxVnni,
            GemmBackend::I8mm => Int8Gemm::I8mm,
            GemmBackend::Dotprod => Int8Gemm::Dotprod,
            GemmBackend::Simd128 => Int8Gemm::Simd128,
            GemmBackend::Rten => Int8Gemm::Rten,
            GemmBackend::Avx2 => Int8Gemm::Avx2,
            GemmBackend::Portable => Int8Gemm::Portable,
        };
        if !gemm.is_usable(linear.k) {
            let step = step.to_owned();
            return Err(match gemm {
                Int8Gemm::Rten => CpuError::Inexact { step, k: linear.k },
                _ => CpuError::Unavailable { step, backend: gemm.name() },
            });
        }
        log::info!("{step}: int8 product by {}", gemm.name());
        let weight = packed.or_insert_with(|| {
            let (n, k) = (linear.n, linear.k);
            let weight = match linear.groups {
                None => Int8Weight::new(&linear.weight, n, k, gemm),
                Some(_) => {
                    let row = |channel| linear.factors(channel).map(|factor| factor as i16);
                    Int8Weight::of_16_bits(&(0..n).flat_map(row).collect::<Vec<_>>(), n, k, gemm)
                }
            };
            weight.into()
        });
        let weight = Arc::clone(weight);
        let offsets = weight.offsets().iter().map(|offset| offset << linear.fraction_bits);
        let bias = linear.bias.iter().zip(offsets).map(|(b, offset)| b.wrapping_sub(offset)).collect();
        let float_bias = match &linear.epilogue {
            Epilogue::Dynamic { bias, .. } => bias.iter().map(|&bias| canonical(bias)).collect(),
            _ => Vec::new(),
        };
        Ok(Self { weight, bias, float_bias })
    }

    /// Runs the layer. `dynamic_qparams` are those of the input, with [`Epilogue::Dynamic`]; `fused` runs on results that are floats.
    pub(super) fn run(
        &self,
        linear: &QLinear,
        x: Activations<'_>,
        dynamic_qparams: Option<&[f32]>,
        fused: &[Fused<'_>],
        shape: &[usize],
        pool: &mut BufferPool,
    ) -> Tensor {
        let shift = linear.fraction_bits;
        let m = slices::rows_before_last(shape);
        let bias = &self.bias[..];
        let n = linear.n;
        let run_fused =
            |row: usize, col: usize, cols: usize, y: &mut [f32]| apply_to_part(fused, y, row, [col, cols], n);
        let after: After<'_, f32> = if fused.is_empty() { None } else { Some(&run_fused) };
        match &linear.epilogue {
            Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                let output = Int8Output { zero_point: *zero_point, lo: *lo, hi: *hi };
                let mut y = pool.take_int8(m * linear.n);
                self.weight.map_parts(
                    &mut y,
                    x,
                    m,
                    #[inline(always)]
                    |_, col: usize, q: &mut [i8], sums: &[i32]| {
                        requantize_row(q, sums, &bias[col..], &multiplier[col..], shift, output);
                    },
                    None,
                );
                slices::codes(shape, y)
            }
            Epilogue::Scale { scale, relu } => {
                let mut y = pool.take(m * linear.n);
                self.weight.map_parts(
                    &mut y,
                    x,
                    m,
                    #[inline(always)]
                    |_, col: usize, y: &mut [f32], sums: &[i32]| {
                        scale_row(y, sums, &bias[col..], &scale[col..], shift, *relu);
                    },
                    after,
                );
                tensor(shape.to_vec(), y)
            }
            Epilogue::Dynamic { scale, weight_sum, relu, .. } => {
                let dynamic_qparams = dynamic_qparams.expect(CHECKED);
                // Qparams of the tensor: what they subtract is the same in each row.
                let shared = match *dynamic_qparams {
                    [x_scale, zero_point] => {
                        let terms = bias.iter().zip(&weight_sum[..]);
                        let term = |(b, sum): (&i32, &i32)| b.wrapping_sub((zero_point as i32).wrapping_mul(*sum));
                        Some((x_scale, terms.map(term).collect::<Vec<_>>()))
                    }
                    _ => None,
                };
                let acc_bias = shared.as_ref().map_or(bias, |(_, acc_bias)| acc_bias);
                let w = Channels { acc_bias, weight_sums: weight_sum, scales: scale, bias: &self.float_bias };
                let mut y = pool.take(m * linear.n);
                self.weight.map_parts(
                    &mut y,
                    x,
                    m,
                    #[inline(always)]
                    |row: usize, col: usize, y: &mut [f32], sums: &[i32]| {
                        let x = match shared {
                            Some((x_scale, _)) => (x_scale, None),
                            None => {
                                let (x_scale, zero_point) = qparams_of_row(dynamic_qparams, row);
                                (x_scale, Some(zero_point))
                            }
                        };
                        scale_dynamic_row(y, sums, x, w.from(col), *relu);
                    },
                    after,
                );
                tensor(shape.to_vec(), y)
            }
        }
    }
}
