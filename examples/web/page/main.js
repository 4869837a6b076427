// The page: opens the GPU, loads the networks, and connects them with the elements.

import init, { Gpu, Network, Painting } from "./enfold_web.js";
import { hash, randomInputs, runBoth, showBits, compare } from "./bits.js";
import { Pad } from "./pad.js";

const $ = (id) => document.getElementById(id);
const kilobytes = (bytes) => `${(bytes / 1000).toLocaleString("en", { maximumFractionDigits: 1 })} kB`;
const milliseconds = (ms) => (ms === undefined ? "–" : `${ms.toFixed(ms < 10 ? 2 : 1)} ms`);
// Why something failed. A panic of the player is a trap, without a message: the page cannot go on with the player's memory as it is.
const reason = (error) => error instanceof WebAssembly.RuntimeError ? `the player failed (${error.message}); reload the page` : error.message;
const say = (id, text) => ($(id).textContent = text);
// What the tests wait for, and read.
const page = (globalThis.enfoldPage = { started: performance.now(), Network, compare, networks: new Map(), parts: [] });

// Notes the time of a part of the start, which ends here.
function part(name) {
  const before = page.parts.reduce((sum, { time }) => sum + time, page.started);
  page.parts.push({ name, time: performance.now() - before });
}

// The archives that are built with the page, by the names of their files.
const SHIPPED = { digits: "Digits: a convolutional network", silk: "The painter" };

async function bytesOf(file) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

// Loads an archive on both engines.
async function load(name, bytes) {
  const network = new Network(bytes);
  const onGpu = page.gpu ? await network.load(page.gpu) : undefined;
  const entry = { name, bytes: bytes.length, network, onGpu };
  page.networks.set(name, entry);
  return entry;
}

// Opens the GPU. Without one, the page runs on the CPU alone, and says so.
async function openGpu() {
  try {
    page.gpu = await Gpu.open();
    const { vendor, architecture, device, description } = (await navigator.gpu.requestAdapter()).info;
    page.adapter = [description || device, vendor, architecture].filter(Boolean).join(", ") || "unnamed";
    say("adapter", `WebGPU adapter: ${page.adapter}`);
  } catch (error) {
    const why = navigator.gpu ? reason(error) : "this browser has no WebGPU";
    say("adapter", `No GPU: ${why}. Networks run on the CPU alone.`);
  }
}

// Whether a network takes the 64 pixels of one picture and gives the scores of 10 classes.
function isOfDigits({ network }) {
  const [inputs, outputs] = [network.inputs(), network.outputs()];
  const size = (port) => port.dims.reduce((n, d) => n * d, 1);
  return inputs.length === 1 && outputs.length === 1 && inputs[0].element === "f32" && outputs[0].element === "f32" &&
    inputs[0].batched && size(inputs[0]) === 64 && size(outputs[0]) === 10;
}

