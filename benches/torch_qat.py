#!/usr/bin/env python3
"""Times a step of quantization-aware training in PyTorch's eager PT2E flow and in enfold, in turn.

    python3 benches/torch_qat.py [--threads N] [--rounds N] [--json FILE]

The network is the convolutional one of the bench's series `qat step`: three convolutions of 3 by 3 with batch norms and ReLUs, the mean of all
pixels and a linear layer, at 32 images of 32 by 32. A step is forward, cross-entropy, backward, and an update by SGD with momentum. PyTorch's
model is exported, prepared with torchao's XNNPACKQuantizer (int8 per channel, for training) and run as it is, without a compiler. In each
round, first PyTorch and then enfold measures its steps. The last lines have the least time of all rounds, since other programs on the machine
only make it longer, and how many times as long as PyTorch enfold takes; in brackets, the range of this ratio within a round.

Run it with a Python that has `torch` and `torchao`; `onnxruntime_conv.py` builds enfold's bench.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from onnxruntime_conv import ROOT, build, processor

ROWS, SIZE, CHANNELS, CLASSES = 32, 32, (3, 16, 32, 64), 10
# Steps in a round, of which the fastest counts. enfold's bench makes as many.
STEPS = 9


def network():
    from torch import nn

    blocks = []
    for c, n in zip(CHANNELS, CHANNELS[1:]):
        blocks += [nn.Conv2d(c, n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], CLASSES))


class Trained:
    """The network with a batch and an optimizer."""

    def __init__(self, quantized):
        import torch
        from torchao.quantization.pt2e import move_exported_model_to_train
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
        from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

        torch.manual_seed(11)
        self.x = torch.randn(ROWS, CHANNELS[0], SIZE, SIZE)
        self.labels = torch.randint(CLASSES, (ROWS,))
        self.model = network().train()
        if quantized:
            config = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
            exported = torch.export.export(self.model, (self.x,)).module()
            self.model = prepare_qat_pt2e(exported, XNNPACKQuantizer().set_global(config))
            move_exported_model_to_train(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.step()

    def step(self):
        import torch

        loss = torch.nn.functional.cross_entropy(self.model(self.x), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def seconds(self):
        def one():
            start = time.perf_counter()
            self.step()
            return time.perf_counter() - start

        return min(one() for _ in range(STEPS))


def enfold(bench, threads):
    """The least seconds of the steps with fake quantization and without."""
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder) / "results.json"
        command = [bench, "--no-gpu", "--series", "qat step", "--json", json_file]
        env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        results = json.loads(json_file.read_text())["results"]
    shape = [ROWS, CHANNELS[0] * SIZE * SIZE, CLASSES]
    of = {r["series"]: r["least_seconds"] for r in results if [r["rows"], r["k"], r["n"]] == shape}
    return of["qat step"], of["float step"]


def main(arguments):
    import torch
    import torchao

    torch.set_num_threads(arguments.threads)
    bench = build()
    models = [Trained(quantized) for quantized in (True, False)]
    fake_quantize = [m for m in models[0].model.modules() if "FakeQuantize" in type(m).__name__]
    assert len(fake_quantize) >= len(CHANNELS), "the model is not quantized"
    rounds = []
    for _ in range(arguments.rounds):
        theirs = tuple(model.seconds() for model in models)
        rounds.append((theirs, enfold(bench, arguments.threads)))
    name, instructions = processor()
    versions = f"torch {torch.__version__}, torchao {torchao.__version__}"
    print(f"{name}, {', '.join(instructions)}; {arguments.threads} threads; {versions}; {len(rounds)} rounds")
    lines = {}
    for at, kind in enumerate(("qat step", "float step")):
        theirs, ours = ([each[side][at] for each in rounds] for side in (0, 1))
        ratios = sorted(b / a for a, b in zip(theirs, ours))
        lines[kind] = {
            "torch_ms": 1e3 * min(theirs),
            "enfold_ms": 1e3 * min(ours),
            "ratio": min(ours) / min(theirs),
            "ratios": [ratios[0], ratios[-1]],
        }
        print(
            f"{kind}: torch {lines[kind]['torch_ms']:.1f} ms, enfold {lines[kind]['enfold_ms']:.1f} ms, "
            f"{lines[kind]['ratio']:.2f} times as long ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    if arguments.json:
        about = {"processor": name, "instructions": instructions, "threads": arguments.threads, "versions": versions}
        arguments.json.write_text(json.dumps({**about, "rounds": len(rounds), **lines}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also writes the results")
    main(parser.parse_args())
