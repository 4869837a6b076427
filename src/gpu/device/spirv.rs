//! Cooperative matrices of int8 values, by SPIR-V that wgpu passes on unread (Vulkan's `VK_KHR_cooperative_matrix`).
//!
//! naga 30 knows matrices of floats only, and wgpu 30 does not tell which others an adapter has. So a kernel is written in WGSL with matrices
//! of f32 ([`Shader::int8_k`]). naga validates it and translates it to SPIR-V, and [`with_int8_matrices`] replaces the types of the matrices:
//! loads and stores go through arrays of other types in any case, since SPIR-V lets the elements in memory differ from those of the matrix.
//!
//! This is the module with `unsafe` code for the feature `coopmat-spirv`.

#![allow(unsafe_code)]

use naga::back::{pipeline_constants, spv};

use super::error::GpuError;
use super::pipeline::PipelineKey;
use super::shader::Shader;

/// The rows of factors A and sums, and the columns of factors B and sums.
const SIDE: u32 = 16;

/// The sizes `[m, n, k]` of an adapter's cooperative matrices of signed int8 factors and i32 sums, which wgpu does not list. The adapter has
/// [`wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX`].
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) fn int8_sizes(adapter: &wgpu::Adapter) -> Vec<[u32; 3]> {
    use ash::vk;
    let is_int8 = |p: &&vk::CooperativeMatrixPropertiesKHR<'_>| {
        let (factor, sum) = (vk::ComponentTypeKHR::SINT8, vk::ComponentTypeKHR::SINT32);
        [p.a_type, p.b_type] == [factor; 2]
            && [p.c_type, p.result_type] == [sum; 2]
            && p.scope == vk::ScopeKHR::SUBGROUP
            && p.saturating_accumulation == vk::FALSE
    };
    // SAFETY: nothing of the adapter is changed or destroyed, its handles are used while the guard lives, and its driver has the function that
    // is called, because wgpu gives that feature only to drivers with the extension.
    unsafe {
        let Some(adapter) = adapter.as_hal::<wgpu::hal::api::Vulkan>() else { return Vec::new() };
        let instance = adapter.shared_instance();
        let extension = ash::khr::cooperative_matrix::Instance::new(instance.entry(), instance.raw_instance());
        let properties = extension.get_physical_device_cooperative_matrix_properties(adapter.raw_physical_device());
        let properties = properties.unwrap_or_default();
        properties.iter().filter(is_int8).map(|p| [p.m_size, p.n_size, p.k_size]).collect()
    }
}

/// wgpu has no Vulkan on other systems.
#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(crate) fn int8_sizes(_: &wgpu::Adapter) -> Vec<[u32; 3]> {
    Vec::new()
}

/// Translates a kernel to SPIR-V and makes a module of it, for this pipeline only: its constants are part of it.
pub(crate) fn module(device: &wgpu::Device, key: &PipelineKey) -> Result<wgpu::ShaderModule, GpuError> {
    let (words, workgroup_size) = translate(&key.shader, key.entry, &key.overrides)
        .map_err(|message| GpuError::Device { what: key.entry.to_owned(), message })?;
    let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
        label: Some(key.entry),
        entry_points: vec![wgpu::PassthroughShaderEntryPoint { name: key.entry.into(), workgroup_size }].into(),
        spirv: Some(words.into()),
        ..Default::default()
    };
    // SAFETY: the words are naga's translation of one of the crate's own shaders, with other types of matrices; what `unchecked::module`
    // says of indices and loops holds here too. Its resources are those of the layout that the pipeline gets, in its order.
    Ok(unsafe { device.create_shader_module_passthrough(descriptor) })
}

/// The words of a module, and the size of its workgroups.
type Translated = (Vec<u32>, (u32, u32, u32));

/// The SPIR-V of one entry point with these constants.
pub(crate) fn translate(shader: &Shader, entry: &str, overrides: &[(&str, u32)]) -> Result<Translated, String> {
    let module = naga::front::wgsl::Frontend::new_with_options(naga::front::wgsl::Options {
        parse_doc_comments: false,
        capabilities: naga::valid::Capabilities::all(),
    })
    .parse(&shader.wgsl())
    .map_err(|error| error.message().to_owned())?;
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|error| error.as_inner().to_string())?;
    let constants = overrides.iter().map(|&(name, value)| (name.to_owned(), f64::from(value))).collect();
    let stage = Some((naga::ShaderStage::Compute, entry));
    let (module, info) =
        pipeline_constants::process_overrides(&module, &info, stage, &constants).map_err(|error| error.to_string())?;
    let unchecked = naga::proc::BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        // Vulkan 1.2 and later: cooperative matrices need it in any case.
        lang_version: (1, 5),
        flags: spv::WriterFlags::empty(),
        binding_map: bindings(shader),
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        // Every kernel writes its workgroup memory before it reads it.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.to_owned() };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|error| error.to_string())?;
    let size =
        module.entry_points.iter().find(|point| point.name == entry).map_or([1; 3], |point| point.workgroup_size);
    Ok((with_int8_matrices(&words, shader.int8_k)?, size.into()))
}

