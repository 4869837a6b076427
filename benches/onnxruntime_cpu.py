#!/usr/bin/env python3
"""Times whole models in ONNX Runtime and in enfold's CPU engine, in turn: layers, an MLP, an encoder, a decoder step and a residual network.

    python3 benches/onnxruntime_cpu.py [--threads N] [--rounds N] [--only WORD] [--json FILE]

Each model is random. Both quantize it by themselves: dynamic models with ONNX Runtime's `quantize_dynamic` and `enfold quantize
--dynamic`, static ones with `quantize_static` and `enfold quantize --calibrate`, both with int8 weights per channel. Models with weights of
4 bits are compared with enfold's own of 8 bits. In each round the engines measure a model one after the other; the table has the medians of
the rounds, and the ratio of times, ONNX Runtime's / enfold's, with its range in brackets: above 1, enfold is faster.

ONNX Runtime's products of uint8 and int8 may saturate on processors with AVX2 and without VNNI; enfold's are exact on all.

Packages come from PyPI into target/onnxruntime-venv.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "onnx"))

from environment import in_venv  # noqa: E402

FOLDER = ROOT / "target" / "onnxruntime-cpu"
# Calls are measured for so many seconds in each round.
ROUND_SECONDS = 0.3


def mlp(sizes, rows=None):
    """Linear layers with ReLU between them."""
    from onnx import TensorProto, helper

    import encoder

    g = encoder.Graph(1)
    x = "x"
    for at, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        x = g.linear(f"fc{at + 1}", x, inputs, outputs)
        if at + 2 < len(sizes):
            x = g.node("Relu", f"/relu{at + 1}", x)
    return finished(g, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sizes[0]])], {x: ["batch", sizes[-1]]})


def decoder_step(layers=4, hidden=256, heads=4, cache=64):
    """One token of a decoder whose keys and values of earlier tokens are inputs, and with the new ones outputs."""
    import numpy as np
    from onnx import TensorProto, helper

    import encoder

    g = encoder.Graph(2)
    size = hidden // heads
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, hidden])]
    outputs, x = {}, "x"
    for layer in range(layers):
        path = f"layers.{layer}"
        y = g.layer_norm(f"{path}.norm1", x, hidden)

        def head(part):
            h = g.linear(f"{path}.{part}", y, hidden, hidden)
            h = g.node("Reshape", f"/{path}/{part}/Reshape", h, g.integers(f"/{path}/{part}/shape", [-1, 1, heads, size]))
            return g.node("Transpose", f"/{path}/{part}/Transpose", h, perm=[0, 2, 1, 3])

        query, caches = head("q"), []
        for part in ("k", "v"):
            past = f"past.{layer}.{part}"
            inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, ["batch", heads, cache, size]))
            present = g.node("Concat", f"/{path}/{part}/Concat", past, head(part), axis=2)
            outputs[present] = ["batch", heads, cache + 1, size]
            caches.append(present)
        keys = g.node("Transpose", f"/{path}/keys/Transpose", caches[0], perm=[0, 1, 3, 2])
        scores = g.node("MatMul", f"/{path}/scores/MatMul", query, keys)
        scores = g.node("Mul", f"/{path}/scores/Mul", scores, g.scalar(f"/{path}/scale", 1.0 / np.sqrt(size)))
        weights = g.node("Softmax", f"/{path}/Softmax", scores, axis=-1)
        mixed = g.node("MatMul", f"/{path}/mixed/MatMul", weights, caches[1])
        mixed = g.node("Transpose", f"/{path}/mixed/Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = g.node("Reshape", f"/{path}/mixed/Reshape", mixed, g.integers(f"/{path}/mixed/shape", [-1, 1, hidden]))
        x = g.node("Add", f"/{path}/Add", x, g.linear(f"{path}.out", mixed, hidden, hidden))
        y = g.layer_norm(f"{path}.norm2", x, hidden)
        y = g.node("Relu", f"/{path}/relu", g.linear(f"{path}.up", y, hidden, 4 * hidden))
        x = g.node("Add", f"/{path}/Add_1", x, g.linear(f"{path}.down", y, 4 * hidden, hidden))
    return finished(g, inputs, {x: ["batch", 1, hidden], **outputs})


def finished(g, inputs, outputs):
    import onnx
    from onnx import TensorProto, helper

    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(g.nodes, "bench", inputs, outputs, g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="enfold benches", ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def resnet18():
    """The layers of ResNet-18, for images of 224 × 224."""
    import images

    g = images.Network(3, 3, 224, 224)
    x = g.conv_norm("stem", "x", 64, 7, 7, strides=[2, 2], activation=g.relu)
    x = g.node("MaxPool", "pool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, outputs in enumerate((64, 128, 256, 512)):
        for block in range(2):
            path = f"layer{stage + 1}/{block}"
            stride = [2, 2] if stage and not block else [1, 1]
            y = g.conv_norm(f"{path}/first", x, outputs, 3, 3, strides=stride, activation=g.relu)
            y = g.conv_norm(f"{path}/second", y, outputs, 3, 3, gain=1.0)
            if g.channels[x] != outputs:
                x = g.conv_norm(f"{path}/shortcut", x, outputs, 1, 1, strides=stride, gain=1.0)
            x = g.relu(path, g.node("Add", path, y, x))
    g.classify(x)
    return g.model("resnet18")


def models():
    """For each model its float ONNX model, a batch, the value of named dimensions, and the forms that are compared."""
    import numpy as np

    import encoder

    random = np.random.default_rng(5)
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)
    layer = lambda rows, k, n: (mlp([k, n]), {"x": normal(rows, k)}, {})
    dynamic, floats = ("dynamic", "float"), ("float",)
    yield "1x4096x4096", *layer(1, 4096, 4096), (*dynamic, "4 bits")
    yield "512x1024x1024", *layer(512, 1024, 1024), dynamic
    yield "1024x4096x1024", *layer(1024, 4096, 1024), dynamic
    sizes = encoder.Sizes()
    model = encoder.encoder(sizes)
    for rows, seq in ((8, 64), (1, 32)):
        yield f"encoder, 6 layers of 384, {rows}x{seq}", model, encoder.batch(sizes, rows, seq), {"batch": rows, "seq": seq}, dynamic
    model = mlp([64, 256, 128, 10])
    for rows in (1, 64):
        yield f"MLP 64-256-128-10, {rows} rows", model, {"x": normal(rows, 64)}, {}, dynamic
    feed = {"x": normal(1, 1, 256)}
    feed.update({f"past.{layer}.{part}": normal(1, 4, 64, 64) for layer in range(4) for part in "kv"})
    yield "decoder step, 4 layers of 256, cache of 64", decoder_step(), feed, {}, dynamic
    yield "ResNet-18, 1x3x224x224", resnet18(), {"x": normal(1, 3, 224, 224)}, {}, ("static", *floats)


def session(path, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Theirs:
    """A model in ONNX Runtime, with its buffers bound."""

    def __init__(self, path, feed, threads):
        import onnxruntime as ort

        self.session = session(path, threads)
        self.binding = self.session.io_binding()
        self.kept = [ort.OrtValue.ortvalue_from_numpy(value) for value in feed.values()]
        for name, value in zip(feed, self.kept):
            self.binding.bind_ortvalue_input(name, value)
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name)

    def microseconds(self):
        """The median of one call."""
        calls, end = [], time.perf_counter() + ROUND_SECONDS
        while time.perf_counter() < end or len(calls) < 5:
            start = time.perf_counter()
            self.session.run_with_iobinding(self.binding)
            calls.append((time.perf_counter() - start) * 1e6)
        return statistics.median(calls)


class Ours:
    """An archive in enfold's CPU engine, which compares its outputs with the interpreter's first."""

    def __init__(self, enfold, path, feed, threads, dims):
        import numpy as np

        self.environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        data = path.with_suffix(".feed.npz")
        np.savez(data, **feed)
        self.command = [enfold, "bench", path, "--json", "--device", "cpu", "--input", data, *dims]
        self.runs = 5
        self.runs = max(5, min(20000, int(ROUND_SECONDS * 1e6 / self.microseconds())))

    def microseconds(self):
        command = [*self.command, "--runs", str(self.runs)]
        done = subprocess.run(command, check=True, capture_output=True, env=self.environment)
        return json.loads(done.stdout)["devices"][0]["times"][0]["median_us"]


def of_form(form, path, feed, dims, enfold):
    """The file of ONNX Runtime and that of enfold, of the form of a model."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

    stem = f"{path.stem}.{form.replace(' ', '_')}"
    theirs, ours = path.with_name(f"{stem}.onnx"), path.with_name(f"{stem}.safetensors")
    arguments = {"dynamic": ["--dynamic"], "4 bits": ["--dynamic", "--per-token", "--weight-bits", "4"], "float": None, "static": []}[form]
    if form == "float":
        return path, path
    if form == "dynamic":
        quantize_dynamic(str(path), str(theirs), weight_type=QuantType.QInt8, per_channel=True)
    elif form == "static":

        class Reader(CalibrationDataReader):
            left = [feed]

            def get_next(self):
                return self.left.pop() if self.left else None

        quantize_static(
            str(path),
            str(theirs),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        data = path.with_suffix(".npz")
        np.savez(data, **feed)
        arguments = ["--calibrate", data]
    else:
        theirs = path.with_name(f"{path.stem}.eight_bits.safetensors")
        eight = [argument for argument in arguments if argument not in ("--weight-bits", "4")]
        subprocess.run([enfold, "quantize", path, "--output", theirs, *eight, *dims, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([enfold, "quantize", path, "--output", ours, *arguments, *dims, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return theirs, ours


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("flags"):
            flags = set(line.split())
            return [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if flag in flags]
    return [platform.machine()]


def main(arguments):
    import onnx
    import onnxruntime as ort

    enfold = arguments.enfold
    if enfold is None:
        subprocess.run("cargo build --release --quiet --features cli --bin enfold".split(), cwd=ROOT, check=True)
        enfold = ROOT / "target" / "release" / "enfold"
    FOLDER.mkdir(parents=True, exist_ok=True)
    features = processor()
    print(f"ONNX Runtime {ort.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, {' '.join(features)}")
    print("| model | form | ONNX Runtime, ms | enfold, ms | ONNX Runtime's time / enfold's |\n|---|---|---|---|---|")
    results = []
    for at, (name, model, feed, values, forms) in enumerate(models()):
        if arguments.only and arguments.only not in name:
            continue
        path = FOLDER / f"{at}.onnx"
        onnx.save(model, path)
        for form in forms:
            dims = [argument for pair in values.items() if pair[0] != "batch" for argument in ("--dim", f"{pair[0]}={pair[1]}")]
            theirs, ours = of_form(form, path, feed, dims, enfold)
            # An archive has its dimensions.
            make = lambda file: Ours(enfold, file, feed, arguments.threads, dims if form == "float" else [])
            pair = [make(theirs) if form == "4 bits" else Theirs(theirs, feed, arguments.threads), make(ours)]
            times = [[engine.microseconds() for engine in pair] for _ in range(arguments.rounds)]
            ratios = sorted(a / b for a, b in times)
            a, b = (statistics.median(time) / 1e3 for time in zip(*times))
            label = f"{form}, to enfold's 8 bits" if form == "4 bits" else form
            print(f"| {name} | {label} | {a:.3f} | {b:.3f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |", flush=True)
            results.append({"model": name, "form": label, "theirs_ms": a, "ours_ms": b, "ratios": ratios})
    if arguments.json:
        report = {"onnxruntime": ort.__version__, "threads": arguments.threads, "processor": features, "results": results}
        temporary = arguments.json.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        temporary.replace(arguments.json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="threads of both")
    parser.add_argument("--only", metavar="WORD", help="only models whose name contains WORD")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the results to FILE")
    parser.add_argument("--enfold", type=Path, metavar="PROGRAM", help="the program, instead of building it")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "models in ONNX Runtime and enfold")
    main(arguments)
