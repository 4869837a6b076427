"""Models with recurrent layers, of random weights, for check_files_of_onnxruntime.py: inputs have the batch in front, as those of PyTorch's
`batch_first=True`."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN, FEATURES, STEPS, BATCH = 5, 6, 7, 3


def f32(random, *shape, scale=1.0):
    return random.normal(0.0, scale, shape).astype(np.float32)


def model(name, nodes, inputs, constants, outputs, batch="batch", version=17):
    """A model of float inputs, whose first axis is the batch."""
    declared = [
        helper.make_tensor_value_info(key, TensorProto.FLOAT, [batch or x.shape[0], *x.shape[1:]]) for key, x in inputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        name,
        declared,
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


def weights(random, op_type, directions, features=FEATURES, hidden=HIDDEN):
    rows = GATES[op_type] * hidden
    return {
        "w": f32(random, directions, rows, features, scale=0.4),
        "r": f32(random, directions, rows, hidden, scale=0.4),
        "b": f32(random, directions, 2 * rows, scale=0.4),
    }


def layer(random, op_type, direction, states, layout, bias=True, batch="batch", **attributes):
    """A recurrent layer; `states` says whether its initial states are inputs."""
    directions = 2 if direction == "bidirectional" else 1
    constants = weights(random, op_type, directions)
    inputs = {"x": f32(random, BATCH, STEPS, FEATURES)}
    names = ["h", "c"] if op_type == "LSTM" else ["h"]
    nodes, order = [], ["x", "w", "r", "b" if bias else "", ""]
    if not bias:
        del constants["b"]
    if layout == 0:
        nodes.append(helper.make_node("Transpose", ["x"], ["x.steps"], perm=[1, 0, 2]))
        order[0] = "x.steps"
    for key in names if states else []:
        inputs[key] = f32(random, BATCH, directions, HIDDEN)
        if layout == 0:
            nodes.append(helper.make_node("Transpose", [key], [f"{key}.first"], perm=[1, 0, 2]))
        order.append(f"{key}.first" if layout == 0 else key)
    # Otherwise checkers of old opsets do not know it.
    extra = {"layout": layout} if layout else {}
    results = ["y", *(f"{key}.last" for key in names)]
    written = results if layout else [f"{key}.steps" for key in results]
    nodes.append(
        helper.make_node(op_type, order, written, name="layer", direction=direction, hidden_size=HIDDEN, **extra, **attributes)
    )
    for at, (source, target) in enumerate(zip(written, results)):
        if layout == 0:
            nodes.append(helper.make_node("Transpose", [source], [target], perm=[1, 0, 2] if at else [2, 0, 1, 3]))
    return model("layer", nodes, inputs, constants, results, batch), inputs


def layers(seed):
    """Names, models, inputs, and models that ONNX Runtime runs instead, since its CPU has no layout 1."""
    for op_type in GATES:
        forms = [{}, {"linear_before_reset": 1}] if op_type == "GRU" else [{}]
        if op_type == "RNN":
            forms.append({"activations": ["Relu"]})
        for form in forms:
            for direction in ("forward", "reverse", "bidirectional"):
                both = {key: value * 2 for key, value in form.items() if key == "activations"} if direction == "bidirectional" else {}
                for states in (False, True):
                    for layout in (0, 1):
                        make = lambda layout: layer(
                            np.random.default_rng(seed), op_type, direction, states, layout, **{**form, **both}
                        )
                        parts = [op_type.lower(), *form, direction, "states" if states else "zero", f"layout{layout}"]
                        yield ".".join(parts), *make(layout), make(0)[0]
        for layout in (0, 1):
            make = lambda layout: layer(np.random.default_rng(seed), op_type, "bidirectional", True, layout, batch=None, bias=False)
            yield f"{op_type.lower()}.fixed.layout{layout}", *make(layout), make(0)[0]


def audio(seed):
    """Features of sound `[batch, 1, bands, frames]`, two convolutions, two recurrent layers of PyTorch, and a linear layer. The initial
    states are zeros of the batch's length, which the file computes."""
    random = np.random.default_rng(seed)
    bands, frames, channels, hidden, classes = 16, 24, 8, 12, 5
    x = {"x": f32(random, 4, 1, bands, frames)}
    features = channels * bands // 4
    constants = {
        "conv1.weight": f32(random, channels, 1, 3, 3, scale=0.4),
        "conv1.bias": f32(random, channels, scale=0.2),
        "conv2.weight": f32(random, channels, channels, 3, 3, scale=0.15),
        "conv2.bias": f32(random, channels, scale=0.2),
        "shape": np.array([0, features, frames // 4], np.int64),
        "zero": np.array(0, np.int64),
        "none": np.array([0], np.int64),
        "two": np.array([2], np.int64),
        "hidden": np.array([hidden], np.int64),
        "joined": np.array([0, 0, -1], np.int64),
        "last": np.array(-1, np.int64),
        "before": np.array(-2, np.int64),
        "head.weight": f32(random, 2 * hidden, classes, scale=0.3),
        "head.bias": f32(random, classes),
    }
    for at, (op_type, width) in enumerate([("LSTM", features), ("GRU", 2 * hidden)]):
        constants |= {f"{key}{at}": value for key, value in weights(random, op_type, 2, width, hidden).items()}
    node = helper.make_node
    conv = dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    recurrent = dict(direction="bidirectional", hidden_size=hidden)
    nodes = [
        node("Conv", ["x", "conv1.weight", "conv1.bias"], ["c1"], name="conv1", **conv),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], name="conv2", **conv),
        node("Relu", ["c2"], ["r2"]),
        node("Reshape", ["r2", "shape"], ["flat"]),
        node("Transpose", ["flat"], ["steps"], perm=[2, 0, 1]),
        node("Shape", ["x"], ["lengths"]),
        node("Gather", ["lengths", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "none"], ["batch1"]),
        node("Concat", ["two", "batch1", "hidden"], ["state_shape"], axis=0),
        node("ConstantOfShape", ["state_shape"], ["state"]),
        node("LSTM", ["steps", "w0", "r0", "b0", "", "state", "state"], ["y0", "h0"], name="lstm", **recurrent),
        node("Transpose", ["y0"], ["t0"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t0", "joined"], ["j0"]),
        node("Dropout", ["j0"], ["d0"]),
        node("GRU", ["d0", "w1", "r1_", "b1", "", "state"], ["y1", "h1"], name="gru", linear_before_reset=1, **recurrent),
        node("Gather", ["h1", "before"], ["forward"], axis=0),
        node("Gather", ["h1", "last"], ["backward"], axis=0),
        node("Concat", ["forward", "backward"], ["both"], axis=1),
        node("Gemm", ["both", "head.weight", "head.bias"], ["y"], name="head"),
        # What the first layer says of each step.
        node("Transpose", ["j0"], ["z"], perm=[1, 0, 2]),
    ]
    constants["r1_"] = constants.pop("r1")
    return model("audio", nodes, x, constants, ["y", "z"]), x


def dynamic(seed):
    """The LSTM of ONNX Runtime's dynamic quantization: weights of 8 bits for each direction or each column."""
    for kind, columns in [(np.uint8, False), (np.int8, False), (np.int8, True)]:
        random = np.random.default_rng(seed)
        float_model, x = layer(random, "LSTM", "bidirectional", False, 0)
        constants = {t.name: numpy_helper.to_array(t) for t in float_model.graph.initializer}
        quantized = {"b": constants["b"]}
        for key in "wr":
            values = constants[key].transpose(0, 2, 1)
            axes = (1,) if columns else (1, 2)
            scale = (np.abs(values).max(axes) / 127).astype(np.float32)
            zero = 128 if kind == np.uint8 else 0
            spread = scale[:, None, :] if columns else scale[:, None, None]
            quantized[key] = (np.round(values / spread) + zero).astype(kind)
            quantized |= {f"{key}_scale": scale, f"{key}_zero": np.full_like(scale, zero, dtype=kind)}
        model = type(float_model)()
        model.CopyFrom(float_model)
        del model.graph.initializer[:]
        model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in quantized.items())
        node = next(node for node in model.graph.node if node.op_type == "LSTM")
        node.op_type, node.domain = "DynamicQuantizeLSTM", "com.microsoft"
        inputs = [*list(node.input)[:4], "", "", "", "", "w_scale", "w_zero", "r_scale", "r_zero"]
        del node.input[:]
        node.input.extend(inputs)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        yield f"lstm.dynamic.{np.dtype(kind).name}.{'columns' if columns else 'directions'}", model, x
