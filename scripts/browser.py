"""The explorer in a real browser: JupyterLab and Voilà on the loopback address, and a headless Chromium.

`polytope-hsae explore` is started on a planted run as a user would start it; every panel is opened, every kind of
control is used, and what the page then holds is read. Every request to another host is refused and recorded, and one is
a failure; so is an error in the browser's console. `--shots FOLDER` keeps a screenshot of each panel, `--dark` takes
JupyterLab's dark theme, `--run RUN` opens a finished run instead of the planted one.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

HOME = "127.0.0.1"
PATIENCE = 90_000  # milliseconds until an element must be there: a kernel starts meanwhile
PAGE = """
from polytope_hsae.core import UserError
from polytope_hsae.explorer.tree import Shape, TreeNode, concept_tree

names = ["dog", "cat", "bird", "<b>fish</b>"]
nodes = [TreeNode("animal", "animal", ""), *(TreeNode(name, name, "animal") for name in names)]


def shape_of(node):
    if node != "animal":
        raise UserError(f"{node} has no children: choose a parent")
    at = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    vertices = [dict(label=name, at=place) for name, place in zip(names, at)]
    words = [dict(label=f"<i>word {i}</i>", owner=i % 4, at=[0.8 * x for x in at[i % 4]]) for i in range(8)]
    return Shape("Children of animal", "A tetrahedron.", vertices, words, [(i, j) for j in range(4) for i in range(j)])


concept_tree(nodes, shape_of, "animal")
"""
PLANTED = """
from polytope_hsae.experiment.setup import planted_concepts, planted_setup
from polytope_hsae.explorer import explore, open_explorer

ex = open_explorer(".")
definitions = {name: f"<i>planted</i> {name}" for name in ex.synsets}
ex.kept |= {"setup": planted_setup(planted_concepts()), "definitions": definitions}
explore(ex)
"""


def chromium() -> str:
    "Where Chromium is; where there is none it is installed: Debian's by root, else Playwright's own"
    if not shutil.which("chromium") and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
            subprocess.run(command, capture_output=True, text=True)
    if found := shutil.which("chromium") or shutil.which("chromium-browser"):
        return found
    own = [sys.executable, "-m", "playwright", "install", "chromium"]
    done = subprocess.run(own, capture_output=True, text=True)
    with sync_playwright() as playwright:
        if done.returncode == 0 and Path(playwright.chromium.executable_path).exists():
            return playwright.chromium.executable_path
    raise SystemExit(
        "no Chromium was found or could be installed, and the explorer's test needs one: install it with "
        "apt-get install chromium, or with playwright install chromium"
    )


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Return when the server listens; stop with what it said when it ends or stays silent.

    No page is asked for: Voilà starts a kernel for each that is."""
    place = urlsplit(url)
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            socket.create_connection((place.hostname or HOME, place.port or 80), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{' '.join(map(str, process.args))} did not answer\n{log.read_text()[-3000:]}")


def refused(url: str) -> bool:
    "Whether a request without the token gets no page: an error, or a question for the token"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=30) as answer:
            return "/login" in answer.url
    except urllib.error.HTTPError as e:
        return e.code in (401, 403)


@contextmanager
def explorer(folder: Path, run: Path, *options: str) -> Iterator[str]:
    "`polytope-hsae explore`, with Jupyter settings of its own; the address that it prints"
    kinds = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR")
    env = os.environ | {kind: str(folder / kind.lower()) for kind in (*kinds, "JUPYTERLAB_WORKSPACES_DIR")}
    log, line = folder / "server.log", [
        sys.executable,
        "-m",
        "polytope_hsae.runner",
        "explore",
        str(run),
        "--no-browser",
    ]
    with log.open("w") as out:
        process = subprocess.Popen([*line, *options], env=env, stdout=subprocess.PIPE, stderr=out, text=True)
    try:
        said = process.stdout.readline() if process.stdout else ""
        if "http://" not in said:
            raise SystemExit(f"polytope-hsae explore printed no address but {said!r}\n{log.read_text()[-3000:]}")
        address = said[said.index("http://") :].strip()
        wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def watched(context: BrowserContext) -> Iterator[Page]:
    "A page that reaches this machine only. Raises AssertionError when it asked another, or its console held an error"
    elsewhere: list[str] = []
    errors: list[str] = []

    def guard(route) -> None:
        if urlsplit(route.request.url).hostname == HOME:
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route(lambda url: urlsplit(url).scheme in ("http", "https"), guard)
    page = context.new_page()
    page.on("websocket", lambda ws: urlsplit(ws.url).hostname == HOME or elsewhere.append(ws.url))
    page.on("console", lambda m: m.type == "error" and errors.append(f"{m.text} ({m.location.get('url')})"))
    page.on("pageerror", lambda e: errors.append(str(e)))
    yield page
    assert not elsewhere, f"asked another host: {elsewhere}"
    assert not errors, f"errors in the console: {errors}"


