// Tests the page of examples/web in Chromium, on WebGPU and in wasm, against the results of the native engines.
//
//   cargo test --features cli --test gpu browser && bash examples/web/build.sh && node tests/web/test.mjs [SCREENSHOTS]
//
// Prints a line `browser: …` for each thing that was checked, and fails at the first that is not so.

import assert from "node:assert/strict";
import { readFile, writeFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { open, serve } from "./browser.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const [dist, written] = [join(root, "examples/web/dist"), join(root, "target/browser")];
const pictures = process.argv[2];
const say = (line) => console.log(`browser: ${line}`);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(condition, what, seconds = 120) {
  const end = Date.now() + 1000 * seconds;
  while (!(await page.evaluate(condition))) {
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`);
    await sleep(50);
  }
}

async function size(width, height, mobile) {
  await page.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: mobile ? 2 : 1, mobile });
  await page.send("Emulation.setTouchEmulationEnabled", { enabled: mobile });
}

async function picture(name) {
  if (!pictures) return;
  await mkdir(pictures, { recursive: true });
  const { data } = await page.send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
  await writeFile(join(pictures, `${name}.png`), Buffer.from(data, "base64"));
}

async function test() {
  await size(1100, 1500, false);
  await page.send("Page.navigate", { url: server.address });
  await until("globalThis.enfoldPage?.ready || globalThis.enfoldPage?.failed", "the page starts");
  assert.equal(await page.evaluate("enfoldPage.failed ?? null"), null, "the page starts");
  const { adapter, firstFrame, parts, isolated } = await page.evaluate(
    "({ adapter: enfoldPage.adapter, firstFrame: enfoldPage.firstFrame, parts: enfoldPage.parts, isolated: crossOriginIsolated })",
  );
  assert.match(adapter ?? "", /./, "an adapter");
  assert.equal(isolated, false, "the page works without cross-origin isolation");
  say(`${adapter}; first painted frame ${firstFrame.toFixed(0)} ms after the start of the script`);
  say(`of these, ${parts.map(({ name, time }) => `${name} ${time.toFixed(0)} ms`).join(", ")}`);

  await shaders();
  await networks();
  await frames();
  for (const digit of Object.keys(STROKES)) await draw(Number(digit));
  say(`${Object.keys(STROKES).length} drawn digits have their classes on both engines, with the same bits`);
  await picture("desktop");
  await drop();
  await phone();
  await dark();
  const errors = page.console.filter(({ level }) => level === "error");
  assert.deepEqual(errors, [], "no errors on the console");
  say("no error on the console");
}

// The browser's compiler accepts the shaders. It refuses what naga accepts, such as && beside || without parentheses.
async function shaders() {
  const count = await page.evaluate(`(async () => {
    const shaders = await (await fetch("shaders.json")).json();
    const device = await (await navigator.gpu.requestAdapter()).requestDevice();
    const problems = async (code) => {
      device.pushErrorScope("validation");
      const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
      await device.popErrorScope();
      return messages.filter(({ type }) => type === "error");
    };
    for (const { name, wgsl } of shaders) {
      const [problem] = await problems(wgsl);
      if (problem) throw new Error(name + ":" + problem.lineNum + ": " + problem.message + "\\n" + wgsl.split("\\n")[problem.lineNum - 1]);
    }
    const [mixed] = await problems("const x = true && false || true;");
    if (!mixed) throw new Error("a mixture of && and || was accepted");
    device.destroy();
    return shaders.length;
  })()`);
  assert.ok(count > 40, `${count} shaders`);
  say(`${count} shader modules compile`);
}

// Networks give the bytes of the native engines, on WebGPU and in wasm; with one weight changed, they do not.
async function networks() {
  const pause = () => page.evaluate("document.getElementById('pause').click()");
  await pause();
  await everyNetwork();
  await pause();
}

async function everyNetwork() {
  const cases = JSON.parse(await readFile(join(written, "cases.json"), "utf8"));
  await page.evaluate(`(async () => {
    const { compare } = await import("./bits.js");
    const bytes = async (name) => {
      const answer = await fetch(name);
      if (!answer.ok) throw new Error(name + ": " + answer.status);
      return new Uint8Array(await answer.arrayBuffer());
    };
    // Changes the lowest bit of one value of the largest int8 tensor of a safetensors file.
    const changed = (archive) => {
      const copy = archive.slice();
      const length = Number(new DataView(copy.buffer).getBigUint64(0, true));
      const header = JSON.parse(new TextDecoder().decode(copy.subarray(8, 8 + length)));
      const size = ([name, tensor]) => (tensor.dtype === "I8" ? tensor.data_offsets[1] - tensor.data_offsets[0] : 0);
      const [, tensor] = Object.entries(header).reduce((a, b) => (size(b) > size(a) ? b : a));
      copy[8 + length + Math.floor((tensor.data_offsets[0] + tensor.data_offsets[1]) / 2)] ^= 1;
      return copy;
    };
    globalThis.runCase = async ({ archive, runs }, change) => {
      const file = await bytes(archive);
      const network = new enfoldPage.Network(change ? changed(file) : file);
      const onGpu = await network.load(enfoldPage.gpu);
      const total = { elements: 0, gpu: 0, cpu: 0 };
      for (const { rows, inputs, outputs } of runs) {
        const [given, expected] = [await Promise.all(inputs.map(bytes)), await Promise.all(outputs.map(bytes))];
        const [gpu, cpu] = [compare(network, await onGpu.run(given, rows), expected), compare(network, network.run(given, rows), expected)];
        total.elements += gpu.elements;
        total.gpu += gpu.differ;
        total.cpu += cpu.differ;
      }
      onGpu.free();
      network.free();
      return total;
    };
  })()`);
  const run = (each, change) => page.evaluate(`runCase(${JSON.stringify(each)}, ${change})`);
  let [elements, runs, withFloats] = [0, 0, 0];
  for (const each of cases) {
    const total = await run(each, false);
    assert.deepEqual({ gpu: total.gpu, cpu: total.cpu }, { gpu: 0, cpu: 0 }, `${each.name}: of ${total.elements} elements, these differ`);
    elements += total.elements;
    runs += each.runs.length;
    withFloats += each.float_nodes > 0 ? 1 : 0;
  }
  assert.ok(withFloats >= 10, `${withFloats} networks with float nodes`);
  say(
    `${cases.length} networks, ${withFloats} of them with float nodes, ${runs} batches of 1 to 256 rows: ` +
      `0 of ${elements} elements differ from the native results, on WebGPU and in wasm`,
  );
  for (const name of ["digits", "gated_ffn static"]) {
    const total = await run(cases.find((each) => each.name === name), true);
    assert.ok(total.gpu > 0 && total.cpu > 0, `${name}: one changed weight is not noticed`);
    say(`${name} with one weight changed: ${total.gpu} elements on WebGPU and ${total.cpu} in wasm differ, as they should`);
  }
}

// The painting moves, and is a picture of many colours.
async function frames() {
  const before = await page.evaluate("enfoldPage.frames");
  await until(`enfoldPage.frames > ${before + 2}`, "the painting moves", 20);
  // The texture of a canvas is gone once it is shown, hence a screenshot.
  const clip = await page.evaluate(`(() => {
    const { x, y, width, height } = document.getElementById("painting").getBoundingClientRect();
    return { x: x + scrollX, y: y + scrollY, width, height, scale: 0.25 };
  })()`);
  const { data } = await page.send("Page.captureScreenshot", { format: "png", clip, captureBeyondViewport: true });
  const colours = await page.evaluate(`(async () => {
    const image = await createImageBitmap(await (await fetch("data:image/png;base64,${data}")).blob());
    const copy = new OffscreenCanvas(image.width, image.height).getContext("2d");
    copy.drawImage(image, 0, 0);
    const { data } = copy.getImageData(0, 0, image.width, image.height);
    return new Set(Array.from({ length: data.length / 4 }, (_, at) => data.slice(4 * at, 4 * at + 3).join())).size;
  })()`);
  assert.ok(colours > 200, `the painting has ${colours} colours`);
  say(`the painting moves; ${colours} colours in a frame`);
}

// Strokes of digits as people draw them, on a pad from 0 to 1.
const arc = (cx, cy, rx, ry, from, to) =>
  Array.from({ length: 25 }, (_, at) => {
    const angle = ((from + ((to - from) * at) / 24) * Math.PI) / 180;
    return [cx + rx * Math.cos(angle), cy + ry * Math.sin(angle)];
  });
const STROKES = {
  0: [arc(0.5, 0.5, 0.2, 0.33, -90, 270)],
  1: [[[0.4, 0.3], [0.53, 0.17], [0.53, 0.83]]],
  2: [[...arc(0.49, 0.35, 0.19, 0.18, -170, 40), [0.3, 0.82], [0.72, 0.82]]],
  3: [[...arc(0.46, 0.33, 0.19, 0.16, -150, 80), ...arc(0.46, 0.66, 0.21, 0.17, -80, 150)]],
  4: [[[0.5, 0.15], [0.28, 0.58], [0.74, 0.58]], [[0.6, 0.4], [0.58, 0.85]]],
  5: [[[0.68, 0.17], [0.36, 0.17], [0.34, 0.46], ...arc(0.46, 0.63, 0.21, 0.19, -110, 140)]],
  6: [[...arc(0.62, 0.6, 0.28, 0.45, -100, -190), ...arc(0.5, 0.68, 0.17, 0.17, -200, 160)]],
  7: [[[0.3, 0.18], [0.7, 0.18], [0.46, 0.85]], [[0.36, 0.5], [0.66, 0.5]]],
  8: [[...arc(0.5, 0.32, 0.14, 0.17, 90, 450), ...arc(0.5, 0.68, 0.16, 0.19, -90, 270)]],
  9: [[...arc(0.5, 0.34, 0.16, 0.18, 0, -360), [0.66, 0.34], [0.62, 0.86]]],
};

async function draw(digit) {
  await page.evaluate("document.getElementById('clear').click(); delete enfoldPage.digit");
  const box = await page.evaluate(`(() => {
    const { x, y, width, height } = document.getElementById("pad").getBoundingClientRect();
    return { x, y, width, height };
  })()`);
  const mouse = (type, [x, y], buttons) =>
    page.send("Input.dispatchMouseEvent", {
      type, x: box.x + x * box.width, y: box.y + y * box.height, button: "left", buttons, clickCount: 1,
    });
  for (const stroke of STROKES[digit]) {
    await mouse("mousePressed", stroke[0], 1);
    for (const point of stroke.slice(1)) await mouse("mouseMoved", point, 1);
    await mouse("mouseReleased", stroke.at(-1), 0);
  }
  // A part of the drawing can look like this digit or like another one: the answer counts once no run is on its way.
  const want = `!enfoldPage.busy && enfoldPage.digit && document.getElementById("answer").textContent === "${digit}"`;
  await until(want, `drawing ${digit}`);
  const { gpu, cpu, differ } = await page.evaluate("enfoldPage.digit");
  assert.deepEqual({ gpu, cpu, differ }, { gpu: digit, cpu: digit, differ: 0 }, `drawing ${digit}`);
  assert.match(await page.evaluate("document.getElementById('draw-bits').textContent"), /^Same bits: 0 of/);
}

// A dropped archive runs on both engines; a file that is none is refused with a message.
async function drop() {
  const choose = (file) => page.evaluate(`(async () => {
    const bytes = ${file === undefined ? "new Uint8Array(100)" : `await (await fetch("${file}")).arrayBuffer()`};
    const files = new DataTransfer();
    files.items.add(new File([bytes], "dropped.safetensors"));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
  })()`);
  const status = "document.getElementById('archive-status').textContent";
  await choose("gated_ffn-per-token.safetensors");
  await until(`${status}.startsWith("dropped.safetensors: ") && document.getElementById("which").value === "dropped.safetensors"`, "an archive is dropped");
  await until("/^Same bits: 0 of/.test(document.getElementById('run-bits').textContent)", "the dropped network gives the same bits");
  const compared = await page.evaluate("document.getElementById('run-bits').textContent");
  await choose();
  await until(`/not a sound safetensors file/.test(${status})`, "a broken file is refused");
  say(`a dropped archive runs (${compared}); a broken one is refused`);
}

async function phone() {
  await size(390, 844, true);
  await sleep(300);
  const width = await page.evaluate("document.documentElement.scrollWidth");
  assert.ok(width <= 390, `the page is ${width} pixels wide on a phone of 390`);
  await picture("phone");
  say("a phone's window needs no scrolling sideways");
}

async function dark() {
  await size(1100, 1500, false);
  await page.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: "dark" }] });
  await sleep(300);
  await picture("dark");
}

const server = await serve(dist, written);
const page = await open();
let failure;
try {
  await test();
} catch (error) {
  failure = error;
} finally {
  await page.close();
  server.close();
}
if (failure) {
  console.error(failure);
  page.console.forEach(({ level, text }) => console.error(`console ${level}: ${text}`));
  process.exit(1);
}
console.log("browser: all checks passed");
