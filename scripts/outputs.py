"""Execute notebooks and store what they show, so that a second execution leaves no diff.

`scripts/outputs.py` executes the notebooks whose stored output is stale, `scripts/outputs.py PATH …` these notebooks or
folders; `--check` only names the stale ones and exits 1 when there are any, without executing anything. A notebook
remembers which code its output belongs to: digests of its code cells in its metadata (`outputs_of`). Cells that
`make test` skips (`#| eval: false`, `#| slow` and the other flags of settings.ini) are not executed either and keep the
output they have, unless `--flags slow` asks for them.

A notebook that reads results kept in nbs/reports is stale when they are replaced, tests included.

Output also depends on the modules a notebook imports. They change often and its output seldom with them, so a notebook
is not stale because of them: `--check` says how many import code that has changed since they were executed, and
`--verify` executes and tells which of them would show something else. `--accept` keeps output without executing, and
only where nothing but imports, comments, docstrings and layout differ from the code that made it.

What would differ next time is not stored: progress bars, warnings, addresses, paths of this machine, random ids. Phase
notebooks and other folders with a `.notest` file stay without output.
"""

import argparse
import ast
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # as in scripts/test.py: workers otherwise fight over the cores inside torch
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from execnb.nbio import dict2nb, nb2str, read_nb
from execnb.shell import CaptureShell
from fastcore.basics import str2bool
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, extract_directives

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tidy import tidy_cell  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "polytope_hsae"
STAMP = "outputs_of"
HISTORY = 50  # versions of a notebook in which `--accept` looks for the code that made its output
PRELOAD = ["torch", "transformers", "pandas", "matplotlib.pyplot", "IPython", "nbdev"]


def directives(cell: dict) -> dict[str, list[str]]:
    "A cell's `#|` lines; its source is not changed"
    return extract_directives(cell, remove=False)


def is_skipped(cell: dict, force: str = "") -> bool:
    "nbdev_test's rule for one code cell"
    said, flags = directives(cell), set(get_config().tst_flags.split()) - set(force.split())
    return (said.get("eval:") or [""])[0].lower() == "false" or bool(flags & said.keys())


def digest(sources: list[str]) -> str:
    return hashlib.sha256("\n\0\n".join(sources).encode()).hexdigest()[:16]


def parsed(source: str) -> ast.Module | None:
    "A cell's syntax tree without lines for IPython; None when it is no Python"
    try:
        return ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.splitlines()))
    except SyntaxError:
        return None


def meaning(source: str) -> str:
    "Code without imports, comments, docstrings and layout; directives and lines for IPython count"
    tree = parsed(source)
    if tree is None:
        return source
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node, False):
            node.body = node.body[1:]
        if isinstance(getattr(node, "body", None), list):
            node.body = [n for n in node.body if not isinstance(n, (ast.Import, ast.ImportFrom))]
    said = [line.strip() for line in source.splitlines() if re.match(r"\s*([%!]|#\s*\|)", line)]
    return "\n".join([*said, ast.unparse(tree)])


def module_file(name: str) -> Path | None:
    "Where a module of the package is written; None when it is none"
    stem = ROOT.joinpath(*name.split("."))
    return next((f for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.is_file()), None)


@functools.cache
def home(module: str, name: str) -> Path | None:
    "The file that an imported name comes from; a door only passes it on"
    file = module_file(f"{module}.{name}") or module_file(module)
    if file is None or file.name != "__init__.py":
        return file
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return module_file(f"{module}.{node.module}" if node.level else str(node.module))
    return file


@functools.cache
def module_digest(file: Path) -> str:
    return digest([meaning(file.read_text(encoding="utf-8"))])


