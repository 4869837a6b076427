"""What the scripts of this folder share: PyPI's packages, and where things lie."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = ROOT / "target" / "onnxruntime-venv"
REQUIREMENTS = HERE / "requirements.txt"


def in_venv(script, what):
    """Goes on in a virtual environment that has the packages, which is made first if need be. `what` is not done without them."""
    python = VENV / "bin" / "python"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = VENV / "requirements.sha256"
    if not stamp.exists() or stamp.read_text() != wanted:
        try:
            venv.create(VENV, clear=True, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"cannot install {REQUIREMENTS.relative_to(ROOT)}: {error}", file=sys.stderr)
            if os.environ.get("ENFOLD_ALLOW_NO_PYTHON") == "1":
                print(f"{what}: no packages")
                sys.exit(0)
            sys.exit("set ENFOLD_ALLOW_NO_PYTHON=1 to do without this check")
        stamp.write_text(wanted)
    os.execv(python, [python, script, *sys.argv[1:], "--in-venv"])
