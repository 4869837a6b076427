"""ONNX's backend tests in several forms, and what counts as their outputs."""

import collections
import dataclasses
import random
import re
import sys
import zipfile
from pathlib import Path

from environment import ROOT

# Those that enfold reads.
FIRST, LAST = re.search(r"const OPSETS: .*= (\d+)\.\.=(\d+);", (ROOT / "src" / "onnx.rs").read_text()).groups()
OPSETS = range(int(FIRST), int(LAST) + 1)


@dataclasses.dataclass
class Test:
    """A backend test: a model, and inputs with the outputs that they give."""

    name: str
    operator: str
    model: object
    sets: list
    rtol: float
    atol: float


@dataclasses.dataclass
class Case:
    """A form of a test. Inputs are by name; outputs are in the order of the model's."""

    test: Test
    form: str
    opset: int
    model: object
    inputs: dict
    outputs: list

    def __str__(self):
        return f"{self.test.name}, {self.form}, opset {self.opset}"


def read(path, declared):
    import onnx
    from onnx import numpy_helper

    if declared.HasField("tensor_type"):
        return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))
    # No array: an input that is not applicable.
    return None


def from_folder(folder):
    """The model and data of a test that the package has as files."""
    import onnx

    model = onnx.load(folder / "model.onnx")
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        both = {"input": inputs, "output": model.graph.output}
        sets.append([[read(data / f"{name}_{at}.pb", value.type) for at, value in enumerate(of)] for name, of in both.items()])
    return model, sets


def is_default(domain):
    return domain in ("", "ai.onnx")


def operator(name, model, known):
    """Whose test it is: of the only operator, of that which was expanded, or of several."""
    base = re.sub(r"_expanded.*$", "", name)
    if base != name and base in known:
        return known[base]
    operators = {node.op_type if is_default(node.domain) else f"{node.domain}.{node.op_type}" for node in model.graph.node}
    operators = operators - {"Constant", "Identity"} or operators
    return operators.pop() if len(operators) == 1 else None


def all_tests():
    import numpy as np
    from onnx.backend.test.loader import load_model_tests

    random.seed(0)
    np.random.seed(0)
    tests, known = [], {}
    for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
        for found in sorted(load_model_tests(kind=kind), key=lambda test: test.name):
            model, sets = (found.model, found.data_sets) if found.model else from_folder(Path(found.model_dir))
            of = operator(found.name, model, known) or f"several ({kind})"
            if kind == "node":
                known[found.name] = of
            tests.append(Test(f"{kind}/{found.name}", of, model, sets, found.rtol, found.atol))
    if len(tests) < 1500:
        sys.exit(f"only {len(tests)} backend tests were found")
    return tests


def opset_of(model):
    return next((entry.version for entry in model.opset_import if is_default(entry.domain)), None)


def nodes_of(graph):
    from onnx import AttributeProto

    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield from nodes_of(inner)


def definitions(model, opset):
    """Since when the operators are defined as they are in an opset; nothing if one of them is not in it."""
    import onnx

    nodes = [node.op_type for node in nodes_of(model.graph) if is_default(node.domain)]
    try:
        return [onnx.defs.get_schema(node, opset, "").since_version for node in nodes]
    except onnx.defs.SchemaError:
        return None


def copy_of(model, opset=None):
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = 10  # that of opset 21; IRs before 4 have no constants that are not inputs
    for entry in copy.opset_import:
        if opset is not None and is_default(entry.domain):
            entry.version = opset
    return copy


def in_opset(test, opset, inputs, outputs):
    """The model in another opset; nothing where that cannot be, or means something else."""
    import onnx
    import onnxruntime as ort
    from onnx import version_converter

    for change in (copy_of, version_converter.convert_version):
        try:
            model = copy_of(change(test.model, opset))
            onnx.checker.check_model(model, full_check=True)
            ort.set_default_logger_severity(4)
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = 1
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            got = session.run(None, inputs)
        except Exception:  # each of the three has errors of its own
            continue
        same = all(getattr(a, "dtype", None) == getattr(b, "dtype", None) for a, b in zip(got, outputs))
        names = [value.name for value in model.graph.output]
        if same and difference(test, dict(zip(names, got)), names, outputs) is None:
            return model
    return None


def with_constants(model, inputs, first):
    """The model with initializers in place of its inputs from the `first` on; nothing where they cannot be."""
    from onnx import numpy_helper

    model = copy_of(model)
    for value in [value for value in model.graph.input if value.name in inputs][first:]:
        array = inputs[value.name]
        if not is_numbers(array):
            return None
        tensor = numpy_helper.from_array(array, value.name)
        if tensor.data_type != value.type.tensor_type.elem_type:
            return None
        model.graph.initializer.append(tensor)
        model.graph.input.remove(value)
    return model