def imported(sources: list[str]) -> set[Path]:
    "The package's modules that some cells import by themselves"
    trees = [tree for source in sources if (tree := parsed(source)) is not None]
    found: set[Path | None] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            found |= {home(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {module_file(a.name) for a in node.names if a.name.split(".")[0] == PACKAGE}
    return {file for file in found if file is not None}


def kept_runs(sources: list[str]) -> list[Path]:
    "The results of finished runs in nbs/reports that some cells read"
    code, there = "\n".join(sources), sorted((ROOT / "nbs" / "reports").glob("*.json"))
    every = "reports" in code and "}.json" in code  # by names that are put together
    return [file for file in there if every or file.name in code]


def stamps(nb: dict) -> dict[str, str]:
    """What a notebook's output depends on: its executed code, apart from it the skipped code whose output is kept, what
    both mean, the modules that they import, and the results of finished runs that they read"""
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    run = [c["source"] for c in code if not is_skipped(c)]
    kept = [c["source"] for c in code if is_skipped(c) and c["outputs"]]
    modules = [f"{file.relative_to(ROOT)} {module_digest(file)}" for file in sorted(imported([*run, *kept]))]
    told = {"cells": digest(run), "meaning": digest([meaning(source) for source in [*run, *kept]])}
    if runs := kept_runs(run):
        told["runs"] = digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in runs])
    return told | ({"modules": digest(modules)} if modules else {}) | ({"skipped": digest(kept)} if kept else {})


def notebooks(paths: list[str]) -> list[Path]:
    "The notebooks that may store output: all, or those given"
    found = [nb for p in paths for nb in nbglob(p, as_path=True)] if paths else nbglob(as_path=True)
    return sorted({f.absolute() for f in found if not (f.parent / ".notest").exists()})


def why_stale(path: Path) -> str:
    "Why the stored output of a notebook is not that of its code; empty when it is"
    nb = read_nb(path)
    stored, now = nb["metadata"].get(STAMP), stamps(nb)
    if stored is None:
        return "never executed by scripts/outputs.py"
    if stored.get("cells") != now["cells"]:
        return "its code has changed"
    if stored.get("runs") != now.get("runs"):
        return "a finished run that it reads has been replaced"
    if stored.get("skipped") != now.get("skipped"):
        return (
            "the code of a skipped cell with output has changed: --flags slow executes it, --accept keeps what it shows"
        )
    return ""


def imports_changed(path: Path) -> bool:
    "Whether a notebook imports code that has changed since it was executed"
    nb = read_nb(path)
    stored = nb["metadata"].get(STAMP) or {}
    return "modules" in stored and stored["modules"] != stamps(nb).get("modules")


def meaning_then(path: Path, stored: dict[str, str]) -> str | None:
    "What the code that made the stored output means, from the stamp or else from the notebook's history"
    if "meaning" in stored:
        return stored["meaning"]
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    name = path.relative_to(ROOT).as_posix()
    for commit in git(["git", "log", f"-{HISTORY}", "--format=%H", "--", name]).stdout.split():
        shown = subprocess.run(["git", "show", f"{commit}:{name}"], cwd=ROOT, capture_output=True, text=True)
        then = stamps(dict2nb(json.loads(shown.stdout))) if shown.returncode == 0 else {}
        if {key: then.get(key) for key in ("cells", "skipped")} == {
            key: stored.get(key) for key in ("cells", "skipped")
        }:
            return then["meaning"]
    return None


def why_refused(path: Path, nb: dict) -> str:
    "Why output may not be kept without executing the notebook; empty when the code still means what it meant"
    stored = nb["metadata"].get(STAMP)
    if stored is None:
        return "was never executed: leave out --accept"
    if stored.get("runs") != stamps(nb).get("runs"):
        return "a finished run that it reads has been replaced: execute it without --accept"
    then = meaning_then(path, stored)
    if then is None:
        return f"the code that made its output is not among its last {HISTORY} versions: execute it without --accept"
    return (
        "" if then == stamps(nb)["meaning"] else "more than imports and prose has changed: execute it without --accept"
    )


def write(path: Path, nb: dict, before: bytes) -> None:
    "Clean as nbdev_clean does, and replace the file in one step unless somebody else has changed it"
    config = get_config()
    clean_nb(
        nb, False, config.allowed_metadata_keys.split(), config.allowed_cell_metadata_keys.split(), config.clean_ids
    )
    if path.read_bytes() != before:
        raise RuntimeError("the notebook was changed while it was executed; its output is not stored")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    temporary.write_text(nb2str(nb), encoding="utf-8")
    os.replace(temporary, path)


