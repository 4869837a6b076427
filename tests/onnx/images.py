#!/usr/bin/env python3
"""Five small networks of images and sound as ONNX, with random weights, and ONNX Runtime's outputs.

    python3 tests/onnx/images.py            writes {network}.onnx and {network}.safetensors beside this script

They have the shapes of the usual kinds: residual, depthwise-separable, an encoder and decoder with skips, inception, and 1-D audio.
A safetensors file holds `float`, ONNX Runtime's output of the test batch, and `int8`, the output of its own static quantization,
calibrated on the rows before. Inputs are computed from their index, here and in the tests (see `batch`), so none are stored.

Packages come from PyPI into target/onnxruntime-venv.
"""

import argparse
import tempfile
from pathlib import Path

from environment import HERE, in_venv

# Rows that calibrate, of how many at once, and rows of the test batch, which come after them.
CALIBRATION = 64
CALIBRATION_BATCH = 8
TEST = 32
CLASSES = 10


def hashed(index):
    """A number in [-1, 1) that looks random, a multiple of 2^-15, of each index."""
    import numpy as np

    h = index.astype(np.uint32)
    for factor in (0x7FEB352D, 0x846CA68B):
        h = (h ^ (h >> np.uint32(16))) * np.uint32(factor)
    return (h >> np.uint32(16)).astype(np.float32) / np.float32(32768) - np.float32(1)


def batch(shape, first, rows):
    """Rows from the first on: half of each value is noise, and half is the same in a whole plane, so that images differ."""
    import numpy as np

    row, plane = int(np.prod(shape)), int(np.prod(shape[1:]))
    index = np.arange(first * row, (first + rows) * row, dtype=np.uint32)
    noise, level = hashed(index), hashed(index // np.uint32(plane) + np.uint32(1 << 31))
    return (np.float32(0.5) * (noise + level)).reshape(rows, *shape)


class Network:
    """Nodes and initializers as they come, named as PyTorch's exporter does."""

    def __init__(self, seed, channels, *size):
        import numpy as np

        self.shape = (channels, *size)
        self.nodes, self.initializers = [], []
        self.random = np.random.default_rng(seed)
        self.channels = {"x": channels}
        self.output = None

    def initializer(self, name, array):
        import numpy as np
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.asarray(array, np.float32, order="C"), name))
        return name

    def node(self, op, path, *inputs, channels=None, **attributes):
        """A node, whose output has the channels of its first input unless it is said."""
        from onnx import helper

        output = f"/{path}/{op}_output_0"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"/{path}/{op}", **attributes))
        self.channels[output] = self.channels[inputs[0]] if channels is None else channels
        return output

    def conv(self, path, x, outputs, *kernel, gain=2.0, bias=True, **attributes):
        """A convolution of He's scale; `same` padding unless the pads are given."""
        import numpy as np

        inputs, group = self.channels[x], attributes.get("group", 1)
        dilations = attributes.get("dilations", [1] * len(kernel))
        half = [(k - 1) * d // 2 for k, d in zip(kernel, dilations)]
        attributes = {"pads": half + half, **attributes}
        shape = (outputs, inputs // group, *kernel)
        weight = self.random.normal(0, np.sqrt(gain / np.prod(shape[1:])), shape)
        operands = [x, self.initializer(f"{path}.weight", weight)]
        if bias:
            operands.append(self.initializer(f"{path}.bias", self.random.normal(0, 0.1, outputs)))
        return self.node("Conv", path, *operands, channels=outputs, kernel_shape=list(kernel), **attributes)

    def conv_transpose(self, path, x, outputs, kernel):
        """One that gives each pixel a square of its own."""
        import numpy as np

        inputs = self.channels[x]
        weight = self.random.normal(0, np.sqrt(2 / inputs), (inputs, outputs, kernel, kernel))
        weight = self.initializer(f"{path}.weight", weight)
        bias = self.initializer(f"{path}.bias", self.random.normal(0, 0.1, outputs))
        square = [kernel, kernel]
        return self.node("ConvTranspose", path, x, weight, bias, channels=outputs, kernel_shape=square, strides=square)

    def norm(self, path, x):
        channels = self.channels[x]
        parts = {
            "weight": self.random.uniform(0.7, 1.3, channels),
            "bias": self.random.normal(0, 0.2, channels),
            "running_mean": self.random.normal(0, 0.2, channels),
            "running_var": self.random.uniform(0.5, 1.5, channels),
        }
        names = [self.initializer(f"{path}.{part}", values) for part, values in parts.items()]
        return self.node("BatchNormalization", path, x, *names, epsilon=1e-5)

    def relu(self, path, x):
        return self.node("Relu", path, x)

    def clip(self, path, x):
        bounds = [self.initializer(f"{path}.{name}", value) for name, value in (("min", 0.0), ("max", 6.0))]
        return self.node("Clip", path, x, *bounds)

    def conv_norm(self, path, x, outputs, *kernel, activation=None, **attributes):
        y = self.conv(f"{path}/conv", x, outputs, *kernel, bias=False, **attributes)
        y = self.norm(f"{path}/norm", y)
        return activation(f"{path}/activation", y) if activation else y

    def concat(self, path, *parts):
        return self.node("Concat", path, *parts, channels=sum(self.channels[part] for part in parts), axis=1)

    def classify(self, x):
        """The mean over positions, and a linear layer."""
        import numpy as np

        features = self.channels[x]
        y = self.node("GlobalAveragePool", "pool", x)
        y = self.node("Flatten", "flatten", y, axis=1)
        weight = self.initializer("classifier.weight", self.random.normal(0, np.sqrt(1 / features), (CLASSES, features)))
        bias = self.initializer("classifier.bias", self.random.normal(0, 0.1, CLASSES))
        self.finish(self.node("Gemm", "classifier", y, weight, bias, transB=1), CLASSES)

    def finish(self, y, *shape):
        self.nodes[-1].output[0] = "y"
        self.output = shape

    def model(self, name):
        import onnx
        from onnx import TensorProto, helper

        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *self.shape])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *self.output])
        graph = helper.make_graph(self.nodes, name, [x], [y], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="enfold tests")
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model