def cases_of(test):
    """All forms of a test, and how many are not applicable, by form."""
    cases, not_applicable = [], collections.Counter()
    shipped = opset_of(test.model)
    stored = {tensor.name for tensor in test.model.graph.initializer}
    names = [value.name for value in test.model.graph.input if value.name not in stored]
    for inputs, outputs in test.sets:
        inputs = dict(zip(names, map(as_array, inputs), strict=True))
        outputs = list(map(as_array, outputs))
        models = {shipped: ("as shipped", test.model)}
        of = {opset: definitions(test.model, opset) for opset in OPSETS} if shipped is not None else {}
        for opset in of:
            if opset != shipped and of[opset] and of[opset] != of.get(opset + 1):
                if model := in_opset(test, opset, inputs, outputs):
                    models[opset] = ("other opsets", model)
        for opset, (form, model) in models.items():
            forms = {form: (model, inputs)}
            if opset in OPSETS and len(inputs) > 1:
                first = dict(list(inputs.items())[:1])
                forms["one input"] = (with_constants(model, inputs, 1), first)
            if opset in OPSETS and inputs:
                forms["constants"] = (with_constants(model, inputs, 0), {})
            for form, (model, given) in forms.items():
                if model and all(map(is_numbers, given.values())):
                    cases.append(Case(test, form, opset, model, given, outputs))
                else:
                    not_applicable[form] += 1
    return cases, not_applicable


def as_array(value):
    """An array, number or tensor as an array; whatever else as it is."""
    import numpy as np
    import onnx

    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


def is_numbers(value):
    import numpy as np

    # The types of ml_dtypes have kind V.
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufV" and value.dtype.fields is None


def is_float(dtype):
    # Those of ml_dtypes, such as bfloat16, have another kind.
    return dtype.kind == "f" or "float" in dtype.name


def stored(array):
    """An array in a type that .npz holds and enfold takes."""
    import numpy as np

    if is_float(array.dtype) and array.dtype != np.float64:
        return array.astype(np.float32)
    return array.astype(np.int8) if array.dtype.kind == "V" else array


def write_npz(path, arrays):
    # numpy.savez takes no array that is called `file`.
    import numpy as np

    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(array))


def difference(test, got, names, outputs):
    """What is wrong with outputs; nothing if they are right."""
    import numpy as np

    if sorted(got) != sorted(names):
        return f"outputs are {', '.join(sorted(got))}, expected {', '.join(sorted(names))}"
    for name, expected in zip(names, outputs):
        if not is_numbers(expected):
            return f"{name} is no array of numbers"
        actual = got[name]
        if actual.shape != expected.shape:
            return f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}"
        if is_float(expected.dtype):
            # Expected are results that were rounded to 16 bits at each step; here, casts alone round.
            rtol = max(test.rtol, {"bfloat16": 2**-6, "float16": 2**-9}.get(expected.dtype.name, 0))
            if expected.dtype == np.float16:
                # The result is rounded as the model would do it, but values that do not fit stay as they are.
                rounded = actual.astype(np.float16)
                actual = np.where(np.isinf(rounded), actual, rounded)
            actual, expected = actual.astype(np.float64), expected.astype(np.float64)
            right = np.isclose(actual, expected, rtol=rtol, atol=test.atol, equal_nan=True)
        elif expected.dtype != bool and is_float(actual.dtype):
            return f"{name} is {actual.dtype}, expected integers"
        else:
            right = actual == expected
        if not right.all():
            at = np.unravel_index(np.argmin(right), right.shape)
            many = f"{right.size - right.sum()} of {right.size} values differ"
            return f"{name}{list(map(int, at))} is {actual[at]:.9g}, expected {expected[at]:.9g} ({many})"
    return None


def changed(outputs):
    """The outputs with one value of the last that has any changed; nothing if none has."""
    import numpy as np

    outputs = list(outputs)
    for at in reversed(range(len(outputs))):
        if outputs[at].size:
            if outputs[at].dtype == bool:
                values = outputs[at].copy()
                values.flat[-1] = not values.flat[-1]
                outputs[at] = values
                return outputs
            values = outputs[at].astype(np.float64 if is_float(outputs[at].dtype) else np.int64)
            last = values.flat[-1]
            values.flat[-1] = 1 if np.isnan(last) else -(last + (1 if last >= 0 else -1))
            outputs[at] = values.astype(outputs[at].dtype) if is_float(outputs[at].dtype) else values
            return outputs
    return None
