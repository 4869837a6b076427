// Runs a network on both engines and compares their outputs, byte by byte.

// The bytes of one element.
const SIZES = { f32: 4, i32: 4, i8: 1, f16: 2 };

// Counts the elements whose bits differ. Tensors of different lengths differ in all elements.
export function differing(a, b, element) {
  if (a.length !== b.length) return Math.max(a.length, b.length) / SIZES[element];
  const size = SIZES[element];
  let count = 0;
  for (let at = 0; at < a.length; at += size) {
    for (let byte = at; byte < at + size; byte++) {
      if (a[byte] !== b[byte]) {
        count++;
        break;
      }
    }
  }
  return count;
}

// Compares lists of outputs. The result has the number of elements, and of those that differ.
export function compare(network, a, b) {
  const ports = network.outputs();
  let [elements, differ] = [0, 0];
  ports.forEach((port, at) => {
    // Outputs of f16 are floats of 32 bits on the host.
    const element = port.element === "f16" ? "f32" : port.element;
    elements += b[at].length / SIZES[element];
    differ += differing(a[at], b[at], element);
  });
  return { elements, differ };
}

// FNV-1a of all outputs, for the eye.
export function hash(outputs) {
  let h = 0x811c9dc5;
  for (const bytes of outputs) {
    for (const byte of bytes) h = Math.imul(h ^ byte, 0x01000193);
  }
  return (h >>> 0).toString(16).padStart(8, "0");
}

// Random inputs that are the same each time: floats from a nearly normal distribution, small ids, any int8 values.
export function randomInputs(network, rows) {
  let state = 12345;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return network.inputs().map((port) => {
    const length = port.dims.reduce((n, d) => n * d, port.batched ? rows : 1);
    if (port.element === "i8") return Uint8Array.from({ length }, () => 256 * random());
    const values = port.element === "i32" ? new Int32Array(length) : new Float32Array(length);
    const draw = port.element === "i32" ? () => 8 * random() : () => 2 * (random() + random() + random() + random() - 2);
    return new Uint8Array(values.map(draw).buffer);
  });
}

// Runs a batch on both engines. Times are in milliseconds; the one of the GPU counts upload and download too.
export async function runBoth(network, onGpu, inputs, rows) {
  let start = performance.now();
  const cpu = network.run(inputs, rows);
  const cpuTime = performance.now() - start;
  if (!onGpu) return { cpu, cpuTime };
  start = performance.now();
  const gpu = await onGpu.run(inputs, rows);
  const gpuTime = performance.now() - start;
  return { cpu, cpuTime, gpu, gpuTime, ...compare(network, gpu, cpu) };
}

// Says how many elements were compared and how many differ, in an element of the page.
export function showBits(element, { elements, differ }) {
  const same = differ === 0;
  element.textContent = same
    ? `Same bits: 0 of ${elements.toLocaleString("en")} outputs differ between WebGPU and CPU.`
    : `${differ.toLocaleString("en")} of ${elements.toLocaleString("en")} outputs differ between WebGPU and CPU.`;
  element.className = same ? "bits same" : "bits differ";
}
