//! Compiles shaders with a Vulkan driver, and reads the machine code.

use std::ffi::{CStr, CString};

use ash::{khr, vk};
use enfold::gpu::shaders::{BindingKind, Shader};
use naga::ShaderStage;
use naga::back::{self, spv};

use crate::shaders::parse;

/// A Vulkan device that compiles.
pub(super) struct Compiler {
    /// Its name.
    pub(super) device: String,
    /// The library, which must live as long as the device.
    _library: ash::Entry,
    vulkan: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
}

/// The machine code of a pipeline.
pub(super) struct Code {
    pub(super) text: String,
    statistics: Vec<(String, u64)>,
    /// The instructions, and the labels of blocks.
    lines: Vec<String>,
}

impl Compiler {
    /// The most capable device whose name contains `wanted`, ignoring case. `VK_DRIVER_FILES` names the driver.
    pub(super) fn new(wanted: &str) -> Result<Self, Box<dyn std::error::Error>> {
        // SAFETY: the library is Vulkan's loader, and stays loaded.
        let library = unsafe { ash::Entry::load()? };
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the structs live during the calls. Instance and device live until the process ends.
        unsafe {
            let instance = library.create_instance(&create, None)?;
            let properties = |&physical: &vk::PhysicalDevice| instance.get_physical_device_properties(physical);
            let name = |physical: &vk::PhysicalDevice| -> Option<String> {
                Some(properties(physical).device_name_as_c_str().ok()?.to_string_lossy().into_owned())
            };
            let mut all = instance.enumerate_physical_devices()?;
            all.retain(|physical| name(physical).is_some_and(|name| name.to_lowercase().contains(wanted)));
            all.sort_by_key(|physical| match properties(physical).device_type {
                vk::PhysicalDeviceType::DISCRETE_GPU => 0,
                vk::PhysicalDeviceType::CPU => 2,
                _ => 1,
            });
            let physical = *all.first().ok_or("no device")?;
            let device = name(&physical).unwrap_or_default();
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let mut extensions = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
            let has_matrices = instance
                .enumerate_device_extension_properties(physical)?
                .iter()
                .any(|extension| extension.extension_name_as_c_str() == Ok(khr::cooperative_matrix::NAME));
            if has_matrices {
                extensions.push(khr::cooperative_matrix::NAME.as_ptr());
            }
            let mut matrices =
                vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(has_matrices);
            let mut info =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut memory_model =
                vk::PhysicalDeviceVulkan12Features::default().vulkan_memory_model(true).shader_int8(has_matrices);
            let mut dots = vk::PhysicalDeviceVulkan13Features::default().shader_integer_dot_product(true);
            let mut create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut info)
                .push_next(&mut memory_model)
                .push_next(&mut dots);
            if has_matrices {
                create = create.push_next(&mut matrices);
            }
            let vulkan = instance.create_device(physical, &create, None)?;
            let executables = khr::pipeline_executable_properties::Device::new(&instance, &vulkan);
            Ok(Self { device, _library: library, vulkan, executables })
        }
    }

    /// Compiles an entry point as wgpu does without run-time checks.
    pub(super) fn compile(&self, wgsl: &str, shader: &Shader, entry: &str, constants: &[(&str, f64)]) -> Code {
        self.compile_spirv(&spirv(wgsl, shader, entry, constants), shader, entry)
    }

    /// Compiles an entry point from SPIR-V.
    pub(super) fn compile_spirv(&self, words: &[u32], shader: &Shader, entry: &str) -> Code {
        // SAFETY: the pipeline has statistics and internal representations.
        let code = self.pipeline(words, shader, entry, |pipeline| unsafe { self.read(pipeline) });
        code.unwrap_or_else(|e| panic!("{entry}: {e}"))
    }

    /// What the driver states about an entry point: its registers, for example.
    pub(super) fn statistics(&self, shader: &Shader, entry: &str) -> Result<Vec<(String, u64)>, vk::Result> {
        let words = spirv(&shader.wgsl(), shader, entry, &[]);
        // SAFETY: the pipeline has statistics.
        self.pipeline(&words, shader, entry, |pipeline| unsafe { self.statistics_of(pipeline) })
    }

    /// Makes a pipeline, and reads it.
    fn pipeline<T>(
        &self,
        words: &[u32],
        shader: &Shader,
        entry: &str,
        read: impl FnOnce(vk::Pipeline) -> Result<T, vk::Result>,
    ) -> Result<T, vk::Result> {
        let mut bindings: Vec<vk::DescriptorSetLayoutBinding<'_>> = Vec::new();
        for binding in shader.bindings() {
            if bindings.iter().all(|earlier| earlier.binding != binding.binding) {
                let kind = match binding.kind {
                    BindingKind::Uniform { .. } => vk::DescriptorType::UNIFORM_BUFFER,
                    BindingKind::Read | BindingKind::ReadWrite => vk::DescriptorType::STORAGE_BUFFER,
                };
                let layout = vk::DescriptorSetLayoutBinding::default().binding(binding.binding).descriptor_type(kind);
                bindings.push(layout.descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE));
            }
        }
        let name = CString::new(entry).expect("no zero byte");
        let capture = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
            | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        // SAFETY: the words are valid SPIR-V of naga, the layout is that of the shader, all structs live during the calls, and the
        // objects are destroyed once.
        unsafe {
            let device = &self.vulkan;
            let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set = [device.create_descriptor_set_layout(&create, None)?];
            let create = vk::PipelineLayoutCreateInfo::default().set_layouts(&set);
            let layout = device.create_pipeline_layout(&create, None)?;
            let module = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(words), None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default().stage(vk::ShaderStageFlags::COMPUTE);
            let stage = stage.module(module).name(&name);
            let create = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(capture)];
            let pipelines = device.create_compute_pipelines(vk::PipelineCache::null(), &create, None);
            let pipeline = pipelines.map_err(|(_, error)| error)?[0];
            let code = read(pipeline);
            device.destroy_pipeline(pipeline, None);
            device.destroy_shader_module(module, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set[0], None);
            code
        }
    }

    /// # Safety
    /// The pipeline was made by this device with statistics.
    unsafe fn statistics_of(&self, pipeline: vk::Pipeline) -> Result<Vec<(String, u64)>, vk::Result> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the caller's; names end with a zero, and the format says which member of the union is there.
        unsafe {
            let number = |s: &vk::PipelineExecutableStatisticKHR<'_>| match s.format {
                vk::PipelineExecutableStatisticFormatKHR::BOOL32 => s.value.b32.into(),
                vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => s.value.f64 as u64,
                _ => s.value.u64,
            };
            let all = self.executables.get_pipeline_executable_statistics(&info)?;
            Ok(all
                .iter()
                .map(|s| (CStr::from_ptr(s.name.as_ptr()).to_string_lossy().into_owned(), number(s)))
                .collect())
        }
    }

    /// # Safety
    /// The pipeline was made by this device with statistics and internal representations.
    unsafe fn read(&self, pipeline: vk::Pipeline) -> Result<Code, vk::Result> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the caller's; each buffer is as long as the driver has said; names end with a zero.
        unsafe {
            let text = |name: &[std::ffi::c_char]| CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            let statistics = self.statistics_of(pipeline)?;
            let mut representations = self.executables.get_pipeline_executable_internal_representations(&info)?;
            let mut texts: Vec<Vec<u8>> = representations.iter().map(|r| vec![0; r.data_size]).collect();
            for (representation, text) in representations.iter_mut().zip(&mut texts) {
                representation.p_data = text.as_mut_ptr().cast();
            }
            let mut count = representations.len() as u32;
            let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
            get(self.vulkan.handle(), &info, &mut count, representations.as_mut_ptr()).result()?;
            let at =
                representations.iter().position(|r| text(&r.name) == "Assembly").ok_or(vk::Result::ERROR_UNKNOWN)?;
            let text = String::from_utf8_lossy(&texts[at]).into_owned();
            let lines = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
            Ok(Code { text, statistics, lines })
        }
    }
}

