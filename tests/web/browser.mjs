// A headless Chromium with WebGPU on SwiftShader, driven through the DevTools protocol, and a server of static files. Node alone is needed:
// its WebSocket where it has one (from Node 22 on), else the few frames of the protocol that DevTools speaks.

import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { readFile, mkdtemp, rm } from "node:fs/promises";
import { createConnection } from "node:net";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

// Serves folders under one address of this machine: the first that has a file gives it.
export async function serve(...folders) {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const name = path.endsWith("/") ? `${path}index.html` : path;
    for (const folder of folders) {
      const bytes = await readFile(join(folder, name)).catch(() => undefined);
      if (!bytes) continue;
      response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" });
      return response.end(bytes);
    }
    response.writeHead(404).end();
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { address: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

// Starts Chromium, and returns a page with `send`, `evaluate` and the messages of its console.
export async function open(binary = "/usr/bin/chromium") {
  const profile = await mkdtemp(join(tmpdir(), "enfold-chromium-"));
  const flags = [
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--hide-scrollbars", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
    // Without these two, Chromium has no memory that both WebGPU and its compositor can use for a canvas, and loses the device.
    "--enable-features=Vulkan", "--use-vulkan=swiftshader", "--use-angle=swiftshader", "--disable-gpu-watchdog",
    "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank",
  ];
  const browser = spawn(binary, flags, { stdio: ["ignore", "ignore", "pipe"] });
  const address = await new Promise((found, failed) => {
    let text = "";
    browser.stderr.on("data", (data) => {
      text += data;
      const address = /DevTools listening on (ws:\S+)/.exec(text);
      if (address) found(address[1]);
    });
    browser.on("exit", (code) => failed(new Error(`Chromium ended with ${code}: ${text.slice(-2000)}`)));
    browser.on("error", failed);
  });
  const host = new URL(address).host;
  const pages = await (await fetch(`http://${host}/json/list`)).json();
  const target = pages.find((page) => page.type === "page").webSocketDebuggerUrl;
  const [waiting, consoleLines] = [new Map(), []];
  let next = 1;
  const socket = await connect(target, (text) => {
    const message = JSON.parse(text);
    const { method, params } = message;
    if (message.id) {
      const { done, failed } = waiting.get(message.id);
      waiting.delete(message.id);
      return message.error ? failed(new Error(message.error.message)) : done(message.result);
    }
    if (method === "Runtime.consoleAPICalled") {
      consoleLines.push({ level: params.type, text: params.args.map((arg) => arg.value ?? arg.description).join(" ") });
    } else if (method === "Runtime.exceptionThrown") {
      const { exception, text } = params.exceptionDetails;
      consoleLines.push({ level: "error", text: exception?.description ?? text });
    } else if (method === "Log.entryAdded") {
      consoleLines.push({ level: params.entry.level, text: `${params.entry.text} ${params.entry.url ?? ""}` });
    }
  });
  const send = (method, params = {}) =>
    new Promise((done, failed) => {
      waiting.set(next, { done, failed });
      socket.send(JSON.stringify({ id: next++, method, params }));
    });
  for (const domain of ["Page", "Runtime", "Log"]) await send(`${domain}.enable`);
  const evaluate = async (expression) => {
    const options = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await send("Runtime.evaluate", options);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  const close = async () => {
    const ended = new Promise((done) => browser.on("exit", done));
    browser.removeAllListeners("error");
    browser.kill("SIGKILL");
    await ended;
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  return { send, evaluate, console: consoleLines, close };
}

// Connects to a WebSocket on this machine, and calls `received` with every message.
function connect(address, received) {
  if (globalThis.WebSocket) {
    const socket = new WebSocket(address);
    socket.addEventListener("message", (event) => received(event.data));
    return new Promise((done, failed) => {
      socket.addEventListener("open", () => done({ send: (text) => socket.send(text) }));
      socket.addEventListener("error", () => failed(new Error(`no connection to ${address}`)));
    });
  }
  const { hostname, port, pathname, host } = new URL(address);
  const socket = createConnection({ host: hostname, port });
  const key = randomBytes(16).toString("base64");
  const upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${key}`];
  socket.write([`GET ${pathname} HTTP/1.1`, `Host: ${host}`, ...upgrade, "", ""].join("\r\n"));
  // A frame from here is text, whole and masked, as RFC 6455 wants of clients.
  const send = (text) => {
    const data = Buffer.from(text);
    const head = data.length < 126 ? Buffer.from([0x81, 0x80 | data.length]) : Buffer.alloc(data.length < 65536 ? 4 : 10);
    if (data.length >= 126) {
      head[0] = 0x81;
      head[1] = 0x80 | (head.length === 4 ? 126 : 127);
      head.length === 4 ? head.writeUInt16BE(data.length, 2) : head.writeBigUInt64BE(BigInt(data.length), 2);
    }
    const mask = randomBytes(4);
    data.forEach((byte, at) => (data[at] = byte ^ mask[at & 3]));
    socket.write(Buffer.concat([head, mask, data]));
  };
  return new Promise((done, failed) => {
    let [bytes, open, parts] = [Buffer.alloc(0), false, []];
    socket.on("error", failed);
    socket.on("data", (data) => {
      bytes = Buffer.concat([bytes, data]);
      if (!open) {
        const end = bytes.indexOf("\r\n\r\n");
        if (end < 0) return;
        if (!bytes.subarray(0, end).toString().startsWith("HTTP/1.1 101")) return failed(new Error("no upgrade"));
        [open, bytes] = [true, bytes.subarray(end + 4)];
        done({ send });
      }
      while (bytes.length >= 2) {
        let [length, at] = [bytes[1] & 0x7f, 2];
        if (length === 126 && bytes.length >= 4) [length, at] = [bytes.readUInt16BE(2), 4];
        else if (length === 127 && bytes.length >= 10) [length, at] = [Number(bytes.readBigUInt64BE(2)), 10];
        else if (length >= 126) return;
        if (bytes.length < at + length) return;
        const opcode = bytes[0] & 0x0f;
        if (opcode < 8) parts.push(bytes.subarray(at, at + length));
        if (opcode < 8 && bytes[0] & 0x80) {
          received(Buffer.concat(parts).toString());
          parts = [];
        }
        bytes = bytes.subarray(at + length);
      }
    });
  });
}
