//! Every shader is valid, translates to every backend and agrees with the host. By naga, without a GPU.

use std::collections::BTreeSet;

mod languages;
mod lint;
mod short;
#[path = "../../build/short_names.rs"]
mod short_names;

use enfold::gpu::shaders::{self, BindingKind, Shader};
use lint::inexact;
use naga::back::{self, glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, Layouter};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Handle, Module, ShaderStage, StorageAccess};

/// Parses and validates with no capabilities except plain WGSL and those that the shader declares.
pub(crate) fn parse(wgsl: &str, shader: &Shader) -> (Module, ModuleInfo) {
    let Shader { subgroups, coopmat, .. } = *shader;
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    capabilities.set(Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX, coopmat);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    }
    let info = validator.validate(&module);
    let info = info.unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
    (module, info)
}

/// The shader of this name, with its entry points.
fn named(name: &str) -> (Shader, Vec<&'static str>) {
    shaders::all().into_iter().find(|(shader, _)| shader.name == name).expect("a shader")
}

/// Values of the override constants to try: the defaults, and others.
fn constants(shader: &Shader) -> Vec<back::PipelineConstants> {
    let value = |name: &str| match name {
        "PACKED_DOT" => 0.0,
        "THREADS_Y" | "K_STEP" | "K_LANES" => 2.0,
        "ROWS" => 8.0,
        "QUADS" => 4.0,
        "LANES" => 4.0,
        "PATCH_ROWS" => 4.0,
        "THREADS" => 256.0,
        "FRAGMENT_VECS" => 1.0,
        "HELD" => 64.0,
        "CHUNK_VECS" => 128.0,
        "F16" | "GAPS" | "CENTER" | "ADD" | "KEEP_SUM" | "KEEP" | "QUANTIZE" | "PRODUCT" | "SQUARE" | "BIAS"
        | "A_INTEGER" | "B_INTEGER" | "DYNAMIC" | "REPRODUCIBLE" | "SCALE" | "MASK" | "MEAN" => 1.0,
        other => panic!("no value for the override {other}"),
    };
    let others = shader.overrides.iter().map(|name| ((*name).to_owned(), value(name))).collect();
    vec![back::PipelineConstants::default(), others]
}

#[test]
fn every_entry_translates_to_every_backend() {
    let mut translated = 0;
    let mut expected = 0;
    for (shader, entries) in shaders::all() {
        let (module, info) = parse(&shader.wgsl(), &shader);
        expected += 2 * entries.len();
        for (entry, constants) in entries.iter().flat_map(|e| constants(&shader).into_iter().map(move |c| (*e, c))) {
            let stage = (ShaderStage::Compute, entry);
            let (module, info) = back::pipeline_constants::process_overrides(&module, &info, Some(stage), &constants)
                .unwrap_or_else(|e| panic!("{entry}: {e}"));
            for lang_version in [(1, 3), (1, 6)] {
                let options = spv::Options { lang_version, ..spv::Options::default() };
                let pipeline =
                    spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_owned() };
                spv::write_vec(&module, &info, &options, Some(&pipeline))
                    .unwrap_or_else(|e| panic!("{entry} to SPIR-V {lang_version:?}: {e}"));
            }
            // Cooperative matrices came with 2.3.
            for lang_version in [(2, 0), (2, 4)].into_iter().skip(usize::from(shader.coopmat)) {
                let options = msl::Options { lang_version, ..msl::Options::default() };
                msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
                    .unwrap_or_else(|e| panic!("{entry} to MSL {lang_version:?}: {e}"));
            }
            translated += 1;
            // Neither knows cooperative matrices.
            if shader.coopmat {
                continue;
            }
            for shader_model in [hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_4] {
                let options = hlsl::Options { shader_model, ..hlsl::Options::default() };
                let (mut text, pipeline) = (String::new(), hlsl::PipelineOptions::default());
                let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
                writer.write(&module, &info, None).unwrap_or_else(|e| panic!("{entry} to HLSL {shader_model:?}: {e}"));
            }
            let options = glsl::Options { version: glsl::Version::new_gles(310), ..glsl::Options::default() };
            let pipeline = glsl::PipelineOptions {
                shader_stage: ShaderStage::Compute,
                entry_point: entry.to_owned(),
                multiview: None,
            };
            let mut text = String::new();
            let policies = BoundsCheckPolicies::default();
            glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, policies)
                .and_then(|mut writer| writer.write())
                .unwrap_or_else(|e| panic!("{entry} to GLSL: {e}"));
        }
    }
    assert!(translated == expected && expected > 100, "{translated} of {expected}");
}

