#!/usr/bin/env python3
"""Plain textbook implementations of smoothing scales and of GPTQ, and their results on random layers.

    python3 tests/accuracy/reference.py

writes reference.safetensors beside it, which tests/host/accuracy_passes.rs compares with. Only numpy is needed.

GPTQ is the loop of Frantar et al. 2022 in its unblocked form: the Hessian is inverted as a whole, and the inverse's upper Cholesky factor
decides how the error of a column is spread over the columns behind it.
"""

import json
import struct
from pathlib import Path

import numpy as np


def gptq(weight, inputs, scale, qmax, damping, activation_order):
    hessian = inputs.T @ inputs
    diagonal = np.diag(hessian).copy()
    weight, order = weight.copy(), np.arange(len(diagonal))
    if activation_order:
        order = np.argsort(-diagonal, kind="stable")
        weight, hessian = weight[:, order], hessian[np.ix_(order, order)]
    never = np.diag(hessian) == 0
    hessian = hessian + np.diag(np.where(never, 1.0, damping * diagonal.mean()))
    inverse = np.linalg.inv(hessian)
    factor = np.linalg.cholesky(inverse).T
    rounded = np.zeros_like(weight)
    for j in range(weight.shape[1]):
        w = weight[:, j]
        q = np.clip(np.rint(w / scale), -qmax, qmax) * scale
        rounded[:, j] = q
        weight[:, j:] -= np.outer((w - q) / factor[j, j], factor[j, j:])
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result


def smoothing_scales(maxima, weight, alpha):
    scales = np.maximum(maxima, 0) ** alpha / np.abs(weight).max(axis=0) ** (1 - alpha)
    return scales / scales.mean()


def save(path, arrays):
    header, blob = {}, b""
    for name, array in arrays.items():
        data = np.ascontiguousarray(array, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob)


def main():
    random = np.random.default_rng(7)
    arrays = {}
    for name, rows, features, tokens, qmax in [("small", 6, 10, 50, 7), ("blocks", 12, 150, 200, 7), ("wide", 5, 40, 20, 1)]:
        # Tokens whose features depend on one another, as activations do.
        mixing = random.normal(size=(features, features)) * (random.random((features, features)) < 0.2) + np.eye(features)
        inputs = (random.normal(size=(tokens, features)) @ mixing).astype(np.float32)
        weight = (random.normal(size=(rows, features)) * 0.1).astype(np.float32)
        if name == "wide":
            inputs[:, 3] = 0  # A feature that is never active.
        scale = (np.abs(weight).max(axis=1) / qmax).astype(np.float32)
        double = [array.astype(np.float64) for array in (weight, inputs, scale)]
        arrays |= {f"{name}.weight": weight, f"{name}.inputs": inputs, f"{name}.scale": scale}
        for order in (False, True):
            arrays[f"{name}.rounded.{'ordered' if order else 'plain'}"] = gptq(*double, qmax, 0.01, order)
        maxima = np.abs(inputs).max(axis=0)
        live = maxima > 0
        for alpha in (0.5, 0.8):
            scales = np.ones(features)
            scales[live] = smoothing_scales(maxima[live].astype(np.float64), double[0][:, live], alpha)
            arrays[f"{name}.smoothing.{alpha}"] = scales
    save(Path(__file__).with_name("reference.safetensors"), arrays)


if __name__ == "__main__":
    main()
