//! Inputs and outputs as ranges of the application's buffers.

use std::sync::atomic::Ordering;

use enfold::gpu::{BufferRange, Engine, GpuError, Options};
use enfold::lower::lower;
use enfold::program::Program;
use enfold::{Graph, Tensor};
use pollster::block_on;
use wgpu::BufferUsages;

use crate::cases::{Case, Data, Ends};
use crate::device::{buffer, bytes, engine, read, submit, watched};
use crate::layers::{Layers, batch, expected, first_rows};
use crate::report::report;

const GUARD: u8 = 0x5A;

/// Two inputs and four outputs: with and without padding on the device, int8 and float, a value that is read again, and
/// a sum.
fn graph() -> Graph {
    let mut l = Layers::new(51);
    let (a, b) = (l.floats(&[33]), l.int8(&[5]));
    let q = l.quantize(a);
    let y = l.linear(q, 16, 33);
    let z = l.linear_to_floats(q, 7, 33);
    let t = l.lut(b);
    let w = l.linear(y, 5, 16);
    let s = l.sum(w, t, true);
    l.finish(&[y, z, t, s])
}

/// The ranges of all inputs and outputs in one buffer, and its size: there is a guard of 256 bytes or more around each.
fn layout(program: &Program, rows: usize) -> (Vec<(u64, u64)>, u64) {
    let mut end = 256u64;
    let ids = program.inputs().iter().chain(program.outputs());
    let places = ids.map(|&id| {
        let value = program.value(id);
        let size = (value.len(rows).expect("small") * value.value_type.size_bytes()).next_multiple_of(4) as u64;
        let place = (end, size);
        end = (end + size).next_multiple_of(256) + 256;
        place
    });
    (places.collect(), end)
}

/// The first difference between two images of a buffer.
fn first_difference(got: &[u8], expected: &[u8]) -> Option<String> {
    assert_eq!(got.len(), expected.len());
    let at = (0..got.len()).find(|&at| got[at] != expected[at])?;
    Some(format!("byte {at} is {:#x}, expected {:#x}", got[at], expected[at]))
}

fn put(image: &mut [u8], (offset, _): (u64, u64), tensor: &Tensor) {
    let bytes = bytes(tensor);
    image[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
}

#[test]
fn all_values_in_one_buffer() {
    let Some((context, engine)) = engine("one buffer") else { return };
    let graph = graph();
    let program = lower(&graph).expect("lowered");
    let (places, size) = layout(&program, 9);
    let model = block_on(engine.load(&program)).expect("loaded");
    let inputs = batch(&graph, 9, 1);
    let mut image = vec![GUARD; size as usize];
    inputs.iter().zip(&places).for_each(|(input, &place)| put(&mut image, place, input));
    for rows in [9, 6, 1] {
        let all = buffer(context, &image);
        let slices: Vec<_> = places.iter().map(|&(offset, size)| all.slice(offset..offset + size)).collect();
        let (inputs_of, outputs_of) = slices.split_at(program.inputs().len());
        let run = block_on(model.bind(inputs_of, outputs_of, 9)).expect("bound");
        submit(&context.device, &context.queue, &run, rows);
        let mut right = image.clone();
        let outputs = expected(&graph, &first_rows(&inputs, rows));
        outputs.iter().zip(&places[inputs.len()..]).for_each(|(output, &place)| put(&mut right, place, output));
        let got = read(context, &all);
        assert_eq!(first_difference(&got, &right), None, "{rows} rows");

        // One range is moved by a step: the guard that it overwrites is named.
        let mut moved = slices.clone();
        let (offset, size) = places[places.len() - 1];
        moved[places.len() - 1] = all.slice(offset + 256..offset + 256 + size);
        let run = block_on(model.bind(inputs_of, &moved[inputs.len()..], 9)).expect("bound");
        submit(&context.device, &context.queue, &run, rows);
        let named = first_difference(&read(context, &all), &right).expect("a difference");
        assert!(named.starts_with(&format!("byte {} is", offset + 256)), "{named}");
    }
    report(&format!("{} values of one buffer, guards untouched", places.len()));
}

/// A slice reaches to the end of a buffer that is larger than a binding may be.
#[test]
fn slices_reach_beyond_what_a_binding_can_be() {
    let Some((context, _)) = engine("large buffers") else { return };
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 16, ..wgpu::Limits::default() };
    let (device, queue, errors) = watched(context, limits);
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let case = Case::new(4, 16, 16, Data::Random, Ends::Codes, 1);
    let model = block_on(engine.load(&case.program())).expect("loaded");
    let mut image = vec![GUARD; 1 << 18];
    image[1 << 17..][..64].copy_from_slice(&bytes(&case.input()));
    let all = crate::device::buffer_on(&device, &image);
    let run = block_on(model.bind(&[all.slice(1 << 17..)], &[all.slice(..1 << 16)], 4)).expect("bound");
    submit(&device, &queue, &run, 4);
    put(&mut image, (0, 64), &expected(&case.graph(), &[case.input()])[0]);
    assert_eq!(first_difference(&crate::device::read_on(&device, &queue, &all), &image), None);
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let Some((context, _)) = engine("wrong ranges") else { return };
    let (device, queue, errors) = watched(context, wgpu::Limits::default());
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    // 10 rows of 7 floats in, of 5 floats out.
    let case = Case::new(10, 5, 7, Data::Random, Ends::Floats, 1);
    let model = block_on(engine.load(&case.program())).expect("loaded");
    let usage = BufferUsages::STORAGE;
    let all =
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 4096, usage, mapped_at_creation: false });
    let bind =
        |input: BufferRange<'_>, output: BufferRange<'_>| block_on(model.bind(&[input], &[output], 10)).map(drop);
    let slice = |first: u64, end: u64| BufferRange::from(all.slice(first..end));
    let raw = |offset, size| BufferRange { buffer: &all, offset, size };
    let (x, y) = (|| "x".to_owned(), || "y".to_owned());
    assert_eq!(bind(slice(256, 536), slice(1024, 1224)), Ok(()));
    assert_eq!(bind(slice(1024, 1304), slice(768, 968)), Ok(()));
    for (what, result, expected) in [
        (
            "a misaligned input",
            bind(slice(128, 512), slice(1024, 1224)),
            GpuError::BufferOffset { name: x(), actual: 128, alignment: 256 },
        ),
        (
            "a misaligned output",
            bind(slice(0, 512), slice(1028, 1300)),
            GpuError::BufferOffset { name: y(), actual: 1028, alignment: 256 },
        ),
        (
            "a short input",
            bind(slice(256, 532), slice(1024, 1224)),
            GpuError::BufferSize { name: x(), actual: 276, needed: 280, rows: 10 },
        ),
        (
            "a short output",
            bind(slice(256, 536), slice(1024, 1028)),
            GpuError::BufferSize { name: y(), actual: 4, needed: 200, rows: 10 },
        ),
        (
            "an input beyond the buffer",
            bind(raw(3840, 280), slice(1024, 1224)),
            GpuError::BufferSize { name: x(), actual: 256, needed: 280, rows: 10 },
        ),
        (
            "an output beyond any buffer",
            bind(slice(0, 280), raw(u64::MAX - 255, u64::MAX)),
            GpuError::BufferSize { name: y(), actual: 0, needed: 200, rows: 10 },
        ),
        (
            "an output over the end of the input",
            bind(slice(0, 280), slice(256, 456)),
            GpuError::SameBuffer { name: y(), other: x() },
        ),
    ] {
        assert_eq!(result, Err(expected), "{what}");
    }
    // The used parts of these do not overlap: 512 to 792, and 256 to 456.
    assert_eq!(bind(slice(512, 1024), slice(256, 1024)), Ok(()));
    assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
}