#[test]
fn every_pass_translates_to_every_backend_and_agrees_with_the_host() {
    for (name, wgsl, entry, params) in shaders::passes() {
        let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).expect(name);
        assert_eq!(module.entry_points.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), [entry]);
        let layout = |name: &str, offset: usize| {
            module.types.iter().any(|(_, ty)| match &ty.inner {
                naga::TypeInner::Struct { members, span } => {
                    let is_at = |m: &naga::StructMember| m.name.as_deref() == Some(name) && m.offset == offset as u32;
                    ty.name.as_deref() == Some(params.name) && *span == params.size as u32 && members.iter().any(is_at)
                }
                _ => false,
            })
        };
        assert!(params.fields.iter().all(|&(name, offset)| layout(name, offset)), "{params:?}");
        assert!(!layout(params.fields[1].0, 0), "another offset is seen");
        let stage = ShaderStage::Compute;
        let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point: entry.to_owned() };
        spv::write_vec(&module, &info, &spv::Options::default(), Some(&pipeline)).expect("SPIR-V");
        let options = msl::Options { lang_version: (2, 0), ..msl::Options::default() };
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).expect("MSL");
        let (mut text, options) = (String::new(), hlsl::PipelineOptions::default());
        hlsl::Writer::new(&mut text, &hlsl::Options::default(), &options).write(&module, &info, None).expect("HLSL");
        let options = glsl::Options { version: glsl::Version::new_gles(310), ..glsl::Options::default() };
        let pipeline = glsl::PipelineOptions { shader_stage: stage, entry_point: entry.to_owned(), multiview: None };
        let policies = BoundsCheckPolicies::default();
        glsl::Writer::new(&mut String::new(), &module, &info, &options, &pipeline, policies)
            .and_then(|mut writer| writer.write())
            .expect("GLSL");
    }
}

/// The names that a module declares and the host does not list, or the other way round.
fn orphans(shader: &Shader, entries: &[&str], module: &Module) -> Vec<String> {
    let mut orphans = Vec::new();
    let mut compare = |what: &str, declared: BTreeSet<String>, listed: BTreeSet<String>| {
        let missing = declared.difference(&listed).map(|name| format!("{what} {name} is declared and not listed"));
        orphans.extend(missing);
        orphans.extend(listed.difference(&declared).map(|name| format!("{what} {name} is listed and not declared")));
    };
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
    compare("entry", module.entry_points.iter().map(|e| e.name.clone()).collect(), names(entries));
    let overrides = module.overrides.iter().filter_map(|(_, o)| o.name.clone()).collect();
    compare("override", overrides, names(shader.overrides));

    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).expect("a layout");
    let declared = module.global_variables.iter().filter_map(|(_, variable)| {
        let binding = variable.binding.as_ref()?;
        let kind = match variable.space {
            AddressSpace::Uniform => format!("uniform of {} bytes", layouter[variable.ty].size),
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => "read_write".to_owned(),
            AddressSpace::Storage { .. } => "read".to_owned(),
            other => format!("{other:?}"),
        };
        Some(format!("{} at {}.{}, {kind}", variable.name.as_deref()?, binding.group, binding.binding))
    });
    let listed = shader.bindings().into_iter().map(|b| {
        let kind = match b.kind {
            BindingKind::Uniform { size, .. } => format!("uniform of {size} bytes"),
            BindingKind::Read => "read".to_owned(),
            BindingKind::ReadWrite => "read_write".to_owned(),
        };
        format!("{} at 0.{}, {kind}", b.name, b.binding)
    });
    compare("binding", declared.collect(), listed.collect());

    // Structs that are bound, directly, as an array's element or as a member.
    let mut bound: Vec<Handle<naga::Type>> =
        module.global_variables.iter().filter(|(_, v)| v.binding.is_some()).map(|(_, v)| v.ty).collect();
    let mut declared = BTreeSet::new();
    while let Some(ty) = bound.pop() {
        if let naga::TypeInner::Array { base, .. } = module.types[ty].inner {
            bound.push(base);
        }
        let naga::TypeInner::Struct { members, span } = &module.types[ty].inner else { continue };
        bound.extend(members.iter().map(|member| member.ty));
        let name = module.types[ty].name.as_deref().unwrap_or("unnamed");
        declared.insert(format!("{name} of {span} bytes"));
        for member in members {
            declared.insert(format!("{name}.{} at {}", member.name.as_deref().unwrap_or("unnamed"), member.offset));
        }
    }
    let mut listed = BTreeSet::new();
    for s in shader.structs() {
        listed.insert(format!("{} of {} bytes", s.name, s.size));
        listed.extend(s.fields.iter().map(|(field, offset)| format!("{}.{field} at {offset}", s.name)));
    }
    compare("struct", declared, listed);
    orphans
}