def residual():
    g = Network(1, 3, 16, 16)
    x = g.conv_norm("stem", "x", 8, 3, 3, activation=g.relu)
    for path, outputs, stride in (("block1", 8, 1), ("block2", 16, 2)):
        strides = [stride, stride]
        y = g.conv_norm(f"{path}/first", x, outputs, 3, 3, strides=strides, activation=g.relu)
        y = g.conv_norm(f"{path}/second", y, outputs, 3, 3, gain=1.0)
        if stride != 1:
            x = g.conv_norm(f"{path}/shortcut", x, outputs, 1, 1, strides=strides, gain=1.0)
        x = g.relu(path, g.node("Add", path, y, x))
    g.classify(x)
    return g


def separable():
    g = Network(2, 3, 16, 16)
    # Large enough that some values are clipped at 6.
    x = g.conv_norm("stem", "x", 8, 3, 3, strides=[2, 2], gain=24.0, activation=g.clip)
    for path, outputs, stride in (("block1", 8, 1), ("block2", 16, 2)):
        inputs, inner = g.channels[x], 3 * g.channels[x]
        y = g.conv_norm(f"{path}/expand", x, inner, 1, 1, activation=g.clip)
        depthwise = {"group": inner, "strides": [stride, stride]}
        y = g.conv_norm(f"{path}/depthwise", y, inner, 3, 3, **depthwise, activation=g.clip)
        y = g.conv_norm(f"{path}/project", y, outputs, 1, 1, gain=1.0)
        x = g.node("Add", path, x, y) if (stride, inputs) == (1, outputs) else y
    g.classify(x)
    return g


def encoder_decoder():
    g = Network(3, 3, 16, 16)
    halved = {"kernel_shape": [2, 2], "strides": [2, 2]}
    first = g.relu("down1", g.conv("down1", "x", 6, 3, 3))
    second = g.conv_norm("down2", g.node("MaxPool", "pool1", first, **halved), 8, 3, 3, activation=g.relu)
    x = g.relu("middle", g.conv("middle", g.node("MaxPool", "pool2", second, **halved), 12, 3, 3))
    x = g.concat("skip2", g.conv_transpose("up2", x, 8, 2), second)
    x = g.conv_norm("merge2", x, 8, 3, 3, activation=g.relu)
    scales = g.initializer("up1.scales", [1, 1, 2, 2])
    nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    x = g.concat("skip1", g.node("Resize", "up1", x, "", scales, **nearest), first)
    x = g.relu("merge1", g.conv("merge1", x, 6, 3, 3))
    g.finish(g.conv("head", x, 1, 1, 1, gain=1.0), 1, 16, 16)
    return g


