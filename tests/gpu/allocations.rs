//! Recording allocates nothing of its own on the host.
// The only unsafe code of the tests: an allocator that counts.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use enfold::gpu::Run;
use pollster::block_on;

use crate::device::{buffer, engine};
use crate::layers::mlp;
use crate::report::report;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that ends may have no counter left.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is the system allocator's, which fulfils the contract; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread.
fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

/// The same dispatches and bindings by plain wgpu: nine bindings to a group, of which two have dynamic offsets.
struct Twin {
    pipeline: wgpu::ComputePipeline,
    groups: Vec<wgpu::BindGroup>,
}

impl Twin {
    fn new(device: &wgpu::Device, dispatches: usize) -> Self {
        let uniform = |has_dynamic_offset| (wgpu::BufferBindingType::Uniform, has_dynamic_offset);
        let storage = |read_only| (wgpu::BufferBindingType::Storage { read_only }, false);
        let kinds = [
            uniform(false),
            uniform(true),
            uniform(true),
            storage(false),
            storage(true),
            storage(true),
            storage(false),
            storage(false),
            storage(false),
        ];
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..)
            .zip(kinds)
            .map(|(binding, (ty, has_dynamic_offset))| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
                count: None,
            })
            .collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl("@compute @workgroup_size(1) fn main() {}".into()),
        });
        // Layers that are alike share a pipeline.
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let buffer = |usage| {
            let size = 1 << 14;
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let [constants, rows] = [0; 2].map(|_| buffer(wgpu::BufferUsages::UNIFORM));
        let values = buffer(wgpu::BufferUsages::STORAGE);
        let groups = (0..dispatches).map(|_| {
            // A layer's own: its weight and its channels.
            let own = [0; 2].map(|_| buffer(wgpu::BufferUsages::STORAGE));
            let buffers = [&constants, &rows, &rows, &values, &own[0], &own[1], &values, &values, &values];
            let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
                .zip(buffers)
                .map(|(binding, buffer)| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: if binding < 3 { 0 } else { u64::from(binding) * 256 },
                        size: wgpu::BufferSize::new(256),
                    }),
                })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
        });
        Self { groups: groups.collect(), pipeline }
    }

    fn record_in(&self, pass: &mut wgpu::ComputePass<'_>) {
        for group in &self.groups {
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, group, &[256, 512]);
            pass.dispatch_workgroups(1, 1, 1);
        }
    }
}

/// Allocations of recording in a pass, and of recording a pass, in an encoder of its own each.
fn of_recording(device: &wgpu::Device, record_in: impl Fn(&mut wgpu::ComputePass<'_>)) -> [usize; 2] {
    let encoder = || device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let descriptor = wgpu::ComputePassDescriptor { label: Some("enfold"), timestamp_writes: None };
    let (mut first, mut second) = (encoder(), encoder());
    let mut pass = first.begin_compute_pass(&descriptor);
    let in_pass = allocations(|| record_in(&mut pass));
    let whole = allocations(|| record_in(&mut second.begin_compute_pass(&descriptor)));
    [in_pass, whole]
}

/// Allocations of `Run::record` beyond those of a pass, at most: wgpu's error and its message.
const MOST_ASKING: usize = 16;

#[test]
fn recording_allocates_no_more_than_its_dispatches() {
    let Some((context, engine)) = engine("allocations") else { return };
    let (_, program) = mlp(12, 64, 61);
    let model = block_on(engine.load(&program)).expect("loaded");
    let [input, output] = [0; 2].map(|_| buffer(context, &[0; 64 * 64]));
    let run: Run = block_on(model.bind(&[&input], &[&output], 64)).expect("bound");
    assert_eq!(run.dispatches(), 12);
    let twin = Twin::new(&context.device, run.dispatches());
    // After the first recordings, kept allocations exist.
    let measured = |record: &dyn Fn(&mut wgpu::ComputePass<'_>)| {
        let all: Vec<[usize; 2]> = (0..8).map(|_| of_recording(&context.device, record)).collect();
        [0, 1].map(|at| all[4..].iter().map(|one| one[at]).min().expect("four"))
    };
    let bare = measured(&|pass| twin.record_in(pass));
    let ours = measured(&|pass| run.record_in(pass, 17).expect("recorded"));
    // One more allocation, of a single byte.
    let with_vec = measured(&|pass| {
        run.record_in(pass, 17).expect("recorded");
        drop(std::hint::black_box(vec![0u8]));
    });
    report(&format!("allocations of 12 dispatches: {ours:?} in a pass and with it, plain wgpu {bare:?}"));
    assert!(ours[0] <= bare[0] && ours[1] <= bare[1], "{ours:?} allocations, plain wgpu {bare:?}");
    // Into an encoder, the device is asked first whether it is lost, which it answers by an error.
    let in_encoder = (0..8).map(|_| {
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        allocations(|| run.record(&mut encoder, 17).expect("recorded"))
    });
    let in_encoder = in_encoder.skip(4).min().expect("four");
    report(&format!("asking whether the device is lost: {} allocations more", in_encoder - ours[1]));
    assert!(in_encoder > ours[1] && in_encoder - ours[1] <= MOST_ASKING, "{in_encoder}, in a pass {ours:?}");
    assert!(with_vec[0] > bare[0], "{with_vec:?} allocations of a recording with one more, plain wgpu {bare:?}");
}
