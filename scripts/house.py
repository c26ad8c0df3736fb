"""Measure the house: doors, floors, sizes of cells, names without a test. Exits 1 when a bound is broken.

`scripts/house.py` prints one line a measure and the first places of each broken bound; `--list` prints all places.
Notebooks are only read, never run; the order of the folders is that of .importlinter.
"""

import argparse
import ast
import configparser
import functools
import json
import re
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = "polytope_hsae"
ROOMS = {"guides", "experiments", "theory", "tutorials", "reports", "benchmarks"}  # folders beside the package's own
PAGES = {"index.ipynb", "glossary.ipynb"}  # pages that stand at the top
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+):?\s*(.*)$")
EXPORTS = {"export", "exports", "exporti"}
OWN_ERRORS = {  # what pydantic calls must raise ValueError; the readers of these notebooks turn it into UserError
    "01_results.ipynb",
    "02_config.ipynb",
    "03_manifest.ipynb",
    "03_assets/07_taxonomy.ipynb",
}
SHOWN = 5  # places printed of a broken bound without --list


class Cell(NamedTuple):
    notebook: str  # path below nbs/
    index: int  # position among all cells of the notebook
    source: str
    directives: dict[str, str]
    has_output: bool

    @property
    def exported(self) -> bool:
        return not EXPORTS.isdisjoint(self.directives)

    @property
    def lines(self) -> list[str]:
        "Lines of code: neither blank nor a directive"
        return [line for line in self.source.splitlines() if line.strip() and not DIRECTIVE.match(line)]

    @property
    def place(self) -> str:
        return f"nbs/{self.notebook} cell {self.index}"


class Notebook(NamedTuple):
    path: str  # below nbs/
    module: str  # dotted name below the package, "" when nothing is exported
    cells: list[Cell]

    @property
    def is_door(self) -> bool:
        return self.module.split(".")[-1] == "__init__"


class Measure(NamedTuple):
    name: str
    value: float
    bound: float | None = None  # None: told, not judged
    places: list[str] = []

    @property
    def broken(self) -> bool:
        return self.bound is not None and self.value > self.bound


def directives(source: str) -> dict[str, str]:
    "The leading `#| name: value` lines of a cell"
    found = {}
    for line in source.splitlines():
        match = DIRECTIVE.match(line)
        if match:
            found[match.group(1)] = match.group(2).strip()
        elif line.strip():
            break
    return found


def read_notebook(path: Path) -> Notebook:
    "The code cells of one notebook, and the module they are exported to"
    name, module, cells = path.relative_to(NBS).as_posix(), "", []
    for index, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            told = directives(source)
            module = told.get("default_exp", module)
            cells.append(Cell(name, index, source, told, bool(cell["outputs"])))
    return Notebook(name, module, cells)


def read_notebooks() -> list[Notebook]:
    "Every notebook but checkpoints and what nbdev ignores"
    paths = sorted(NBS.rglob("*.ipynb"))
    return [read_notebook(p) for p in paths if not any(part[0] in "._" for part in p.relative_to(NBS).parts)]


@functools.cache
def parsed(source: str) -> ast.Module:
    "The cell's syntax tree; lines for IPython (% and !) are left out"
    code = "\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.splitlines())
    try:
        return ast.parse(code)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def is_patch(node: ast.stmt) -> bool:
    "Whether the function becomes a method of a class defined elsewhere"
    return any(ast.unparse(d).startswith("patch") for d in getattr(node, "decorator_list", []))


def definitions(cell: Cell, patches: bool = False) -> list[str]:
    "Public functions and classes at the top level of a cell"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [n for n in parsed(cell.source).body if isinstance(n, kinds) and (patches or not is_patch(n))]
    return [n.name for n in nodes if not n.name.startswith("_")]


