#!/usr/bin/env python3
"""Imports what ONNX Runtime's optimizers and quantizers write, and compares enfold's outputs with ONNX Runtime's.

    python3 tests/onnx/check_files_of_onnxruntime.py                  all models, on the CPU engine and in the reference interpreter
    python3 tests/onnx/check_files_of_onnxruntime.py --only REGEX     those whose names match
    python3 tests/onnx/check_files_of_onnxruntime.py --enfold PATH    another program than target/debug/enfold, which is built first

Packages come from PyPI into target/onnxruntime-venv. ENFOLD_ALLOW_NO_PYTHON=1 lets the check be skipped where they cannot be had.

Operators alone have random inputs. Floats agree to 1e-4 of the largest. Results that are quantized agree to one step, in at most one of
a hundred values. Whole networks of quantized values agree to a cosine of 0.9999, since one flipped value moves others. Operators of
quantized values have integer forms. Each comparison is made once more with one expected value changed, which must be noticed. ONNX
Runtime runs without optimizations, so that sums of 8-bit products do not saturate.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from environment import ROOT, in_venv

TOLERANCE = 1e-4
# Of whole quantized networks, where one flipped value moves others.
COSINE = 0.9999
DEVICES = ("reference", "cpu")


@dataclass
class Case:
    name: str
    model: object
    inputs: dict
    # The scale of the last quantization of each output, if the results are quantized.
    steps: dict = field(default_factory=dict)
    # Of a whole network, quantized values may flip in its middle: the smallest cosine and the most steps that rows may differ by.
    whole: bool = False
    dims: dict = field(default_factory=dict)
    # Whether all nodes have an integer form.
    integers: bool = False
    # A model of the same outputs, where ONNX Runtime lacks a kernel for the CPU.
    same: object = None


def f32(random, *shape, scale=1.0):
    import numpy as np

    return (random.normal(0.0, scale, shape)).astype(np.float32)


def operator(name, op_type, inputs, constants=None, outputs=1, domain="com.microsoft", version=17, before=(), after=(), **attributes):
    """A model of one node. `inputs` are arrays by name, `constants` too; names in `order` without either are missing."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    constants = constants or {}
    order = attributes.pop("order", [*inputs, *constants])
    names = [f"y{at}" for at in range(outputs)] if isinstance(outputs, int) else outputs
    node = helper.make_node(op_type, order, names, name="node", domain=domain, **attributes)
    types = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.int32): 6, np.dtype(np.bool_): 9}
    declared = [helper.make_tensor_value_info(k, types[v.dtype], ["batch", *v.shape[1:]]) for k, v in inputs.items()]
    results = after[-1].output if after else [output for output in names if output]
    graph = helper.make_graph(
        [*before, node, *after],
        name,
        declared,
        [helper.make_empty_tensor_value_info(output) for output in results],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    # ONNX Runtime wants the types of the results, which it can tell itself.
    for output in model.graph.output:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return Case(name, model, inputs)


def contrib(random):
    x = f32(random, 3, 5, 8)
    vector = lambda n=8: f32(random, n)
    yield operator("bias_gelu", "BiasGelu", {"x": x}, {"b": vector()})
    yield operator("fast_gelu", "FastGelu", {"x": x})
    yield operator("fast_gelu.bias", "FastGelu", {"x": x}, {"b": vector()})
    yield operator("gelu", "Gelu", {"x": x})
    yield operator("quick_gelu", "QuickGelu", {"x": x}, alpha=1.5)
    for trans_a, trans_b, alpha in [(0, 0, 1.0), (1, 0, 0.5), (0, 1, 2.0), (1, 1, 0.25)]:
        a = f32(random, 3, *([8, 5] if trans_a else [5, 8]))
        b = f32(random, *([6, 8] if trans_b else [8, 6]))
        name = f"fused_matmul.{trans_a}{trans_b}"
        attributes = dict(transA=trans_a, transB=trans_b, alpha=alpha)
        yield operator(f"{name}.weight", "FusedMatMul", {"a": a}, {"b": b}, **attributes)
        both = f32(random, 3, *b.shape)
        yield operator(f"{name}.two", "FusedMatMul", {"a": a, "b": both}, **attributes)
    image = f32(random, 2, 3, 7, 6)
    kernel = dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    weights = lambda: {"w": f32(random, 4, 3, 3, 3, scale=0.3), "b": f32(random, 4)}
    yield operator("fused_conv.relu", "FusedConv", {"x": image}, weights(), activation="Relu", **kernel)
    yield operator(
        "fused_conv.leaky", "FusedConv", {"x": image}, weights(), activation="LeakyRelu", activation_params=[0.2], **kernel
    )
    yield operator(
        "fused_conv.clip", "FusedConv", {"x": image}, weights(), activation="Clip", activation_params=[-0.5, 1.0], **kernel
    )
    z = f32(random, 2, 4, 7, 6)
    yield operator(
        "fused_conv.sum", "FusedConv", {"x": image, "z": z}, weights(), order=["x", "w", "b", "z"], activation="Relu", **kernel
    )
    flat = f32(random, 4, 8)
    gemm = {"w": f32(random, 8, 6), "c": f32(random, 6)}
    yield operator("fused_gemm", "FusedGemm", {"x": flat}, gemm, activation="Relu", alpha=0.5, beta=2.0)
    yield operator(
        "fused_gemm.leaky", "FusedGemm", {"x": flat}, gemm, activation="LeakyRelu", activation_alpha=0.3
    )
    skip = f32(random, 3, 5, 8)
    norm = {"gamma": vector(), "beta": vector()}
    yield operator("skip_layer_norm", "SkipLayerNormalization", {"x": x, "s": skip}, norm, epsilon=1e-5)
    norm["bias"] = vector()
    yield operator(
        "skip_layer_norm.sum", "SkipLayerNormalization", {"x": x, "s": skip}, norm, ["y", "", "", "sum"], epsilon=1e-5
    )
    rms = {"gamma": vector(), "bias": vector()}
    yield operator(
        "skip_rms_norm", "SkipSimplifiedLayerNormalization", {"x": x, "s": skip}, rms, ["y", "", "", "sum"], epsilon=1e-5
    )
    yield operator("rms_norm", "SimplifiedLayerNormalization", {"x": x}, {"scale": vector()}, domain="", axis=-1, epsilon=1e-5)


def attention(random):
    import numpy as np

    x = f32(random, 2, 5, 12)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    packed = {"w": f32(random, 12, 36, scale=0.3), "b": f32(random, 36)}
    for name, attributes in [("", {}), (".causal", dict(unidirectional=1)), (".scale", dict(scale=0.4))]:
        yield operator(f"attention{name}", "Attention", {"x": x}, packed, num_heads=3, **attributes)
    order = ["x", "w", "b", "m"]
    yield operator("attention.mask", "Attention", {"x": x, "m": mask}, packed, order=order, num_heads=3)
    lengths = mask.sum(1).astype(np.int32)
    yield operator("attention.lengths", "Attention", {"x": x, "m": lengths}, packed, order=order, num_heads=3)
    left = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int32)
    for name, value in [("", -10000.0), (".lowest", float(np.finfo(np.float32).min))]:
        yield operator(
            f"attention.mask_and_causal{name}",
            "Attention",
            {"x": x, "m": left},
            packed,
            order=order,
            num_heads=3,
            unidirectional=1,
            mask_filter_value=value,
        )
    both = np.tril(np.ones((2, 5, 5), np.int32))
    yield operator("attention.mask_of_pairs", "Attention", {"x": x, "m": both}, packed, order=order, num_heads=3)
    added = f32(random, 2, 3, 5, 5)
    yield operator(
        "attention.bias", "Attention", {"x": x, "a": added}, packed, order=["x", "w", "b", "", "", "a"], num_heads=3
    )
    uneven = {"w": f32(random, 12, 30, scale=0.3), "b": f32(random, 30)}
    yield operator("attention.sizes", "Attention", {"x": x}, uneven, num_heads=3, qkv_hidden_sizes=[12, 12, 6])
    q, k, v = f32(random, 2, 5, 12), f32(random, 2, 4, 12), f32(random, 2, 4, 12)
    yield operator("multi_head_attention", "MultiHeadAttention", {"q": q, "k": k, "v": v}, num_heads=3)
    bias = {"b": f32(random, 36)}
    yield operator("multi_head_attention.bias", "MultiHeadAttention", {"q": q, "k": k, "v": v}, bias, num_heads=3)
    keys = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], np.int32)
    added = f32(random, 2, 3, 5, 4)
    order = ["q", "k", "v", "b", "m", "a"]
    yield operator(
        "multi_head_attention.masks", "MultiHeadAttention", {"q": q, "k": k, "v": v, "m": keys, "a": added}, bias, order=order, num_heads=3
    )
    full = f32(random, 2, 5, 12)
    yield operator(
        "multi_head_attention.causal",
        "MultiHeadAttention",
        {"q": q, "k": full, "v": f32(random, 2, 5, 12)},
        num_heads=3,
        unidirectional=1,
    )
    parts = [f32(random, 2, 5, 3, 4) for _ in "qkv"]
    packed = operator("multi_head_attention.packed", "MultiHeadAttention", {"q": np.stack(parts, 3)}, num_heads=3)
    flat = {name: part.reshape(2, 5, 12) for name, part in zip("qkv", parts)}
    packed.same = operator("multi_head_attention.unpacked", "MultiHeadAttention", flat, num_heads=3)
    yield packed
    angles = random.uniform(0, 6, (16, 2))
    caches = {"c": np.cos(angles).astype(np.float32), "s": np.sin(angles).astype(np.float32)}
    places = np.array([[3, 4, 5, 6, 7], [0, 1, 2, 3, 4]], np.int64)
    order = ["x", "p", "c", "s"]
    for interleaved in (0, 1):
        yield operator(
            f"rotary_embedding.{interleaved}", "RotaryEmbedding", {"x": x, "p": places}, caches, order=order, interleaved=interleaved
        )
    offset = caches | {"p": np.array([2], np.int64)}
    yield operator("rotary_embedding.offset", "RotaryEmbedding", {"x": x}, offset, order=order)
    split = f32(random, 2, 3, 5, 6)
    yield operator(
        "rotary_embedding.part", "RotaryEmbedding", {"x": split, "p": places}, caches, order=order, num_heads=3, rotary_embedding_dim=4
    )
    q, k, v = f32(random, 2, 5, 64), f32(random, 2, 5, 32), f32(random, 2, 5, 32)
    order = ["q", "k", "v", "", "", "n", "t"]
    counts = {"t": np.array(5, np.int32)}
    whole = np.array([4, 4], np.int32)
    for name, attributes in [("", {}), (".window", dict(local_window_size=2)), (".scale", dict(scale=0.7)), (".softcap", dict(softcap=0.5))]:
        yield operator(
            f"group_query_attention{name}",
            "GroupQueryAttention",
            {"q": q, "k": k, "v": v, "n": whole},
            counts,
            ["y", "", ""],
            order=order,
            num_heads=4,
            kv_num_heads=2,
            **attributes,
        )
    angles = random.uniform(0, 6, (16, 8))
    rotary = counts | {"c": np.cos(angles).astype(np.float32), "s": np.sin(angles).astype(np.float32)}
    yield operator(
        "group_query_attention.rotary",
        "GroupQueryAttention",
        {"q": q, "k": k, "v": v, "n": whole},
        rotary,
        ["y", "", ""],
        order=[*order, "c", "s"],
        num_heads=4,
        kv_num_heads=2,
        do_rotary=1,
    )
    ids = np.array([[1, 4, 0, 2], [7, 7, 3, 5]], np.int32)
    segments = np.array([[0, 0, 1, 1], [0, 1, 1, 1]], np.int32)
    tables = {name: f32(random, n, 8) for name, n in [("w", 9), ("p", 6), ("g", 2)]}
    norm = {"gamma": f32(random, 8), "beta": f32(random, 8)}
    order = ["ids", "segments", "w", "p", "g", "gamma", "beta"]
    yield operator(
        "embed_layer_norm",
        "EmbedLayerNormalization",
        {"ids": ids, "segments": segments},
        tables | norm,
        ["y", ""],
        order=order,
        epsilon=1e-6,
    )
    yield operator(
        "embed_layer_norm.words", "EmbedLayerNormalization", {"ids": ids}, tables | norm, ["y", ""], order=["ids", "", "w", "p", "", "gamma", "beta"]
    )


