//! What naga writes for Metal and for Direct3D: nothing in it changes a bit that the WGSL promises.
//!
//! The lint of naga's form does not see what a back end adds, or prints otherwise: a function whose accuracy the language leaves open, a
//! division, a literal that is read back as another number. What Apple's and Microsoft's compilers make of the text only devices show.

use std::collections::BTreeSet;

use enfold::gpu::shaders;
use naga::back::{self, PipelineConstants, hlsl, msl};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{Expression, Literal, Module, ShaderStage};

use super::lint::GUESSES;
use super::{float_constants, named, parse, promises_bits};

/// The functions of both languages that may be called: those that move bits, and those whose result is exact. `rint` and `round` take
/// ties to even.
const EXACT: [&str; 29] = [
    "GroupMemoryBarrierWithGroupSync",
    "QuadReadLaneAt",
    "WaveActiveMax",
    "WaveActiveMin",
    "WaveGetLaneIndex",
    "WaveReadLaneAt",
    "as_type",
    "asfloat",
    "asint",
    "asuint",
    "atomic_exchange_explicit",
    "atomic_fetch_add_explicit",
    "ceil",
    "clamp",
    "clz",
    "dot4add_i8packed",
    "firstbithigh",
    "floor",
    "max",
    "min",
    "quad_broadcast",
    "rint",
    "round",
    "select",
    "simd_max",
    "simd_min",
    "simd_shuffle",
    "static_cast",
    "threadgroup_barrier",
];

/// The floats that naga itself adds: the smallest and the largest in the range of i32.
const BOUNDS: [f32; 2] = [-2147483648.0, 2147483520.0];

/// The text of an entry point in each language, as wgpu has it written for modules without run-time checks. Only divisions of integers
/// are checked, which tells them from those of floats: they are calls.
fn texts(module: &Module, info: &ModuleInfo, entry: &str) -> Vec<(String, String)> {
    let stage = Some((ShaderStage::Compute, entry.to_owned()));
    let of_metal = [(2, 0), (3, 2)].map(|lang_version| {
        let unchecked = BoundsCheckPolicy::Unchecked;
        let options = msl::Options {
            lang_version,
            bounds_check_policies: BoundsCheckPolicies {
                index: unchecked,
                buffer: unchecked,
                image_load: unchecked,
                binding_array: unchecked,
            },
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            ..msl::Options::default()
        };
        let pipeline = msl::PipelineOptions { entry_point: stage.clone(), ..msl::PipelineOptions::default() };
        let (text, _) = msl::write_string(module, info, &options, &pipeline).unwrap_or_else(|e| panic!("{entry}: {e}"));
        (format!("Metal {lang_version:?}"), text)
    });
    let of_direct3d = [hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_4].map(|shader_model| {
        let options = hlsl::Options {
            shader_model,
            restrict_indexing: false,
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            ..hlsl::Options::default()
        };
        let (mut text, pipeline) = (String::new(), hlsl::PipelineOptions { entry_point: stage.clone() });
        let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
        writer.write(module, info, None).unwrap_or_else(|e| panic!("{entry}: {e}"));
        (format!("Direct3D {shader_model:?}"), text)
    });
    of_metal.into_iter().chain(of_direct3d).collect()
}

/// The bits of all floats that a module names.
fn literals(module: &Module) -> BTreeSet<u32> {
    let functions = module.functions.iter().map(|(_, function)| function);
    let arenas = functions.chain(module.entry_points.iter().map(|e| &e.function)).map(|f| &f.expressions);
    let expressions = arenas.chain([&module.global_expressions]).flat_map(|arena| arena.iter());
    let named = expressions.filter_map(|(_, expression)| match expression {
        Expression::Literal(Literal::F32(value)) => Some(value.to_bits()),
        _ => None,
    });
    named.chain(BOUNDS.map(f32::to_bits)).collect()
}