/// wgpu numbers the bindings of a layout on its own: one after the other.
fn bindings(shader: &Shader) -> spv::BindingMap {
    let mut numbers: Vec<u32> = shader.bindings().iter().map(|binding| binding.binding).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let place = |(rank, binding)| {
        let info = spv::BindingInfo { descriptor_set: 0, binding: rank, binding_array_size: None };
        (naga::ResourceBinding { group: 0, binding }, info)
    };
    (0..).zip(numbers).map(place).collect()
}

// What the translation needs of SPIR-V's grammar (SPIR-V specification 1.6, and SPV_KHR_cooperative_matrix).
const HEADER_WORDS: usize = 5;
const BOUND: usize = 3;
const OP_CAPABILITY: u32 = 17;
const OP_TYPE_INT: u32 = 21;
/// From OpTypeVoid on; the types of extensions come behind one of these.
const TYPES: std::ops::Range<u32> = 19..40;
const OP_CONSTANT: u32 = 43;
const OP_TYPE_COOPERATIVE_MATRIX: u32 = 4456;
const OP_COOPERATIVE_MATRIX_MUL_ADD: u32 = 4459;
const CAPABILITY_INT8: u32 = 39;
/// The uses of matrices: `MatrixAKHR`, `MatrixBKHR` and `MatrixAccumulatorKHR`.
const FACTOR_A: u32 = 0;
const FACTOR_B: u32 = 1;
const SUMS: u32 = 2;
/// Factors and sums are signed: `MatrixASignedComponentsKHR` and the three that follow.
const ALL_SIGNED: u32 = 0xF;

fn instructions(words: &[u32]) -> impl Iterator<Item = &[u32]> {
    let mut at = HEADER_WORDS;
    std::iter::from_fn(move || {
        let first = *words.get(at)?;
        let instruction = words.get(at..at + ((first >> 16) as usize).max(1))?;
        at += instruction.len();
        Some(instruction)
    })
}

fn op(instruction: &[u32]) -> u32 {
    instruction[0] & 0xFFFF
}

fn instruction(op: u32, operands: &[u32]) -> Vec<u32> {
    [&[(operands.len() as u32 + 1) << 16 | op], operands].concat()
}