def products(random):
    import numpy as np

    for bits, size, zero, bias in [(4, 16, False, False), (4, 32, True, True), (8, 16, True, False), (4, 16, "float", True)]:
        n, k = 5, 40
        blocks = -(-k // size)
        weight = {
            "b": random.integers(0, 256, (n, blocks, size * bits // 8)).astype(np.uint8),
            "s": np.abs(f32(random, n, blocks, scale=0.05)) + np.float32(0.01),
        }
        order = ["x", "b", "s"]
        if zero == "float":
            weight["z"] = random.uniform(2, 12, (n, blocks)).astype(np.float32)
        elif zero:
            weight["z"] = random.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
        order += ["z" if zero else ""]
        if bias:
            weight["c"] = f32(random, n)
            order += ["", "c"]
        attributes = dict(K=k, N=n, bits=bits, block_size=size)
        yield operator(f"matmul_n_bits.{bits}.{size}.{zero}", "MatMulNBits", {"x": f32(random, 3, 4, k)}, weight, order=order, **attributes)
    a, b, w = f32(random, 3, 4, 5), f32(random, 3, 5, 6), f32(random, 5, 6)
    heads, keys = f32(random, 3, 4, 2, 5), f32(random, 3, 6, 2, 5)
    for equation, inputs, constants in [
        ("bij,bjk->bik", {"a": a, "b": b}, {}),
        ("bij,jk->bik", {"a": a}, {"w": w}),
        ("bij,jk->bi", {"a": a}, {"w": w}),
        ("bij,kj->bik", {"a": a}, {"w": w.T.copy()}),
        ("bij,jk->bki", {"a": a}, {"w": w}),
        ("bij->bji", {"a": a}, {}),
        ("bij->bi", {"a": a}, {}),
        ("bij,bij->b", {"a": a, "b": f32(random, 3, 4, 5)}, {}),
        ("bij,bij->bij", {"a": a, "b": f32(random, 3, 4, 5)}, {}),
        ("bqhd,bkhd->bhqk", {"a": heads, "b": keys}, {}),
        ("bhqk,bkhd->bqhd", {"a": f32(random, 3, 2, 4, 6), "b": keys}, {}),
        ("bij, jk, kl -> bil", {"a": a}, {"w": w, "v": f32(random, 6, 2)}),
        ("bi,bj->bij", {"a": f32(random, 3, 4), "b": f32(random, 3, 5)}, {}),
        ("bihd,hde->bie", {"a": heads}, {"w": f32(random, 2, 5, 7)}),
    ]:
        yield operator(f"einsum.{equation}", "Einsum", inputs, constants, domain="", equation=equation)
    blocks = {"w": random.integers(-128, 128, (10, 6)).astype(np.int8), "s": np.abs(f32(random, 3, 6)) + np.float32(0.1)}
    blocks["z"] = random.integers(-9, 9, (3, 6)).astype(np.int8)
    from onnx import helper

    for zero in ([], ["z"]):
        before = [helper.make_node("DequantizeLinear", ["w", "s", *zero], ["r"], axis=0, block_size=4)]
        constants = {key: value for key, value in blocks.items() if key != "z" or zero}
        yield operator(
            f"blocks{len(zero)}", "MatMul", {"x": f32(random, 3, 10)}, constants, domain="", version=21, before=before, order=["x", "r"]
        )


def quantized(random):
    """Operators of quantized values between QuantizeLinear and DequantizeLinear."""
    import numpy as np
    from onnx import helper

    def case(name, op_type, values, parameters, order, y_scale, y_zero, domain="com.microsoft", real=True, **attributes):
        """`values` are inputs of floats by name, with scale and zero point; `parameters` are constants by name."""
        before, constants, inputs = [], {}, {}
        for key, (x, scale, zero) in values.items():
            constants |= {f"{key}_s": np.float32(scale), f"{key}_z": zero}
            before.append(helper.make_node("QuantizeLinear", [key, f"{key}_s", f"{key}_z"], [f"{key}_q"]))
            inputs[key] = x
        constants |= parameters | {"y_s": np.float32(y_scale), "y_z": y_zero}
        after = [helper.make_node("DequantizeLinear", ["y0", "y_s", "y_z"], ["y"])] if real else []
        found = operator(
            name, op_type, inputs, constants, 1, domain, before=before, after=after, order=order, **attributes
        )
        found.steps = {after[-1].output[0] if after else "y0": y_scale} if real else {}
        # These are float steps between quantized values: a leaky ReLU is a sum of two functions, not a chain of them.
        found.integers = op_type not in ("QLinearLeakyRelu", "QLinearSoftmax", "QLinearWhere")
        return found

    u8, s8 = np.uint8, np.int8
    for kind, zero in [("u8", u8(120)), ("s8", s8(-6))]:
        x, z = f32(random, 3, 5, 8), f32(random, 3, 5, 8)
        a, b = {"a": (x, 0.03, zero)}, {"b": (z, 0.02, zero)}
        both = ["a_q", "a_s", "a_z", "b_q", "b_s", "b_z", "y_s", "y_z"]
        yield case(f"qlinear_add.{kind}", "QLinearAdd", a | b, {}, both, 0.04, zero)
        yield case(f"qlinear_mul.{kind}", "QLinearMul", a | b, {}, both, 0.05, zero)
        one = ["a_q", "a_s", "a_z", "y_s", "y_z"]
        yield case(f"qlinear_sigmoid.{kind}", "QLinearSigmoid", a, {}, one, 1 / 256, zero.dtype.type(0 if kind == "u8" else -128))
        yield case(f"qlinear_leaky_relu.{kind}", "QLinearLeakyRelu", a, {}, one, 0.03, zero, alpha=0.2)
        concat = ["y_s", "y_z", "a_q", "a_s", "a_z", "b_q", "b_s", "b_z"]
        yield case(f"qlinear_concat.{kind}", "QLinearConcat", a | b, {}, concat, 0.03, zero, axis=2)
        image = {"a": (f32(random, 2, 4, 6, 6), 0.03, zero)}
        pool = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=0)
        yield case(f"qlinear_average_pool.{kind}", "QLinearAveragePool", image, {}, one, 0.0123, zero, **pool)
        yield case(f"qlinear_global_average_pool.{kind}", "QLinearGlobalAveragePool", image, {}, one, 0.005, zero, channels_last=0)
        condition = {"o": random.integers(0, 2, (1, 5, 8)).astype(np.bool_)}
        order = ["o", "a_q", "a_s", "a_z", "b_q", "b_s", "b_z", "y_s", "y_z"]
        yield case(f"qlinear_where.{kind}", "QLinearWhere", a | b, condition, order, 0.04, zero)
        least = zero.dtype.type(0 if kind == "u8" else -128)
        yield case(f"qlinear_softmax.{kind}", "QLinearSoftmax", a, {}, one, 1 / 256, least, axis=-1, opset=17)
        for channels in ([], [6]):
            scales = np.abs(f32(random, *channels, scale=0.01)) + np.float32(0.01)
            weight = {"w": random.integers(-127, 128, (8, 6)).astype(s8), "w_s": scales, "w_z": np.zeros(channels, s8)}
            product = ["a_q", "a_s", "a_z", "w", "w_s", "w_z", "y_s", "y_z"]
            name = f"{kind}.{'per_channel' if channels else 'per_tensor'}"
            yield case(f"qlinear_matmul.{name}", "QLinearMatMul", a, weight, product, 0.3, zero, domain="")
            flat = {"a": (f32(random, 4, 8), 0.03, zero)}
            gemm = weight | {"c": random.integers(-3000, 3000, 6).astype(np.int32)}
            order = ["a_q", "a_s", "a_z", "w", "w_s", "w_z", "c", "y_s", "y_z"]
            yield case(f"qgemm.{name}", "QGemm", flat, gemm, order, 0.3, zero)
            kernel = dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 1])
            conv = {
                "w": random.integers(-127, 128, (6, 4, 3, 3)).astype(s8),
                "w_s": scales,
                "w_z": np.zeros(channels, s8),
                "c": random.integers(-3000, 3000, 6).astype(np.int32),
            }
            order = ["a_q", "a_s", "a_z", "w", "w_s", "w_z", "y_s", "y_z", "c"]
            yield case(f"qlinear_conv.{name}", "QLinearConv", image, conv, order, 0.3, zero, domain="", **kernel)


