"""Build sdist and wheel in a temporary folder, as a user's pip would, and check that everything a run needs is in them.

Needs no network and leaves the checkout as it is.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    "setup.py",
    "settings.ini",
    "constraints.txt",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
]
FOLDERS = ["polytope_hsae", "configs", "data", "nbs/experiments"]
SHIPPED = ["configs/*.yaml", "data/*", "nbs/experiments/*.ipynb", "constraints.txt"]
FROM_WHEEL = """
import polytope_hsae
from polytope_hsae.core import repo_dir
home = repo_dir()
assert "shipped" in home.parts and polytope_hsae.__file__.startswith(str(home.parent)), home
assert (home / "configs").is_dir() and (home / "data").is_dir() and (home / "nbs" / "experiments").is_dir(), home
"""


def run(*command: str, cwd: Path) -> None:
    "Run a command; what it printed is the error when it fails"
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"FAIL {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def build(folder: Path) -> Path:
    "The wheel that is built from the sdist that is built from a copy of the checkout, so that no earlier build is seen"
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    run("setup.py", "--quiet", "sdist", "--dist-dir", str(folder), cwd=source)
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run("-m", "pip", "wheel", *offline, "--wheel-dir", str(folder), str(next(folder.glob("*.tar.gz"))), cwd=folder)
    return next(folder.glob("*.whl"))


def expected() -> set[str]:
    "Files that must be in the wheel: every module, browser script and template, preset, word list and phase notebook"
    found = (f for end in ("py", "js", "css", "j2", "json") for f in ROOT.glob(f"polytope_hsae/**/*.{end}"))
    modules = {f.relative_to(ROOT).as_posix() for f in found}
    shipped = {f.relative_to(ROOT).as_posix() for pattern in SHIPPED for f in ROOT.glob(pattern)}
    return modules | {f"polytope_hsae/shipped/{name}" for name in shipped}


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = build(folder)
        with zipfile.ZipFile(wheel) as archive:
            files = set(archive.namelist())
            archive.extractall(folder / "installed")
        missing = sorted(expected() - files)
        more = sorted(f for f in files - expected() if ".dist-info/" not in f)
        print(
            *(f"missing in the wheel: {f}" for f in missing),
            *(f"not expected in the wheel: {f}" for f in more),
            sep="\n",
            end="",
        )
        run("-P", "-c", f"import sys; sys.path.insert(0, {str(folder / 'installed')!r})\n{FROM_WHEEL}", cwd=folder)
    print(f"{len(files)} files in {wheel.name}, {len(missing)} missing, {len(more)} too many")
    return 1 if missing or more else 0


if __name__ == "__main__":
    sys.exit(main())
