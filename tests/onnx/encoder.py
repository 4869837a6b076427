"""A BERT-style sentence encoder as ONNX, with random weights, in the form that PyTorch's exporter writes.

As a script it writes a model and, with --bench, times ONNX Runtime on it in float and in dynamic int8:

    python encoder.py encoder.onnx --layers 6 --hidden 384 --heads 12 --intermediate 1536 --vocab 30522
    python encoder.py encoder.onnx --bench --batch 8 --seq 64

Inputs are input_ids and attention_mask, int64 [batch, seq]; the output is embedding, float [batch, hidden], of length 1.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Sizes:
    layers: int = 6
    hidden: int = 384
    heads: int = 12
    intermediate: int = 1536
    vocab: int = 30522
    positions: int = 512
    # Channels of each norm whose weight is 15 to 25 times as large as the others, as trained encoders have.
    outliers: int = 0


class Graph:
    """Nodes and initializers as they come, each named after its place in the network."""

    def __init__(self, seed, outliers=0):
        self.nodes = []
        self.initializers = []
        self.random = np.random.default_rng(seed)
        self.outliers = outliers
        self.random_outliers = np.random.default_rng(seed + 1)

    def node(self, op, name, *inputs, **attributes):
        output = f"{name}_output"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        return output

    def initializer(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def integers(self, name, values):
        return self.initializer(name, np.array(values, np.int64))

    def scalar(self, name, value):
        return self.initializer(name, np.array(value, np.float32))

    def weight(self, name, *shape, mean=0.0, deviation=0.05):
        values = self.random.normal(mean, deviation, shape)
        return self.initializer(name, values.astype(np.float32))

    def linear(self, path, x, inputs, outputs):
        weight = self.weight(f"{path}.weight", inputs, outputs)
        bias = self.weight(f"{path}.bias", outputs)
        product = self.node("MatMul", f"/{path}/MatMul", x, weight)
        return self.node("Add", f"/{path}/Add", bias, product)

    def layer_norm(self, path, x, hidden):
        weight = self.random.normal(1.0, 0.1, hidden).astype(np.float32)
        channels = self.random_outliers.choice(hidden, self.outliers, replace=False)
        weight[channels] *= self.random_outliers.uniform(15, 25, self.outliers).astype(np.float32)
        weight = self.initializer(f"{path}.weight", weight)
        bias = self.weight(f"{path}.bias", hidden)
        return self.node("LayerNormalization", f"/{path}/LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-12)

    def length(self, path, tensor, axis):
        """One dimension of a tensor, as a vector of one."""
        shape = self.node("Shape", f"{path}/Shape", tensor)
        index = self.integers(f"{path}/index", axis)  # A scalar, so that Gather gives one too.
        length = self.node("Gather", f"{path}/Gather", shape, index, axis=0)
        return self.node("Unsqueeze", f"{path}/Unsqueeze", length, self.integers(f"{path}/axes", [0]))


def attention(g, path, x, mask, sizes):
    hidden, heads = sizes.hidden, sizes.heads
    batch, seq = (g.length(f"/{path}/length_{axis}", "input_ids", axis) for axis in range(2))
    split_tail = [g.integers(f"/{path}/heads", [heads]), g.integers(f"/{path}/head_size", [hidden // heads])]
    split = g.node("Concat", f"/{path}/split_shape", batch, seq, *split_tail, axis=0)

    def heads_of(part, perm):
        y = g.linear(f"{path}.self.{part}", x, hidden, hidden)
        y = g.node("Reshape", f"/{path}/{part}/Reshape", y, split)
        return g.node("Transpose", f"/{path}/{part}/Transpose", y, perm=perm)

    query = heads_of("query", [0, 2, 1, 3])
    key = heads_of("key", [0, 2, 3, 1])
    value = heads_of("value", [0, 2, 1, 3])
    scores = g.node("MatMul", f"/{path}/scores/MatMul", query, key)
    scale = g.scalar(f"/{path}/scale", 1.0 / np.sqrt(hidden / heads))
    scores = g.node("Mul", f"/{path}/scores/Mul", scores, scale)
    scores = g.node("Add", f"/{path}/scores/Add", scores, mask)
    weights = g.node("Softmax", f"/{path}/Softmax", scores, axis=-1)
    context = g.node("MatMul", f"/{path}/context/MatMul", weights, value)
    context = g.node("Transpose", f"/{path}/context/Transpose", context, perm=[0, 2, 1, 3])
    merged = g.node("Concat", f"/{path}/merged_shape", batch, seq, g.integers(f"/{path}/hidden", [hidden]), axis=0)
    context = g.node("Reshape", f"/{path}/context/Reshape", context, merged)
    return g.linear(f"{path}.output.dense", context, hidden, hidden)


def gelu(g, path, x):
    root = g.scalar(f"/{path}/root_2", np.sqrt(2.0))
    y = g.node("Div", f"/{path}/Div", x, root)
    y = g.node("Erf", f"/{path}/Erf", y)
    y = g.node("Add", f"/{path}/Add", y, g.scalar(f"/{path}/one", 1.0))
    y = g.node("Mul", f"/{path}/Mul", x, y)
    return g.node("Mul", f"/{path}/Mul_1", y, g.scalar(f"/{path}/half", 0.5))


def embeddings(g, sizes):
    hidden = sizes.hidden
    words = g.weight("embeddings.word_embeddings.weight", sizes.vocab, hidden)
    words = g.node("Gather", "/embeddings/word_embeddings/Gather", words, "input_ids", axis=0)
    types = g.weight("embeddings.token_type_embeddings.weight", 2, hidden)
    type_ids = g.node("Shape", "/embeddings/Shape", "input_ids")
    zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    type_ids = g.node("ConstantOfShape", "/embeddings/ConstantOfShape", type_ids, value=zero)
    types = g.node("Gather", "/embeddings/token_type_embeddings/Gather", types, type_ids, axis=0)
    positions = g.weight("embeddings.position_embeddings.weight", sizes.positions, hidden)
    seq = g.length("/embeddings/seq", "input_ids", 1)
    ids = g.integers("embeddings.position_ids", [list(range(sizes.positions))])
    start, axis = g.integers("/embeddings/start", [0]), g.integers("/embeddings/axis", [1])
    ids = g.node("Slice", "/embeddings/Slice", ids, start, seq, axis)
    positions = g.node("Gather", "/embeddings/position_embeddings/Gather", positions, ids, axis=0)
    x = g.node("Add", "/embeddings/Add", words, types)
    x = g.node("Add", "/embeddings/Add_1", x, positions)
    return g.layer_norm("embeddings.LayerNorm", x, hidden)


def attention_mask(g):
    mask = g.node("Unsqueeze", "/Unsqueeze", "attention_mask", g.integers("/axes_1_2", [1, 2]))
    mask = g.node("Cast", "/Cast", mask, to=TensorProto.FLOAT)
    mask = g.node("Sub", "/Sub", g.scalar("/one", 1.0), mask)
    return g.node("Mul", "/Mul", mask, g.scalar("/masked", -10000.0))


def pooling(g, x):
    mask = g.node("Unsqueeze", "/pooling/Unsqueeze", "attention_mask", g.integers("/pooling/last", [-1]))
    mask = g.node("Cast", "/pooling/Cast", mask, to=TensorProto.FLOAT)
    tokens = g.node("Mul", "/pooling/Mul", x, mask)
    axis = g.integers("/pooling/axis", [1])
    total = g.node("ReduceSum", "/pooling/ReduceSum", tokens, axis, keepdims=0)
    count = g.node("ReduceSum", "/pooling/ReduceSum_1", mask, axis, keepdims=0)
    count = g.node("Clip", "/pooling/Clip", count, g.scalar("/pooling/smallest", 1e-9))
    mean = g.node("Div", "/pooling/Div", total, count)
    norm = g.node("ReduceL2", "/normalize/ReduceL2", mean, axes=[1], keepdims=1)
    norm = g.node("Clip", "/normalize/Clip", norm, g.scalar("/normalize/smallest", 1e-12))
    g.nodes.append(helper.make_node("Div", [mean, norm], ["embedding"], name="/normalize/Div"))


def encoder(sizes=Sizes(), seed=0):
    """The model; equal sizes and seed give equal weights."""
    if sizes.hidden % sizes.heads:
        raise ValueError(f"hidden size {sizes.hidden} is not a multiple of {sizes.heads} heads")
    g = Graph(seed, sizes.outliers)
    mask = attention_mask(g)
    x = embeddings(g, sizes)
    for layer in range(sizes.layers):
        path = f"encoder.layer.{layer}"
        y = attention(g, f"{path}.attention", x, mask, sizes)
        y = g.node("Add", f"/{path}.attention/output/Add", y, x)
        x = g.layer_norm(f"{path}.attention.output.LayerNorm", y, sizes.hidden)
        y = g.linear(f"{path}.intermediate.dense", x, sizes.hidden, sizes.intermediate)
        y = gelu(g, f"{path}.intermediate/gelu", y)
        y = g.linear(f"{path}.output.dense", y, sizes.intermediate, sizes.hidden)
        y = g.node("Add", f"/{path}.output/Add", y, x)
        x = g.layer_norm(f"{path}.output.LayerNorm", y, sizes.hidden)
    pooling(g, x)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", sizes.hidden])
    graph = helper.make_graph(g.nodes, "encoder", inputs, [output], g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="enfold tests")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def batch(sizes, rows, seq, seed=1):
    """Random tokens, of which every row but the first has some masked."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, sizes.vocab, (rows, seq))
    lengths = random.integers(max(1, seq // 2), seq + 1, rows)
    lengths[0] = seq
    mask = (np.arange(seq)[None, :] < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def sessions(path, threads, folder):
    """ONNX Runtime on the model as it is, and quantized dynamically to int8."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantized = str(Path(folder) / "dynamic.onnx")
    quantize_dynamic(str(path), quantized, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    load = lambda model: onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return {"float": load(str(path)), "dynamic int8": load(quantized)}


def bench(runs, repeat=20, warm=3):
    """Median milliseconds of each function, run in turns so that all meet the same machine."""
    times = {name: [] for name in runs}
    for turn in range(warm + repeat):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= warm:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    for name, default in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bench", action="store_true", help="time ONNX Runtime on it")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sizes = Sizes(**{name: getattr(args, name) for name in vars(Sizes())})
    onnx.save(encoder(sizes, args.seed), args.path)
    print(f"{args.path}: {args.path.stat().st_size / 1e6:.1f} MB")
    if args.bench:
        feed = batch(sizes, args.batch, args.seq)
        with tempfile.TemporaryDirectory() as folder:
            loaded = sessions(args.path, args.threads, folder)
            runs = {name: lambda s=session: s.run(None, feed)[0] for name, session in loaded.items()}
            y, q = runs["float"](), runs["dynamic int8"]()
            print(f"smallest cosine of dynamic int8 to float: {np.min(np.sum(y * q, axis=1)):.5f}")
            for name, milliseconds in bench(runs).items():
                print(f"onnxruntime {name}: {milliseconds:.1f} ms for {args.batch}x{args.seq} on {args.threads} threads")


if __name__ == "__main__":
    main()
