#!/usr/bin/env python3
"""Runs what enfold exports with ONNX Runtime, and compares with enfold's interpreter.

    python3 tests/onnx/check_with_onnxruntime.py            exports networks and checks each
    python3 tests/onnx/check_with_onnxruntime.py --bench    times models in both: benches/onnxruntime_cpu.py

Packages come from PyPI into target/onnxruntime-venv. ENFOLD_ALLOW_NO_PYTHON=1 lets the check be skipped where they cannot be had.

Each model passes onnx.checker, and runs as it is written, and again with ONNX Runtime's optimizations but without its integer
kernels: the outputs are those of the interpreter to one step of their last quantization, or to 1e-4 of the largest. One flipped
code may grow from layer to layer, so with integer kernels each quantized operator is fed the interpreter's codes, and must give
the interpreter's next ones to one step; what remains of the whole is printed. So it is, too, where the file has biases as codes,
whose rounding flips some. A file does not say the codes of values that are quantized dynamically; one that flips moves the outputs
of its row by a step. Of 16 rows one may be so, within 1e-2 of the largest; their number is printed.

On processors without VNNI, ONNX Runtime's kernels for uint8 by int8 saturate 16-bit sums unless session.x64quantprecision is 1, as
it is here; models with weights of at most 7 bits cannot saturate, and run with its defaults. Its products of floats with int8
weights quantize the floats to int8 on their own unless session.qdq_matmulnbits_accuracy_level is 1.
"""

import argparse
import collections
import os
import subprocess
import sys
import tempfile

from environment import ROOT, in_venv

MODELS = ROOT / "target" / "onnxruntime"

# Without 8-bit weights, nothing saturates.
FEW_BITS = ("float", "four_bits", "seven_bit_weights")
FLOAT_TOLERANCE = 1e-4
# Of forms that quantize dynamically: one row of so many, within this tolerance.
ROWS_OF_A_FLIP = 16
FLIP_TOLERANCE = 1e-2


def session(model, settings):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.graph_optimization_level = settings["level"]
    for key, value in settings["entries"].items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ways(name):
    """How a model is run; whether integer kernels may take over."""
    import onnxruntime as ort

    off, on = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    precise = {"session.x64quantprecision": "1", "session.qdq_matmulnbits_accuracy_level": "1"}
    found = {
        "as written": dict(level=off, entries={}, integers=False),
        "optimized": dict(level=on, entries={"session.disable_quant_qdq": "1"}, integers=False),
        "integer kernels": dict(level=on, entries=precise, integers=True),
    }
    if name.split(".")[1] in FEW_BITS:
        found["integer kernels, defaults"] = dict(level=on, entries={}, integers=True)
    return found


class Case:
    """Inputs, codes and outputs of one run of our interpreter."""

    def __init__(self, path):
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata() or {}
            self.steps = {int(k.split(".")[1]): float(v) for k, v in metadata.items() if k.startswith("step.")}
            # Layers and products of the graph that its integer form leaves in float.
            self.float_products = int(metadata["float_products"])
        self.inputs = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
        self.codes = {key[5:]: value for key, value in tensors.items() if key.startswith("code.")}
        self.outputs = [tensors[f"out.{at}"] for at in range(sum(key.startswith("out.") for key in tensors))]

    def feeds(self, session):
        import numpy as np

        values = {**self.inputs, **self.codes}
        wanted = {i.name: i.type for i in session.get_inputs()}
        return {name: as_type(values[name], t) for name, t in wanted.items()}


def as_type(value, wanted):
    """A value as an input of a model: ids as int64, codes of int8 as uint8, 128 higher."""
    import numpy as np

    if wanted == "tensor(int64)":
        return value.astype(np.int64)
    if wanted == "tensor(uint8)" and value.dtype == np.int8:
        return (value.astype(np.int16) + 128).astype(np.uint8)
    return value


