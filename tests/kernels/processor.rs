//! Which kernels this processor has, and how fast they are.

use std::time::Instant;

use crate::kernels::{Int8Gemm, Int8Weight};

/// Prints the kernels of this processor. `ENFOLD_EXPECTED_KERNEL` names the one that an emulated processor must choose.
#[test]
fn the_fastest_kernel_is_chosen() {
    let kernels = Int8Gemm::ALL.into_iter().filter(|gemm| gemm.is_usable(64)).map(Int8Gemm::name);
    println!("\nkernels: {}; the first is chosen", kernels.collect::<Vec<_>>().join(", "));
    if let Ok(expected) = std::env::var("ENFOLD_EXPECTED_KERNEL") {
        assert_eq!(Int8Gemm::best(64).name(), expected);
    }
}

/// Prints the rate of each kernel: medians of interleaved rounds.
#[test]
#[ignore = "it measures"]
fn rates() {
    let kernels: Vec<Int8Gemm> = Int8Gemm::ALL.into_iter().filter(|gemm| gemm.is_usable(64)).collect();
    for [m, n, k] in [[1, 1024, 1024], [4, 256, 256], [64, 256, 256], [256, 512, 512], [196, 64, 576]] {
        let x: Vec<i8> = (0..m * k).map(|i| (i * 37 % 251) as u8 as i8).collect();
        let w: Vec<i8> = (0..n * k).map(|i| (i * 101 % 253) as u8 as i8).collect();
        let weights = kernels.iter().map(|&gemm| Int8Weight::new(&w.as_slice().into(), n, k, gemm));
        let weights: Vec<Int8Weight> = weights.collect();
        let repeats = (1 << 25) / (m * n * k) + 1;
        let mut rates = vec![Vec::new(); kernels.len()];
        for _ in 0..11 {
            for (weight, rates) in weights.iter().zip(&mut rates) {
                let start = Instant::now();
                for _ in 0..repeats {
                    std::hint::black_box(weight.product(std::hint::black_box(&x), m));
                }
                rates.push((2 * m * n * k * repeats) as f64 / start.elapsed().as_secs_f64() / 1e9);
            }
        }
        let rates = kernels.iter().zip(rates).map(|(kernel, mut rates)| {
            rates.sort_by(f64::total_cmp);
            format!("{} {:.1}", kernel.name(), rates[5])
        });
        println!("{m} x {n} x {k}, GOPS: {}", rates.collect::<Vec<_>>().join(", "));
    }
}
