"""How a notebook becomes a page: nbdev's processors for the site, named in settings.ini (`procs`).

nbdev executes exported cells and imports to fill its `show_doc` cells, and fails where these need plain cells, which it
skips. Here nothing is executed: a `show_doc` cell shows an object of the installed package as it is written, a record
with its fields; other cells show what is stored. Tables become raw blocks of markdown (for HTML outputs Quarto loads
two libraries from elsewhere), and a figure gets words for those who cannot see it: its caption, or the sentence above.
"""

import ast
import configparser
import importlib
import importlib.util
import inspect
import re
import textwrap
from functools import cache
from html import escape
from pathlib import Path
from typing import Callable, NamedTuple

from nbdev.process import Processor
from nbdev.processors import add_links
from nbdev.showdoc import show_doc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "polytope_hsae"
IMAGES = {"image/png", "image/svg+xml", "image/jpeg"}
NEEDS = {"models.triton_kernels": "triton"}  # modules of a package that is not made for every system
SHOW_DOC = re.compile(r"^show_doc\(.*\)\s*$", re.MULTILINE)
ALT_LENGTH = 300  # characters


@cache
def settings() -> dict[str, str]:
    "What settings.ini says"
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def repository(path: str, kind: str = "blob") -> str:
    "Where the repository shows a file (or, with `tree`, a folder)"
    return f"{settings()['git_url']}/{kind}/{settings()['branch']}/{path}"


class Source(NamedTuple):
    "A function or class as it is written."

    lines: list[str]
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@cache
def written(obj: Callable) -> Source | None:
    "The source of a function or class, dedented; None for what was never written down"
    try:
        text = textwrap.dedent(inspect.getsource(obj))
    except (OSError, TypeError):
        return None
    node = ast.parse(text).body[0]
    return Source(text.splitlines(), node) if isinstance(node, Source.__annotations__["node"]) else None


def head(lines: list[str], node: ast.stmt) -> list[str]:
    "The first lines of a function or class, with their comments, up to what stands inside"
    first, inside = node.lineno - 1, node.body[0].lineno - 1
    if inside > first:
        return lines[first:inside]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return [f"def {node.name}({ast.unparse(node.args)}){returns}:"]


def with_comments(source: Source, node: ast.stmt) -> list[str]:
    "The lines of a field, and the comments that stand directly above it"
    first = node.lineno - 1
    while source.lines[first - 1].strip().startswith("#"):
        first -= 1
    return source.lines[first : node.end_lineno]


def fields(cls: type, source: Source) -> list[str]:
    "The lines of a record's public fields, or of an enumeration's members"
    found = []
    for node in source.node.body:
        is_member = isinstance(node, ast.Assign) and hasattr(cls, "__members__")
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if is_member else None
        if isinstance(target, ast.Name) and not target.id.startswith("_"):
            found += with_comments(source, node)
    return found


def methods(source: Source) -> list[str]:
    "What the public methods take that are written in a class itself, and what they are for"
    found = []
    for node in source.node.body:
        is_method = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_method and (node.name == "__init__" or not node.name.startswith("_")):
            told = (ast.get_docstring(node) or "").split("\n\n")[0]
            found += [f"    @{ast.unparse(d)}" for d in node.decorator_list] + head(source.lines, node)
            found += ([f'        "{" ".join(told.split())}"'] if told else []) + [""]
    return found


def signature(obj: Callable) -> str:
    "A function's or class's head as it is written; of a class also the fields it is made of, and its methods"
    source = written(obj)
    if source is None:
        return str(show_doc(obj).dm)
    shown = head(source.lines, source.node)
    if isinstance(obj, type):
        decorators = [f"@{ast.unparse(d)}" for d in source.node.decorator_list]
        own, listed = fields(obj, source), methods(source)
        shown = [
            *decorators,
            *[line for line in shown if line.strip()],
            *own,
            *([""] if own and listed else []),
            *listed,
        ]
    return textwrap.dedent("\n".join(shown)).rstrip()


def source_link(obj: Callable) -> str:
    "The line of the repository where an object is written; empty for what has none"
    try:
        file, line = inspect.getsourcefile(obj), inspect.getsourcelines(obj)[1]
    except (OSError, TypeError):
        return ""
    if file is None or ROOT not in Path(file).parents:
        return ""
    url = repository(Path(file).relative_to(ROOT).as_posix())
    return f'[source]({url}#L{line}){{style="float:right; font-size:smaller"}}\n\n'


