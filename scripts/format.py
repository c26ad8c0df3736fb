"""Format notebooks and scripts with isort and black, and lint them and the exported modules with flake8.

Exits 1 when flake8 finds something. Black breaks no strings and comments: lines that stay longer than 120 are for a
person to break.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WIDTH = "120"
SCRIPTS = ["scripts", "benchmarks", "setup.py"]


def main() -> int:
    isort = ["--profile", "black", "--line-length", WIDTH]
    black = ["--line-length", WIDTH, "--quiet"]
    commands = [  # nbQA wants its paths before the tool's own options
        ["nbqa", "isort", "nbs", *isort],
        ["nbqa", "black", "nbs", *black],
        ["nbqa", "flake8", "nbs", "--extend-ignore=E501,F401,F811,F821"],
        ["isort", *SCRIPTS, *isort],
        ["black", *SCRIPTS, *black],
        ["flake8", *SCRIPTS, "polytope_hsae"],
    ]
    return max([subprocess.run([str(BIN / c[0]), *c[1:]], cwd=ROOT).returncode for c in commands])


if __name__ == "__main__":
    sys.exit(main())
