//! Every shader by naga, without a GPU: valid, translated to every backend, and in agreement with the host.

use std::collections::{BTreeSet, HashSet};

use enfold::gpu::shaders::{self, BindingKind, Shader};
use naga::back::{self, glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, Layouter};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, BinaryOperator, Expression, Function, Handle, MathFunction, Module, ScalarKind, ShaderStage};
use naga::{Block, StorageAccess};

/// Parses and validates with no capability beyond plain WGSL.
fn parse(wgsl: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module);
    let info = info.unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
    (module, info)
}

/// Values of the override constants to try: the defaults, and others.
fn constants(shader: &Shader) -> Vec<back::PipelineConstants> {
    let value = |name: &str| match name {
        "PACKED_DOT" => 0.0,
        "THREADS_Y" => 2.0,
        "K_STEP" | "K_LANES" | "ROWS" => 2.0,
        other => panic!("no value for the override {other}"),
    };
    let others = shader.overrides.iter().map(|name| ((*name).to_owned(), value(name))).collect();
    vec![back::PipelineConstants::default(), others]
}

#[test]
fn every_entry_translates_to_every_backend() {
    let mut translated = 0;
    for shader in shaders::ALL {
        let (module, info) = parse(shader.wgsl);
        for (entry, constants) in
            shader.entries.iter().flat_map(|e| constants(&shader).into_iter().map(move |c| (*e, c)))
        {
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
            for lang_version in [(2, 0), (2, 4)] {
                let options = msl::Options { lang_version, ..msl::Options::default() };
                msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
                    .unwrap_or_else(|e| panic!("{entry} to MSL {lang_version:?}: {e}"));
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
            translated += 1;
        }
    }
    assert_eq!(translated, 2 * shaders::ALL.iter().map(|s| s.entries.len()).sum::<usize>());
}

/// What a module declares and the host does not list, or the other way round.
fn orphans(shader: &Shader, module: &Module) -> Vec<String> {
    let mut orphans = Vec::new();
    let mut compare = |what: &str, declared: BTreeSet<String>, listed: BTreeSet<String>| {
        let missing = declared.difference(&listed).map(|name| format!("{what} {name} is declared and not listed"));
        orphans.extend(missing);
        orphans.extend(listed.difference(&declared).map(|name| format!("{what} {name} is listed and not declared")));
    };
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
    compare("entry", module.entry_points.iter().map(|e| e.name.clone()).collect(), names(shader.entries));
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
    let listed = shader.bindings.iter().map(|b| {
        let kind = match b.kind {
            BindingKind::Uniform { size, .. } => format!("uniform of {size} bytes"),
            BindingKind::Read => "read".to_owned(),
            BindingKind::ReadWrite => "read_write".to_owned(),
        };
        format!("{} at 0.{}, {kind}", b.name, b.binding)
    });
    compare("binding", declared.collect(), listed.collect());

    // Structs that reach a binding, directly or as an array's element.
    let bound = module.global_variables.iter().filter(|(_, v)| v.binding.is_some()).map(|(_, v)| v.ty);
    let element = |ty: Handle<naga::Type>| match module.types[ty].inner {
        naga::TypeInner::Array { base, .. } => base,
        _ => ty,
    };
    let mut declared = BTreeSet::new();
    for ty in bound.map(element).collect::<HashSet<_>>() {
        let naga::TypeInner::Struct { members, span } = &module.types[ty].inner else { continue };
        let name = module.types[ty].name.as_deref().unwrap_or("unnamed");
        declared.insert(format!("{name} of {span} bytes"));
        for member in members {
            declared.insert(format!("{name}.{} at {}", member.name.as_deref().unwrap_or("unnamed"), member.offset));
        }
    }
    let mut listed = BTreeSet::new();
    for s in shader.structs {
        listed.insert(format!("{} of {} bytes", s.name, s.size));
        listed.extend(s.fields.iter().map(|(field, offset)| format!("{}.{field} at {offset}", s.name)));
    }
    compare("struct", declared, listed);
    orphans
}

#[test]
fn shaders_and_host_agree() {
    for shader in shaders::ALL {
        let (module, _) = parse(shader.wgsl);
        let orphans = orphans(&shader, &module);
        assert!(orphans.is_empty(), "{}: {}", shader.name, orphans.join("\n"));
    }
}

#[test]
fn an_orphan_on_either_side_is_named() {
    let check = |shader: &Shader, wgsl: &str, expected: &str| {
        let orphans = orphans(shader, &parse(wgsl).0);
        assert!(orphans.iter().any(|o| o.contains(expected)), "{expected} not in {orphans:?}");
    };
    let wgsl = shaders::QUANTIZE.wgsl;
    check(&shaders::QUANTIZE, &format!("{wgsl}\noverride EXTRA: u32 = 1u;"), "override EXTRA is declared");
    check(&Shader { overrides: &["GONE"], ..shaders::QUANTIZE }, wgsl, "override GONE is listed");
    check(&shaders::QUANTIZE, &wgsl.replace("cols: u32,", "cols: u32, pad: u32,"), "TensorParams.row_words at 8");
    check(&shaders::QUANTIZE, &wgsl.replace("@binding(4)", "@binding(5)"), "dst at 0.5");
    check(&Shader { entries: &["quantize_f32_i8"], ..shaders::QUANTIZE }, wgsl, "entry dequantize_i8_f32");
}

/// Float operations reachable from an entry point that could round differently from device to device, or be fused: any but
/// a product, a comparison, and functions whose result is exact.
fn inexact(module: &Module, info: &ModuleInfo, entry: &str) -> Vec<String> {
    let at = module.entry_points.iter().position(|e| e.name == entry).expect("an entry point");
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut pending = Vec::new();
    let check = |function: &Function, function_info: &naga::valid::FunctionInfo, found: &mut Vec<String>| {
        for (handle, expression) in function.expressions.iter() {
            let inner = function_info[handle].ty.inner_with(&module.types);
            if inner.scalar_kind() != Some(ScalarKind::Float) {
                continue;
            }
            let exact = match expression {
                Expression::Binary { op, .. } => matches!(op, BinaryOperator::Multiply),
                Expression::Math { fun, .. } => {
                    use MathFunction::{Abs, Clamp, Max, Min, Round};
                    matches!(fun, Round | Clamp | Max | Min | Abs)
                }
                Expression::Derivative { .. } => false,
                _ => true,
            };
            if !exact {
                found.push(format!("{}: {expression:?}", function.name.as_deref().unwrap_or(entry)));
            }
        }
    };
    let function = &module.entry_points[at].function;
    check(function, info.get_entry_point(at), &mut found);
    calls(&function.body, &mut pending);
    while let Some(handle) = pending.pop() {
        if seen.insert(handle) {
            check(&module.functions[handle], &info[handle], &mut found);
            calls(&module.functions[handle].body, &mut pending);
        }
    }
    found
}

fn calls(block: &Block, found: &mut Vec<Handle<Function>>) {
    for statement in block {
        match statement {
            naga::Statement::Call { function, .. } => found.push(*function),
            naga::Statement::Block(inner) => calls(inner, found),
            naga::Statement::If { accept, reject, .. } => {
                calls(accept, found);
                calls(reject, found);
            }
            naga::Statement::Loop { body, continuing, .. } => {
                calls(body, found);
                calls(continuing, found);
            }
            naga::Statement::Switch { cases, .. } => cases.iter().for_each(|case| calls(&case.body, found)),
            _ => {}
        }
    }
}

/// Whether results of an entry point are promised to the bit: all but floats from floats, and dynamic layers. Dynamic codes are.
fn promises_bits(entry: &str) -> bool {
    let float = entry.ends_with("_f32_f32") || entry == "gather_i32_f32";
    !float && !entry.contains("dynamic_i8_f32")
}

#[test]
fn entries_that_promise_bits_only_multiply() {
    let mut checked = 0;
    for shader in shaders::ALL {
        let (module, info) = parse(shader.wgsl);
        for entry in shader.entries {
            let found = inexact(&module, &info, entry);
            if !promises_bits(entry) {
                continue;
            }
            assert!(found.is_empty(), "{entry} computes in float: {}", found.join("\n"));
            checked += 1;
        }
    }
    assert_eq!(checked, 19, "entries checked");
}

#[test]
fn a_float_sum_or_quotient_is_caught_wherever_it_hides() {
    let wgsl = "
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        fn sum(a: f32) -> f32 { if a > 0.0 { return a + 1.0; } return a; }
        fn quotient(a: vec2<f32>) -> f32 { let b = a / vec2<f32>(y[1], 3.0); return b.x; }
        @compute @workgroup_size(1) fn adds() { loop { y[0] = sum(y[0]); if y[0] > 9.0 { break; } } }
        @compute @workgroup_size(1) fn divides() { y[0] = quotient(vec2<f32>(y[0])); }
        @compute @workgroup_size(1) fn roots() { y[0] = sqrt(y[0]); }
        @compute @workgroup_size(1) fn multiplies() { y[0] = round(y[0] * 2.0); y[u32(3 + i32(y[0]))] = 0.0; }";
    let (module, info) = parse(wgsl);
    for entry in ["adds", "divides", "roots"] {
        assert_eq!(inexact(&module, &info, entry).len(), 1, "{entry}");
    }
    assert!(inexact(&module, &info, "multiplies").is_empty());
}