class Counts:
    """Values compared, by how many steps they are apart, and the largest relative difference of floats."""

    def __init__(self):
        self.steps = collections.Counter()
        self.floats = 0.0
        self.flipped = 0
        self.wrong = []

    def compare(self, what, got, expected, step, dynamic=False):
        """Adds a comparison; an entry of `wrong` if it is off by more than a step."""
        import numpy as np

        if got.shape != expected.shape:
            self.wrong.append(f"{what}: shape {got.shape}, expected {expected.shape}")
            return
        apart = np.abs(got.astype(np.float64) - expected)
        if step is None:
            largest = max(float(np.abs(expected).max()), 1e-30)
            rows = apart.reshape(apart.shape[0], -1).max(axis=1) / largest
            if dynamic:
                # A NaN is no flip.
                flipped = (rows > FLOAT_TOLERANCE) & (rows <= FLIP_TOLERANCE)
                if flipped.sum() <= len(rows) // ROWS_OF_A_FLIP:
                    self.flipped += int(flipped.sum())
                    rows = np.where(flipped, 0.0, rows)
            worst = float(rows.max())
            self.floats = max(self.floats, worst)
            if not worst <= FLOAT_TOLERANCE:
                self.wrong.append(f"{what}: {worst:.1e} of the largest value apart, at most {FLOAT_TOLERANCE:.0e}")
            return
        if not np.isfinite(apart).all():
            self.wrong.append(f"{what}: not finite")
            return
        steps = np.ceil(-1e-3 + apart / step).astype(int)
        for value, count in zip(*np.unique(steps, return_counts=True)):
            self.steps[int(value)] += int(count)
        if steps.max() > 1:
            self.wrong.append(f"{what}: {steps.max()} steps apart, at most 1")

    def add(self, other):
        self.steps.update(other.steps)
        self.floats = max(self.floats, other.floats)
        self.flipped += other.flipped
        self.wrong += other.wrong

    def __str__(self):
        total = sum(self.steps.values())
        flipped = f", {self.flipped} rows with a flipped code" if self.flipped else ""
        if not total:
            return f"floats to {self.floats:.0e}{flipped}"
        apart = total - self.steps[0]
        return f"at most {max(self.steps)} step{'s' * (max(self.steps) != 1)} apart ({100 * apart / total:.3f} % of {total} values), floats to {self.floats:.0e}{flipped}"


def whole(model, settings, cases):
    """The model from end to end."""
    counts = Counts()
    loaded = session(model, settings)
    dynamic = quantizes_dynamically(model)
    for case in cases:
        for at, got in enumerate(loaded.run(None, case.feeds(loaded))):
            counts.compare(f"output {at}", got, case.outputs[at], case.steps.get(at), dynamic)
    return counts


def parts(model, case):
    """For each quantized value and output, a model of what lies between it and the codes before it."""
    import onnx
    from onnx import TensorProto, helper

    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input}
    outputs = {value.name: (at, value) for at, value in enumerate(graph.output)}
    # Codes have the type of the zero point.
    quantized = {node.output[0]: initializers[node.input[2]].data_type for node in graph.node if node.output[0] in case.codes}
    for wanted in [*case.codes, *outputs]:
        needed, pending, seen = [], [wanted], set()
        feeds, constants = {}, []
        while pending:
            name = pending.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            if name in case.codes and name != wanted:
                feeds[name] = helper.make_tensor_value_info(name, quantized[name], case.codes[name].shape)
            elif name in initializers:
                constants.append(initializers[name])
            elif name in inputs:
                feeds[name] = inputs[name]
            else:
                needed.append(made[name].output[0])
                pending += made[name].input
        nodes = [node for node in graph.node if node.output[0] in needed]
        if not nodes:
            continue
        if wanted in outputs:
            at, value = outputs[wanted]
            expected, step = case.outputs[at], case.steps.get(at)
        else:
            expected, step = case.codes[wanted], 1.0
            if quantized[wanted] == TensorProto.UINT8:
                expected = as_type(expected, "tensor(uint8)")
            value = helper.make_tensor_value_info(wanted, quantized[wanted], expected.shape)
        part = helper.make_graph(nodes, "part", list(feeds.values()), [value], constants)
        part = helper.make_model(
            part, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
        )
        yield wanted, part, expected, step


def by_parts(model, settings, cases):
    """Each quantized operator of the model on its own."""
    counts = Counts()
    dynamic = quantizes_dynamically(model)
    for case in cases:
        for name, part, expected, step in parts(model, case):
            loaded = session(part, settings)
            counts.compare(name, loaded.run(None, case.feeds(loaded))[0], expected, step, dynamic)
    return counts


def quantizes_dynamically(model):
    """Whether scales are computed at run time: by DynamicQuantizeLinear, or by a function of the file."""
    return any(node.op_type == "DynamicQuantizeLinear" or node.domain == "enfold" for node in model.graph.node)


def rounds_biases(model):
    """Whether biases are codes of 32 bits."""
    from onnx import TensorProto

    return any(tensor.data_type == TensorProto.INT32 for tensor in model.graph.initializer)


# What ONNX Runtime computes in float, or with floats that it quantizes once more.
FLOAT_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulNBits")


