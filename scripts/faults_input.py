"""Anything as input: configurations, overrides, templates, texts, and every file of a run."""

import base64
import json
import time
import warnings
import zlib
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import hypothesis
from faults_world import TAXONOMY
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from polytope_hsae.activations.store import ActivationStore
from polytope_hsae.assets.taxonomy import read_taxonomy
from polytope_hsae.assets.texts import check_source
from polytope_hsae.concepts.selection import check_frame, load_concepts
from polytope_hsae.config import absolute_paths, config_keys, load_config, read_saved
from polytope_hsae.core import UserError, atomic_write, one_line
from polytope_hsae.estimators.teacher import load_teacher
from polytope_hsae.experiment.folder import trained_by
from polytope_hsae.manifest import read_manifest
from polytope_hsae.metrics.evaluate import load_scores
from polytope_hsae.models.files import load_sae
from polytope_hsae.results import read_results
from polytope_hsae.runner.report import executed
from polytope_hsae.training.init import load_input_map
from polytope_hsae.training.logging import read_log

CORPUS = Path(__file__).with_name("faults_corpus.json")  # inputs that were not borne once: kind → base64 of zlib

WORDS = "hsae.m_top training.lr model.name data.source run.seed concepts.split logging.save_dir eval hsae".split()
PIECES = [
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "'",
    '"',
    "|",
    ">",
    "&a",
    "*a",
    "!!bool ",
    "!!timestamp ",
    "!!python/name:os.system ",
    "\n  ",
]
PIECES += [
    "null",
    "true",
    "0x1f",
    "1e3",
    "1e999",
    ".nan",
    "-.inf",
    "2001-01-01",
    "1:20",
    "1_000",
    "~",
    "?",
    "#",
    "%",
    "@",
    "\t",
    "---",
]


def texts() -> st.SearchStrategy[str]:
    "Anything, and what looks like YAML, with what is awkward in it"
    anything = st.text(max_size=60)
    long = st.builds(
        lambda c, n: c * n, st.sampled_from(["9", "a", "[", "- ", "{a: ", "\u202e", "é"]), st.integers(1, 100_000)
    )
    shaped = st.lists(
        st.one_of(st.sampled_from(WORDS + PIECES), st.integers().map(str), st.text(max_size=8)), max_size=12
    )
    return st.one_of(anything, shaped.map("".join), shaped.map("\n".join), long)


def blobs(whole: bytes) -> st.SearchStrategy[bytes]:
    "Anything, and a file with some of its bytes exchanged, cut out or doubled"

    def changed(edits: list[tuple[int, int, bytes]]) -> bytes:
        content = whole
        for at, length, new in edits:
            i = at % (len(content) + 1)
            content = content[:i] + new + content[i + length :]
        return content

    new = st.one_of(
        st.binary(max_size=4), st.sampled_from([b"null", b"[]", b"{}", b"1e999", b"NaN", b'"', b"-1", b"9" * 5000])
    )
    edit = st.tuples(st.integers(0, 2**20), st.integers(0, 12), new)
    return st.one_of(st.binary(max_size=200), st.lists(edit, min_size=1, max_size=4).map(changed))


