"""What the scripts that call on other packages share: an environment of their own that links what is installed here."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path


def linked(folder: Path, asked: str) -> Path:
    "The interpreter of an environment with these packages before all that is installed here; made where there is none"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        free = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
        pip = [str(python), "-m", "pip", "install", "-q", "--no-compile", "--no-deps"]
        subprocess.run([*pip, *asked.split()], check=True, env=free)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")  # behind its own packages
        (folder / "ready").write_text(asked)
    return python
