"""What the scripts of this folder share: PyPI's packages, the model and its data."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = ROOT / "target" / "ray-venv"
REQUIREMENTS = HERE / "requirements.txt"
MODEL = ROOT / "tests" / "onnx" / "digits_mlp.onnx"
DIGITS = ROOT / "examples" / "data" / "digits" / "digits.safetensors"
INSTALL_SECONDS = 600


def in_venv(script):
    """Goes on in a virtual environment that has the packages of requirements.txt, which is made first if need be."""
    if sys.prefix == str(VENV):
        return
    python = VENV / "bin" / "python"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = VENV / "requirements.sha256"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {REQUIREMENTS.relative_to(ROOT)} into {VENV.relative_to(ROOT)}", flush=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]
        try:
            venv.create(VENV, clear=True, with_pip=True)
            subprocess.run(install, check=True, timeout=INSTALL_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"cannot install {REQUIREMENTS.relative_to(ROOT)}: {error}", file=sys.stderr)
            if os.environ.get("ENFOLD_ALLOW_NO_PYTHON") == "1":
                print("cluster: no packages")
                sys.exit(0)
            sys.exit("set ENFOLD_ALLOW_NO_PYTHON=1 to do without")
        stamp.write_text(wanted)
    os.execv(python, [python, script, *sys.argv[1:]])


def find_enfold(given):
    """The command line: the one that was given, that of this checkout, or the one in the path. Builds it if there is none."""
    if given:
        return Path(given).resolve(strict=True)
    built = [ROOT / "target" / profile / "enfold" for profile in ("release", "debug")]
    built = [path for path in built if path.exists()]
    if built:
        return max(built, key=lambda path: path.stat().st_mtime)
    if found := shutil.which("enfold"):
        return Path(found)
    subprocess.run(["cargo", "build", "--quiet", "--features", "cli", "--bin", "enfold"], cwd=ROOT, check=True)
    return ROOT / "target" / "debug" / "enfold"


def digits(part):
    """Images and labels of `part`, train or test, as the model wants them."""
    import numpy as np
    from safetensors.numpy import load_file

    file = load_file(DIGITS)
    return file[f"{part}.images"].astype(np.float32) / 16, file[f"{part}.labels"]