/// Inputs that share memory, and values that a step reads twice.
#[test]
fn one_buffer_may_be_several_inputs() {
    let Some((context, engine)) = engine("shared inputs") else { return };
    let mut graphs = Vec::new();
    for (name, codes) in [("sum of codes", true), ("sum of floats", false)] {
        let mut l = Layers::new(52);
        let [a, b] = [0; 2].map(|_| if codes { l.int8(&[4, 16]) } else { l.floats(&[4, 16]) });
        let y = if codes { l.sum(a, b, false) } else { l.add(a, b) };
        let twice = if codes { l.sum(y, y, true) } else { l.add(y, y) };
        graphs.push((name, l.finish(&[twice])));
    }
    for (name, codes) in [("product of codes", true), ("product of floats", false)] {
        let mut l = Layers::new(53);
        let [a, b] = [0; 2].map(|_| if codes { l.int8(&[16, 16]) } else { l.floats(&[16, 16]) });
        let y = if codes { l.integer_matmul(a, b, 16, 16) } else { l.matmul(a, b) };
        let square = if codes { l.integer_matmul(y, y, 16, 16) } else { l.matmul(y, y) };
        let t = l.transpose(square, &[0, 2, 1]);
        let gram = if codes { l.integer_matmul(square, t, 16, 16) } else { l.matmul(square, t) };
        graphs.push((name, l.finish(&[gram])));
    }
    for (name, graph) in graphs {
        let program = lower(&graph).expect("lowered");
        let model = block_on(engine.load(&program)).expect("loaded");
        let x = batch(&graph, 8, 2).swap_remove(0);
        let input = buffer(context, &bytes(&x));
        let right = &expected(&graph, &[x.clone(), x.clone()])[0];
        // The same slice twice, and one that is part of the other: a batch of fewer rows needs no more.
        for rows in [8, 1] {
            let x = first_rows(std::slice::from_ref(&x), rows).swap_remove(0);
            let right = if rows == 8 { right.clone() } else { expected(&graph, &[x.clone(), x]).swap_remove(0) };
            let output = buffer(context, &vec![0; bytes(&right).len()]);
            let second = if rows == 8 { input.slice(..) } else { input.slice(..input.size() / 8) };
            let run = block_on(model.bind(&[input.slice(..), second], &[output.slice(..)], rows)).expect("bound");
            submit(&context.device, &context.queue, &run, rows);
            let got = read(context, &output);
            if right.as_i8().is_some() {
                assert!(got == bytes(&right), "{name}, {rows} rows");
            } else {
                let got = Tensor::from_f32(right.shape(), bytemuck::pod_collect_to_vec(&got)).expect("fits");
                assert_eq!(crate::operators::wrong(&graph, &got, &right, 1e-6), None, "{name}, {rows} rows");
            }
        }
        // A slice whose end cannot be counted is no longer than its buffer.
        let whole = BufferRange { buffer: &input, offset: 0, size: u64::MAX };
        let output = buffer(context, &vec![0; bytes(right).len()]);
        assert!(block_on(model.bind(&[whole, whole], &[BufferRange::from(&output)], 8)).is_ok(), "{name}");
        let next = BufferRange { offset: 256, ..whole };
        assert!(block_on(model.bind(&[whole, next], &[BufferRange::from(&output)], 1)).is_ok(), "{name}");
    }
}
