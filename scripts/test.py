"""Everything that must hold before a change lands: the tree's checks, then every notebook's tests.

Prints one line a check and closes with `N passed, N failed`; the exit code is 1 when anything failed or nothing ran.
`scripts/test.py PATH …` runs the tests of these notebooks only; `--flags slow` also runs cells marked `#| slow`.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forked workers otherwise fight over the cores inside torch
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def digest() -> dict[str, str]:
    "Content hash of every notebook, exported module and script"
    patterns = ["nbs/**/*.ipynb", "polytope_hsae/**/*.py", "scripts/*.py", "benchmarks/*.py", "setup.py", "README.md"]
    files = [f for pattern in patterns for f in ROOT.glob(pattern) if ".ipynb_checkpoints" not in f.parts]
    return {str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def passes(name: str, *command: str, unchanged: bool = False) -> bool:
    "Whether a command succeeds and, where asked, finds no file to rewrite; what it said or changed is printed when not"
    before = digest() if unchanged else {}
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    after = digest() if unchanged else {}
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    ok = done.returncode == 0 and not changed
    print(f"{'ok  ' if ok else 'FAIL'} {name}", flush=True)
    if changed:
        print("     changed: " + ", ".join(changed), flush=True)
    if done.returncode:
        print(done.stdout[-6000:] + done.stderr[-6000:], flush=True)
    return ok


def tree_checks() -> list[bool]:
    "What is asked of the tree as a whole, before any notebook is run"
    cache = str(Path(sys.prefix) / "cache" / "mypy")
    return [
        passes("exported modules match their notebooks", "nbdev_export", unchanged=True),
        passes("notebooks are committed clean", "nbdev_clean", unchanged=True),
        passes("README.md matches nbs/index.ipynb", "python", "scripts/readme.py", unchanged=True),
        passes("black, isort and flake8 find nothing", "python", "scripts/format.py", unchanged=True),
        passes("imports point one way", "lint-imports", "--no-cache", "--no-logo"),
        passes("mypy finds nothing", "mypy", "--config-file", "scripts/mypy.ini", "--cache-dir", cache),
        passes("the house keeps its bounds", "python", "scripts/house.py"),
        passes("stored outputs belong to their code", "python", "scripts/outputs.py", "--check"),
        passes("the wheel carries all a run needs", "python", "scripts/wheel.py"),
        passes("SAELens reads an exported run in an environment of its own", "python", "scripts/saelens.py"),
        passes("faults are survived, a sample of each kind", "python", "scripts/faults.py", "--short"),
        passes("a run is the same in a fresh process, on one thread and on two", "python", "scripts/repeat.py"),
        passes("the site has every page, and every link leads somewhere", "python", "scripts/docs.py", "--check"),
        passes("the explorer answers in a browser", "python", "scripts/browser.py"),
    ]


def notebook_tests(paths: list[str], flags: str) -> list[bool]:
    "Run the cells of every notebook, two at a time, and print how long each took"
    from fastcore.parallel import parallel
    from nbdev.config import get_config
    from nbdev.doclinks import nbglob
    from nbdev.test import test_nb

    cfg = get_config()
    found = [Path(p).absolute() for p in paths] if paths else nbglob(as_path=True)
    files = sorted(f.absolute() for f in found if not (f.parent / ".notest").exists())
    os.chdir(cfg.nbs_path)
    done = parallel(
        test_nb,
        files,
        skip_flags=cfg.tst_flags.split(),
        force_flags=flags.split(),
        n_workers=2,
        basepath=cfg.config_path,
        pause=0.01,
    )
    for file, (ok, seconds) in zip(files, done):
        print(f"{'ok  ' if ok else 'FAIL'} {file.relative_to(ROOT)} ({seconds:.1f} s)", flush=True)
    return [ok for ok, _ in done]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "paths", nargs="*", help="notebooks to test; all, and the checks of the tree, when none is given"
    )
    parser.add_argument("--flags", default="", help="test flags to run as well, e.g. 'slow gpu'")
    args = parser.parse_args()
    start = time.time()
    checks = [] if args.paths else tree_checks()
    notebooks = notebook_tests(args.paths, args.flags)
    if not notebooks:
        print("FAIL no notebook was found to test")
        return 1
    done = checks + notebooks
    print(f"{len(notebooks)} notebooks in {time.time() - start:.0f} s")
    print(f"{sum(done)} passed, {len(done) - sum(done)} failed")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
