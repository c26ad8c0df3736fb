"""Format notebooks and scripts with isort and black, and lint them with flake8; exits 1 when flake8 finds something."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SCRIPTS = ["scripts", "benchmarks", "setup.py"]


def main() -> int:
    isort = ["--profile", "black", "--line-length", "130"]
    black = ["--line-length", "130", "--quiet"]
    commands = [  # nbQA wants its paths before the tool's own options
        ["nbqa", "isort", "nbs", *isort],
        ["nbqa", "black", "nbs", *black],
        ["nbqa", "flake8", "nbs"],
        ["isort", *SCRIPTS, *isort],
        ["black", *SCRIPTS, *black],
        ["flake8", *SCRIPTS],
    ]
    return max([subprocess.run([str(BIN / c[0]), *c[1:]], cwd=ROOT).returncode for c in commands])


if __name__ == "__main__":
    sys.exit(main())
