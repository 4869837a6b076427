#!/usr/bin/env python3
"""Times int8 convolutions in ONNX Runtime and in enfold's CPU engine, in turn.

    python3 benches/onnxruntime_conv.py [--threads N] [--rounds N] [--json FILE]

The layers are those of the bench's series `conv`. Both engines read and write 8-bit images with the channels last, as inside of a network:
ONNX Runtime runs its own QLinearConv with `channels_last`, which its optimizer makes of a standard one, with weights of int8 per channel and
a bias. Its activations are uint8, 128 higher than enfold's: on x86 it has fast products of uint8 with int8 only, so its optimizer makes
uint8 of int8 activations. `--int8` times its products of int8 with int8.

In each round, first ONNX Runtime and then enfold measures all layers, several times each, and each time is the mean of calls of 20 ms
together. The table has the least time of all rounds, since other programs on the machine only make it longer, and how many times as fast as
ONNX Runtime enfold is; in brackets, the range of this ratio within a round.

Packages come from PyPI into target/onnxruntime-venv.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "onnx"))

from environment import in_venv  # noqa: E402

# Channels, outputs, height and width, window, stride and groups, as in benches/throughput/conv.rs.
CASES = {
    "ResNet stem, 7x7": (3, 64, 224, 7, 2, 1),
    "ResNet stage 1, 3x3": (64, 64, 56, 3, 1, 1),
    "ResNet stage 2, 3x3": (128, 128, 28, 3, 1, 1),
    "ResNet stage 4, 3x3": (512, 512, 7, 3, 1, 1),
    "ResNet stage 2, 1x1": (512, 128, 28, 1, 1, 1),
    "MobileNet, depthwise 3x3, stride 2": (96, 96, 112, 3, 2, 96),
    "MobileNet, depthwise 3x3": (384, 384, 14, 3, 1, 384),
}
BATCHES = (1, 8)
# Calls are measured together for at least so many seconds.
LONG_ENOUGH = 0.02
# Measurements of each layer in a round, of which the least counts. enfold's bench makes as many.
MEASUREMENTS = 9


class Layer:
    """A layer in ONNX Runtime, with its buffers."""

    def __init__(self, case, batch, threads, int8):
        import numpy as np
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper

        channels, n, size, window, stride, groups = case
        group, padding = channels // groups, window // 2
        output = (size + 2 * padding - window) // stride + 1
        k = group * window * window
        # Rows, K and N, by which enfold's bench names a layer.
        self.shape = (batch * output * output, k, n)
        random = np.random.default_rng(n + size)
        # The type of activations, and their zero point.
        activations, self.zero = (np.int8, 3) if int8 else (np.uint8, 131)
        multiplier = 40 / (74 * 74 * k**0.5)
        initializers = {
            "x_scale": np.float32(0.05),
            "x_zero": activations(self.zero),
            "w": random.integers(-128, 128, (n, group, window, window), dtype=np.int8),
            "w_scale": np.full(n, multiplier, np.float32),
            "w_zero": np.zeros(n, np.int8),
            "y_scale": np.float32(0.05),
            "y_zero": activations(self.zero),
            "b": np.full(n, 17, np.int32),
        }
        node = helper.make_node(
            "QLinearConv",
            ["x", *initializers],
            ["y"],
            domain="com.microsoft",
            channels_last=1,
            group=groups,
            kernel_shape=[window] * 2,
            pads=[padding] * 4,
            strides=[stride] * 2,
        )
        images = [
            helper.make_tensor_value_info(name, TensorProto.INT8 if int8 else TensorProto.UINT8, [batch, side, side, c])
            for name, side, c in (("x", size, channels), ("y", output, n))
        ]
        constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()]
        graph = helper.make_graph([node], "conv", images[:1], images[1:], constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        limits = np.iinfo(activations)
        x = random.integers(limits.min, limits.max + 1, (batch, size, size, channels), dtype=activations)
        self.x = ort.OrtValue.ortvalue_from_numpy(x)
        self.y = ort.OrtValue.ortvalue_from_numpy(np.zeros((batch, output, output, n), activations))
        self.binding.bind_ortvalue_input("x", self.x)
        self.binding.bind_ortvalue_output("y", self.y)
        self.check(x, initializers["w"], multiplier, case)

    def check(self, x, weight, multiplier, case):
        """Compares the pixel in the middle of the first image with numpy's sums, to one step: what saturates is not worth timing."""
        import numpy as np

        _, n, _, window, stride, groups = case
        self.session.run_with_iobinding(self.binding)
        y = self.y.numpy()
        middle = y.shape[1] // 2
        first = middle * stride - window // 2
        patch = x[0, first : first + window, first : first + window].astype(np.int64) - self.zero
        patch = patch.reshape(window, window, groups, -1)
        weight = weight.astype(np.int64).reshape(groups, n // groups, -1, window, window)
        sums = np.einsum("hwgc,gnchw->gn", patch, weight).reshape(-1) + 17
        limits = np.iinfo(y.dtype)
        expected = np.clip(np.rint(sums * multiplier) + self.zero, limits.min, limits.max)
        difference = np.abs(expected - y[0, middle, middle]).max()
        assert difference <= 1, f"ONNX Runtime is {difference} steps from the sums"

    def seconds(self):
        """The least time of one call."""
        return min(self.mean_seconds() for _ in range(MEASUREMENTS))

    def mean_seconds(self):
        calls = 1
        while True:
            start = time.perf_counter()
            for _ in range(calls):
                self.session.run_with_iobinding(self.binding)
            taken = time.perf_counter() - start
            if taken > LONG_ENOUGH:
                return taken / calls
            calls *= 2


def build():
    """Builds enfold's bench, and returns its path."""
    command = ["cargo", "bench", "--no-run", "--bench", "throughput", "--features", "cli"]
    built = subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True).stderr
    return ROOT / re.search(r"\((\S*throughput-\S+)\)", built).group(1)


