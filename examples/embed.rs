//! Embeds a network in an application's own frame: an int8 network shades every pixel of a window or of a picture file, and a render
//! pass draws the network's output buffer. Both are in one command encoder, and nothing is read back to the host.
//!
//! `cargo run --release --example embed -- [--headless] [--size WxH] [--frames N] [--out FILE] [--adapter NAME] [--save FILE]`
//!
//! The program trains the network when it starts, by quantization-aware training (`embed/network.rs`). The application owns instance,
//! adapter, device, surface, encoder and submission (`embed/device.rs`, `embed/window.rs`, `embed/headless.rs`); the crate records one
//! step of the frame (`embed/renderer.rs`).

#![allow(clippy::print_stdout)]

#[path = "embed/device.rs"]
mod device;
#[path = "embed/headless.rs"]
mod headless;
#[path = "embed/network.rs"]
mod network;
#[path = "embed/picture.rs"]
mod picture;
#[path = "embed/renderer.rs"]
mod renderer;
#[path = "embed/timer.rs"]
mod timer;
#[path = "embed/waves.rs"]
mod waves;
#[path = "embed/window.rs"]
mod window;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use enfold::lower;
use enfold::program::Program;

/// Trains a small network on a moving picture, quantizes it to int8, and lets it shade every pixel of a window.
#[derive(Parser)]
#[command(name = "embed")]
struct Arguments {
    /// Draws into a texture instead, checks it, and writes the last frame as a PNG.
    #[arg(long)]
    headless: bool,
    /// The size of the picture, or the first size of the window.
    #[arg(long, value_name = "WxH", default_value = "256x256", value_parser = size)]
    size: [u32; 2],
    /// Frames until the end [default: 8 with --headless; a window stays until it is closed].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    frames: Option<u32>,
    /// With --headless: the PNG to write [default: enfold-embed.png in the directory for temporary files].
    #[arg(long, value_name = "FILE", requires = "headless")]
    out: Option<PathBuf>,
    /// The adapter whose name contains NAME [default: the most capable].
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Saves the trained network as an archive.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

impl Arguments {
    /// Trains the network, saves it if that was asked for, and returns the program that both engines execute.
    fn program(&self) -> Result<Program> {
        let integers = network::train()?;
        if let Some(path) = &self.save {
            enfold::archive::save(&integers, path)?;
        }
        Ok(lower(&integers)?)
    }
}

fn size(text: &str) -> Result<[u32; 2], String> {
    let (width, height) = text.split_once('x').ok_or("expected WxH, as in 640x480")?;
    let side = |side: &str| match side.parse() {
        Ok(pixels) if pixels > 0 => Ok(pixels),
        _ => Err(format!("{side:?} is no number of pixels above 0")),
    };
    Ok([side(width)?, side(height)?])
}

fn main() -> Result<()> {
    env_logger::init();
    let arguments = Arguments::parse();
    if arguments.headless { headless::run(&arguments) } else { window::run(arguments) }
}