def float_products(model, entries):
    """How many products are left in float in the graph that ONNX Runtime saves after its optimizations."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
    return sum(node.op_type in FLOAT_PRODUCTS for node in optimized.graph.node)


def check_integer_kernels(models):
    """Whether the integer form's layers run in integers, with the options that users get. What is wrong, in lines."""
    wrong, total = [], 0
    for name, (model, cases) in models.items():
        # The preset of TensorRT has int8 activations.
        if name.endswith(".tensorrt") or not cases:
            continue
        expected, found = cases[0].float_products, float_products(model, {})
        total += 1
        if found != expected:
            wrong.append(f"{name}: {found} float products after ONNX Runtime's optimizations, expected {expected}")
    # Without its integer kernels, the same count is of all products.
    model, cases = models["attention.per_channel"]
    if float_products(model, {"session.disable_quant_qdq": "1"}) == cases[0].float_products:
        wrong.append("attention.per_channel: products that are computed in float were not noticed")
    print(f"after ONNX Runtime's optimizations, {total - len(wrong)} of {total} models have as many float products as the integer form")
    return wrong


def check(name, model, cases, totals):
    """What is wrong with a model, in lines."""
    import onnx

    onnx.checker.check_model(model, full_check=True)
    wrong = []
    for way, settings in ways(name).items():
        end_to_end = whole(model, settings, cases)
        exact = not settings["integers"] and not rounds_biases(model)
        checked = [("end to end" if exact else "end to end, of rounded biases or integer kernels", end_to_end)]
        if not exact:
            if cases[0].codes:
                # One changed quantized value grows downstream, so distances are not errors. Shapes and NaN still are.
                end_to_end.wrong = [line for line in end_to_end.wrong if "apart" not in line]
            checked.append(("each operator", by_parts(model, settings, cases)))
        for what, counts in checked:
            wrong += [f"{name}, {way}: {line}" for line in counts.wrong]
            counts.wrong = []
            totals.setdefault((way, what), Counts()).add(counts)
    return wrong


def perturbed(model):
    """The model with one code of its last weight moved to the other end."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    # Codes of groups are packed, two to a byte: [rows, blocks, bytes].
    forms = [(onnx.TensorProto.INT8, 2), (onnx.TensorProto.UINT8, 3)]
    weight = [t for t in changed.graph.initializer if (t.data_type, len(t.dims)) in forms][-1]
    codes = numpy_helper.to_array(weight).copy()
    at = np.unravel_index(np.abs(codes.astype(int)).argmax(), codes.shape)
    codes[at] = -codes[at] if codes.dtype == np.int8 else codes[at] ^ 0xFF
    weight.CopyFrom(numpy_helper.from_array(codes, weight.name))
    return changed


def check_all():
    import onnx
    import onnxruntime as ort

    command = "cargo test --quiet --features coopmat,cli --test host write_models_for_onnxruntime -- --ignored"
    subprocess.run(command.split(), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    models = {}
    for path in sorted(MODELS.glob("*.onnx")):
        cases = [Case(case) for case in sorted(MODELS.glob(f"{path.stem}.*.safetensors"))]
        models[path.stem] = (onnx.load(path), cases)
    totals, wrong = {}, []
    for name, (model, cases) in models.items():
        if not cases:
            wrong.append(f"{name}: nothing to compare with")
        wrong += check(name, model, cases, totals)

    wrong += check_integer_kernels(models)

    # Every way to run notices one wrong quantized value.
    for name in ("mlp.per_channel", "mlp.tensorrt", "gated.dynamic", "gated.per_token", "grouped.groups_32", "grouped.groups_64_asymmetric"):
        model, cases = models[name]
        noticed = check(name, perturbed(model), cases, {})
        for way in ways(name):
            if not any(line.startswith(f"{name}, {way}:") for line in noticed):
                wrong.append(f"{name}, {way}: a changed weight was not noticed")

    for (way, what), counts in totals.items():
        print(f"{way}, {what}: {counts}")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    if wrong or len(models) < 50:
        sys.exit(f"{len(wrong)} comparisons of {len(models)} models with ONNX Runtime failed")
    strict = Counts()
    for (_, what), counts in totals.items():
        if not what.startswith("end to end,"):
            strict.add(counts)
    print(f"{len(models)} models agree with ONNX Runtime {ort.__version__}, each operator {strict}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", action="store_true", help="time models in ONNX Runtime and in enfold instead")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "not checked with ONNX Runtime")
    if arguments.bench:
        subprocess.run([sys.executable, ROOT / "benches" / "onnxruntime_cpu.py", "--in-venv"], check=True)
    else:
        check_all()


if __name__ == "__main__":
    main()