/// The SPIR-V of an entry point, as wgpu makes it without run-time checks.
fn spirv(wgsl: &str, shader: &Shader, entry: &str, constants: &[(&str, f64)]) -> Vec<u32> {
    let (module, info) = parse(wgsl, shader);
    let constants = constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let stage = Some((ShaderStage::Compute, entry));
    let (module, info) = back::pipeline_constants::process_overrides(&module, &info, stage, &constants)
        .unwrap_or_else(|e| panic!("{entry}: {e}"));
    let options = spv::Options {
        lang_version: (1, 4),
        flags: spv::WriterFlags::empty(),
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_owned() };
    spv::write_vec(&module, &info, &options, Some(&pipeline)).expect("SPIR-V")
}

impl Code {
    /// A number that the driver states.
    pub(super) fn statistic(&self, name: &str) -> u64 {
        self.statistics.iter().find(|(own, _)| own == name).unwrap_or_else(|| panic!("no statistic {name}")).1
    }

    /// The lines that begin with an instruction.
    pub(super) fn count(lines: &[String], instruction: &str) -> usize {
        lines.iter().filter(|line| line.starts_with(instruction)).count()
    }

    /// Instructions that multiply and add floats with one rounding, or with two in one instruction.
    pub(super) fn multiply_adds(&self) -> usize {
        let names =
            ["fma_f", "fmac_f", "fmaak_f", "fmamk_f", "mad_f", "mac_f", "madak_f", "madmk_f", "pk_fma", "fma_mix"];
        // Two instructions in one line are divided by `::`.
        let parts = self.lines.iter().flat_map(|line| line.split("::"));
        let instructions = parts.filter_map(|part| part.split_whitespace().next());
        instructions
            .filter(|name| {
                (name.starts_with("v_") || name.starts_with("s_"))
                    && names.iter().any(|multiply_add| name.contains(multiply_add))
            })
            .count()
    }

    /// The dots, by line.
    fn dots(&self) -> (usize, usize) {
        let is_dot = |line: &String| line.starts_with("v_dot4");
        let first = self.lines.iter().position(is_dot).expect("a dot product");
        (first, self.lines.iter().rposition(is_dot).expect("a dot product"))
    }

    /// The block with the dot products, from its label on.
    pub(super) fn loop_of_dots(&self) -> &[String] {
        let (first, last) = self.dots();
        let label = self.lines[..first].iter().rposition(|line| line.starts_with("BB")).expect("a label");
        &self.lines[label..=last]
    }

    /// All after the last dot product.
    pub(super) fn after_dots(&self) -> &[String] {
        &self.lines[self.dots().1 + 1..]
    }

    /// For each block that loads from memory: its loads, and in how many rounds, of which each waits for the one before.
    pub(super) fn rounds_of_loads(&self) -> Vec<(usize, usize)> {
        let rounds = |block: &[String]| {
            let of = |line: &String| match line {
                line if line.starts_with("buffer_load") => Some(true),
                line if line.starts_with("s_waitcnt") && line.contains("vmcnt") => Some(false),
                _ => None,
            };
            let mut steps: Vec<bool> = block.iter().filter_map(of).collect();
            let loads = steps.iter().filter(|&&loads| loads).count();
            steps.dedup();
            (loads, steps.into_iter().filter(|&loads| loads).count())
        };
        self.lines.split(|line| line.starts_with("BB")).map(rounds).filter(|&(loads, _)| loads > 0).collect()
    }
}
