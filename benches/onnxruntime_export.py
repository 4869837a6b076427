#!/usr/bin/env python3
"""Times in ONNX Runtime what enfold exports, and what ONNX Runtime's own tools make of the same files.

    python3 benches/onnxruntime_export.py [--rounds N] [--threads N] [--enfold PROGRAM]

The models are a 768x768 MatMul with Add and Softmax, on 512 rows and on 4 times 128, and an encoder of 6 layers on 8 times 64 tokens.
ONNX Runtime's tools quantize statically (QDQ, per channel, and the same for MatMul alone, which enfold's is compared with) and dynamically
(int8 weights, per channel); enfold statically, dynamically and per token. All are calibrated with the same data, by their smallest and
largest values.

Every round runs all models one after another. Times are medians, of the wall clock and, on one thread, of the processor, which other
programs on the machine disturb less. The accuracy is the ratio of signal to quantization noise of the outputs, against the float model's.
The last columns are ONNX Runtime's time and accuracy by which enfold's of the same kind are measured.

Packages come from PyPI into target/onnxruntime-venv.
"""

import argparse
import collections
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "onnx"))

from environment import in_venv  # noqa: E402

FOLDER = ROOT / "target" / "onnxruntime-export"
ROWS, SEQ = 8, 64
# The models of enfold, with its arguments, and that of ONNX Runtime's tools which each is compared with.
MODES = {
    "enfold static": (["--observer", "minmax"], "ONNX Runtime static, MatMul alone"),
    "enfold dynamic": (["--dynamic"], "ONNX Runtime dynamic"),
    "enfold per token": (["--dynamic", "--per-token"], None),
}
AT_MOST = 1.2


def layer(dims):
    """A MatMul with Add and Softmax."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(3)
    tensors = {"w": random.normal(size=(768, 768)) * 768**-0.5, "b": random.normal(size=768) * 0.1}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "product"),
        helper.make_node("Add", ["product", "b"], ["sum"], "sum"),
        helper.make_node("Softmax", ["sum"], ["y"], "softmax", axis=-1),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *dims])] for name in "xy"]
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()]
    model = helper.make_model(helper.make_graph(nodes, "layer", *ends, initializers), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def models():
    """For each model, its file and a function that draws a batch."""
    import encoder
    import numpy as np
    import onnx

    normal = lambda *dims: lambda seed: {"x": np.random.default_rng(seed).normal(size=dims).astype(np.float32)}
    sizes = encoder.Sizes()
    found = {
        "layer on [512, 768]": (layer([768]), normal(512, 768)),
        "layer on [4, 128, 768]": (layer([128, 768]), normal(4, 128, 768)),
        "encoder of 6 layers": (encoder.encoder(sizes), lambda seed: encoder.batch(sizes, ROWS, SEQ, seed)),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for at, (name, (model, draw)) in enumerate(found.items()):
        path = FOLDER / f"{at}.onnx"
        onnx.save(model, path)
        yield name, path, draw


def quantized(path, draw, enfold):
    """The files of all ways to quantize a model."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

    batches = [draw(seed) for seed in range(100, 104)]

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = list(batches)

        def get_next(self):
            return self.left.pop() if self.left else None

    files = {"float": path}
    make = lambda name: files.setdefault(name, path.with_suffix(f".{name.replace(' ', '_').replace(',', '')}.onnx"))
    static = dict(quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8)
    quantize_static(path, make("ONNX Runtime static"), Reader(), **static)
    quantize_static(path, make("ONNX Runtime static, MatMul alone"), Reader(), op_types_to_quantize=["MatMul"], **static)
    quantize_dynamic(path, make("ONNX Runtime dynamic"), weight_type=QuantType.QInt8, per_channel=True)
    data = path.with_suffix(".npz")
    np.savez(data, **{key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]})
    for name, (arguments, _) in MODES.items():
        calibrate = [] if "--dynamic" in arguments else ["--calibrate", data]
        dims = ["--dim", f"seq={SEQ}"] if "input_ids" in batches[0] else []
        command = [enfold, "quantize", path, "--output", make(name), *arguments, *calibrate, *dims, "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return files


def noise_ratio(expected, actual):
    import numpy as np

    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    return 10 * np.log10((expected**2).sum() / max(((expected - actual) ** 2).sum(), 1e-30))


def main(arguments):
    import onnxruntime as ort

    enfold = arguments.enfold
    if enfold is None:
        subprocess.run("cargo build --release --quiet --features cli --bin enfold".split(), cwd=ROOT, check=True)
        enfold = ROOT / "target" / "release" / "enfold"
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = arguments.threads
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    print(f"ONNX Runtime {ort.__version__}, {arguments.threads} threads, {arguments.rounds} rounds")
    print("| model | form | wall, ms | processor, ms | dB | time / ONNX Runtime's | dB more |\n|---|---|---|---|---|---|---|")
    slow = []
    for name, path, draw in models():
        files = quantized(path, draw, enfold)
        sessions = {form: ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for form, file in files.items()}
        batch = draw(7)
        expected = sessions["float"].run(None, batch)[0]
        ratios = {form: noise_ratio(expected, session.run(None, batch)[0]) for form, session in sessions.items()}
        wall, busy = collections.defaultdict(list), collections.defaultdict(list)
        for _ in range(arguments.rounds):
            for form, session in sessions.items():
                start, began = time.perf_counter(), clock()
                session.run(None, batch)
                busy[form].append((clock() - began) * 1e3)
                wall[form].append((time.perf_counter() - start) * 1e3)
        for form in sessions:
            theirs = MODES.get(form, (None, None))[1]
            line = [name, form, f"{statistics.median(wall[form]):.2f}", f"{statistics.median(busy[form]):.2f}", f"{ratios[form]:.1f}"]
            if theirs:
                slower = statistics.median(busy[form]) / statistics.median(busy[theirs])
                line += [f"{slower:.2f}", f"{ratios[form] - ratios[theirs]:+.1f}"]
                if slower > AT_MOST:
                    slow.append(f"{name}, {form}: {slower:.2f} times ONNX Runtime's time, at most {AT_MOST}")
            else:
                line += ["", ""]
            print(f"| {' | '.join(line)} |", flush=True)
    if slow:
        sys.exit("\n".join(slow))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--enfold", type=Path, metavar="PROGRAM", help="the program, instead of building it")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "exports in ONNX Runtime")
    main(arguments)
