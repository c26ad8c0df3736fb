"""Format notebooks and scripts with isort and black, and lint them with flake8; `--check` changes nothing and exits 1 on a difference."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SCRIPTS = ["scripts", "benchmarks", "setup.py"]


def main() -> int:
    check = ["--check"] if "--check" in sys.argv[1:] else []
    isort = ["isort", "--profile", "black", "--line-length", "130", *check]
    black = ["black", "--quiet", "--line-length", "130", *check]
    commands = [
        ["nbqa", *isort, "nbs"],
        ["nbqa", *black, "nbs"],
        ["nbqa", "flake8", "nbs"],
        [*isort, *SCRIPTS],
        [*black, *SCRIPTS],
        ["flake8", *SCRIPTS],
    ]
    return max([subprocess.run([str(BIN / c[0]), *c[1:]], cwd=ROOT).returncode for c in commands])


if __name__ == "__main__":
    sys.exit(main())