def recurrent(_):
    import recurrent

    for name, model, inputs, same in recurrent.layers(1):
        yield Case(name, model, inputs, same=Case(name, same, inputs))
    yield Case("audio", *recurrent.audio(2))
    # ONNX Runtime quantizes inputs and states too.
    for case in recurrent.dynamic(3):
        yield Case(*case, whole=True)


def optimized(model, folder):
    """What ONNX Runtime saves after its extended optimizations."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def networks(random):
    """Whole networks: float ones after optimizations, and int8 ones in both forms of ONNX Runtime's static quantization."""
    import images
    import onnx
    from encoder import Sizes, batch, encoder
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sizes = Sizes(layers=2, hidden=32, heads=4, intermediate=64, vocab=50, positions=32)
        model = optimized(encoder(sizes), folder)
        yield Case("encoder.optimized", model, batch(sizes, 3, 16), dims={"seq": 16})
        for network in images.NETWORKS:
            built = network()
            model, test = built.model(network.__name__), images.batch(built.shape, 0, 4)
            yield Case(f"{network.__name__}.optimized", optimized(model, folder), {"x": test})
            if network not in (images.residual, images.separable):
                continue
            for form in (quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator):
                for kind in (quantization.QuantType.QInt8, quantization.QuantType.QUInt8):
                    batches = [images.batch(built.shape, first, 8) for first in range(8, 40, 8)]
                    int8 = images.quantized(model, batches, form, kind)
                    name = f"{network.__name__}.{form.name}.{kind.name}"
                    yield Case(name, int8, {"x": test}, whole=True)


