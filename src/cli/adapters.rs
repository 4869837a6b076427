//! `enfold adapters` lists the GPU adapters.

use anyhow::Result;
use enfold::gpu::context::Context;
use enfold::gpu::wgpu;

use super::output::{self, size, table};
use super::progress::Stderr;

#[derive(Debug, clap::Args)]
pub(super) struct Adapters {
    /// Prints the list as JSON.
    #[arg(long)]
    json: bool,
}

/// An adapter, with the features and limits that matter to the engine.
#[derive(Debug, serde::Serialize)]
struct Adapter {
    name: String,
    backend: String,
    device_type: String,
    driver: String,
    driver_info: String,
    /// Whether shaders can sum across the threads of a subgroup.
    subgroups: bool,
    subgroup_min_size: u32,
    subgroup_max_size: u32,
    /// Whether the times of single steps can be measured.
    timestamps: bool,
    /// Whether compiled kernels can be kept between processes.
    pipeline_cache: bool,
    max_buffer_bytes: u64,
    max_binding_bytes: u64,
    workgroup_memory_bytes: u32,
    max_workgroup_threads: u32,
}

impl Adapters {
    pub(super) fn run(&self, stderr: &Stderr) -> Result<()> {
        let adapters: Vec<Adapter> = pollster::block_on(Context::adapters()).iter().map(Adapter::new).collect();
        if self.json {
            return output::print_json(&adapters);
        }
        if adapters.is_empty() {
            stderr.note("no GPU adapter answers; install a Vulkan driver, such as mesa-vulkan-drivers");
        }
        let header =
            ["name", "backend", "type", "driver", "subgroups", "timestamps", "workgroup memory", "largest buffer"];
        let rows = adapters.iter().map(Adapter::row);
        let rows: Vec<Vec<String>> = std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect();
        output::print(&table(&rows))
    }
}

impl Adapter {
    fn new(adapter: &wgpu::Adapter) -> Self {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        Self {
            name: info.name,
            backend: info.backend.to_string(),
            device_type: format!("{:?}", info.device_type),
            driver: info.driver,
            driver_info: info.driver_info,
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_min_size: info.subgroup_min_size,
            subgroup_max_size: info.subgroup_max_size,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
            max_buffer_bytes: limits.max_buffer_size,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
            max_workgroup_threads: limits.max_compute_invocations_per_workgroup,
        }
    }

    fn row(&self) -> Vec<String> {
        let subgroups = match (self.subgroups, self.subgroup_min_size, self.subgroup_max_size) {
            (false, ..) => "no".to_owned(),
            (true, min, max) if min == max => format!("of {min}"),
            (true, min, max) => format!("of {min} to {max}"),
        };
        vec![
            self.name.clone(),
            self.backend.clone(),
            self.device_type.clone(),
            format!("{} {}", self.driver, self.driver_info).trim().to_owned(),
            subgroups,
            if self.timestamps { "yes" } else { "no" }.to_owned(),
            size(self.workgroup_memory_bytes.into()),
            size(self.max_buffer_bytes),
        ]
    }
}