def use_tree(tree: Locator) -> None:
    "Click, turn and read the tree and its polytope, whose values are known"
    expect(tree.locator(".view .title")).to_have_text("Children of animal", timeout=PATIENCE)
    expect(tree.locator("line.edge")).to_have_count(6)
    expect(tree.locator("circle.word")).to_have_count(8)
    expect(tree.locator("text.label")).to_have_text(["dog", "cat", "bird", "<b>fish</b>"])
    expect(tree.locator(".node")).to_have_text(["animal", "dog", "cat", "bird", "<b>fish</b>"])
    assert tree.locator("b, i").count() == 0, "a word became markup"
    first = tree.locator("rect.vertex").first
    before = first.get_attribute("x")
    box = tree.locator("svg").bounding_box()
    mouse = tree.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mouse.down()
    mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2, steps=3)
    mouse.up()
    dragged = first.get_attribute("x")
    tree.locator("svg").press("ArrowLeft")
    assert len({before, dragged, first.get_attribute("x")}) == 3, "dragging or the arrow keys did not turn the polytope"
    tree.locator(".toggle").first.click()
    expect(tree.locator(".node").nth(1)).to_be_hidden()
    tree.locator(".toggle").first.click()
    tree.locator(".node").nth(1).click()
    expect(tree.locator(".view .note")).to_have_text("dog has no children: choose a parent")
    expect(tree.locator("[aria-current]")).to_have_text("dog")
    tree.locator(".node").first.click()
    expect(tree.locator("line.edge")).to_have_count(6)


class Wanted(NamedTuple):
    "What the explorer of a run must show."

    search: str  # to be typed
    label: str  # of the concept that is found
    parent: str  # synset of a taught parent
    other: str  # name of a run beside it


def shot(page: Page, folder: Path, name: str) -> None:
    "A screenshot of the open panel"
    page.set_viewport_size({"width": 1280, "height": 1500})
    page.locator(".jupyter-widget-tab, .widget-tab").first.screenshot(path=folder / f"{name}.png")


def open_tab(page: Page, title: str) -> None:
    page.locator(".lm-TabBar-tab", has_text=title).click()


def control(page: Page, name: str, kind: str) -> Locator:
    "An element of a kind in the visible control with this description"
    label = page.locator("label", has_text=re.compile(f"^{name}$"))
    return page.locator(".widget-inline-hbox:visible", has=label).locator(kind)


def use_concepts(page: Page, wanted: Wanted) -> None:
    "Search, choose in the tree, turn to three dimensions, read the card"
    card = page.locator(".polytope-view h3").first
    expect(page.locator("rect.vertex").first).to_be_visible(timeout=PATIENCE)
    page.get_by_placeholder("a concept or a word").fill(wanted.search)
    expect(card).to_have_text(wanted.label, timeout=PATIENCE)
    expect(page.locator(".polytope-tree [aria-current]")).to_be_visible()
    page.locator(f'.polytope-tree .node[data-id="{wanted.parent}"]').evaluate("node => node.click()")
    expect(card).not_to_have_text(wanted.label, timeout=PATIENCE)
    page.get_by_role("button", name="in 3-D").click()
    expect(page.locator(".polytope-tree .note")).to_contain_text("held-out words", timeout=PATIENCE)
    expect(page.locator("circle.word").first).to_be_attached()
    expect(page.locator(".polytope-view svg .null").first).to_be_attached()


def use_latents(page: Page) -> None:
    "Another latent, a child of it, another seed"
    heading = page.locator(".polytope-view h3:visible")
    expect(page.locator(".context:visible").first).to_be_visible(timeout=PATIENCE)
    control(page, "Latent", "select").select_option(index=1)
    chosen = control(page, "Latent", "select").locator("option").nth(1).text_content() or ""
    expect(heading).to_have_text(re.split(r",\s*fires", chosen)[0].replace("\xa0", " "), timeout=PATIENCE)
    control(page, "Child", "select").select_option(index=1)
    expect(heading).to_have_text(re.compile(r"^\d+\.\d+"), timeout=PATIENCE)
    control(page, "Seed", "select").select_option(index=1)  # and with it the latent most used, none of its children
    expect(heading).to_have_text(re.compile(r"^\d+( |$)"), timeout=PATIENCE)


def use_steering(page: Page) -> float:
    "Move the slider by its keys and continue the sentence; the longest answer to a key, in milliseconds"
    lines = "[...document.querySelectorAll('.polytope-view p')]"
    dose = lines + ".some(p => p.textContent.startsWith('dose {}, '))"
    expect(page.locator(".bar.before:visible").first).to_be_attached(timeout=PATIENCE)
    handle, taken = page.locator(".noUi-handle:visible").first, []
    handle.focus()
    for tenths in range(11, 16):
        start = time.monotonic()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(dose.format(f"{tenths / 10:g}"), polling="raf", timeout=PATIENCE)
        taken.append(1000 * (time.monotonic() - start))
    page.get_by_role("button", name="Continue the sentence").click()
    expect(page.get_by_text("nothing added")).to_be_visible(timeout=PATIENCE)
    return max(taken)