def constants(cell: Cell) -> list[str]:
    "Public names assigned at the top level of a cell"
    targets = []
    for node in parsed(cell.source).body:
        targets += (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
    names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return [n for n in names if not n.startswith("_")]


def mentioned(cell: Cell) -> set[str]:
    "Names a cell uses; importing one is not using it"
    found = set()
    for node in ast.walk(parsed(cell.source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def imported_doors(cell: Cell, door: str) -> set[str]:
    "Top-level folders and modules of the package that an exported cell of `door` imports"
    found = set()
    for node in ast.walk(parsed(cell.source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith(PACKAGE + ".")}
    return found - {door, "_modidx", "__version__"}


def layers() -> list[list[str]]:
    "The order of .importlinter, lowest first; neighbours on one layer do not import each other"
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    lines = config["importlinter:contract:layers"]["layers"].split("\n")
    return [[name.strip(" ()") for name in re.split(r"[|:]", line)] for line in reversed(lines) if line.strip()]


def arrows(notebooks: list[Notebook]) -> dict[tuple[str, str], str]:
    "Which door imports which, with one place that does"
    found = {}
    for notebook in notebooks:
        door = notebook.module.split(".")[0]
        for cell in notebook.cells:
            if cell.exported:
                found |= {(door, other): cell.place for other in sorted(imported_doors(cell, door))}
    return found


def longest_chain(edges: set[tuple[str, str]]) -> list[str]:
    "The longest way down from door to door; a circle is not followed twice"
    below = defaultdict(set)
    for door, other in sorted(edges):
        below[door].add(other)

    def chain(door: str, above: tuple[str, ...]) -> list[str]:
        ways = [chain(other, (*above, door)) for other in sorted(below[door]) if other not in above]
        return [door, *max(ways, key=len, default=[])]

    return max((chain(door, ()) for door in sorted(below)), key=len, default=[])


def doors_and_floors(notebooks: list[Notebook]) -> list[Measure]:
    edges = arrows(notebooks)
    height = {name: level for level, names in enumerate(layers()) for name in names}
    doors = sorted({n.module.split(".")[0] for n in notebooks if n.module})
    folders = sorted({n.path.split("/")[0] for n in notebooks if "/" in n.path})
    has_index = {n.path for n in notebooks}
    closed = [f"nbs/{f}/ has no index.ipynb" for f in folders if f"{f}/index.ipynb" not in has_index]
    up = [f"{a} -> {b}: {place}" for (a, b), place in edges.items() if height.get(a, -1) <= height.get(b, len(height))]
    chain = longest_chain(set(edges))
    return [
        Measure("doors: folders and modules of the package", len(doors)),
        Measure("folders of notebooks without a door (index.ipynb)", len(closed), 0, closed),
        Measure(f"floors, the longest chain of doors ({' > '.join(chain)})", len(chain)),
        Measure("arrows between doors", len(edges)),
        Measure("imports upwards, sideways or outside .importlinter", len(up), 0, up),
    ]


def cell_sizes(notebooks: list[Notebook]) -> list[Measure]:
    "How much is exported at once; a door only lists names, at whatever length"
    cells = [c for n in notebooks if not n.is_door for c in n.cells if c.exported]
    sizes = {c.place: len(c.lines) for c in cells}
    large = [f"{place}: {size} lines" for place, size in sorted(sizes.items(), key=lambda kv: -kv[1]) if size > 45]
    crowd = [(c.place, definitions(c, patches=True)) for c in cells]
    crowd = [f"{place}: {', '.join(names)}" for place, names in crowd if len(names) > 1]
    return [
        Measure("exported cells", len(cells)),
        Measure("median lines of an exported cell", statistics.median(sizes.values()) if sizes else 0, 12),
        Measure("lines of the largest exported cell", max(sizes.values(), default=0), 45, large),
        Measure("exported cells with more than one public definition", len(crowd), 0, crowd),
    ]


def long_lines(notebooks: list[Notebook]) -> list[Measure]:
    found = []
    for name, exported in (("exported code", True), ("other code cells", False)):
        lines = [
            (len(line), c.place)
            for n in notebooks
            for c in n.cells
            if c.exported == exported
            for line in c.source.splitlines()
        ]
        places = [f"{place}: {length} characters" for length, place in sorted(lines, reverse=True) if length > 120]
        found.append(Measure(f"longest line in {name}", max(lines, default=(0, ""))[0], 120, places))
    return found


def checks(cell: Cell) -> bool:
    "Whether a cell asserts something or calls one of fastcore's tests"
    for node in ast.walk(parsed(cell.source)):
        called = getattr(node, "func", None)
        name = getattr(called, "id", getattr(called, "attr", ""))
        if isinstance(node, ast.Assert) or name.startswith("test_") or name == "ExceptionExpected":
            return True
    return False


def made(cell: Cell) -> set[str]:
    "Names a cell binds: helpers, values, loop variables"
    nodes = list(ast.walk(parsed(cell.source)))
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return bound | {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def commands(cell: Cell) -> set[str]:
    "Functions that are commands of the command line: a test calls them by their names as text"
    functions = [n for n in parsed(cell.source).body if isinstance(n, ast.FunctionDef)]
    return {n.name for n in functions if any(".command" in ast.unparse(d) for d in n.decorator_list)}


def imported_names(notebook: Notebook) -> set[str]:
    "Names a notebook imports from the package"
    nodes = [n for c in notebook.cells for n in ast.walk(parsed(c.source)) if isinstance(n, ast.ImportFrom)]
    return {alias.name for n in nodes if (n.module or "").split(".")[0] == PACKAGE for alias in n.names}


def tested_names(notebook: Notebook) -> set[str]:
    "Names used in cells that check something, or that make what such a cell looks at"
    cells = [c for c in notebook.cells if not c.exported]
    looked_at = {name for c in cells if checks(c) for name in mentioned(c)}
    testing = [c for c in cells if checks(c) or made(c) & looked_at]
    asked = {n.value for c in testing for n in ast.walk(parsed(c.source)) if isinstance(n, ast.Constant)}
    asked &= {name for c in notebook.cells for name in commands(c)}
    return asked | {name for c in testing for name in mentioned(c)}


def names_and_tests(notebooks: list[Notebook]) -> list[Measure]:
    "A name is tested in its own notebook or in one that imports it; a name that stands elsewhere by chance is not"
    tested = {n.path: tested_names(n) for n in notebooks}
    abroad = {name for n in notebooks for name in tested[n.path] & imported_names(n)}
    untested, homes = [], defaultdict(set)
    for notebook in notebooks:
        used = abroad | tested[notebook.path]
        for cell in notebook.cells:
            if {"export", "exports"} & cell.directives.keys():
                untested += [f"{name}: {cell.place}" for name in definitions(cell) if name not in used]
                for name in definitions(cell) + constants(cell):
                    homes[name].add(notebook.module)
    twice = [f"{name}: {', '.join(sorted(modules))}" for name, modules in sorted(homes.items()) if len(modules) > 1]
    return [
        Measure("public names", len(homes)),
        Measure("public functions and classes that no test looks at", len(untested), 0, untested),
        Measure("public names defined in two modules", len(twice), 0, twice),
    ]


def is_bare(node: ast.AST) -> bool:
    "Whether a statement ends in an error that the command line shows as a traceback"
    raised = getattr(node, "exc", None) if isinstance(node, ast.Raise) else None
    name = getattr(getattr(raised, "func", raised), "id", "")
    return isinstance(node, ast.Assert) or name in ("ValueError", "AssertionError", "Exception")


def errors(notebooks: list[Notebook]) -> list[Measure]:
    "Whatever a user can do wrong is told in one sentence, by UserError"
    cells = [c for n in notebooks if n.path not in OWN_ERRORS for c in n.cells if c.exported]
    bare = [c.place for c in cells for node in ast.walk(parsed(c.source)) if is_bare(node)]
    return [Measure("assertions and ValueErrors in exported code, where UserError belongs", len(bare), 0, bare)]


def outputs(notebooks: list[Notebook]) -> list[Measure]:
    "Pages that show nothing, and phase notebooks that are not empty"

    def shows(notebook: Notebook) -> bool:
        return any(c.has_output for c in notebook.cells)

    def must_show(notebook: Notebook) -> bool:
        is_theory = notebook.path.startswith("theory/") and not notebook.path.endswith("index.ipynb")
        return is_theory or bool(notebook.module) and not notebook.is_door

    silent = [f"nbs/{n.path}" for n in notebooks if must_show(n) and not shows(n)]
    filled = [f"nbs/{n.path}" for n in notebooks if n.path.startswith("experiments/") and shows(n)]
    return [
        Measure("module and theory notebooks without stored output", len(silent), None, silent),
        Measure("phase notebooks with stored output", len(filled), 0, filled),
    ]


def names_of_files(notebooks: list[Notebook]) -> list[Measure]:
    "Two digits a level and no letters: 05_geometry/00_causal.ipynb"
    numbered = re.compile(r"\d\d_[a-z]\w*|\d\d___main__")
    wrong = []
    for notebook in notebooks:
        *folders, name = notebook.path.removesuffix(".ipynb").split("/")
        if notebook.module or not (folders and folders[0] in ROOMS or notebook.path in PAGES):
            parts = folders if name in ("index", "glossary") else [*folders, name]
            wrong += [f"nbs/{notebook.path}"] if not all(numbered.fullmatch(p) for p in parts) else []
    twins = Counter((str(Path(n.path).parent), Path(n.path).name[:2]) for n in notebooks if n.module and not n.is_door)
    wrong += [f"nbs/{folder}: two notebooks are numbered {digits}" for (folder, digits), k in twins.items() if k > 1]
    return [Measure("notebooks whose name is not two digits and a name", len(wrong), 0, wrong)]


MEASURES: list[Callable[[list[Notebook]], list[Measure]]] = [
    doors_and_floors,
    names_of_files,
    cell_sizes,
    long_lines,
    names_and_tests,
    errors,
    outputs,
]


def lines_of(measure: Measure, everything: bool) -> Iterator[str]:
    "One line a measure, then its places"
    bound = "" if measure.bound is None else f"(at most {measure.bound:g})"
    yield f"{'FAIL' if measure.broken else 'ok  '} {measure.value:6g}  {measure.name} {bound}".rstrip()
    places = measure.places if everything else measure.places[:SHOWN]
    yield from (f"             {place}" for place in places)
    if len(measure.places) > len(places):
        yield f"             ... and {len(measure.places) - len(places)} more: scripts/house.py --list"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print every place, not the first ones only")
    args = parser.parse_args()
    notebooks = read_notebooks()
    measures = [measure for function in MEASURES for measure in function(notebooks)]
    for measure in measures:
        print(*lines_of(measure, args.list), sep="\n")
    broken = sum(measure.broken for measure in measures)
    print(f"{broken} of {sum(m.bound is not None for m in measures)} bounds are broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