def expected(case):
    import onnxruntime as ort

    case = case.same or case
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, case.inputs)))


def difference(case, actual, wanted):
    """What is wrong with outputs; nothing if they agree."""
    import numpy as np

    for name, want in wanted.items():
        got = actual.get(name)
        if got is None or got.shape != want.shape:
            return f"{name}: {None if got is None else got.shape}, expected {want.shape}"
        apart = np.abs(got.astype(np.float64) - want.astype(np.float64))
        if case.whole:
            rows = [(g.ravel().astype(np.float64), w.ravel().astype(np.float64)) for g, w in zip(got, want)]
            cosines = [g @ w / np.sqrt((g @ g) * (w @ w)) for g, w in rows]
            if not min(cosines) >= COSINE:
                return f"{name}: a cosine of {min(cosines):.6f}, expected {COSINE}"
            continue
        step = case.steps.get(name)
        if step is None:
            largest = np.abs(want).max()
            if not (apart <= TOLERANCE * largest).all():
                return f"{name}: {apart.max()} apart, of {largest}"
            continue
        steps = apart / step
        flipped = (steps > 0.5).sum()
        if steps.max() > 1.01 or flipped > max(1, want.size // 100):
            return f"{name}: {flipped} of {want.size} values apart, by up to {steps.max():.2f} steps"
    return None


def changed(case, wanted):
    """The expected outputs with one value changed."""
    import numpy as np

    name = next(iter(wanted))
    other = dict(wanted)
    other[name] = np.array(wanted[name], copy=True)
    flat = other[name].reshape(-1)  # A view.
    largest = np.abs(flat).max()
    # Twice the tolerance; of a whole network, what lowers a cosine by more than is allowed.
    error = 0.3 * largest if case.whole else 2.5 * case.steps[name] if name in case.steps else 2 * TOLERANCE * largest
    flat[flat.size // 2] += error
    return other


def run(enfold, case, device, folder):
    import numpy as np
    import onnx

    dims = [part for name, length in case.dims.items() for part in ("--dim", f"{name}={length}")]
    model, inputs, outputs = folder / "model.onnx", folder / "input.npz", folder / "output.npz"
    onnx.save(case.model, model)
    np.savez(inputs, **case.inputs)
    command = [enfold, "run", model, "--input", inputs, "--output", outputs, "--device", device, *dims]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        return None, ended.stderr.strip()
    with np.load(outputs) as file:
        return {name: file[name] for name in file.files}, None


def inspected(enfold, folder):
    """What is wrong with the integer form of the model that ran last; nothing if there is no float node."""
    ended = subprocess.run([enfold, "inspect", folder / "model.onnx"], capture_output=True, text=True, check=True)
    return None if "in float: 0 nodes" in ended.stdout and "in integers: 0" not in ended.stdout else ended.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--enfold", type=Path, metavar="PATH")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "files of ONNX Runtime")
    import logging

    import numpy as np

    # Its quantizer has advice for each form.
    logging.getLogger().setLevel(logging.ERROR)
    enfold = arguments.enfold
    if enfold is None:
        subprocess.run("cargo test --quiet --features coopmat,cli --test cli --no-run".split(), cwd=ROOT, check=True)
        enfold = ROOT / "target" / "debug" / "enfold"
    wrong = count = 0
    with tempfile.TemporaryDirectory() as folder:
        for make in (contrib, attention, products, recurrent, quantized, networks):
            for case in make(np.random.default_rng(1)):
                if not re.search(arguments.only, case.name):
                    continue
                wanted = expected(case)
                count += 1
                for device in DEVICES:
                    actual, problem = run(enfold, case, device, Path(folder))
                    problem = problem or difference(case, actual, wanted)
                    if problem is None and case.integers:
                        problem = inspected(enfold, Path(folder))
                    if problem is None and difference(case, actual, changed(case, wanted)) is None:
                        problem = "a changed value is not noticed"
                    if problem is not None:
                        wrong += 1
                        print(f"{case.name} on {device}: {problem}")
    print(f"{count} models of ONNX Runtime's operators, {wrong} runs differ")
    sys.exit(wrong > 0 or count == 0)


if __name__ == "__main__":
    main()
