"""Build the site from the notebooks, or check it where Quarto is not installed.

`scripts/docs.py` makes a page of every notebook (scripts/pages.py) in _proc/ and renders them with Quarto to _docs/.
`scripts/docs.py --check` renders the same pages with smalldocs to _site/ instead, reads them as a visitor would
(scripts/visit.py), prints one line a finding and closes with `N pages, M links, K findings`; the exit code is 1 when
there is any. Both write these three folders only, which git ignores.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from posixpath import normpath, relpath

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import yaml  # noqa: E402
from execnb.nbio import mk_cell, read_nb, write_nb  # noqa: E402
from fastcore.basics import AttrDict  # noqa: E402
from nbdev.processors import FilterDefaults  # noqa: E402
from pages import ROOT, repository, settings  # noqa: E402

NBS, PROC, DOCS, SITE = (ROOT / name for name in ("nbs", "_proc", "_docs", "_site"))
RUN = ROOT / "runs/demo"  # what `make run` leaves; the pages of the phases show its outputs
PHASE_NOTES = {
    True: "*This page shows the preset `demo` on the embedded model, as `make run` leaves it. The [report of the long "
    "run](../reports/demo-large.html) has the same figures with more seeds and draws.*",
    False: "*Phase notebooks are stored without output, and this site was built without a run: after `make run` the "
    "page has its figures. Those of the long run stand in its [report](../reports/demo-large.html).*",
}
KINDS = {".ipynb", ".css", ".html", ".json", ".png", ".svg"}  # of files that the site is made of
NUMBER = re.compile(r"^\d+[a-zA-Z0-9]*_")  # nbdev drops it from the name of a page
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
# a name in code marks that stands in a link is linked once more
WITHIN = re.compile(r"\[\[[^\]\n]*\]\([^)\n]*\)\]\([^)\n]*\)")
CODE = re.compile(r"(^```.*?^```[^\S\n]*$)", re.MULTILINE | re.DOTALL)
ANCHOR = re.compile(r"\{#([\w.-]+)\}|<a id=\"([\w.-]+)\"")
BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}  # pages whose source is not below nbs/
EXPECTED = re.compile(
    r"ignored|not built|not read by|broken link"
)  # smalldocs, of Quarto's own settings; links are followed here


def page_name(path: str) -> str:
    "Where a file below nbs/ lies among the pages: notebooks lose the number in front of their name"
    folder, _, name = path.rpartition("/")
    name = NUMBER.sub("", name) if name.endswith(".ipynb") else name
    return f"{folder}/{name}" if folder else name


def sources() -> list[str]:
    "What lies below nbs/, apart from what Jupyter and the system leave there"
    paths = [p.relative_to(NBS) for p in sorted(NBS.rglob("*")) if p.is_file() and p.suffix in KINDS]
    return [p.as_posix() for p in paths if not any(part[0] in "._" for part in p.parts)]


def project() -> dict:
    "_quarto.yml with the names of the pages, and what settings.ini says of the site"
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    said = settings()

    def renamed(value):
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return page_name(value) if isinstance(value, str) and value.endswith(".ipynb") else value

    config = renamed(config)
    config.pop("metadata-files", None)  # nbdev.yml, which says the following
    config["project"]["output-dir"] = DOCS.name
    config["website"] |= {"title": said["title"], "description": said["description"]}
    config["website"] |= {"site-url": said["doc_host"] + said["doc_baseurl"], "repo-url": said["git_url"]}
    config["website"] |= {"repo-branch": said["branch"]}
    return config


def fill(path: str, notebook: AttrDict) -> bool:
    "Give the cells of a phase notebook what they showed in the run; False where no run has executed it as it stands"
    executed = RUN / Path(path).stem / "notebook.ipynb"
    if not executed.is_file():
        return False
    ran = {cell.id: cell for cell in read_nb(executed).cells}
    cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    if any(cell.id not in ran or ran[cell.id].source != cell.source for cell in cells):
        return False
    for cell in cells:
        cell.outputs = [o for o in ran[cell.id].outputs if o["output_type"] in ("display_data", "execute_result")]
    return True


def process(path: str) -> list[str]:
    "Make a page of one notebook; returns what went wrong"
    notebook, findings = read_nb(NBS / path), []
    phase = path.startswith("experiments/phase")
    filled = phase and fill(path, notebook)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            FilterDefaults()(notebook)
        except Exception as error:
            findings.append(f"nbs/{path}: {type(error).__name__}: {error}".split("\n")[0])
    if phase:
        notebook.cells.insert(1, mk_cell(PHASE_NOTES[filled], "markdown"))
    target = PROC / page_name(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_nb(notebook, target)
    ours = [w for w in said if "Deprecat" not in w.category.__name__]
    return findings + [f"nbs/{path}: {str(w.message).split(chr(10))[0]}" for w in ours]


def anchors(path: str) -> set[str]:
    "The anchors that a page sets by hand, and those of what it documents"
    cells = [cell.source for cell in read_nb(PROC / path).cells if cell.cell_type == "markdown"]
    return {a or b for source in cells for a, b in ANCHOR.findall(source)}


def internal(target: str, page: str, known: dict[str, set[str]]) -> str:
    "nbdev's address of a name as a link within the site; a method without a place of its own is looked up at its class"
    path, _, anchor = target.partition("#")
    places = known.get(path.replace(".html", ".ipynb"), set())
    while anchor and anchor not in places:
        anchor = anchor.rpartition(".")[0]
    return relpath(path or "index.html", Path(page).parent.as_posix()) + (f"#{anchor}" if anchor else "")


def page_of(source: str) -> str | None:
    "Where a file of the repository lies among the pages; None when it is none of them"
    below = source.removeprefix("nbs/")
    return BESIDE.get(source) or (page_name(below) if below != source and (ROOT / source).is_file() else None)


def from_page(link: str, source: str, known: dict[str, set[str]]) -> str:
    "A link of a file of the repository as it must stand on its page: within the site where possible"
    page, host = str(page_of(source)), f"{settings()['doc_host']}{settings()['doc_baseurl']}/"
    if link.startswith(host):
        return internal(link.removeprefix(host), page, known)
    if re.match(r"[a-z]+:|#", link):
        return link
    path, mark, anchor = link.partition("#")
    here = normpath(f"{Path(source).parent.as_posix()}/{path}")
    target = page_of(here)
    if target:
        return relpath(target, Path(page).parent.as_posix()) + mark + anchor
    return repository(here, "tree" if (ROOT / here).is_dir() else "blob") + mark + anchor


def relink(source: str, known: dict[str, set[str]]) -> list[str]:
    "Mend the links of one page, in its prose and in the markdown it shows; returns links that have another one within"
    target, findings = PROC / str(page_of(source)), []

    def mended(text: str) -> str:
        prose = CODE.split(text)  # every second part is a block of code
        findings.extend(f"{source}: a link within a link, {m[0]}" for part in prose[::2] for m in WITHIN.finditer(part))
        prose[::2] = [LINK.sub(lambda m: from_page(m.group(1), source, known), part) for part in prose[::2]]
        return "".join(prose)

    if source in BESIDE:
        target.write_text(mended((ROOT / source).read_text(encoding="utf-8")), encoding="utf-8")
        return findings
    notebook = read_nb(target)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = mended(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = mended("".join(data["text/markdown"]))
    write_nb(notebook, target)
    return findings


def make_pages() -> list[str]:
    "Every page, its links and the files it needs, in _proc/; returns what went wrong"
    shutil.rmtree(PROC, ignore_errors=True)
    PROC.mkdir()
    (PROC / "_quarto.yml").write_text(yaml.safe_dump(project(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    paths, findings = sources(), []
    notebooks = [p for p in paths if p.endswith(".ipynb")]
    for path in notebooks:
        findings += process(path)
    made = [p for p in notebooks if (PROC / page_name(p)).is_file()]
    known = {page_name(p): anchors(page_name(p)) for p in made}
    for source in [f"nbs/{path}" for path in made] + list(BESIDE):
        findings += relink(source, known)
    for path in set(paths) - set(notebooks):
        (PROC / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(NBS / path, PROC / path)
    return findings


def render() -> int:
    "The site in _docs/, by Quarto"
    if shutil.which("quarto") is None:
        print("Quarto is not on PATH: install it from https://quarto.org/docs/get-started", file=sys.stderr)
        print("`make docs-check` renders the same pages to _site/ without it.", file=sys.stderr)
        return 2
    findings = make_pages()
    if findings:
        print("\n".join(findings), file=sys.stderr)
        return 1
    done = subprocess.run(["quarto", "render", "--no-cache", "--no-execute"], cwd=PROC)
    if done.returncode == 0:
        shutil.rmtree(DOCS, ignore_errors=True)
        shutil.move(PROC / DOCS.name, DOCS)
    return done.returncode


def status() -> str:
    "What git says of the tree; empty where there is no git"
    done = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def check() -> int:
    "The site in _site/, by smalldocs, and what is wrong with it"
    from smalldocs.config import load
    from smalldocs.site import Site
    from visit import visit

    before = status()
    findings = make_pages()
    shutil.rmtree(SITE, ignore_errors=True)
    site = Site(load(PROC), quiet=True)
    site.out = SITE
    site.build()
    findings += [f"smalldocs: {said}" for said in site.warnings if not EXPECTED.search(said)]
    pages, links, seen = visit(SITE, PROC)
    findings += seen
    if status() != before:
        findings.append("the tree has changed: git status says something else than before")
    for finding in findings:
        print(finding)
    print(f"{pages} pages, {links} links, {len(findings)} findings")
    return 1 if findings or not pages else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="render with smalldocs and look for what is wrong")
    return check() if parser.parse_args().check else render()


if __name__ == "__main__":
    sys.exit(main())
