#!/usr/bin/env python3
"""What each pass before quantization gains or costs, on trained networks and on an encoder with outlier channels.

    python3 benches/accuracy.py [--enfold target/release/enfold] [--only WORD] [--bits 8 4] [--static] [--json FILE]

prints, for each network, form of quantization and pass, and for ONNX Runtime's static quantization, 1 − the mean cosine of the outputs with
the float model's, over rows of test data, and in brackets the share of outputs whose largest element is the float model's. Calibration data
and test data are different rows.

The trained networks are those of the handwritten digits (an MLP), and models that wheels of PyPI contain: Magika's file types (embedding,
dense layers, GELU, a convolution) on files of Python's library, and from rapidocr-onnxruntime PP-OCR's MobileNet (direction of text), its text
detector (convolutions) and its text recognizer (convolutions and a transformer) on words of a licence, rendered in this machine's fonts. The
encoders are those of tests/onnx/encoder.py, with random weights and six channels of each norm 15 to 25 times as large as the others. Packages
come from PyPI into target/.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "onnx"))

from environment import in_venv  # noqa: E402

FOLDER = ROOT / "target" / "accuracy"
PACKAGES = {"magika": "1.0.3", "rapidocr-onnxruntime": "1.4.4", "pillow": "12.0.0"}
FORMS = ["static", "--dynamic", "--dynamic --per-token"]
PASSES = {
    8: ["", "--smooth", "--smooth-search", "--clip mse", "--gptq", "--clip mse --gptq"],
    4: ["", "--clip mse", "--gptq", "--clip mse --gptq", "--group 32 --clip mse --gptq"],
}
OBSERVERS = ["--observer histogram", "--observer minmax", "--observer mse"]


def download():
    """Wheels, and what lies in them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for package, version in PACKAGES.items():
        if not list(FOLDER.glob(f"{package.replace('-', '_')}-{version}-*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", FOLDER, f"{package}=={version}"]
            subprocess.run(pip, check=True)
    for wheel in FOLDER.glob("*.whl"):
        place = FOLDER / wheel.name.split("-")[0]
        if not place.exists():
            with zipfile.ZipFile(wheel) as file:
                file.extractall(place)
    sys.path.insert(0, str(FOLDER / "pillow"))


def words():
    """Words of the licence, without repetition: a text that does not change."""
    import re

    return list(dict.fromkeys(re.findall(r"[A-Za-z0-9]{3,}", (ROOT / "LICENSE-APACHE").read_text())))


def rendered(lines, size, turned=False):
    """Images of text in the fonts of this machine, in the range of -1 to 1, [rows, 3, height, width]; every other one is upside down if turned."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    fonts = sorted(Path("/usr/share/fonts").rglob("*.ttf"))
    if not fonts:
        sys.exit("no fonts below /usr/share/fonts; install fonts-dejavu-core")
    height, width = size
    random = np.random.default_rng(len(lines))
    images = []
    for at, line in enumerate(lines):
        paper, ink = (tuple(int(v) for v in random.integers(*of, 3)) for of in ((170, 256), (0, 90)))
        image = Image.new("RGB", (width, height), paper)
        draw = ImageDraw.Draw(image)
        rows = line if isinstance(line, list) else [line]
        step = height / len(rows)
        for row, text in enumerate(rows):
            font = ImageFont.truetype(str(fonts[(at + row) % len(fonts)]), int(min(step * 0.7, 40)))
            draw.text((int(random.integers(2, 12)), int(row * step + step * 0.1)), text, ink, font=font)
        if turned and at % 2:
            image = image.rotate(180)
        noise = random.normal(0, 6, (height, width, 3))
        images.append(((np.asarray(image, np.float32) + noise) / 127.5 - 1).transpose(2, 0, 1))
    return np.stack(images).astype(np.float32)


def networks():
    """Name, file, lengths of dimensions, calibration data and test data."""
    import sysconfig

    import encoder
    import numpy as np
    import onnx
    from safetensors.numpy import load_file

    digits = load_file(ROOT / "examples" / "data" / "digits" / "digits.safetensors")
    pixels = {part: digits[f"{part}.images"].reshape(-1, 64).astype("float32") / 16 for part in ("train", "test")}
    yield "digits, MLP", ROOT / "tests" / "onnx" / "digits_mlp.onnx", "", pixels["train"][:256], pixels["test"]

    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.glob("*/*.*") if path.is_file() and path.stat().st_size > 2048)
    random = np.random.default_rng(0)
    files = [files[at] for at in random.permutation(len(files))[:256]]
    # The model reads the first and the last 1024 bytes; 256 stands for none.
    ends = [np.frombuffer(data[:1024] + data[-1024:], np.uint8) for data in (path.read_bytes() for path in files)]
    ends = np.stack(ends).astype(np.int32)
    magika = FOLDER / "magika" / "magika" / "models" / "standard_v3_3" / "model.onnx"
    yield "Magika, dense and convolution", magika, "unk__214=64", ends[:64], ends[64:128]

    models = FOLDER / "rapidocr_onnxruntime" / "rapidocr_onnxruntime" / "models"
    text = [" ".join(words()[at * 2 : at * 2 + 2]) for at in range(96)]
    turned = rendered(text, (48, 192), turned=True)
    yield "PP-OCR direction, MobileNet", models / "ch_ppocr_mobile_v2.0_cls_infer.onnx", "x.2=48,x.3=192", turned[:32], turned[32:]
    lines = rendered(text, (48, 320))
    dims = "x.2=48,p2o.DynamicDimension.1=320"
    yield "PP-OCR recognizer, CNN and transformer", models / "ch_PP-OCRv4_rec_infer.onnx", dims, lines[:32], lines[32:64]
    pages = rendered([[" ".join(words()[at + row * 3 :][:3]) for row in range(6)] for at in range(0, 240, 10)], (320, 320))
    dims = "p2o.DynamicDimension.1=320,p2o.DynamicDimension.2=320"
    yield "PP-OCR detector, CNN", models / "ch_PP-OCRv4_det_infer.onnx", dims, pages[:8], pages[8:16]

    sizes = encoder.Sizes(vocab=5000, positions=64, outliers=6)
    ids = [encoder.batch(sizes, rows, 32, seed) for rows, seed in ((64, 1), (128, 2))]
    for seed in range(3):
        path = FOLDER / f"encoder-{seed}.onnx"
        onnx.save(encoder.encoder(sizes, seed), path)
        yield f"encoder with outlier channels, seed {seed}", path, "seq=32", *ids


def compared(own, found):
    """1 − the mean cosine of rows of outputs, and the share of equal largest elements."""
    import numpy as np

    same = (own.argmax(-1) == found.argmax(-1)).mean()
    own, found = own.reshape(len(own), -1), found.reshape(len(found), -1)
    cosine = (own * found).sum(1) / np.sqrt((own**2).sum(1) * (found**2).sum(1)).clip(1e-30)
    return 1 - cosine.mean(), same


def measured(enfold, folder, network, bits, forms):
    """For each form and pass, 1 − the mean cosine, and the share of equal largest elements."""
    import numpy as np
    import onnx
    from safetensors.numpy import load_file, save_file

    _, path, dims, calibration, test = network
    model = onnx.load(path, load_external_data=False)
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in stored]
    dims = ["--dim", dims] if dims else []

    def run(*arguments):
        done = subprocess.run([enfold, *map(str, arguments), "--quiet"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"enfold {' '.join(map(str, arguments))}: {done.stderr}")

    def outputs(model, *arguments):
        run("run", model, *arguments, "--input", "test.safetensors", "--output", "y.safetensors", "--device", "cpu")
        return next(iter(load_file(folder / "y.safetensors").values())).astype(np.float64)

    for name, data in (("calibration", calibration), ("test", test)):
        data = data if isinstance(data, dict) else {names[0]: data}
        save_file({key: np.ascontiguousarray(value) for key, value in data.items()}, folder / f"{name}.safetensors")
    own = outputs(path, *dims)
    for form in forms:
        static = form == "static"
        for passes in PASSES[bits] + (OBSERVERS if static and bits == 8 else []):
            arguments = dims + form.replace("static", "").split() + passes.split() + ["--weight-bits", bits]
            if static or "smooth" in passes or "gptq" in passes:
                arguments += ["--calibrate", "calibration.safetensors"]
            run("quantize", path, *arguments, "--output", "q.enfold")
            yield form.removeprefix("--").replace(" --", " "), passes or "plain", *compared(own, outputs("q.enfold"))


def onnxruntime_static(folder, network):
    """The same for ONNX Runtime's static quantization to int8, per channel, with its default calibration."""
    import logging

    import numpy as np
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    # It asks for its pre-processing, after which its files of four of these networks cannot be loaded (version 1.32).
    logging.disable(logging.WARNING)
    _, path, _, calibration, test = network
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    rows_of = lambda data: data if isinstance(data, dict) else {session.get_inputs()[0].name: data}

    def one_by_one(data):
        data = rows_of(data)
        for row in range(len(next(iter(data.values())))):
            yield {name: np.ascontiguousarray(values[row : row + 1]) for name, values in data.items()}

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = one_by_one(calibration)

        def get_next(self):
            return next(self.rows, None)

    def outputs(session):
        return np.concatenate([session.run(None, row)[0] for row in one_by_one(test)]).astype(np.float64)

    quantized = folder / "onnxruntime.onnx"
    quantize_static(path, quantized, Reader(), per_channel=True, weight_type=QuantType.QInt8)
    return "static", "ONNX Runtime", *compared(outputs(session), outputs(onnxruntime.InferenceSession(str(quantized), options)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--enfold", type=Path, default=ROOT / "target" / "release" / "enfold")
    parser.add_argument("--only", default="", help="only networks with this word in their name")
    parser.add_argument("--bits", type=int, nargs="+", choices=sorted(PASSES), default=[8])
    parser.add_argument("--static", action="store_true", help="only static quantization")
    parser.add_argument("--json", type=Path, help="writes the figures here")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "accuracy of the passes")
    download()
    forms = FORMS[:1] if arguments.static else FORMS
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for network in networks():
            if arguments.only not in network[0]:
                continue
            for bits in arguments.bits:
                print(f"{network[0]}, weights of {bits} bits", flush=True)
                rows = list(measured(arguments.enfold.resolve(), Path(folder), network, bits, forms))
                if bits == 8 and "static" in forms:
                    rows.append(onnxruntime_static(Path(folder), network))
                for form, passes, loss, same in rows:
                    results.append({"network": network[0], "bits": bits, "form": form, "pass": passes, "loss": loss, "same": same})
                    print(f"  {form:18} {passes:32} {loss:.3e} ({same:.4f})", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
