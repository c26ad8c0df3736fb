"""Resolve the dependencies for several Pythons, and for the oldest and newest torch and transformers.

    python scripts/matrix.py                # what pip would install, of wheels, one line a cell of the matrix
    python scripts/matrix.py --install      # also make each environment whose Python is here, and run --paths' tests

`constraints.txt` must resolve on every Python; the oldest versions are those that settings.ini allows, the newest what
the package index offers. Nothing is installed here without `--install`. Exits 1 when a cell does not resolve.
"""

import argparse
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11.9", "3.12", "3.13")  # pip takes 3.11 for 3.11.0, which is older than the oldest that is meant
SHOWN = ("torch", "transformers", "pydantic", "numpy", "safetensors")
TESTS = (
    "nbs/00_core.ipynb",
    "nbs/02_config.ipynb",
    "nbs/10_models/04_hierarchical.ipynb",
    "nbs/12_training/07_loop.ipynb",
)


class Cell(NamedTuple):
    "One environment."

    python: str
    versions: str  # constraints, oldest or newest
    wanted: list[str]  # requirements
    constraints: list[str]  # pip's options


def cells(pythons: tuple[str, ...]) -> list[Cell]:
    "The matrix: every Python with the constraints, the oldest and the newest"
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    wanted = shlex.split(settings["DEFAULT"]["requirements"])
    # what sae-lens brings is partly without wheels, and for another Python pip resolves wheels only
    dev = [r for r in shlex.split(settings["DEFAULT"]["dev_requirements"]) if not r.startswith("sae-lens")]
    floors = [found for r in wanted if (found := re.match(r"([\w-]+)>=([\d.]+)", r))]
    oldest = [f"{name}=={least if '.' in least else least + '.0'}.*" for name, least in (f.groups() for f in floors)]
    pinned = ["-c", str(ROOT / "constraints.txt")]
    found = []
    for python in pythons:
        found.append(Cell(python, "constraints", wanted + dev, pinned))
        found.append(Cell(python, "oldest", wanted + oldest, []))
        found.append(Cell(python, "newest", wanted, ["--upgrade"]))
    return found


def pip(*args: str) -> subprocess.CompletedProcess:
    "pip of this interpreter, without the constraints of the environment"
    env = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def resolved(cell: Cell, folder: Path) -> tuple[dict[str, str], str]:
    "Versions by package that pip would install; what was wrong"
    report = folder / f"{cell.python}-{cell.versions}.json"
    wheels = ["--only-binary", ":all:", "--python-version", cell.python, "--target", str(folder / "none")]
    how = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report), *wheels, *cell.constraints]
    done = pip("install", *how, *cell.wanted)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        said = [line for line in lines if re.search(r"^ERROR|depends on|The user requested", line)] or ["pip failed"]
        return {}, "; ".join(said)[:400]
    installed = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in installed}, ""


def tested(cell: Cell, folder: Path) -> str:
    "What is wrong with an environment that is really made; says so where this Python is not here"
    found = shutil.which("python" + ".".join(cell.python.split(".")[:2]))
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:  # pyenv's may be hollow
        return f"python{cell.python} is not here"
    venv = folder / f"venv-{cell.python}-{cell.versions}"
    subprocess.run([found, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    for command in (
        ["-m", "pip", "install", "--quiet", *cell.constraints, *cell.wanted, "nbdev==2.4.14", "hypothesis"],
        ["-m", "pip", "install", "--quiet", "--no-deps", "--editable", str(ROOT)],
        ["scripts/test.py", *TESTS],
    ):
        done = subprocess.run([python, *command], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr or done.stdout).strip()[-300:]
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", action="append", help="only this version, such as 3.12; repeatable")
    parser.add_argument("--install", action="store_true", help="make the environments and run a few notebooks' tests")
    args, failed = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as d:
        for cell in cells(tuple(args.python or PYTHONS)):
            versions, wrong = resolved(cell, Path(d))
            wrong = wrong or (tested(cell, Path(d)) if args.install else "")
            shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
            said = f"FAIL {wrong}" if wrong else f"ok   {len(versions)} packages: {shown}"
            print(f"Python {cell.python:6} {cell.versions:12} {said}", flush=True)
            failed += bool(wrong)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