def enfold(bench, threads):
    """The least seconds of each layer in enfold, by its rows, K and N."""
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder) / "results.json"
        command = [bench, "--no-gpu", "--series", "conv", "--json", json_file]
        env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        results = json.loads(json_file.read_text())["results"]
    return {(r["rows"], r["k"], r["n"]): r["least_seconds"] for r in results if r["series"] == "conv cpu"}


def processor():
    """The name of the processor, and those of its vector instructions that matter."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor(), []
    name = re.search(r"model name\s*: (.*)", info)
    flags = set(re.search(r"flags\s*: (.*)", info).group(1).split()) if "flags" in info else set()
    return name.group(1) if name else platform.processor(), sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"})


def main(arguments):
    import onnxruntime as ort

    bench = build()
    layers = {(name, batch): Layer(case, batch, arguments.threads, arguments.int8) for name, case in CASES.items() for batch in BATCHES}
    rounds = []
    for _ in range(arguments.rounds):
        theirs = {layer.shape: layer.seconds() for layer in layers.values()}
        ours = enfold(bench, arguments.threads)
        rounds.append((theirs, ours))
    name, instructions = processor()
    kind = "int8 by int8" if arguments.int8 else "uint8 by int8"
    print(f"{name}, {', '.join(instructions)}; {arguments.threads} threads; ONNX Runtime {ort.__version__}, {kind}; {len(rounds)} rounds")
    print("| layer | batch | ONNX Runtime, ms | enfold, ms | enfold's rate / ONNX Runtime's |\n|---|---|---|---|---|")
    lines = []
    for (case, batch), layer in layers.items():
        theirs, ours = ([each[side][layer.shape] for each in rounds] for side in (0, 1))
        ratios = sorted(a / b for a, b in zip(theirs, ours))
        line = {
            "layer": case,
            "batch": batch,
            "onnxruntime_ms": 1e3 * min(theirs),
            "enfold_ms": 1e3 * min(ours),
            "ratio": min(theirs) / min(ours),
            "ratios": [ratios[0], ratios[-1]],
        }
        lines.append(line)
        print(
            f"| {case} | {batch} | {line['onnxruntime_ms']:.3f} | {line['enfold_ms']:.3f} "
            f"| {line['ratio']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
    if arguments.json:
        about = {"processor": name, "instructions": instructions, "threads": arguments.threads, "onnxruntime": ort.__version__, "products": kind}
        arguments.json.write_text(json.dumps({**about, "rounds": len(rounds), "layers": lines}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--int8", action="store_true", help="int8 activations in ONNX Runtime")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also writes the results")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "convolutions in ONNX Runtime")
    main(arguments)
