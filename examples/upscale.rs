//! Doubles the width and height of a picture with an int8 convolutional network, and draws the network's output buffer: recording the
//! network and drawing its result take one command encoder, and nothing is read back to draw it.
//!
//! `cargo run --release --example upscale -- [--size WxH] [--epochs N] [--out FILE] [--adapter NAME]`

#![allow(clippy::print_stdout)]

#[path = "upscale/draw.rs"]
mod draw;
#[path = "upscale/network.rs"]
mod network;
#[path = "upscale/picture.rs"]
mod picture;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use enfold::gpu::context::Context;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::ResizeLinear;
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu};
use pollster::block_on;

/// Trains a small network that doubles pictures, quantizes it to int8, and draws what it makes of another picture.
#[derive(Parser)]
#[command(name = "upscale")]
struct Arguments {
    /// The size of the small picture.
    #[arg(long, value_name = "WxH", default_value = "96x64", value_parser = size)]
    size: [usize; 2],
    /// Passes over the pictures that the network learns from.
    #[arg(long, value_name = "N", default_value_t = 40)]
    epochs: usize,
    /// The PNG to write [default: enfold-upscale.png in the directory for temporary files].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The adapter whose name contains NAME [default: the most capable].
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
}

fn size(text: &str) -> Result<[usize; 2], String> {
    let (width, height) = text.split_once('x').ok_or("expected WxH, as in 96x64")?;
    let side = |side: &str| match side.parse() {
        Ok(pixels @ 1..=2048) => Ok(pixels),
        _ => Err(format!("{side:?} is no number of pixels from 1 to 2048")),
    };
    Ok([side(width)?, side(height)?])
}

fn main() -> Result<()> {
    env_logger::init();
    let arguments = Arguments::parse();
    let [width, height] = arguments.size;
    let large = [2 * width, 2 * height];
    let expected = picture::Scene::random(&mut fastrand::Rng::with_seed(11)).pixels(large);
    let small = Tensor::from_f32(&[1, 3, height, width], picture::halved(&expected, large))?;
    let psnr = |name: &str, picture: &[f32]| println!("{name}: {:.2} dB", picture::psnr(picture, &expected));

    let smooth = interpolation(arguments.size)?;
    psnr("linear interpolation", &interpreted(&smooth, &small)?);
    let float = network::float(&network::train(arguments.epochs)?, arguments.size)?;
    psnr("float network", &interpreted(&float, &small)?);
    let integers = network::quantized(&float, arguments.size)?;
    let summary = integers.summary();
    ensure!(summary.float.is_empty(), "{summary}");
    println!("integer nodes: {}, float nodes: 0", summary.integer.len());

    let program = lower(&integers)?;
    let cpu = cpu::Engine::new(&program)?.run(&[&small])?.swap_remove(0);
    let cpu = cpu.as_f32().context("an output of floats")?;
    psnr("int8 network", cpu);
    let Some(context) = block_on(Context::request(arguments.adapter.as_deref()))? else {
        println!("adapter: none; there is nothing to draw with");
        return Ok(());
    };
    println!("adapter: {}", context.describe());
    let drawn = draw::draw(&context, &program, &small, large)?;
    let differ = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    let mismatches = drawn.output.iter().zip(cpu).filter(|&pair| differ(pair)).count();
    println!("mismatching pixels gpu vs cpu: {mismatches} of {}", cpu.len());
    ensure!(mismatches == 0 && drawn.output.len() == cpu.len(), "the GPU's output differs from the CPU's");
    psnr("drawn picture", &drawn.planes());
    let file = arguments.out.unwrap_or_else(|| std::env::temp_dir().join("enfold-upscale.png"));
    drawn.write(&file).with_context(|| format!("--out {}", file.display()))?;
    println!("picture: {}", file.display());
    Ok(())
}

/// What the network adds to.
fn interpolation([width, height]: [usize; 2]) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[3, height, width]))?;
    let y = g.resize_linear("y", x, ResizeLinear::new(&[2 * height, 2 * width]))?;
    Ok(g.finish([y])?)
}

fn interpreted(graph: &Graph, x: &Tensor) -> Result<Vec<f32>> {
    let y = Interpreter::new(graph).run(&[x])?.swap_remove(0);
    Ok(y.as_f32().context("an output of floats")?.to_vec())
}
