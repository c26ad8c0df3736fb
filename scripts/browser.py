"""The explorer's tree in a real browser: JupyterLab and Voilà on the loopback address, and a headless Chromium.

Every request to another host is refused and recorded, and one is a failure; so is an error in the browser's console.
`scripts/browser.py --shots FOLDER` also keeps a screenshot of each.
"""

import argparse
import os
import secrets
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
from typing import Iterator
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

HOME = "127.0.0.1"
PATIENCE = 40_000  # milliseconds until an element must be there: a kernel starts meanwhile
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

OFFLINE = """{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}{{ super() | replace('href="https://cdn.jsdelivr.net', 'data-left-out="') }}{%- endblock -%}
"""  # Voilà's own template asks another host for a font of icons


def chromium() -> str:
    "Where Chromium is; where root finds none, it is installed"
    if not shutil.which("chromium") and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
            subprocess.run(command, capture_output=True, text=True)
    if found := shutil.which("chromium"):
        return found
    raise SystemExit(
        "no chromium was found, and the explorer's test needs one: install it with apt-get install chromium"
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind((HOME, 0))
        return int(s.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    "Return when the server answers; stop with what it said when it ends or stays silent"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            direct.open(url, timeout=1).close()
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
def server(folder: Path, *command: str, ready: str) -> Iterator[str]:
    "A server with a token on a free port, and settings of its own; its address without a path"
    port, log = free_port(), folder / f"{command[0]}.log"
    kinds = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR")
    env = os.environ | {kind: str(folder / kind.lower()) for kind in (*kinds, "JUPYTERLAB_WORKSPACES_DIR")}
    with log.open("w") as out:
        line = [sys.executable, "-m", *command, f"--port={port}", "--no-browser"]
        process = subprocess.Popen(line, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://{HOME}:{port}{ready}", process, log)
        yield f"http://{HOME}:{port}"
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


def in_lab(context: BrowserContext, folder: Path, token: str) -> None:
    "Open the page in JupyterLab, run it by the menu, and use it"
    quiet = ["--allow-root", "--LabApp.extension_manager=readonly", f"--ServerApp.root_dir={folder}"]
    command = ["jupyterlab", f"--ip={HOME}", f"--IdentityProvider.token={token}", *quiet]
    news = (
        folder / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    )
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # else a question stands in the way
    with server(folder, *command, ready="/api") as address, watched(context) as page:
        page.goto(f"{address}/lab/tree/page.ipynb?token={token}&reset")
        expect(page.locator(".jp-Notebook .jp-CodeCell")).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=PATIENCE)
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        use_tree(page.locator(".polytope-tree"))
        page.screenshot(path=folder / "lab.png")


def in_voila(context: BrowserContext, folder: Path, token: str) -> None:
    "Open the same page as Voilà serves it; without the token it is refused"
    template = folder / "jupyter_data_dir" / "voila" / "templates" / "offline"
    template.mkdir(parents=True)
    (template / "conf.json").write_text('{"base_template": "lab"}')
    (template / "index.html.j2").write_text(OFFLINE)
    command = ["voila", "page.ipynb", f"--Voila.ip={HOME}", f"--token={token}", "--template=offline"]
    with server(folder, *command, ready="/static/") as address, watched(context) as page:
        assert refused(address), "Voilà answered without the token"
        page.goto(f"{address}/?token={token}")
        use_tree(page.locator(".polytope-tree"))
        page.screenshot(path=folder / "voila.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    args = parser.parse_args()
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    options.append(f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOME}")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder, token = Path(name), secrets.token_hex(16)
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PAGE.strip())], metadata=kernel)
        nbformat.write(page, folder / "page.ipynb")
        browser = playwright.chromium.launch(executable_path=chromium(), args=options)
        for use in (in_lab, in_voila):
            started, context = time.monotonic(), browser.new_context(viewport={"width": 1280, "height": 800})
            use(context, folder, token)
            context.close()
            print(f"ok   {use.__name__} ({time.monotonic() - started:.0f} s)", flush=True)
        browser.close()
        if args.shots:
            args.shots.mkdir(parents=True, exist_ok=True)
            for shot in folder.glob("*.png"):
                shutil.copy(shot, args.shots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
