"""Everything that must hold before a change lands: exports in sync, notebooks clean and formatted, every notebook's tests.

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
    "Content hash of every notebook and exported module"
    files = [*ROOT.glob("nbs/**/*.ipynb"), *ROOT.glob("polytope_hsae/*.py"), ROOT / "README.md"]
    return {
        str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if ".ipynb_checkpoints" not in str(f)
    }


def leaves_no_diff(name: str, *command: str) -> bool:
    "Whether a command that rewrites files finds nothing to rewrite; what it changed is named"
    before = digest()
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    after = digest()
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    ok = done.returncode == 0 and not changed
    print(f"{'ok  ' if ok else 'FAIL'} {name}", flush=True)
    if changed:
        print("     changed: " + ", ".join(changed), flush=True)
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-2000:], flush=True)
    return ok


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
    parser.add_argument("paths", nargs="*", help="notebooks to test; all, and the checks of the tree, when none is given")
    parser.add_argument("--flags", default="", help="test flags to run as well, e.g. 'slow gpu'")
    args = parser.parse_args()
    start = time.time()
    checks = []
    if not args.paths:
        checks += [
            leaves_no_diff("exported modules match their notebooks", "nbdev_export"),
            leaves_no_diff("notebooks are committed clean", "nbdev_clean"),
            leaves_no_diff("README.md matches nbs/index.ipynb", "python", "scripts/readme.py"),
            leaves_no_diff("black, isort and flake8 find nothing", "python", "scripts/format.py"),
        ]
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