/// Words, numbers and signs, with the numbers of their lines. A minus without a space after it belongs to a number: naga writes
/// differences with spaces and negations with parentheses.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let mut rest = line.split("//").next().unwrap_or_default().trim_start();
        while let Some(first) = rest.chars().next() {
            let unsigned = rest.strip_prefix('-').unwrap_or(rest);
            let in_number = |(i, c): (usize, char)| {
                let signs_exponent =
                    matches!(c, '+' | '-') && !unsigned.starts_with("0x") && unsigned[..i].ends_with('e');
                c.is_ascii_alphanumeric() || c == '.' || signs_exponent
            };
            let length = if unsigned.starts_with(|c: char| c.is_ascii_digit()) {
                let end = unsigned.char_indices().find(|&c| !in_number(c)).map_or(unsigned.len(), |(end, _)| end);
                rest.len() - unsigned.len() + end
            } else {
                let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
                let word = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
                if first == ':' { 1 } else { word.max(first.len_utf8()) }
            };
            let (token, after) = rest.split_at(length);
            tokens.push((at + 1, token));
            rest = after.trim_start();
        }
    }
    tokens
}

/// Whether a word is the name of a number, a vector or a comparison, so that a call makes or converts one.
fn is_type(word: &str) -> bool {
    matches!(word.trim_end_matches(|c: char| c.is_ascii_digit()), "bool" | "float" | "int" | "packed_char" | "uint")
}

/// The function that a text is in.
#[derive(Default)]
struct Within<'t> {
    name: &'t str,
    /// Whether it guesses, or is what naga divides integers with.
    divides: bool,
    /// Whether the barrier has not been seen in it yet.
    lacks_barrier: bool,
}

impl<'t> Within<'t> {
    fn new(name: &'t str, result: &str) -> Self {
        let divides_integers = name.starts_with("naga_") && is_type(result) && !result.starts_with("float");
        Self {
            name,
            divides: GUESSES.contains(&name) || divides_integers,
            lacks_barrier: matches!(name, "keep" | "keep_four"),
        }
    }
}

/// What is wrong with a text whose floats are these: each with its line. Notes the functions of the language that it calls.
fn faults<'t>(text: &'t str, floats: &BTreeSet<u32>, called: &mut BTreeSet<&'t str>) -> Vec<String> {
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |&(_, word)| word.trim_start_matches("metal::"));
    // The places where functions are defined: outside of braces, and a brace follows their parameters.
    let (mut braces, mut depth, mut open, mut defined) = (0, Vec::new(), Vec::new(), BTreeSet::new());
    for at in 0..tokens.len() {
        depth.push(braces);
        match word(at) {
            "{" => braces += 1,
            "}" => braces -= 1,
            "(" => open.push(at),
            ")" => {
                let name = open.pop().unwrap_or(1).max(1) - 1;
                if depth[name] == 0 && open.is_empty() && word(at + 1) == "{" {
                    defined.insert(name);
                }
            }
            _ => {}
        }
    }
    let own: BTreeSet<&str> = defined.iter().map(|&at| word(at)).collect();
    let (mut within, mut brackets, mut faults) = (Within::default(), 0, Vec::new());
    for (at, &(line, token)) in tokens.iter().enumerate() {
        let mut fault = |what: &str| {
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            faults.push(format!("line {line}, {}: {what}: {source}", within.name));
        };
        match token {
            "[" => brackets += 1,
            "]" => brackets -= 1,
            "^" => within.lacks_barrier = false,
            "/" if !within.divides => fault("a division of floats"),
            "}" if depth[at] == 1 && within.lacks_barrier => fault("no barrier"),
            number if number.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) => {
                let is_float = !number.contains('x') && number.contains(['.', 'e']);
                // Compilers read a literal as f64 first, or as f32 at once.
                let bits = number.parse().map(f32::to_bits).into_iter();
                let read: Vec<u32> = bits.chain(number.parse().map(|wide: f64| (wide as f32).to_bits())).collect();
                if is_float && (read.len() != 2 || read.iter().any(|bits| !floats.contains(bits))) {
                    fault(&format!("{number} is none of the shader's floats"));
                }
            }
            _ => {}
        }
        let name = word(at);
        let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        // A call may name a type: `as_type<float>(x)`.
        let calls = word(at + 1) == "(" || (word(at + 1) == "<" && word(at + 3) == ">" && word(at + 4) == "(");
        // Methods are those of buffers.
        let is_method = at > 0 && word(at - 1) == ".";
        let is_attribute = depth[at] == 0 && (brackets > 0 || (at > 0 && word(at - 1) == ":"));
        if defined.contains(&at) {
            within = Within::new(name, word(at - 1));
        } else if is_word && calls && !is_method && !is_attribute {
            if own.contains(token) || is_type(name) || matches!(name, "if" | "return" | "switch" | "while") {
                continue;
            }
            called.insert(name);
            let is_guess = name == "sqrt" && GUESSES.contains(&within.name);
            let is_of_integers = name == "dot" && word(at + 2) == "int4";
            if !(EXACT.contains(&name) || is_guess || is_of_integers) {
                fault(&format!("a call of {name}"));
            }
        }
    }
    faults
}

