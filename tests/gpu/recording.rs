//! Recording into the caller's encoder and pass.

use enfold::Tensor;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Run};
use enfold::interp::Interpreter;
use pollster::block_on;
use wgpu::BufferUsages;

use crate::cases::{Case, Data, Ends};
use crate::device::{buffer, bytes, engine, read};

/// A case bound to buffers of its own for `max_rows` rows; both are filled with a pattern beyond the input.
fn bound(context: &Context, engine: &Engine, case: &Case, max_rows: usize) -> (Run, wgpu::Buffer, wgpu::Buffer) {
    let mut input = bytes(&case.input());
    input.resize(max_rows * case.k * if case.ends == Ends::Floats { 4 } else { 1 }, 0x5A);
    input.resize(input.len().next_multiple_of(4), 0x5A);
    let input = buffer(context, &input);
    // The buffer is larger than the output, so that a store beyond it shows.
    let output = buffer(context, &vec![0x5A; max_rows * case.n * 4 + 256]);
    let model = block_on(engine.load(&case.program())).expect("loaded");
    let run = block_on(model.bind(&[&input], &[&output], max_rows)).expect("bound");
    (run, input, output)
}

/// The first `rows` rows of the case's result, as bytes filled with zeros to whole words.
fn expected(case: &Case, rows: usize) -> Vec<u8> {
    let mut part = case.clone();
    part.rows = rows;
    part.x.truncate(rows * case.k);
    let y: Tensor = Interpreter::new(&part.graph()).run(&[part.input()]).expect("interpreted").swap_remove(0);
    bytes(&y)
}

/// Columns below and above a padded row; int8 and float.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, k) in [(5, 7), (16, 16), (70, 33)] {
        for ends in Ends::ALL {
            cases.push(Case::new(200, n, k, Data::Random, ends, (n + k) as u64));
        }
    }
    cases
}

fn check(context: &Context, case: &Case, buffer: &wgpu::Buffer, rows: usize) {
    let (got, expected) = (read(context, buffer), expected(case, rows));
    assert!(got[..expected.len()] == expected[..], "{}: {rows} rows differ", case.name);
    let beyond = got[expected.len()..].iter().position(|&b| b != 0x5A);
    assert_eq!(beyond, None, "{}: {rows} rows wrote beyond their {} bytes", case.name, expected.len());
}

#[test]
fn rows_change_from_one_recording_to_the_next() {
    let Some((context, engine)) = engine("rows change") else { return };
    for case in cases() {
        for rows in [1, 2, 3, 9, 130, 200] {
            let (run, _input, output) = bound(context, &engine, &case, 200);
            let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            run.record(&mut encoder, rows).expect("recorded");
            context.queue.submit([encoder.finish()]);
            check(context, &case, &output, rows);
        }
    }
}

/// A number of rows that was written at record time would be that of the last recording for both.
#[test]
fn two_recordings_before_one_submit_keep_their_rows() {
    let Some((context, engine)) = engine("two recordings") else { return };
    for case in cases() {
        let (run, _input, output) = bound(context, &engine, &case, 200);
        let copies: Vec<wgpu::Buffer> = (0..2)
            .map(|_| {
                context.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: output.size(),
                    usage: BufferUsages::COPY_DST | BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                })
            })
            .collect();
        let fill = buffer(context, &vec![0x5A; output.size() as usize]);
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (copy, rows) in copies.iter().zip([200, 3]) {
            encoder.copy_buffer_to_buffer(&fill, 0, &output, 0, output.size());
            run.record(&mut encoder, rows).expect("recorded");
            encoder.copy_buffer_to_buffer(&output, 0, copy, 0, output.size());
        }
        context.queue.submit([encoder.finish()]);
        check(context, &case, &copies[0], 200);
        check(context, &case, &copies[1], 3);
    }
}

#[test]
fn a_pass_of_the_callers_holds_several_runs() {
    let Some((context, engine)) = engine("a pass of the caller's") else { return };
    let cases = cases();
    let bound: Vec<_> = cases.iter().map(|case| bound(context, &engine, case, case.rows)).collect();
    let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (run, ..) in &bound {
            run.record_in(&mut pass, 17).expect("recorded");
        }
    }
    context.queue.submit([encoder.finish()]);
    for (case, (.., output)) in cases.iter().zip(&bound) {
        check(context, case, output, 17);
    }
}
