"""Calibrates a model on the workers of a Ray cluster, and gets the bytes of a calibration on one machine.

    python3 examples/cluster/calibrate.py --workers 2

Each worker runs `enfold quantize --shard I/N` on its part of the data and returns the state of its observers, a small file. `enfold merge`
makes the quantized model of them. The script also calibrates on this machine alone, and fails unless both models have the same bytes.
So the observers are `--observer minmax` here: the other observers count values in the bins of a histogram, which depend on the order in which
its range grows, so that a scale may differ in its last digits.

It starts Ray on this machine; `--address` takes a running cluster, whose machines need `enfold` in their path. Its packages, those of
requirements.txt, are installed from PyPI into target/ray-venv.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import environment

environment.in_venv(__file__)

import numpy as np  # noqa: E402
import ray  # noqa: E402

SECONDS = 300


def enfold(program, *arguments):
    """Runs the command line; its message is the error."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f"enfold {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout.strip()


@ray.remote(num_cpus=1)
def calibrate(program, model, data, flags, part, parts):
    """Calibrates with one part of the data. Model and data come through Ray's object store, so no folder is shared."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "model.onnx").write_bytes(model)
        (folder / "data.npz").write_bytes(data)
        state = folder / "state.enfold"
        line = enfold(program, "quantize", folder / "model.onnx", "--calibrate", folder / "data.npz", *flags,
                      "--shard", f"{part}/{parts}", "--state", state)
        return line.split(": ", 1)[1], state.read_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="parts of the data, each calibrated by one task")
    parser.add_argument("--model", type=Path, default=environment.MODEL, help="a float ONNX model [default: a network for digits]")
    parser.add_argument("--data", type=Path, help=".npz with arrays by input name [default: the digits' training images]")
    parser.add_argument("--output", type=Path, default=environment.ROOT / "target" / "cluster" / "digits.int8.onnx")
    parser.add_argument("--address", help="a running cluster [default: one on this machine, for this script]")
    parser.add_argument("--enfold", help="the command line [default: that of this checkout]")
    parser.add_argument("flags", nargs="*", default=["--observer", "minmax"],
                        help="behind --: arguments of `enfold quantize` [default: --observer minmax]")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"--workers {arguments.workers}: at least 1")

    output = arguments.output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    data = arguments.data
    if data is None:
        data = output.parent / "train.npz"
        np.savez(data, image=environment.digits("train")[0])
    # On a cluster each machine has its own.
    program = "enfold" if arguments.address and not arguments.enfold else environment.find_enfold(arguments.enfold)

    local = {} if arguments.address else {"num_cpus": arguments.workers, "include_dashboard": False}
    ray.init(address=arguments.address, log_to_driver=False, logging_level="warning", **local)
    start = time.monotonic()
    model, values = ray.put(arguments.model.read_bytes()), ray.put(data.read_bytes())
    tasks = [calibrate.remote(program, model, values, arguments.flags, part, arguments.workers)
             for part in range(1, arguments.workers + 1)]
    # The order is that of the parts, whichever is done first.
    states = ray.get(tasks, timeout=SECONDS)
    seconds = time.monotonic() - start
    ray.shutdown()

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for part, (line, state) in enumerate(states, 1):
            print(f"worker {part}: {line}, {len(state)} bytes of state")
            paths.append(Path(folder) / f"{part}.enfold")
            paths[-1].write_bytes(state)
        enfold(program, "merge", *paths, "--output", output)
        alone = Path(folder) / "alone.onnx"
        enfold(program, "quantize", arguments.model, "--calibrate", data, *arguments.flags, "--output", alone)
        merged, expected = output.read_bytes(), alone.read_bytes()
        if merged != expected:
            differing = next((at for at, (a, b) in enumerate(zip(merged, expected)) if a != b), min(len(merged), len(expected)))
            sys.exit(f"the model of {arguments.workers} workers differs from that of one machine at byte {differing} "
                     f"of {len(merged)} and {len(expected)}")
        if arguments.workers > 1:
            # The control: without its last part, it is another model.
            part = Path(folder) / "part.onnx"
            enfold(program, "merge", *paths[:-1], "--output", part)
            print(f"without the last part: {'the same model' if part.read_bytes() == expected else 'another model'}")
    print(f"cluster: {arguments.workers} workers give the {len(merged)} bytes of one machine, in {seconds:.1f} s: {output}")


if __name__ == "__main__":
    main()
