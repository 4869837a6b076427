"""Serves a quantized ONNX model by Ray Serve on ONNX Runtime, with batching.

    python3 examples/cluster/calibrate.py            # writes the model
    python3 examples/cluster/serve.py                # serves it at http://127.0.0.1:8000/
    curl --json '[[0, 0, 5, …]]' http://127.0.0.1:8000/

A request holds rows of the model's input as JSON, and gets the rows of its output. Requests that come together run as one batch: up to
`--batch` of them, or those of `--wait` milliseconds. `--check` serves the digits' test images from many clients at once, compares every
answer with ONNX Runtime's on its own, prints the sizes of the batches, and stops.
"""

import argparse
import json
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import environment

environment.in_venv(__file__)

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import ray  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@serve.deployment
class Model:
    """A model on ONNX Runtime. More replicas serve more: `--replicas`."""

    def __init__(self, model, batch, wait):
        self.session = session_of(model)
        self.input = self.session.get_inputs()[0]
        self.columns = self.input.shape[1:]
        self.sizes = []
        self.run.set_max_batch_size(batch)
        self.run.set_batch_wait_timeout_s(wait / 1000)

    @serve.batch
    async def run(self, requests):
        self.sizes.append(len(requests))
        (y,) = self.session.run(None, {self.input.name: np.concatenate(requests)})[:1]
        return np.split(y, np.cumsum([len(rows) for rows in requests])[:-1])

    async def batch_sizes(self):
        return self.sizes

    async def __call__(self, request: Request):
        try:
            rows = np.asarray(json.loads(await request.body()), np.float32)
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": f"not rows of numbers: {error}"}, status_code=400)
        if rows.ndim != len(self.columns) + 1 or list(rows.shape[1:]) != list(self.columns) or len(rows) == 0:
            return JSONResponse({"error": f"rows of shape {list(rows.shape)}, expected [n, {self.columns}]"}, status_code=400)
        return JSONResponse((await self.run(rows)).tolist())


def check(port, model, handle):
    """Compares what many clients get at once with the model's own answers."""
    images, labels = environment.digits("test")

    def ask(rows):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(rows.tolist()).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return np.asarray(json.load(answer), np.float32)

    parts = [images[at:at + 3] for at in range(0, len(images), 3)]
    start = time.monotonic()
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, parts))
    seconds = time.monotonic() - start
    session = session_of(model)
    name = session.get_inputs()[0].name
    wrong = sum(not np.array_equal(answer, session.run(None, {name: part})[0]) for answer, part in zip(answers, parts))
    if wrong:
        sys.exit(f"{wrong} of {len(parts)} answers are not those of ONNX Runtime")
    if np.array_equal(answers[0], answers[1]):
        sys.exit("two requests get one answer")
    try:
        ask(np.zeros((1, 3), np.float32))
        sys.exit("rows of 3 columns are not refused")
    except urllib.error.HTTPError as error:
        refused = json.load(error)["error"]
    right = (np.concatenate(answers).argmax(1) == labels).mean()
    sizes = handle.batch_sizes.remote().result(timeout_s=60)
    if max(sizes) < 2:
        sys.exit("no two requests ran as one batch")
    print(f"cluster: {len(parts)} requests in {seconds:.1f} s, {len(sizes)} batches of up to {max(sizes)}, every answer is ONNX "
          f"Runtime's, accuracy {right:.4f}; refused: {refused}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=environment.ROOT / "target" / "cluster" / "digits.int8.onnx")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32, help="the most requests of a batch")
    parser.add_argument("--wait", type=float, default=5, help="milliseconds that a batch waits for more")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--address", help="a running cluster [default: one on this machine, for this script]")
    parser.add_argument("--check", action="store_true", help="asks and compares, then stops")
    arguments = parser.parse_args()
    if not arguments.model.exists():
        sys.exit(f"{arguments.model} does not exist; calibrate.py writes it")
    local = {} if arguments.address else {"num_cpus": max(2, arguments.replicas + 1), "include_dashboard": False}
    ray.init(address=arguments.address, log_to_driver=False, logging_level="warning", **local)
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    model = arguments.model.read_bytes()
    deployment = Model.options(num_replicas=arguments.replicas, max_ongoing_requests=4 * arguments.batch)
    handle = serve.run(deployment.bind(model, arguments.batch, arguments.wait))
    try:
        if arguments.check:
            check(arguments.port, model, handle)
        else:
            print(f"serving {arguments.model} at http://127.0.0.1:{arguments.port}/", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