// The scores of the classes as shares, for the bars.
function shares(scores) {
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// Runs what was drawn last; while a run is on its way, newer drawings wait for its end.
class Digits {
  constructor() {
    this.total = { elements: 0, differ: 0 };
    this.times = { gpuTime: [], cpuTime: [] };
    for (let digit = 0; digit < 10; digit++) {
      $("classes").insertAdjacentHTML("beforeend", `<li><div class="bar"><i></i></div>${digit}</li>`);
    }
    this.pad = new Pad($("pad"), $("seen"), (pixels) => this.drawn(pixels));
    $("clear").addEventListener("click", () => this.pad.clear());
  }

  use(entry) {
    this.entry = entry;
    say("draw-network", `Network: ${entry.name}, ${entry.network.steps().length} steps, archive of ${kilobytes(entry.bytes)}`);
    this.drawn(this.pad.pixels);
  }

  async drawn(pixels) {
    this.next = pixels;
    if (this.running || !this.entry) return;
    this.running = true;
    let idle;
    page.busy = new Promise((done) => (idle = done));
    while (this.next) {
      const now = this.next;
      this.next = undefined;
      if (now.some((pixel) => pixel > 0)) await this.run(now);
      else this.nothing();
    }
    this.running = page.busy = false;
    idle();
  }

  nothing() {
    say("answer", "–");
    say("sure", "draw in the box");
    say("answer-gpu", "–");
    say("answer-cpu", "–");
    for (const item of $("classes").children) this.bar(item, 0, false);
  }

  bar(item, share, best) {
    item.classList.toggle("best", best);
    item.querySelector("i").style.height = `${100 * share}%`;
  }

  async run(pixels) {
    const { network, onGpu } = this.entry;
    const result = await runBoth(network, onGpu, [new Uint8Array(pixels.buffer)], 1);
    const scores = (outputs) => [...new Float32Array(outputs[0].slice().buffer)];
    const best = (values) => values.indexOf(Math.max(...values));
    const cpu = scores(result.cpu);
    const gpu = result.gpu && scores(result.gpu);
    const all = shares(gpu ?? cpu);
    const digit = best(gpu ?? cpu);
    say("answer", digit);
    say("sure", `${(100 * all[digit]).toFixed(0)} %`);
    [...$("classes").children].forEach((item, at) => this.bar(item, all[at], at === digit));
    say("answer-cpu", best(cpu));
    say("answer-gpu", gpu ? best(gpu) : "–");
    for (const key of ["gpuTime", "cpuTime"]) {
      if (result[key] === undefined) continue;
      this.times[key] = [...this.times[key], result[key]].slice(-31);
      const median = this.times[key].toSorted((a, b) => a - b)[this.times[key].length >> 1];
      say(key === "gpuTime" ? "draw-gpu" : "draw-cpu", milliseconds(median));
    }
    if (gpu) {
      this.total.elements += result.elements;
      this.total.differ += result.differ;
      showBits($("draw-bits"), this.total);
    }
    page.digit = { gpu: gpu && best(gpu), cpu: best(cpu), ...this.total };
  }
}

// The canvas whose pixels a network computes.
async function paint(bytes) {
  const painting = await Painting.on(page.gpu, bytes, $("painting"));
  part("the painter's network, loaded and bound");
  let [frames, since, phase, last, paused] = [0, performance.now(), 0, undefined, matchMedia("(prefers-reduced-motion: reduce)").matches];
  const { width, height } = $("painting");
  const status = (rate) => say("paint-status", `${(width * height).toLocaleString("en")} rows a frame, ${rate}`);
  const button = $("pause");
  const show = () => {
    button.textContent = paused ? "Play" : "Pause";
    button.setAttribute("aria-pressed", String(paused));
  };
  const frame = async (now) => {
    if (paused && last !== undefined) return;
    phase = (phase + (last === undefined ? 0 : Math.min(now - last, 200)) * 0.0008) % (2 * Math.PI);
    last = now;
    // What is drawn by hand comes first, and the next frame waits until the GPU has drawn this one.
    await page.busy;
    await painting.draw(phase);
    page.frames = (page.frames ?? 0) + 1;
    if (!page.firstFrame) {
      part("its first frame");
      page.firstFrame = performance.now() - page.started;
    }
    frames++;
    if (now - since > 1000) {
      status(`${((1000 * frames) / (now - since)).toFixed(1)} frames a second`);
      [frames, since] = [0, now];
    }
    if (!paused && page.ready) requestAnimationFrame(frame);
  };
  button.addEventListener("click", () => {
    paused = !paused;
    show();
    if (!paused) [last, since, frames] = [performance.now(), performance.now(), 0], requestAnimationFrame(frame);
  });
  show();
  status(paused ? "paused" : "starting");
  await frame(performance.now());
  // The other networks have the GPU to themselves until they are loaded.
  return () => paused || requestAnimationFrame(frame);
}

function list(select) {
  const options = [...page.networks.keys()].map((name) => new Option(name, name));
  $("which").replaceChildren(...options);
  $("which").value = select;
}

async function runChosen() {
  const { name, network, onGpu, bytes } = page.networks.get($("which").value);
  const rows = Number($("rows").value);
  try {
    const inputs = randomInputs(network, rows);
    // The first run compiles.
    await runBoth(network, onGpu, inputs, rows);
    const result = await runBoth(network, onGpu, inputs, rows);
    const ports = (ports) => ports.map((p) => `${p.name} ${p.element}[${[...(p.batched ? ["rows"] : []), ...p.dims].join(", ")}]`).join("; ");
    say("archive-status", `${name}: ${ports(network.inputs())} → ${ports(network.outputs())}; ${network.steps().length} steps, random inputs.`);
    $("archive-table").hidden = false;
    say("run-cpu", milliseconds(result.cpuTime));
    say("run-gpu", milliseconds(result.gpuTime));
    say("size-cpu", `${kilobytes(bytes)} (archive)`);
    say("size-gpu", onGpu ? kilobytes(onGpu.size_bytes()) : "–");
    say("hash-cpu", hash(result.cpu));
    say("hash-gpu", result.gpu ? hash(result.gpu) : "–");
    if (result.gpu) showBits($("run-bits"), result);
  } catch (error) {
    say("archive-status", `${name}: ${reason(error)}`);
    $("archive-table").hidden = true;
    say("run-bits", "nothing compared");
    $("run-bits").className = "bits";
  }
}

async function dropped(file, digits) {
  try {
    const entry = await load(file.name, new Uint8Array(await file.arrayBuffer()));
    list(file.name);
    if (isOfDigits(entry)) digits.use(entry);
    await runChosen();
  } catch (error) {
    say("archive-status", `${file.name}: ${reason(error)}`);
  }
}

async function main() {
  const [, digitsBytes, silkBytes] = await Promise.all([init(), bytesOf("digits.safetensors"), bytesOf("silk.safetensors")]);
  part("wasm and archives");
  await openGpu();
  part("device and engine");
  const digits = new Digits();
  // The painting is what a visitor sees move, so that it comes first.
  let animate = () => {};
  if (page.gpu) animate = await paint(silkBytes);
  else say("paint-status", "This needs WebGPU.");
  digits.use(await load(SHIPPED.digits, digitsBytes));
  await load(SHIPPED.silk, silkBytes);
  list(SHIPPED.digits);
  const drop = $("drop");
  $("file").addEventListener("change", (event) => event.target.files[0] && dropped(event.target.files[0], digits));
  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", type === "dragover");
      if (type === "drop" && event.dataTransfer.files[0]) dropped(event.dataTransfer.files[0], digits);
    });
  }
  $("run").addEventListener("click", runChosen);
  $("which").addEventListener("change", runChosen);
  $("rows").addEventListener("change", runChosen);
  await runChosen();
  const size = performance.getEntriesByType("resource").find((entry) => entry.name.endsWith(".wasm"));
  if (size) say("sizes", `The player is ${kilobytes(size.decodedBodySize)} of wasm; with gzip, a server sends about a third.`);
  page.ready = true;
  animate();
}

main().catch((error) => {
  say("adapter", `The page did not start: ${reason(error)}`);
  page.failed = reason(error);
  console.error(error);
});