/// The module of an entry point with these values of the override constants.
fn specialized(module: &Module, info: &ModuleInfo, entry: &str, constants: &[(&str, f64)]) -> (Module, ModuleInfo) {
    let constants: PipelineConstants = constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let stage = Some((ShaderStage::Compute, entry));
    let (module, info) = back::pipeline_constants::process_overrides(module, info, stage, &constants)
        .unwrap_or_else(|e| panic!("{entry}: {e}"));
    (module.into_owned(), info.into_owned())
}

#[test]
fn nothing_that_is_written_for_metal_or_direct3d_changes_bits() {
    let (mut checked, mut called) = (0, BTreeSet::new());
    for (shader, entries) in shaders::all() {
        let (module, info) = parse(&shader.wgsl(), &shader);
        for entry in entries.iter().filter(|entry| promises_bits(entry)) {
            for constants in float_constants(&shader) {
                let (module, info) = specialized(&module, &info, entry, &constants);
                let floats = literals(&module);
                for (language, text) in texts(&module, &info, entry) {
                    let mut names = BTreeSet::new();
                    let found = faults(&text, &floats, &mut names);
                    assert!(found.is_empty(), "{entry} {constants:?} for {language}: {}", found.join("\n"));
                    called.extend(names.into_iter().map(str::to_owned));
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 1000, "{checked} texts");
    let unused: Vec<_> = EXACT.iter().filter(|name| !called.contains(**name)).collect();
    assert!(unused.is_empty(), "no shader calls {unused:?}");
}

/// The faults in each language of an entry point whose result is this expression.
fn faults_of(expression: &str) -> Vec<Vec<String>> {
    let wgsl = format!(
        "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
        fn keep(a: f32) -> f32 {{ return bitcast<f32>(bitcast<u32>(a) ^ 1u); }}
        @compute @workgroup_size(1) fn computes() {{ let x = y[0]; y[0] = keep({expression}); }}"
    );
    let (module, info) = parse(&wgsl, &named("reduce").0);
    let floats = literals(&module);
    let texts = texts(&module, &info, "computes");
    texts.iter().map(|(_, text)| faults(text, &floats, &mut BTreeSet::new())).collect()
}

#[test]
fn functions_and_divisions_that_languages_leave_open_are_refused() {
    for exact in ["x * 1.1920928955078125e-7f", "round(x) + 0.1f", "f32(bitcast<i32>(x) / 3)", "f32(i32(x) % 3)", "-x"]
    {
        assert!(faults_of(exact).iter().all(Vec::is_empty), "{exact}: {:?}", faults_of(exact));
    }
    for inexact in [
        "exp(x)",
        "exp2(x)",
        "log(x)",
        "sqrt(x)",
        "inverseSqrt(x)",
        "tanh(x)",
        "sin(x)",
        "cos(x)",
        "pow(x, 3.0)",
        "x / 3.0",
        "x % 3.0",
        "fma(x, x, 1.0)",
        "mix(x, 1.0, 0.5)",
        "dot(vec2<f32>(x), vec2<f32>(2.0))",
    ] {
        for faults in faults_of(inexact) {
            assert!(faults.iter().any(|fault| fault.starts_with("line ")), "{inexact}: {faults:?}");
        }
    }
}

#[test]
fn a_changed_literal_and_a_missing_barrier_are_refused() {
    let (shader, _) = named("softmax");
    let (module, info) = parse(&shader.wgsl(), &shader);
    let (module, info) = specialized(&module, &info, "softmax_f32_f32", &[]);
    let floats = literals(&module);
    for (language, text) in texts(&module, &info, "softmax_f32_f32") {
        for (as_written, other, expected) in [
            ("1.442695,", "1.442696,", "1.442696"),
            ("(x) ^ _e4", "(x) | _e4", "no barrier"),
            ("_e14, 0.5", "_e14, -0.5", "-0.5"),
        ] {
            let changed = text.replace(as_written, other);
            assert_ne!(changed, text, "{language}: {as_written}");
            let found = faults(&changed, &floats, &mut BTreeSet::new());
            assert!(found.len() == 1 && found[0].contains(expected), "{language}: {found:?}");
        }
    }
}