#[test]
fn shaders_and_host_agree() {
    for (shader, entries) in shaders::all() {
        let (module, _) = parse(&shader.wgsl(), &shader);
        let orphans = orphans(&shader, &entries, &module);
        assert!(orphans.is_empty(), "{}: {}", shader.name, orphans.join("\n"));
    }
}

#[test]
fn an_orphan_on_either_side_is_named() {
    let (shader, entries) = named("quantize_static");
    let check = |overrides: &'static [&'static str], entries: &[&str], wgsl: &str, expected: &str| {
        let shader = Shader { overrides, ..shader };
        let orphans = orphans(&shader, entries, &parse(wgsl, &shader).0);
        assert!(orphans.iter().any(|o| o.contains(expected)), "{expected} not in {orphans:?}");
    };
    let wgsl = shader.wgsl();
    check(&[], &entries, &format!("{wgsl}\noverride EXTRA: u32 = 1u;"), "override EXTRA is declared");
    check(&["GONE"], &entries, &wgsl, "override GONE is listed");
    check(&[], &entries, &wgsl.replace("cols: u32,", "cols: u32, pad: u32,"), "QuantizeParams.row_words at 8");
    let other = wgsl.replace("@binding(4) var<storage, read_write> y:", "@binding(5) var<storage, read_write> y:");
    check(&[], &entries, &other, "y at 0.5");
    check(&[], &["quantize_f32_i8"], &wgsl, "entry dequantize_i8_f32");
}

/// The barrier: an operation on bits that no compiler sees through. It also hides what the bits of special numbers are compared with.
#[test]
fn the_barrier_is_an_operation_on_bits() {
    let keep = "fn keep(x: f32) -> f32 {\nreturn bitcast<f32>(bitcast<u32>(x) ^ params.zero);\n}";
    let infinity = "fn infinity() -> u32 {\nreturn INFINITY ^ params.zero;\n}";
    let is_nan = "fn is_nan(bits: u32) -> bool {\nreturn (bits & 0x7fffffffu) > infinity();\n}";
    let mut found = 0;
    for (shader, _) in shaders::all() {
        let wgsl = shader.wgsl();
        for (name, text) in [("keep", keep), ("infinity", infinity), ("is_nan", is_nan)] {
            if wgsl.contains(&format!("fn {name}(")) {
                assert!(wgsl.contains(text), "{name} in {}", shader.name);
                found += 1;
            }
        }
    }
    assert!(found > 80, "{found}");
}

/// Whether the lint can show that results of an entry point are the same everywhere. Cooperative matrices add integers that floats hold
/// exactly, which it cannot see; tests on devices compare their bits.
pub(crate) fn promises_bits(entry: &str) -> bool {
    !entry.starts_with("linear_coopmat")
}

