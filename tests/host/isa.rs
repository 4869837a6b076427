//! The machine code of shaders, as the compiler of AMD GPUs in Mesa writes it, without such a GPU. It contracts products and sums wherever
//! it may, so it shows whether the barriers of equation 11 hold; and it shows what the kernels of int8 products cost.
//!
//! `tests/isa.sh` fetches the compiler and runs these tests. Without it they say that they check nothing.

mod compiler;

use compiler::{Code, Compiler};
use enfold::gpu::shaders::{self, Shader};

use crate::report::report;
use crate::shaders::{float_constants, promises_bits};

/// The compiler, if `tests/isa.sh` runs this.
fn compiler() -> Option<Compiler> {
    if std::env::var_os("ENFOLD_ISA").is_none() {
        report("machine code: not checked; tests/isa.sh does");
        return None;
    }
    Some(Compiler::new("").expect("Mesa's RADV on its null device"))
}

/// The guesses of divisions and roots, whose bits decide nothing and which may be contracted, and what replaces them.
const GUESSES: [(&str, &str); 4] = [
    ("let inverse = 1.0f / b_fraction;", "let inverse = b_fraction;"),
    ("let guess = sqrt(fraction);", "let guess = fraction;"),
    ("(1.0f / guess)", "guess"),
    ("add_f(more, MAGIC)", "more"),
];

fn without_guesses(wgsl: String) -> String {
    GUESSES.into_iter().fold(wgsl, |wgsl, (guess, other)| wgsl.replace(guess, other))
}

/// Whether an entry point multiplies exactly, so that a multiply-add changes nothing.
fn multiplies_exactly(entry: &str) -> bool {
    entry.starts_with("matmul_") && entry.ends_with("_f32_f32") || is_attention(entry)
}

/// Whether an entry point multiplies exactly in its matmuls only.
fn is_attention(entry: &str) -> bool {
    entry.starts_with("attention")
}

/// The shader with sums in place of its exact multiply-adds.
fn without_products(wgsl: &str) -> String {
    let without = wgsl.replace("left * right + sums", "left + right + sums");
    assert_ne!(without, wgsl);
    without
}