def use_two_runs(page: Page, wanted: Wanted) -> None:
    "Name another run and compare"
    page.get_by_placeholder("a run beside this one").fill(wanted.other)
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text(re.compile("settings? that differ")).first).to_be_visible(timeout=PATIENCE)


def use_panels(page: Page, wanted: Wanted, shots: Path, name: str) -> None:
    "Every panel, one after the other"
    started = time.monotonic()
    use_concepts(page, wanted)
    print(f"     {name}: first panel used after {time.monotonic() - started:.1f} s", flush=True)
    shot(page, shots, f"{name}-concepts")
    open_tab(page, "Latents")
    use_latents(page)
    shot(page, shots, f"{name}-latents")
    open_tab(page, "Steering")
    print(f"     {name}: the slider is answered in {use_steering(page):.0f} ms at most", flush=True)
    shot(page, shots, f"{name}-steering")
    page.get_by_role("button", name="add a latent").click()
    expect(page.locator("h4:visible", has_text="latent")).to_be_visible(timeout=PATIENCE)
    shot(page, shots, f"{name}-steering-latent")
    open_tab(page, "Two runs")
    use_two_runs(page, wanted)
    shot(page, shots, f"{name}-two-runs")
    assert page.locator(".polytope-view i").count() == 0, "a definition became markup"


def settings(folder: Path, dark: bool) -> None:
    "JupyterLab without questions in the way, in the theme asked for"
    home = folder / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    home.mkdir(parents=True)
    (home / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    if dark:
        (home / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
    (folder / "jupyter_config_dir").mkdir()
    (folder / "jupyter_config_dir" / "jupyter_lab_config.json").write_text(
        '{"LabApp": {"extension_manager": "readonly"}}'
    )


def run_cells(page: Page) -> None:
    "Run the notebook that is open in JupyterLab, by the keyboard"
    expect(page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=PATIENCE)
    page.locator(".jp-Notebook:visible .jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")


def in_lab(context: BrowserContext, folder: Path, run: Path, wanted: Wanted, shots: Path) -> None:
    "The tree's own page, then the explorer, as JupyterLab shows them"
    with explorer(folder, run) as address, watched(context) as page:
        assert refused(address.partition("?")[0]), "JupyterLab answered without the token"
        page.goto(address.replace("explorer.ipynb", "page.ipynb") + "&reset")
        run_cells(page)
        use_tree(page.locator(".polytope-tree"))
        page.goto(address + "&reset")
        run_cells(page)
        use_panels(page, wanted, shots, "lab")


def in_voila(context: BrowserContext, folder: Path, run: Path, wanted: Wanted, shots: Path) -> None:
    "The explorer as Voilà serves it; without the token it is refused"
    with explorer(folder, run, "--voila") as address, watched(context) as page:
        assert refused(address.partition("?")[0]), "Voilà answered without the token"
        page.goto(address, timeout=PATIENCE)  # it comes when the notebook has been run
        use_panels(page, wanted, shots, "voila")


def write_notebook(path: Path, source: str) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source.strip())]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def planted(folder: Path) -> tuple[Path, Wanted]:
    "A planted run with a notebook that opens it, and another run beside it"
    from polytope_hsae.explorer import planted_explorer

    planted_explorer(folder / "mini")
    shutil.copytree(folder / "mini", folder / "more")
    write_notebook(folder / "mini" / "explorer.ipynb", PLANTED)
    return folder / "mini", Wanted("kind 3", "kind 3", "parent_0.n.01", "more")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, help="a finished run with another one beside it; gets two notebooks")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    parser.add_argument("--dark", action="store_true", help="JupyterLab's dark theme")
    args = parser.parse_args()
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    options.append(f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOME}")
    binary = chromium()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        if args.run:
            beside = [p.parent.name for p in args.run.resolve().parent.glob("*/results.json")]
            other = next(name for name in beside if name != args.run.resolve().name)
            run, wanted = args.run.resolve(), Wanted("dog", "carnivore", "animal.n.01", other)
        else:
            run, wanted = planted(folder)
        write_notebook(run / "page.ipynb", PAGE)
        settings(folder, args.dark)
        shots = args.shots or folder / "shots"
        shots.mkdir(parents=True, exist_ok=True)
        browser = playwright.chromium.launch(executable_path=binary, args=options)
        for use in (in_lab, in_voila):
            started, context = time.monotonic(), browser.new_context(viewport={"width": 1280, "height": 1000})
            use(context, folder, run, wanted, shots)
            context.close()
            print(f"ok   {use.__name__} ({time.monotonic() - started:.0f} s)", flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
