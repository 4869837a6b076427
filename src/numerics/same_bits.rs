//! A test of the same bits on every processor: hashes of the results of float functions. Emulators run it for other processors.

use super::float::products::{factors, product};
use super::float::rows::{layer_norm, rms_norm, softmax, sum, sum_columns};
use super::{UnaryOp, vectorized};

/// The hash FNV-1a of numbers. All NaN are one, since their sign and payload are no part of a result.
fn hash(values: impl IntoIterator<Item = f64>) -> u64 {
    values.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, x| {
        let bits = if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
        bits.to_le_bytes().into_iter().fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    })
}

fn hash_f32(values: &[f32]) -> u64 {
    hash(values.iter().map(|&x| f64::from(x)))
}

/// Numbers of −8 to 8, without a pattern.
fn small(count: usize, salt: u32) -> Vec<f32> {
    let bits = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(salt.wrapping_mul(0x85eb_ca6b));
    (0..count).map(|i| ((bits(i) ^ (bits(i) >> 15)) >> 8) as f32 / (1 << 20) as f32 - 8.0).collect()
}

/// Numbers of all signs and exponents, special ones too.
fn all_kinds() -> Vec<f32> {
    let mut x: Vec<f32> = (0..1u32 << 15).map(|i| f32::from_bits(i.wrapping_mul(0x0002_0003))).collect();
    x.extend([0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-45, f32::MAX]);
    x.extend(small(1 << 15, 1));
    x
}

/// The hash of each function, in a line.
fn hashes() -> Vec<String> {
    let mut lines = Vec::new();
    let x = all_kinds();
    for &op in UnaryOp::ALL {
        let mut y = x.clone();
        op.apply(&mut y);
        let scalars = hash(x.iter().step_by(64).map(|&x| op.eval(x.into())));
        lines.push(format!("{op} {:016x} {scalars:016x}", hash_f32(&y)));
    }
    let of_rows = |name: &str, f: fn(&mut [f32], &[f32], &[f32])| {
        let rows = [1, 31, 33, 64, 65, 300, 1025].into_iter().enumerate().flat_map(|(salt, n)| {
            let [mut row, weight, bias] = [0, 1, 2].map(|part| small(n, 3 * salt as u32 + part));
            vectorized(
                #[inline(always)]
                || f(&mut row, &weight, &bias),
            );
            row
        });
        format!("{name} {:016x}", hash_f32(&rows.collect::<Vec<_>>()))
    };
    lines.push(of_rows("sum", |row, _, _| row[0] = sum(row)));
    lines.push(of_rows("softmax", |row, _, _| softmax(row)));
    lines.push(of_rows("layer_norm", |row, weight, bias| layer_norm(row, weight, bias, 1e-5)));
    lines.push(of_rows("rms_norm", |row, weight, _| rms_norm(row, weight, 1e-5)));
    let mut sums = vec![0.0; 37];
    sum_columns(&small(37 * 100, 5), &mut sums);
    lines.push(format!("sum_columns {:016x}", hash_f32(&sums)));
    let products = [[1, 70, 300], [9, 33, 65]].into_iter().flat_map(|[m, n, k]| {
        let mut y = vec![0.0; m * n];
        product(&mut y, &factors(&small(m * k, 6)), &factors(&small(n * k, 7)), [n, k], Some(&small(n, 8)));
        y
    });
    lines.push(format!("product {:016x}", hash_f32(&products.collect::<Vec<_>>())));
    lines
}

/// For functions, the hash of the vectors' `f32` and that of the `f64` of lookup tables.
const EXPECTED: &str = "
relu fdfbaf57b22985da d0ee9f92b2507dea
sigmoid 7cabc3f0f5e5c451 43ccbb76f997ea98
tanh b89ad3be6456e894 7cbdc5fa38fe551b
gelu a2c2f1aafedbe427 5d92e3d90c1f6cce
gelu_tanh 46cb109fa968d3c6 8ce4962bc816ba40
silu 231688844524a356 b57bbf21d3368f29
sqrt 6e2dfc88deb0d058 7b0029d9b091a1d8
exp 8217094a6300b1b1 10443bfede415f71
log 0b10e6fd84025b73 8242b78970d82837
erf cb72af5e0f13cc71 c268d2ab8d915c95
abs 16fb6e50a5562940 5a4921003158a436
step f2ba8a7c82f04445 24eb437a9b88f065
sign 317ad429a5e789f0 be69404886f3f1b8
round_f16 1848de7060da9a03 3f4e6296ae59937a
round_bf16 9c80e28a46b85218 f9bc8c4613ec41c2
sin 658202091d04cd8e 4a742f9346971b3c
cos 3fd6b3d9eeed284f 78944835bff00c19
round b9746ca108c6c43d 1f0c9a2ea770d7b4
floor cdad9ff1e6a5fc11 fec35f7f9c805cf1
ceil 5fff4f9e493e76c4 8cb415c0db9dcf3c
is_nan 0f8b5e3115c070f8 3adf2d9a1b54d2c5
sum 6380b96278cc082a
softmax b18bf5e45865882e
layer_norm 70a13dddea39e46b
rms_norm 14c0ac6a74f50fc7
sum_columns 225b47e549d4edb1
product 5e923d605cebd008
";

#[test]
fn results_are_the_same_on_every_processor() {
    let lines = hashes();
    assert_eq!(lines.join("\n"), EXPECTED.trim());
}

#[test]
fn one_changed_bit_shows() {
    let mut x = small(1000, 0);
    let before = hash_f32(&x);
    x[500] = f32::from_bits(x[500].to_bits() ^ 1);
    assert_ne!(hash_f32(&x), before);
}