/// Replaces the types of all cooperative matrices: factors become int8 values of 16 × `k` and `k` × 16, sums 16 × 16 values of i32.
///
/// # Errors
/// Says what of naga's SPIR-V is not as this expects it.
fn with_int8_matrices(words: &[u32], k: u32) -> Result<Vec<u32>, String> {
    let find = |wanted: u32, operands: &dyn Fn(&[u32]) -> bool| {
        instructions(words).find(|i| op(i) == wanted && operands(&i[1..])).map(<[u32]>::to_vec)
    };
    let type_int = |width: u32, signed: u32| find(OP_TYPE_INT, &move |o| o[1] == width && o[2] == signed).map(|i| i[1]);
    let mut bound = words[BOUND];
    let mut new = || {
        bound += 1;
        bound - 1
    };
    // A module declares a type once, so those that it has move in front of all types: they need no other. Constants may be there twice.
    let moved = [type_int(32, 0), type_int(8, 1), type_int(32, 1)];
    let [u32_type, i8_type, i32_type] = moved.map(|existing| existing.unwrap_or_else(&mut new));
    let [k_constant, side_constant] = [new(), new()];
    let mut declared = [
        instruction(OP_TYPE_INT, &[u32_type, 32, 0]),
        instruction(OP_TYPE_INT, &[i8_type, 8, 1]),
        instruction(OP_TYPE_INT, &[i32_type, 32, 1]),
        instruction(OP_CONSTANT, &[u32_type, k_constant, k]),
        instruction(OP_CONSTANT, &[u32_type, side_constant, SIDE]),
    ]
    .concat();

    let mut result = words[..HEADER_WORDS].to_vec();
    result[BOUND] = bound;
    if find(OP_CAPABILITY, &|o| o[0] == CAPABILITY_INT8).is_none() {
        result.extend(instruction(OP_CAPABILITY, &[CAPABILITY_INT8]));
    }
    // The uses of matrix types are constants.
    let value_of = |id: u32| find(OP_CONSTANT, &move |o| o[1] == id).map(|i| i[3]);
    let mut products = 0;
    for i in instructions(words) {
        if TYPES.contains(&op(i)) {
            result.append(&mut declared);
        }
        match (op(i), i) {
            (OP_TYPE_INT, &[_, id, ..]) if moved.contains(&Some(id)) => {}
            (OP_TYPE_COOPERATIVE_MATRIX, &[_, id, _, scope, _, _, matrix_use]) => {
                let (element, rows, columns) = match value_of(matrix_use) {
                    Some(FACTOR_A) => (i8_type, side_constant, k_constant),
                    Some(FACTOR_B) => (i8_type, k_constant, side_constant),
                    Some(SUMS) => (i32_type, side_constant, side_constant),
                    other => return Err(format!("a matrix whose use is {other:?}")),
                };
                result
                    .extend(instruction(OP_TYPE_COOPERATIVE_MATRIX, &[id, element, scope, rows, columns, matrix_use]));
            }
            (OP_COOPERATIVE_MATRIX_MUL_ADD, &[_, ty, id, a, b, c]) => {
                result.extend(instruction(OP_COOPERATIVE_MATRIX_MUL_ADD, &[ty, id, a, b, c, ALL_SIGNED]));
                products += 1;
            }
            (OP_TYPE_COOPERATIVE_MATRIX | OP_COOPERATIVE_MATRIX_MUL_ADD, _) => {
                return Err(format!("an instruction of matrices with {} words", i.len()));
            }
            _ => result.extend_from_slice(i),
        }
    }
    if products == 0 { Err("no product of matrices".to_owned()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernels::linear;

    /// The matrix types of a module: element, rows and columns.
    fn matrices(words: &[u32]) -> Vec<[u32; 3]> {
        let value = |id: u32| instructions(words).find(|i| op(i) == OP_CONSTANT && i[2] == id).map_or(0, |i| i[3]);
        let bits = |id: u32| instructions(words).find(|i| op(i) == OP_TYPE_INT && i[1] == id).map_or(0, |i| i[2]);
        let types = instructions(words).filter(|i| op(i) == OP_TYPE_COOPERATIVE_MATRIX);
        types.map(|i| [bits(i[2]), value(i[4]), value(i[5])]).collect()
    }

    #[test]
    fn matrices_have_int8_factors_and_i32_sums() {
        let mut translated = 0;
        for (shader, entry) in linear::entries().into_iter().filter(|(shader, _)| shader.int8_k > 0) {
            let k = shader.int8_k;
            // 128 and 64 rows, subgroups of 32 and 64 lanes.
            let shapes = [(4, 4, 256), (4, 2, 512), (2, 4, 128), (2, 2, 256)];
            let (patch_rows, k_step, threads) = shapes[translated % shapes.len()];
            let sizes = [("PATCH_ROWS", patch_rows), ("K_STEP", k_step), ("THREADS", threads)];
            let overrides = [&sizes[..], &[("FRAGMENT_VECS", k / 16)]].concat();
            let (words, size) = translate(&shader, entry, &overrides).expect("translated");
            assert_eq!(size, (threads, 1, 1));
            let ints = || instructions(&words).filter(|i| op(i) == OP_TYPE_INT).map(|i| [i[2], i[3]]);
            assert!(
                ints().all(|own| ints().filter(|other| *other == own).count() == 1),
                "{}: a type twice",
                shader.name
            );
            let mut types = matrices(&words);
            types.sort_unstable();
            let mut expected = vec![[8, 16, k], [8, k, 16], [32, 16, 16]];
            expected.sort_unstable();
            assert_eq!(types, expected, "{}", shader.name);
            let sums = instructions(&words).filter(|i| op(i) == OP_COOPERATIVE_MATRIX_MUL_ADD);
            assert!(sums.map(|i| i[6]).eq([ALL_SIGNED; 8]), "{}", shader.name);
            // Every number is declared before it is used by a type, and below the bound.
            let declared = |id: u32| {
                instructions(&words).position(|i| {
                    matches!(op(i), OP_TYPE_INT if i[1] == id) || matches!(op(i), OP_CONSTANT if i[2] == id)
                })
            };
            for (at, i) in instructions(&words).enumerate().filter(|(_, i)| op(i) == OP_TYPE_COOPERATIVE_MATRIX) {
                for id in [i[2], i[4], i[5]] {
                    assert!(id < words[BOUND] && declared(id).is_some_and(|place| place < at), "{}", shader.name);
                }
            }
            translated += 1;
        }
        assert!(translated > 2 * 8, "{translated}");
    }

    #[test]
    fn other_spirv_is_an_error() {
        let header = [0x0723_0203, 0x0001_0500, 0, 10, 0];
        let type_u32 = instruction(OP_TYPE_INT, &[1, 32, 0]);
        let of = |rest: &[u32]| with_int8_matrices(&[&header[..], &type_u32, rest].concat(), 32);
        assert_eq!(of(&[]), Err("no product of matrices".to_owned()));
        let matrix = instruction(OP_TYPE_COOPERATIVE_MATRIX, &[2, 3, 4, 5, 6, 7]);
        assert_eq!(of(&matrix), Err("a matrix whose use is None".to_owned()));
        let product = instruction(OP_COOPERATIVE_MATRIX_MUL_ADD, &[2, 3, 4, 5, 6, 0]);
        assert_eq!(of(&product), Err("an instruction of matrices with 7 words".to_owned()));
    }
}