#[test]
fn no_product_is_contracted_with_a_sum() {
    let Some(compiler) = compiler() else { return };
    let (mut checked, mut exact) = (0, 0);
    for (shader, entries) in shaders::all().into_iter().filter(|(shader, _)| !shader.coopmat) {
        let wgsl = without_guesses(shader.wgsl());
        for entry in entries.into_iter().filter(|entry| promises_bits(entry)) {
            for constants in float_constants(&shader) {
                let found = compiler.compile(&wgsl, &shader, entry, &constants).multiply_adds();
                if multiplies_exactly(entry) {
                    assert!(found > 0, "{entry}: exact products need no second instruction");
                    exact += 1;
                    if is_attention(entry) {
                        let wgsl = without_products(&wgsl);
                        let found = compiler.compile(&wgsl, &shader, entry, &constants).multiply_adds();
                        assert_eq!(found, 0, "{entry} {constants:?}: the softmax");
                    }
                } else {
                    assert_eq!(found, 0, "{} {entry} {constants:?}", shader.name);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 200 && exact > 3, "{checked} and {exact}");
    let device = &compiler.device;
    report(&format!(
        "machine code: {checked} entry points without multiply-adds, {exact} with exact ones, on {device}"
    ));
}

/// Without the barrier this compiler does contract: the test above sees something.
#[test]
fn without_the_barrier_products_are_contracted() {
    let Some(compiler) = compiler() else { return };
    let (barrier, none) = ("return bitcast<f32>(bitcast<u32>(x) ^ params.zero);", "return x;");
    for (shader, _) in shaders::all().into_iter().filter(|(shader, _)| shader.name.starts_with("softmax")) {
        let entry = if shader.name.contains("short") { "softmax_short_f32_f32" } else { "softmax_f32_f32" };
        let wgsl = without_guesses(shader.wgsl());
        let unguarded = wgsl.replace(barrier, none);
        assert_ne!(unguarded, wgsl);
        for constants in float_constants(&shader) {
            let found = |wgsl| compiler.compile(wgsl, &shader, entry, &constants).multiply_adds();
            assert!(found(&unguarded) > 0 && found(&wgsl) == 0, "{}", shader.name);
        }
    }
}

/// What the driver of this machine's GPU states about the kernels of int8 layers, which `tests/gpu_machine.sh` prints. NVIDIA's and Mesa's
/// newer drivers count registers.
#[test]
fn statistics_of_the_linear_kernels() {
    if std::env::var_os("ENFOLD_ISA").is_none() {
        report("statistics: none; tests/gpu_machine.sh prints them");
        return;
    }
    let wanted = std::env::var("ENFOLD_ADAPTER").unwrap_or_default().to_lowercase();
    let compiler = match Compiler::new(&wanted) {
        Ok(compiler) => compiler,
        Err(error) => return report(&format!("statistics: the driver states none ({error})")),
    };
    for name in
        ["linear_workgroup_8", "linear_large_8", "linear_register_8", "linear_gemv_8", "linear_gemv_4", "linear_gemv_2"]
    {
        let is_it = |(shader, _): &(Shader, _)| shader.name == name && shader.chosen[0].name == "to_i8";
        let (shader, entries) = shaders::all().into_iter().find(is_it).expect("a shader");
        for entry in entries {
            let statistics = compiler.statistics(&shader, entry).expect("a pipeline");
            let all: Vec<String> = statistics.iter().map(|(name, value)| format!("{name} {value}")).collect();
            report(&format!("statistics of {name} {entry} on {}: {}", compiler.device, all.join(", ")));
        }
    }
}

/// The kernel for large layers on a GPU with packed dot products.
#[test]
fn the_large_linear_kernel_is_as_lean_as_it_was() {
    let Some(compiler) = compiler().filter(|compiler| compiler.device.contains("NAVI31")) else { return };
    for rows in ["matrix", "patches"] {
        large_kernel(&compiler, rows);
    }
}

/// Checks the kernel with rows of a matrix, or with the elements under the windows of a convolution.
fn large_kernel(compiler: &Compiler, rows: &str) {
    let is_it = |(shader, _): &(Shader, _)| {
        let chosen = shader.chosen.map(|piece| piece.name);
        shader.name == "linear_large_8" && chosen.contains(&"to_i8") && chosen.contains(&rows)
    };
    let (shader, _) = shaders::all().into_iter().find(is_it).expect("a shader");
    let code = compiler.compile(&shader.wgsl(), &shader, "linear_large", &[]);
    let stage = code.loop_of_dots();
    let (registers, dots, sums) = (code.statistic("VGPRs"), Code::count(stage, "v_dot4"), Code::count(stage, "v_add3"));
    // The loads of the next stage are on their way while most of this stage is computed.
    let loads = stage.iter().rposition(|line| line.starts_with("buffer_load")).expect("a load of the next stage");
    let waits = stage[loads..]
        .iter()
        .position(|line| line.starts_with("s_waitcnt") && (line.contains("vmcnt(1)") || line.contains("vmcnt(0)")));
    let before = Code::count(&stage[loads..loads + waits.unwrap_or(stage.len() - loads)], "v_dot4");
    let epilogue = code.after_dots();
    let loads = ["buffer_load", "s_buffer_load"].iter().map(|load| Code::count(epilogue, load)).sum::<usize>();
    // Two for parameters, two for the biases and factors of two quads as they arrive, and one for the place of each result. A wait of
    // `depctr` is for a register, not for memory.
    let waits = Code::count(epilogue, "s_waitcnt") - Code::count(epilogue, "s_waitcnt_depctr");
    report(&format!(
        "machine code of linear_large, {rows}: {registers} registers, {dots} dot products and {sums} other sums a stage, {before} of them before \
         the next stage is waited for; epilogue: {loads} loads, {waits} waits"
    ));
    assert!(registers <= 128 && dots == 512 && sums == 0 && before >= 400, "{}", code.text);
    assert!(loads <= 24 && waits <= 6, "{}", code.text);
}

/// The SPIR-V with int8 matrices, which no software driver runs: AMD's compiler takes it, and each product becomes an instruction.
#[cfg(feature = "coopmat-spirv")]
#[test]
fn int8_matrices_are_matrix_instructions() {
    let Some(compiler) = compiler().filter(|compiler| compiler.device.contains("NAVI31")) else { return };
    let mut compiled = 0;
    for (shader, entries) in shaders::all().into_iter().filter(|(shader, _)| shader.int8_k == 16) {
        for entry in entries {
            // A subgroup of 32 or 64 lanes: a workgroup has eight.
            let overrides = [("FRAGMENT_VECS", 1), ("PATCH_ROWS", 4), ("K_STEP", 4), ("THREADS", 512)];
            let words = shaders::int8_matrices(&shader, entry, &overrides).expect("translated");
            let code = compiler.compile_spirv(&words, &shader, entry);
            let products = code.text.matches("v_wmma_i32_16x16x16_iu8").count();
            // Two rows and four columns of pieces, for each of four vectors; the compiler may leave the loop over these as it is.
            assert!(products >= 8 && products.is_multiple_of(8), "{products} products: {}", code.text);
            assert_eq!(code.statistic("Spilled VGPRs"), 0, "{}", shader.name);
            compiled += 1;
        }
    }
    assert!(compiled > 8, "{compiled}");
    report(&format!("machine code: {compiled} kernels on int8 matrices, each product a matrix instruction"));
}

/// A norm of a row of 4,096 elements, with all that is fused: loads do not wait for each other.
#[test]
fn a_long_norm_loads_in_rounds() {
    let Some(compiler) = compiler() else { return };
    let (shader, _) = shaders::all().into_iter().find(|(shader, _)| shader.name == "layer_norm_i8").expect("a shader");
    let on = ["CENTER", "ADD", "KEEP"].map(|name| (name, 1.0));
    let constants = [&on[..], &[("HELD", 4096.0), ("THREADS", 256.0)]].concat();
    let rounds = compiler.compile(&shader.wgsl(), &shader, "layer_norm_f32_i8", &constants).rounds_of_loads();
    report(&format!("machine code of layer_norm_i8: loads in each block, and in how many rounds {rounds:?}"));
    // Four elements of both operands in a round, then weights and biases of four results: a thread reads its 16 of 4,096 elements in four
    // rounds, and their weights and biases in four more.
    let whole = rounds.iter().filter(|&&(loads, rounds)| loads >= 8 && rounds == 1).count();
    assert!(whole >= 2 && rounds.iter().all(|&(_, rounds)| rounds == 1), "{rounds:?}");
}