def readers(run: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    "File of a run → who reads it, given the folder"
    (model, *_), log = sorted(run.glob("checkpoints/teacher/seed_*")), next(run.glob("training/teacher_*/log.jsonl"))
    return {
        "results.json": (run / "results.json", lambda p: read_results(p)),
        "manifest.json": (run / "manifest.json", lambda p: read_manifest(p.parent)),
        "config.yaml": (run / "config.yaml", lambda p: read_saved(p.parent)),
        "concepts.json": (run / "concepts.json", load_concepts),
        "teacher.json": (run / "teacher.json", lambda p: load_teacher(p.parent)),
        "teacher.safetensors": (run / "teacher.safetensors", lambda p: load_teacher(p.parent)),
        "index.json": (run / "activations" / "index.json", lambda p: ActivationStore(p.parent)),
        "cfg.json": (model / "cfg.json", lambda p: load_sae(p.parent)),
        "model.safetensors": (model / "model.safetensors", lambda p: load_sae(p.parent)),
        "input_map.safetensors": (model / "input_map.safetensors", load_input_map),
        "scores.json": (model / "scores.json", load_scores),
        "trained.json": (model / "trained.json", lambda p: trained_by(run, "teacher", 123, log.parent.name)),
        "log.jsonl": (log, lambda p: read_log(p.parent)),
        "notebook.ipynb": (run / "phase2_baseline_hsae" / "notebook.ipynb", executed),
    }


def one_error(work: Callable[[], Any], again: bool = True) -> None:
    """Do something; it may be refused in one sentence, within a second, and nothing else may happen.

    What takes longer is tried once more, so that a package that is imported at its first use does not count."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            work()
        except UserError as e:
            assert len(str(e).splitlines()) == 1, str(e)
            for terminal in ("ascii", "cp1252"):
                shown = one_line(str(e), 400).encode(terminal, "backslashreplace").decode(terminal)
                assert shown.isprintable(), shown
    took = time.process_time() - began
    if took >= 1 and again:
        return one_error(work, again=False)
    assert took < 1, f"took {took:.1f} s"


class Door(NamedTuple):
    "Where something comes in."

    strategy: st.SearchStrategy
    work: Callable[[Any], Any]
    binary: bool  # it takes bytes, else text
    cost: int = 1  # how many times fewer cases are tried


def doors(home: Path, run: Path) -> dict[str, Door]:
    "Everything that takes input, by kind; a file of the run is as it was after `whole_again`"
    home.mkdir(exist_ok=True)
    written = lambda name, content: atomic_write(home / name, content)
    raw = lambda text: text.encode("utf-8", "surrogatepass")
    pairs = st.one_of(texts(), st.tuples(st.sampled_from(config_keys()), texts()).map("=".join))
    pieces = ["{a}", "{b}", "{x", "}", "{a.b}", "{a[0]}", "!r", ":>9", "{", "word ", "{}"]
    frames = st.one_of(st.lists(st.sampled_from(pieces), max_size=9).map("".join), st.text(max_size=40))
    lines, table = b'{"text": "a dog"}\n{"text": "a cat"}\n', b"id,text\n1,a dog\n2,a cat\n"
    tree = json.dumps(TAXONOMY).encode()[:300] + b"]}}"
    found = {
        "configuration": Door(texts(), lambda text: load_config(written("a.yaml", raw(text))), False, 2),
        "bytes as configuration": Door(st.binary(max_size=300), lambda b: load_config(written("b.yaml", b)), True),
        "override": Door(pairs, lambda text: absolute_paths(load_config("demo", [text])), False, 2),
        "name of a configuration": Door(texts(), load_config, False),
        "template": Door(frames, check_frame, False),
        "text source": Door(st.binary(max_size=400), lambda b: check_source(str(written("c.txt", b))), True),
        "JSON lines": Door(blobs(lines), lambda b: check_source(str(written("d.jsonl", b))), True),
        "table": Door(blobs(table), lambda b: check_source(str(written("e.csv", b))), True, 2),
        "taxonomy": Door(blobs(tree), lambda b: read_taxonomy(written("f.yaml", b)), True),
    }
    for kind, (path, read) in readers(run).items():

        def damaged(content: bytes, path: Path = path, read: Callable[[Path], Any] = read) -> None:
            path.write_bytes(content)
            read(path)

        dear = kind == "model.safetensors" or path.stat().st_size > 2**16
        found[kind] = Door(blobs(path.read_bytes()), damaged, True, 3 if dear else 1)
    return found


def whole_again(run: Path) -> Callable[[], None]:
    "What writes the files of a run again that are read here"
    kept = {path: path.read_bytes() for path, _ in readers(run).values()}
    return lambda: [path.write_bytes(content) for path, content in kept.items()] and None


def cases(home: Path, run: Path, wanted: int) -> Iterator[tuple[str, int, str]]:
    "Kind of input, how many were tried, and what was wrong with the first that was not borne"
    how: dict[str, Any] = dict(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    known = json.loads(CORPUS.read_text(encoding="utf-8"))
    again = whole_again(run)
    for kind, door in doors(home, run).items():
        tried, last = 0, ""

        def work(value: Any) -> None:
            nonlocal tried, last
            content = value if door.binary else value.encode("utf-8", "surrogatepass")
            last = base64.b64encode(zlib.compress(content)).decode()
            one_error(lambda: door.work(value))
            tried += 1

        wrong = ""
        try:
            for kept in (zlib.decompress(base64.b64decode(text)) for text in known.get(kind, [])):
                work(kept if door.binary else kept.decode("utf-8", "surrogatepass"))
            hypothesis.settings(max_examples=-(-wanted // door.cost), **how)(given(door.strategy)(work))()
        except Exception as e:
            causes = [e, *getattr(e, "exceptions", ())]
            wrong = "; ".join(f"{type(c).__name__}: {c}"[:400] for c in causes) + f" ({kind}: {last[:300]})"
        again()
        yield kind, tried, wrong
