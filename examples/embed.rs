//! A network inside an application's own frame: a window, or a picture file, in which an int8 network shades every
//! pixel and a render pass draws what it wrote, from one command encoder and without a byte read back.
//!
//! `cargo run --release --example embed -- [--headless] [--size WxH] [--frames N] [--out FILE] [--adapter NAME]`
//!
//! The network is trained when the program starts, with quantization in mind: see `embed/network.rs`. Instance,
//! adapter, device, surface, encoder and submission are the application's (`embed/device.rs`, `embed/window.rs`,
//! `embed/headless.rs`); the crate records one step of the frame, in `embed/renderer.rs`.

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
#[path = "embed/window.rs"]
mod window;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

const HELP: &str = "\
Trains a small network on a moving picture, quantizes it to int8, and lets it shade every pixel of a window.

  --headless      draw into a texture instead, check it, and write the last frame as a PNG
  --size WxH      size of the picture, or of the window at first (default: 256x256)
  --frames N      frames until the end (default: 8 with --headless; a window stays until it is closed)
  --out FILE      with --headless: the PNG (default: enfold-embed.png in the directory for temporary files)
  --adapter NAME  the adapter whose name contains NAME (default: the most capable)
  --help          this text";

fn main() -> Result<()> {
    env_logger::init();
    let Some(arguments) = Arguments::parse()? else {
        println!("{HELP}");
        return Ok(());
    };
    if arguments.headless { headless::run(&arguments) } else { window::run(arguments) }
}

struct Arguments {
    headless: bool,
    size: [u32; 2],
    frames: Option<u32>,
    out: Option<PathBuf>,
    adapter: Option<String>,
}

impl Arguments {
    /// `None` if the user asks for help.
    fn parse() -> Result<Option<Self>> {
        let mut arguments = Self { headless: false, size: [256, 256], frames: None, out: None, adapter: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--headless" => arguments.headless = true,
                "--size" => arguments.size = size(&value()?)?,
                "--frames" => {
                    let text = value()?;
                    let frames = text.parse().with_context(|| format!("--frames {text}"))?;
                    ensure!(frames > 0, "--frames {frames}: there has to be one");
                    arguments.frames = Some(frames);
                }
                "--out" => arguments.out = Some(value()?.into()),
                "--adapter" => arguments.adapter = Some(value()?),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}\n\n{HELP}"),
            }
        }
        ensure!(arguments.headless || arguments.out.is_none(), "--out is for --headless");
        Ok(Some(arguments))
    }
}

fn size(text: &str) -> Result<[u32; 2]> {
    let (width, height) =
        text.split_once('x').with_context(|| format!("--size {text}: expected WxH, as in 640x480"))?;
    let side =
        |side: &str| side.parse::<u32>().with_context(|| format!("--size {text}: {side:?} is no number of pixels"));
    let size = [side(width)?, side(height)?];
    ensure!(size.iter().all(|&side| side > 0), "--size {text}: a picture has at least one pixel");
    Ok(size)
}