def execute(path: Path, nb: dict, force: str) -> None:
    "Run the cells as nbdev_test does and leave in each what it shows; raises what a cell raises"
    front = getattr(NBProcessor(path, procs=FrontmatterProc, process=True).nb, "frontmatter_", {})
    if str2bool(front.get("skip_exec", False)):
        return
    sys.path.insert(0, str(ROOT))
    shell = CaptureShell(path, mpl_format="png")
    with working_directory(path.parent):
        for index, cell in enumerate(nb["cells"]):
            if cell["cell_type"] != "code" or is_skipped(cell, force) or "nbdev_export" + "(" in cell["source"]:
                continue
            shell._cell_idx = index
            cell["outputs"] = shell.run(cell["source"])
            if shell.exc:
                raise RuntimeError(shell.prettytb(fname=path.relative_to(ROOT)))
            tidy_cell(cell, directives(cell), index)


def store(path: Path, force: str = "", accept: bool = False, verify: bool = False) -> str:
    "Execute one notebook and store its output; says what happened"
    before, nb = path.read_bytes(), read_nb(path)
    stored = dict(nb["metadata"].get(STAMP) or {})
    if accept and (reason := why_refused(path, nb)):
        return reason
    if not accept:
        execute(path, nb, force)
    now = stamps(nb)
    if not (accept or force) and "skipped" in stored and "skipped" in now:
        now["skipped"] = stored["skipped"]  # the skipped cells' output still belongs to the code it was made by
    nb["metadata"][STAMP] = now
    if verify:
        return differences(read_nb(path), nb)
    write(path, nb, before)
    return ""


def differences(stored: dict, again: dict) -> str:
    "Cells whose output differs from the stored one, e.g. because it holds a time or an unseeded number"

    def shown(cell: dict) -> str:
        return json.dumps(cell.get("outputs", []), sort_keys=True)

    cells = [str(i) for i, (a, b) in enumerate(zip(stored["cells"], again["cells"])) if shown(a) != shown(b)]
    return f"cells that show something else than what is stored: {', '.join(cells)}" if cells else ""


def store_all(paths: list[Path], workers: int, **options) -> int:
    "One fresh process a notebook, so that no notebook sees what another has set; returns how many failed"
    context, failed = get_context("forkserver"), 0
    context.set_forkserver_preload(PRELOAD)
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        jobs = {pool.submit(store, path, **options): path for path in paths}
        for job in as_completed(jobs):
            try:
                trouble = job.result()
            except Exception as error:
                trouble = str(error)
            failed += bool(trouble)
            print(f"{'FAIL' if trouble else 'ok  '} {jobs[job].relative_to(ROOT)} {trouble}".rstrip(), flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "paths", nargs="*", help="notebooks or folders; without any, the notebooks whose stored output is stale"
    )
    parser.add_argument(
        "--check", action="store_true", help="name the stale notebooks, execute nothing; exit 1 when there are any"
    )
    parser.add_argument(
        "--verify", action="store_true", help="execute, store nothing, and name what differs from the stored output"
    )
    parser.add_argument(
        "--accept",
        action="store_true",
        help="execute nothing: keep the output where only imports and prose have changed",
    )
    parser.add_argument("--all", action="store_true", help="every notebook, stale or not")
    parser.add_argument("--flags", default="", help="test flags to run as well, e.g. 'slow gpu'")
    parser.add_argument("--workers", type=int, default=2, help="notebooks executed at a time")
    args = parser.parse_args()
    found = notebooks(args.paths)
    stale = {path: reason for path in found if (reason := why_stale(path))}
    if args.check:
        for path, reason in stale.items():
            print(f"stale {path.relative_to(ROOT)}: {reason}")
        print(f"{len(found) - len(stale)} notebooks show what their code shows, {len(stale)} are stale")
        later = [str(path.relative_to(ROOT)) for path in found if path not in stale and imports_changed(path)]
        if later:
            named = ", ".join(later[:5]) + (" …" if len(later) > 5 else "")
            print(f"{len(later)} import code that has changed since: --verify tells what they show now ({named})")
        return 1 if stale or not found else 0
    chosen = found if args.paths or args.all or args.verify else list(stale)
    failed = store_all(chosen, args.workers, force=args.flags, accept=args.accept, verify=args.verify)
    for path in chosen if not args.verify else []:
        if reason := why_stale(path):
            print(f"stale {path.relative_to(ROOT)}: {reason}")
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
