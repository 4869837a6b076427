//! Renders into a window, as fast as the screen takes frames, and shows their times in the title.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use enfold::program::Program;
use wgpu::{CurrentSurfaceTexture, PollType, Surface, SurfaceConfiguration};
use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::event::WindowEvent;
use winit::event_loop::{ActiveEventLoop, EventLoop};
use winit::window::{Window, WindowId};

use crate::Arguments;
use crate::device::{Gpu, adapters};
use crate::renderer::{Renderer, check_size};
use crate::timer::Times;

/// The duration of one turn of the animation.
const TURN: Duration = Duration::from_secs(12);
/// The time between two changes of the title.
const TITLE: Duration = Duration::from_millis(500);

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let event_loop = EventLoop::new().context("no window can be opened here; --headless needs none")?;
    let display = Box::new(event_loop.owned_display_handle());
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_with_display_handle_from_env(display));
    // Checked before the training, which would be in vain.
    if adapters(&instance, arguments.adapter.as_deref())?.is_empty() {
        println!("adapter: none; there is nothing to draw with");
        return Ok(());
    }
    let program = arguments.program()?;
    let mut application = Application { arguments, instance, program, view: None, result: Ok(()) };
    event_loop.run_app(&mut application)?;
    application.result
}

struct Application {
    arguments: Arguments,
    instance: wgpu::Instance,
    program: Program,
    view: Option<View>,
    /// The result that the program ends with.
    result: Result<()>,
}

impl ApplicationHandler for Application {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        if self.view.is_none() {
            match View::open(event_loop, &self.instance, &self.program, &self.arguments) {
                Ok(view) => self.view = Some(view),
                Err(error) => self.end(event_loop, Err(error)),
            }
        }
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let Some(view) = &mut self.view else { return };
        match event {
            WindowEvent::CloseRequested => self.end(event_loop, Ok(())),
            // The next frame asks for the size itself, so several changes cost one frame.
            WindowEvent::Resized(_) | WindowEvent::Occluded(false) => view.window.request_redraw(),
            WindowEvent::RedrawRequested => match view.redraw() {
                Ok(_) if self.arguments.frames.is_some_and(|frames| view.frames >= frames) => {
                    self.end(event_loop, Ok(()));
                }
                Ok(true) => view.window.request_redraw(),
                Ok(false) => {}
                Err(error) => self.end(event_loop, Err(error)),
            },
            _ => {}
        }
    }
}

impl Application {
    fn end(&mut self, event_loop: &ActiveEventLoop, result: Result<()>) {
        if let (Ok(()), Some(view)) = (&result, &self.view) {
            // The title holds the latest times, once it has changed for the first time.
            let times = if view.title.is_empty() { &view.times.describe() } else { &view.title };
            println!("frames: {}, of late {times}", view.frames);
        }
        self.result = result;
        event_loop.exit();
    }
}

/// A window, and the surface, device and renderer that draw into it.
struct View {
    window: Arc<Window>,
    surface: Surface<'static>,
    configuration: SurfaceConfiguration,
    gpu: Gpu,
    renderer: Renderer,
    start: Instant,
    /// The number of frames that were shown.
    frames: u32,
    /// The time at which the last frame began.
    last: Option<Instant>,
    times: Times,
    titled: Instant,
    title: String,
}

impl View {
    fn open(
        event_loop: &ActiveEventLoop,
        instance: &wgpu::Instance,
        program: &Program,
        arguments: &Arguments,
    ) -> Result<Self> {
        let [width, height] = arguments.size;
        let attributes =
            Window::default_attributes().with_title("enfold").with_inner_size(PhysicalSize { width, height });
        let window = Arc::new(event_loop.create_window(attributes)?);
        let surface = instance.create_surface(Arc::clone(&window))?;
        let mut adapters = adapters(instance, arguments.adapter.as_deref())?;
        adapters.retain(|adapter| adapter.is_surface_supported(&surface));
        let gpu = Gpu::open(adapters.into_iter().next().context("no adapter draws into this window")?)?;
        check_size(&gpu, arguments.size)?;

        let mut configuration =
            surface.get_default_config(&gpu.adapter, width, height).context("the window's surface has no format")?;
        let formats = surface.get_capabilities(&gpu.adapter).formats;
        if let Some(plain) = formats.into_iter().find(|format| !format.is_srgb()) {
            configuration.format = plain;
        }
        configuration.present_mode = wgpu::PresentMode::AutoVsync;
        let renderer = Renderer::new(&gpu, program, configuration.format)?;
        let times = Times::new(renderer.timer.is_some());
        // The first frame configures the surface.
        (configuration.width, configuration.height) = (0, 0);
        window.request_redraw();
        let start = Instant::now();
        Ok(Self {
            window,
            surface,
            configuration,
            gpu,
            renderer,
            start,
            frames: 0,
            last: None,
            times,
            titled: start,
            title: String::new(),
        })
    }

    /// Draws a frame. Returns whether to request the next one; if not, the window is not visible.
    fn redraw(&mut self) -> Result<bool> {
        let PhysicalSize { width, height } = self.window.inner_size();
        if width == 0 || height == 0 {
            return Ok(false);
        }
        if [width, height] != [self.configuration.width, self.configuration.height] {
            check_size(&self.gpu, [width, height])?;
            (self.configuration.width, self.configuration.height) = (width, height);
            self.surface.configure(&self.gpu.device, &self.configuration);
            self.renderer.resize(&self.gpu, [width, height])?;
            self.times.clear();
            self.last = None;
        }
        let texture = match self.surface.get_current_texture() {
            CurrentSurfaceTexture::Success(texture) | CurrentSurfaceTexture::Suboptimal(texture) => texture,
            CurrentSurfaceTexture::Timeout => return Ok(true),
            CurrentSurfaceTexture::Occluded => return Ok(false),
            CurrentSurfaceTexture::Outdated => {
                self.surface.configure(&self.gpu.device, &self.configuration);
                return Ok(true);
            }
            CurrentSurfaceTexture::Lost => bail!("the window's surface was lost"),
            CurrentSurfaceTexture::Validation => return self.gpu.check().map(|()| true),
        };
        let view = texture.texture.create_view(&wgpu::TextureViewDescriptor::default());
        let turns = self.start.elapsed().as_secs_f64() / TURN.as_secs_f64();
        let phase = std::f64::consts::TAU * turns.fract();
        let encoder = self.renderer.frame(&self.gpu, &view, phase as f32)?;
        self.gpu.queue.submit([encoder.finish()]);
        self.window.pre_present_notify();
        self.gpu.queue.present(texture);
        self.frames += 1;
        // Polling lets the timestamps of earlier frames arrive, and does not wait.
        self.gpu.device.poll(PollType::Poll)?;
        self.gpu.check()?;
        self.time()?;
        Ok(true)
    }

    fn time(&mut self) -> Result<()> {
        let now = Instant::now();
        let gpu = self.renderer.timer.as_mut().map_or(Ok(None), |timer| timer.read())?;
        if let Some(last) = self.last.replace(now) {
            self.times.add(now - last, gpu);
        }
        if now - self.titled >= TITLE {
            self.titled = now;
            self.title = self.times.describe();
            self.times.clear();
            self.window.set_title(&format!("enfold: {}", self.title));
        }
        Ok(())
    }
}
