"""Read a rendered site as a visitor would, and say what is wrong with it.

Every link and anchor is followed; every page must be reachable and named by the sidebar; no figure is without words, no
file is loaded from elsewhere, and no output shows a traceback, a warning, a raw dictionary or a path of this machine.
"""

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from pages import ROOT, repository

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
LOADED_LINKS = {"stylesheet", "preload", "modulepreload", "icon", "shortcut icon"}
OWN = "https://cdn.jsdelivr.net/npm/katex"  # how smalldocs shows mathematics; Quarto writes MathML (html-math-method)
IN_CSS = re.compile(r"@import\s+(?:url\()?[\"']?https?:|url\([\"']?https?:")
TELLS = {  # what no output should show
    "a traceback": re.compile(r"Traceback \(most recent call last\)"),
    "a warning": re.compile(r"\b\w*Warning: "),
    "a raw dictionary": re.compile(r"^\s*(\w*[dD]ict\(.*)?[{]['\"\d]"),
    "a path of this machine": re.compile(r"(?<![\w.…~/-])/(?:home|root|tmp|usr|opt|var|mnt|Users|work\w*)/\w"),
}
SHOWS_LIBRARIES = ("text/html", "application/javascript", "application/vnd.jupyter.widget-view+json")


class Page(HTMLParser):
    "What a page holds: links, anchors, figures and what it loads."

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.silent: list[str] = []
        self.loaded: list[str] = []
        self.in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        said = {key: value or "" for key, value in pairs}
        self.ids |= {said[key] for key in ("id", "name") if said.get(key)}
        self.in_style = tag == "style"
        if tag == "a" and "href" in said and not said["href"].startswith("data:"):  # it leads nowhere
            self.links.append(said["href"])
        if tag == "img" and not said.get("alt", "").strip():
            self.silent.append(said.get("src", "")[:40])
        wanted = tag != "link" or said.get("rel", "") in LOADED_LINKS
        place = said.get(LOADS.get(tag, ""), "")
        if wanted and re.match(r"(https?:)?//", place) and not place.startswith(OWN):
            self.loaded.append(place)

    def handle_data(self, data: str) -> None:
        if self.in_style and IN_CSS.search(data):
            self.loaded.append(IN_CSS.findall(data)[0])

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False


@cache
def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def target_of(link: str, page: Path) -> Path:
    "The file that a link within the site leads to"
    path = unquote(urlsplit(link).path)
    target = (page.parent / path).resolve() if path else page
    return target / "index.html" if target.is_dir() else target


def broken(link: str, page: Path, site: Path) -> str:
    "Why a link leads nowhere; empty when it leads somewhere, or to another host"
    blob, tree = repository(""), repository("", "tree")
    if link.startswith((blob, tree)):
        path, _, anchor = unquote(link.removeprefix(blob).removeprefix(tree)).partition("#")
        if not (ROOT / path).exists():
            return "names a file that the repository does not have"
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines()) if anchor.startswith("L") else 0
        return "" if not lines or int(anchor[1:]) <= lines else "names a line that the file does not have"
    if urlsplit(link).scheme or urlsplit(link).netloc:
        return ""
    target, anchor = target_of(link, page), unquote(urlsplit(link).fragment)
    if site not in target.parents or not target.is_file():
        return "leads nowhere"
    if anchor and target.suffix == ".html" and anchor not in read(target).ids:
        return "leads to a page without this anchor"
    return ""


def named(value: object) -> list[str]:
    "The files that a part of _quarto.yml names"
    if isinstance(value, dict):
        return [name for item in value.values() for name in named(item)]
    if isinstance(value, list):
        return [name for item in value for name in named(item)]
    is_file = isinstance(value, str) and re.fullmatch(r"[\w./*-]+\.(ipynb|md|html|json|css|png|svg|js)", value)
    return [str(value)] if is_file else []


def outputs(path: Path, name: str) -> list[str]:
    "What a page's outputs show that they should not"
    found = []
    for index, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = "".join(output.get("text") or data.get("text/markdown") or data.get("text/plain") or "")
            if output["output_type"] == "error" or output.get("name") == "stderr":
                found.append(f"{name}: cell {index} shows an error stream")
            found += [f"{name}: cell {index} shows {what}" for what, tell in TELLS.items() if tell.search(text)]
            found += [f"{name}: cell {index} shows {kind}" for kind in SHOWS_LIBRARIES if kind in data]
    return found


def visit(site: Path, sources: Path) -> tuple[int, int, list[str]]:
    "How many pages and links a site has, and what is wrong; `sources` holds the processed notebooks"
    site = site.resolve()
    config = yaml.safe_load((sources / "_quarto.yml").read_text(encoding="utf-8"))
    missing = {name for name in named(config) if not list(sources.glob(name))}
    findings = [f"_quarto.yml names {name}, which does not exist" for name in sorted(missing)]
    unbuilt = {site / Path(name).with_suffix(".html") for name in missing}  # every page links to these: said once
    made = {p.relative_to(sources).as_posix() for kind in ("*.ipynb", "*.md") for p in sources.rglob(kind)}
    in_sidebar = set(named(config["website"]["sidebar"]))
    findings += [f"{name} is not in the sidebar of _quarto.yml" for name in sorted(made - in_sidebar)]
    for name in sorted(name for name in made if name.endswith(".ipynb")):
        findings += outputs(sources / name, name)
    pages, links, linked = sorted(p for p in site.rglob("*.html") if "site_libs" not in p.parts), 0, set()
    for path in pages:
        page, name = read(path), path.relative_to(site).as_posix()
        links += len(page.links)
        here = {link for link in page.links if target_of(link, path) not in unbuilt}
        linked |= {target_of(link, path) for link in here} - {path}
        wrong = {link: why for link in sorted(here) if (why := broken(link, path, site))}
        findings += [f"{name}: {link} {why}" for link, why in wrong.items()]
        findings += [f"{name}: a figure without alternative text ({src}…)" for src in page.silent]
        findings += [f"{name}: loads {src} from elsewhere" for src in page.loaded]
    findings += [f"{p.relative_to(site)}: no other page links to it" for p in pages if p not in linked]
    findings += [
        f"{css.relative_to(site)}: loads something from elsewhere"
        for css in sorted(site.rglob("*.css"))
        if IN_CSS.search(css.read_text(encoding="utf-8", errors="replace"))
    ]
    return len(pages), links, findings