def inception():
    g = Network(4, 3, 16, 16)
    x = g.conv_norm("stem", "x", 8, 5, 5, strides=[2, 2], activation=g.relu)
    layer = lambda path, y, outputs, *kernel: g.relu(path, g.conv(path, y, outputs, *kernel))
    around = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    x = g.concat(
        "mixed1",
        layer("mixed1/a", x, 4, 1, 1),
        layer("mixed1/b2", layer("mixed1/b1", x, 4, 1, 1), 6, 3, 3),
        layer("mixed1/c2", layer("mixed1/c1", x, 2, 1, 1), 4, 5, 5),
        layer("mixed1/d2", g.node("MaxPool", "mixed1/d1", x, **around), 4, 1, 1),
    )
    x = g.node("MaxPool", "pool1", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    averages = g.node("AveragePool", "mixed2/c1", x, count_include_pad=0, **around)
    x = g.concat(
        "mixed2",
        layer("mixed2/a", x, 6, 1, 1),
        layer("mixed2/b3", layer("mixed2/b2", layer("mixed2/b1", x, 4, 1, 1), 4, 1, 7), 6, 7, 1),
        layer("mixed2/c2", averages, 6, 1, 1),
    )
    g.classify(x)
    return g


def audio():
    g = Network(5, 1, 256)
    x = g.conv_norm("stem", "x", 8, 9, strides=[4], activation=g.relu)
    for dilation in (1, 2, 4):
        path = f"block{dilation}"
        # What comes before a sample, and the sample.
        causal = {"dilations": [dilation], "pads": [2 * dilation, 0]}
        y = g.conv_norm(path, x, 8, 3, **causal, activation=g.relu)
        x = g.node("Add", path, x, g.conv(f"{path}/mix", y, 8, 1, gain=1.0))
    x = g.node("MaxPool", "pool1", x, kernel_shape=[2], strides=[2])
    x = g.relu("head", g.conv("head", x, 16, 5, strides=[2]))
    g.classify(x)
    return g


NETWORKS = (residual, separable, encoder_decoder, inception, audio)


def outputs(model, x):
    """ONNX Runtime's, with sums that do not saturate on any processor."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def quantized(model, batches, form=None, activations=None):
    """ONNX Runtime's static quantization: per channel, asymmetric activations, the smallest and largest value seen. Without other
    wishes, it has quantize and dequantize nodes, and activations of int8."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(batches)

        def get_next(self):
            x = next(self.left, None)
            return None if x is None else {"x": x}

    with tempfile.TemporaryDirectory() as folder:
        written, prepared, result = (str(Path(folder) / f"{name}.onnx") for name in ("written", "prepared", "int8"))
        onnx.save(model, written)
        # Shapes are found without sympy.
        quant_pre_process(written, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            result,
            Reader(),
            quant_format=form or quantization.QuantFormat.QDQ,
            activation_type=activations or quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return onnx.load(result)


def write(folder):
    import logging

    import numpy as np
    import onnx
    from safetensors.numpy import save_file

    logging.getLogger().setLevel(logging.ERROR)
    for network in NETWORKS:
        name, built = network.__name__, network()
        model = built.model(name)
        starts = range(0, CALIBRATION, CALIBRATION_BATCH)
        batches = [batch(built.shape, first, CALIBRATION_BATCH) for first in starts]
        test = batch(built.shape, CALIBRATION, TEST)
        expected = outputs(model, test)
        int8 = outputs(quantized(model, batches), test)
        onnx.save(model, folder / f"{name}.onnx")
        save_file({"float": expected, "int8": int8}, folder / f"{name}.safetensors")
        sqnr = 10 * np.log10(np.sum(expected.astype(float) ** 2) / np.sum((expected.astype(float) - int8) ** 2))
        sizes = [(folder / f"{name}.{kind}").stat().st_size for kind in ("onnx", "safetensors")]
        print(f"{name}: {sizes[0]} and {sizes[1]} bytes, outputs of deviation {expected.std():.2f}, int8 {sqnr:.2f} dB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "not written")
    write(arguments.folder)


if __name__ == "__main__":
    main()
