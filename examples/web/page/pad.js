// The drawing pad: strokes as lines, and the picture of 8 × 8 pixels that the digits of the data set are.

const SIDE = 32;

export class Pad {
  constructor(canvas, seen, changed) {
    Object.assign(this, { canvas, seen, changed, strokes: [], pen: [0.5, 0.5] });
    this.small = document.createElement("canvas");
    this.small.width = this.small.height = SIDE;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.strokes.push([this.position(event)]);
      this.pointer = event.pointerId;
      this.update();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) this.strokes.at(-1).push(this.position(each));
      this.update();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.pointer = undefined));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("keyup", (event) => event.key === "Shift" && (this.writing = false));
    canvas.addEventListener("focus", () => this.show());
    canvas.addEventListener("blur", () => this.show());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
    this.update();
  }

  // A position on the pad; both coordinates run from 0 to 1.
  position(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") return this.clear();
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const clamp = (v) => Math.min(0.95, Math.max(0.05, v));
    const before = this.pen;
    this.pen = [clamp(before[0] + 0.04 * move[0]), clamp(before[1] + 0.04 * move[1])];
    if (event.shiftKey) {
      if (!this.writing) this.strokes.push([before]);
      this.strokes.at(-1).push(this.pen);
    }
    this.writing = event.shiftKey;
    this.update();
  }

  clear() {
    this.strokes = [];
    this.pointer = undefined;
    this.writing = false;
    this.update();
  }

  update() {
    this.pixels = this.picture();
    this.show();
    this.changed(this.pixels);
  }

  // Draws the strokes, and the pen while the keyboard has the focus.
  show() {
    const context = this.canvas.getContext("2d");
    const { width } = this.canvas;
    const ink = getComputedStyle(this.canvas).color;
    context.clearRect(0, 0, width, width);
    this.lines(context, ([x, y]) => [x * width, y * width], width / 14, ink);
    if (document.activeElement === this.canvas && this.pointer === undefined) {
      context.beginPath();
      context.arc(this.pen[0] * width, this.pen[1] * width, width / 40, 0, 2 * Math.PI);
      context.lineWidth = 2;
      context.strokeStyle = ink;
      context.stroke();
    }
    const seen = this.seen.getContext("2d");
    const image = seen.createImageData(8, 8);
    this.pixels.forEach((pixel, at) => image.data.set([255 * pixel, 255 * pixel, 255 * pixel, 255], 4 * at));
    seen.putImageData(image, 0, 0);
  }

  lines(context, place, lineWidth, strokeStyle) {
    Object.assign(context, { lineWidth, strokeStyle, lineCap: "round", lineJoin: "round" });
    for (const stroke of this.strokes) {
      context.beginPath();
      context.moveTo(...place(stroke[0]));
      // A stroke of one point is a dot.
      (stroke.length > 1 ? stroke.slice(1) : stroke).forEach((point) => context.lineTo(...place(point)));
      context.stroke();
    }
  }

  // The data set's digits fill 32 × 32 black and white pixels from top to bottom. Each of the 8 × 8 pixels counts the white ones of
  // its 4 × 4.
  picture() {
    const points = this.strokes.flat();
    const pixels = new Float32Array(64);
    if (points.length === 0) return pixels;
    const line = 5;
    const range = (axis) => [Math.min(...points.map((p) => p[axis])), Math.max(...points.map((p) => p[axis]))];
    const [[left, right], [top, bottom]] = [range(0), range(1)];
    const scale = (SIDE - line) / Math.max(right - left, bottom - top, 0.1);
    const place = ([x, y]) => [
      SIDE / 2 + (x - (left + right) / 2) * scale,
      SIDE / 2 + (y - (top + bottom) / 2) * scale,
    ];
    const context = this.small.getContext("2d", { willReadFrequently: true });
    context.clearRect(0, 0, SIDE, SIDE);
    this.lines(context, place, line, "#fff");
    const { data } = context.getImageData(0, 0, SIDE, SIDE);
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        if (data[4 * (y * SIDE + x) + 3] > 127) pixels[8 * (y >> 2) + (x >> 2)] += 1 / 16;
      }
    }
    return pixels;
  }
}