/// Values of the override constants that choose float arithmetic, for each way through the entry points of a shader.
pub(crate) fn float_constants(shader: &Shader) -> Vec<Vec<(&'static str, f64)>> {
    if shader.overrides.contains(&"F16") {
        [0.0, 1.0].map(|f16| vec![("F16", f16)]).into()
    } else if shader.overrides.contains(&"CENTER") {
        let of = |bits: u32| {
            let names = ["CENTER", "ADD", "KEEP_SUM", "KEEP"].into_iter().enumerate();
            let own = names.filter(|(_, name)| shader.overrides.contains(name));
            own.map(|(at, name)| (name, f64::from(bits >> at & 1))).collect()
        };
        let held = |of: Vec<(&'static str, f64)>| [1.0, 64.0].map(|n| [of.as_slice(), &[("HELD", n)]].concat());
        let all = if shader.overrides.contains(&"KEEP") { 16 } else { 8 };
        (0..all).flat_map(|bits| held(of(bits))).collect()
    } else if shader.overrides.contains(&"MASK") {
        let of = |scale, mask, held| {
            let all = [("SCALE", scale), ("MASK", mask), ("QUANTIZE", mask), ("HELD", held), ("REPRODUCIBLE", 1.0)];
            all.into_iter().filter(|(name, _)| shader.overrides.contains(name)).collect()
        };
        vec![of(1.0, 0.0, 1.0), of(0.0, 1.0, 64.0), of(1.0, 1.0, 1.0), of(1.0, 1.0, 64.0)]
    } else if shader.overrides.contains(&"HELD") {
        vec![vec![("HELD", 1.0)], vec![("HELD", 64.0)]]
    } else if shader.overrides.contains(&"REPRODUCIBLE") {
        let of = |bias| vec![("REPRODUCIBLE", 1.0), ("BIAS", bias)];
        vec![of(0.0), of(1.0)]
    } else if shader.overrides.contains(&"PRODUCT") {
        vec![
            vec![("PRODUCT", 1.0), ("B_INTEGER", 1.0)],
            vec![("PRODUCT", 1.0), ("MEAN", 1.0), ("B_INTEGER", 1.0)],
            vec![("SQUARE", 1.0), ("A_INTEGER", 1.0)],
            Vec::new(),
        ]
    } else if shader.overrides.contains(&"DYNAMIC") {
        vec![vec![("DYNAMIC", 0.0)], vec![("DYNAMIC", 1.0)]]
    } else {
        vec![Vec::new()]
    }
}

#[test]
fn entries_that_promise_bits_hide_their_sums() {
    let mut checked = 0;
    for (shader, entries) in shaders::all() {
        for entry in entries.iter().filter(|entry| promises_bits(entry)) {
            for constants in float_constants(&shader) {
                let found = inexact(&shader.wgsl(), &shader, entry, &constants);
                assert!(found.is_empty(), "{entry} {constants:?} computes in float: {}", found.join("\n"));
                checked += 1;
            }
        }
    }
    assert!(checked > 250, "{checked} entries checked");
}

/// The full float products do not pass: otherwise the lint would prove nothing.
#[test]
fn full_float_products_are_caught() {
    let (shader, _) = named("matmul_float");
    assert!(!inexact(&shader.wgsl(), &shader, "matmul_f32_f32", &[]).is_empty());
}

/// Each place where a barrier is taken away is seen.
#[test]
fn a_missing_barrier_is_caught() {
    let (shader, _) = named("softmax");
    let wgsl = shader.wgsl();
    assert!(inexact(&wgsl, &shader, "softmax_f32_f32", &[]).is_empty());
    for (kept, bare) in [
        ("return keep(a + b);", "return a + b;"),
        ("return keep(a - b);", "return a - b;"),
        ("return keep(a * b);", "return a * b;"),
        ("add_f(total, ", "(total + "),
        (
            "sub_f(bitcast<f32>(canonical_bits(element_bits(line, i))), largest)",
            "(bitcast<f32>(canonical_bits(element_bits(line, i))) - largest)",
        ),
    ] {
        let changed = wgsl.replacen(kept, bare, 1);
        assert_ne!(changed, wgsl, "{kept}");
        assert!(!inexact(&changed, &shader, "softmax_f32_f32", &[]).is_empty(), "{bare}");
    }
}

#[test]
fn a_float_sum_or_quotient_is_caught_wherever_it_hides() {
    let wgsl = "
        override ON: bool = true;
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        fn sum(a: f32) -> f32 { if a > 0.0 { return a + 1.0; } return a; }
        fn halved(a: vec2<f32>) -> f32 { let b = a / vec2<f32>(y[1], 3.0); return b.x; }
        @compute @workgroup_size(1) fn adds() { loop { y[0] = sum(y[0]); if y[0] > 9.0 { break; } } }
        @compute @workgroup_size(1) fn divides() { y[0] = halved(vec2<f32>(y[0])); }
        @compute @workgroup_size(1) fn roots() { y[0] = sqrt(y[0]); }
        @compute @workgroup_size(1) fn selects() { if ON { y[0] = sum(y[0]); } }
        fn twice(a: f32) -> f32 { var b = a; b = a * 2.0; return b; }
        fn times(a: f32, b: f32) -> f32 { return a * b; }
        fn keep(a: f32) -> f32 { return bitcast<f32>(bitcast<u32>(a) ^ 1u); }
        @compute @workgroup_size(1) fn regroups() { y[0] = times(twice(y[0]), y[1]); }
        @compute @workgroup_size(1) fn contracts() { y[0] = keep(keep(y[1]) + twice(y[0])); }
        fn through_bits(a: f32) -> f32 { return bitcast<f32>(bitcast<u32>(a * 3.0)); }
        @compute @workgroup_size(1) fn casts() { y[0] = keep(through_bits(y[0]) + y[1]); }
        @compute @workgroup_size(1) fn keeps() { y[0] = keep(keep(twice(y[0])) + keep(y[0] * y[1])); }
        @compute @workgroup_size(1) fn multiplies() { y[0] = round(y[0] * 2.0); y[u32(3 + i32(y[0]))] = 0.0; }";
    let (plain, _) = named("reduce");
    for entry in ["adds", "divides", "roots", "selects", "regroups", "contracts", "casts"] {
        assert_eq!(inexact(wgsl, &plain, entry, &[]).len(), 1, "{entry}");
    }
    for entry in ["multiplies", "keeps"] {
        assert!(inexact(wgsl, &plain, entry, &[]).is_empty(), "{entry}");
    }
    assert!(inexact(wgsl, &plain, "selects", &[("ON", 0.0)]).is_empty());
}