def documented(call: str, module: object) -> str:
    "Markdown for a cell `show_doc(Name)`: heading, signature and docstring of an object of the module"
    node = ast.parse(call.strip()).body[0].value
    name = ast.unparse(node.args[0])
    obj = eval(compile(ast.Expression(node.args[0]), "show_doc", "eval"), vars(module))
    level = next((k.value.value for k in node.keywords if k.arg == "title_level"), 3)
    obj = getattr(obj, "_init_fn", obj)  # the function that torch.library made an operation of
    obj = inspect.unwrap(obj.fget if isinstance(obj, property) else obj)
    docs = inspect.cleandoc(obj.__doc__ or "")
    if isinstance(obj, type) and docs.startswith(f"{obj.__name__}("):  # a dataclass or NamedTuple that says nothing
        docs = ""
    first, blank, rest = docs.partition("\n\n")
    told = (f"*{first}*" if first and not re.search(r"[*_\n]", first) else first) + blank + rest
    heading = f"{'#' * level} {name} {{#{name.lower()}}}"
    return f"{source_link(obj)}{heading}\n\n```python\n{signature(obj)}\n```\n\n{told}".rstrip()


class ShowDocs(Processor):
    "Turn `show_doc` cells into the markdown they would show, from the installed package."

    def __init__(self, nb):
        super().__init__(nb)  # now: the cell that names the module is gone when the turn of this processor comes
        self.module = next((c.directives_["default_exp"][0] for c in nb.cells if "default_exp" in c.directives_), "")

    def cell(self, cell) -> None:
        if cell.cell_type != "code" or not (found := SHOW_DOC.search(cell.source)):
            return
        cell.cell_type, needed = "markdown", NEEDS.get(self.module)
        if needed and importlib.util.find_spec(needed) is None:
            cell.source = f"*`{found.group(0)}`: {needed} is not installed where this page was made.*"
        else:
            module = importlib.import_module(f"{PACKAGE}.{self.module}".removesuffix(".__init__").removesuffix("."))
            cell.source = documented(found.group(0), module)
        for key in ("outputs", "execution_count"):
            cell.pop(key, None)
        add_links(cell)


def plain(markdown: str) -> str:
    "Words without markup"
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"\s+", " ", re.sub(r"[`*$#>]|\\[a-z]+", "", text)).strip()


def last_sentences(markdown: str) -> str:
    "The end of what is said above a figure, at most ALT_LENGTH characters and at least one sentence"
    paragraphs = [p for p in re.split(r"\n\s*\n", markdown.strip()) if not p.lstrip().startswith(("|", "```", ":::"))]
    sentences = re.split(r"(?<=[.:?]) (?=[A-Z*`(])", plain(paragraphs[-1]) if paragraphs else "")
    kept = sentences[-1]
    for sentence in reversed(sentences[:-1]):
        if len(sentence) + len(kept) > ALT_LENGTH:
            break
        kept = f"{sentence} {kept}"
    return kept.rstrip(":").strip()


def option(source: str, name: str) -> str:
    "A `#| name:` line of a cell"
    found = re.search(rf"^#\s*\|\s*{name}:\s*(.+)$", source, re.MULTILINE)
    return found.group(1).strip().strip("\"'") if found else ""


class Figures(Processor):
    "Give each figure an alternative text: its own, its caption, or the sentence above it."

    above = ""

    def cell(self, cell) -> None:
        if cell.cell_type == "markdown" and plain(cell.source):
            self.above = cell.source
        if cell.cell_type != "code":
            return
        cell.source = re.sub(r"^#\s*\|\s*([\w-]+:)", r"#| \1", cell.source, flags=re.MULTILINE)
        shows = any(IMAGES & set(output.get("data", {})) for output in cell.get("outputs", []))
        if shows and not option(cell.source, "fig-alt"):
            text = (option(cell.source, "fig-cap") or last_sentences(self.above)).replace('"', "'").replace("\\", "")
            cell.source = f'#| fig-alt: "{text}"\n{cell.source}' if text else cell.source


def raw_block(html: str) -> str:
    "HTML inside markdown, left as it is"
    html = re.sub(r"<style[^>]*>\s*</style>", "", html)
    return f"```{{=html}}\n{html.strip()}\n```\n"


def said(value: object) -> str:
    "A value of a dictionary in words: its parts one after the other"
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(said, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def dictionary(shown: str) -> str:
    "A dictionary that a cell shows as a small table; empty when it shows something else"
    try:
        value = ast.literal_eval(re.sub(r"\bnp\.\w+\(([^()]*)\)", r"\1", shown.strip()))
    except (ValueError, SyntaxError):
        return ""
    if not isinstance(value, dict):
        return ""
    rows = [f"<tr><th>{escape(str(key))}</th><td>{escape(said(item))}</td></tr>" for key, item in value.items()]
    return f'<table class="dataframe">{"".join(rows)}</table>'


class Tables(Processor):
    "Show HTML as a raw block of markdown and nothing beside it, and a dictionary as a table."

    def cell(self, cell) -> None:
        for output in cell.get("outputs", []) if cell.cell_type == "code" else []:
            data = output.get("data", {})
            html = "".join(data.get("text/html", "")) or dictionary("".join(data.get("text/plain", "")))
            if html:
                output["data"] = {"text/markdown": raw_block(html)}
