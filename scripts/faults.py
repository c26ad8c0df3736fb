"""Inject every fault that a run is meant to survive, and check what comes of each.

    python scripts/faults.py            # the long form: hundreds of damaged files, kills at random moments
    python scripts/faults.py --short    # a sample of each kind, for `make test`

A run in miniature (a model with random weights, a taxonomy and a text made here) is finished once, then damaged, killed
and resumed. A fault passes when it is one sentence with exit code 2, or when the figures come out equal to the last
bit; a traceback, another figure or a run that cannot go on fails. Ends with `N passed`; exits 1 when anything failed.
With `--save` a form that ran whole and found nothing leaves its counts in nbs/reports/faults.json.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator
from unittest.mock import patch

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}

import hypothesis
import nbformat
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

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
from polytope_hsae.results import load_results, read_results
from polytope_hsae.runner import cli
from polytope_hsae.runner.phase import experiments_dir, verify_run
from polytope_hsae.runner.report import executed
from polytope_hsae.training.init import load_input_map
from polytope_hsae.training.logging import read_log

TAXONOMY = {  # parent → child → its words
    parent: {kind: [f"{kind}{letter}" for letter in "abcdefghijklmnopqrst"] for kind in kinds}
    for parent, kinds in {"animal": ("dog", "bird"), "food": ("fruit", "drink"), "artifact": ("car", "boat")}.items()
}
SETTINGS = {
    "data.token_budget": 8_000,
    "data.window_length": 16,
    "data.shard_size_tokens": 3_000,
    "concepts.ontology": "own.yaml",
    "concepts.parents": 3,
    "concepts.max_children": 2,
    "concepts.split": [0.5, 0.25, 0.25],
    "hsae.m_top": 8,
    "hsae.topk_parent": 1,
    "hsae.subspace_dim": 4,
    "hsae.m_low": 4,
    "training.batch_size_acts": 128,
    "training.baseline.steps": 24,
    "training.stage_A.steps": 8,
    "training.stage_B.steps": 16,
    "training.lr_warmup": 2,
    "training.l1_warmup": 2,
    "eval.seeds": 2,
    "eval.n_bootstrap": 40,
    "eval.steering_magnitudes": [1.0],
    "eval.validation.n_permutations": 2,
    "eval.validation.metrics": [],
    "eval.validation.other_pos": False,
    "eval.validation.published": False,
    "logging.log_every": 4,
    "logging.checkpoint_every": 6,
}


def make_world(home: Path) -> None:
    "A model, a taxonomy and a text, in a folder"
    words = [word for kinds in TAXONOMY.values() for several in kinds.values() for word in several]
    others = [f"w{i}" for i in range(60)]
    vocabulary = {f"Ġ{word}": i for i, word in enumerate([*words, *others, "unknown"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="Ġunknown"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    shape = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    config = LlamaConfig(**shape, vocab_size=len(vocabulary), tie_word_embeddings=False, eos_token_id=len(words))
    LlamaForCausalLM(config).save_pretrained(home / "model")
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="Ġw0").save_pretrained(home / "model")
    (home / "own.yaml").write_text(json.dumps(TAXONOMY))
    draw = random.Random(0)
    texts = (" ".join(draw.choice(words if draw.random() < 0.6 else others) for _ in range(30)) for _ in range(700))
    (home / "corpus.txt").write_text("\n\n".join(texts))


def settings(home: Path, run: Path, **changed: Any) -> list[str]:
    "The command line's options for a run in miniature"
    asked = SETTINGS | {"model.name": home / "model", "data.source": home / "corpus.txt", "logging.save_dir": run}
    asked |= {"concepts.ontology": home / "own.yaml"} | changed
    return [arg for key, value in asked.items() for arg in ("--set", f"{key}={value}")]


def execute_here(notebook: Path, out: Path, parameters: dict, label: str) -> None:
    "A phase's notebook in this process: what papermill does, without starting a kernel"
    nb, names = nbformat.read(notebook, as_version=4), {"__name__": "__main__"}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for cell in nb.cells:
                if cell.cell_type == "code":
                    tagged = "parameters" in cell.metadata.get("tags", [])
                    exec(compile(cell.source, cell.id, "exec"), names) if not tagged else names.update(parameters)
    finally:
        import matplotlib.pyplot as plt

        plt.close("all")
        nbformat.write(nb, out)


def call(*args: str) -> tuple[int, str, str]:
    "Exit code, output and errors of a command in this process; a traceback is an exit code of 99"
    before = os.getcwd()
    with patch.object(cli, "_execute", execute_here):
        done = CliRunner().invoke(cli.app, list(args))
    os.chdir(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return 99, done.stdout, f"{type(done.exception).__name__}: {done.exception}"
    return done.exit_code, done.stdout, done.stderr


# ---- files that are damaged

SHOWN = ("results.json", "config.yaml", "manifest.json")  # what a report is made from, beside the notebooks
AIDS = re.compile(r"report\.html|.*/notebook\.html|.*/events\.out.*|.*\.sha256")  # nothing is read from them


def flipped(content: bytes) -> bytes:
    "One bit in the middle is another"
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def edited(content: bytes) -> bytes:
    "A digit in the middle of a text is another"
    at = [m.start() for m in re.finditer(rb"(?<=[0-9.])[0-9]", content)]
    if not at:
        return flipped(content)
    i = at[len(at) // 2]
    return content[:i] + bytes([ord("0") + (content[i] - ord("0") + 1) % 10]) + content[i + 1 :]


DAMAGES: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "cut short": lambda mine, other: mine[: len(mine) * 2 // 3],
    "empty": lambda mine, other: b"",
    "a bit flipped": lambda mine, other: flipped(mine),
    "of another run": lambda mine, other: other,
    "a digit edited": lambda mine, other: edited(mine),
    "deleted": lambda mine, other: None,
}


def figures(run: Path) -> dict[int, list]:
    "What a run has found, to the last bit"
    return {p: [r.model_dump() for r in phase.results] for p, phase in load_results(run).phases.items()}


def one_sentence(code: int, err: str) -> str:
    "What is wrong with a refusal; nothing when it is one printable line with exit code 2"
    lines = [line for line in err.splitlines() if line.strip() and not re.search(r"\d+%|it/s", line)]
    if code != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 407:
        return f"exit code {code}: {err.strip()[-300:]!r}"
    return ""


class Faults:
    "A finished run, another one, and what came of every fault."

    def __init__(self, home: Path, short: bool):
        self.home, self.short, self.failed, self.passed = home, short, [], Counter()
        make_world(home)
        self.run, self.other = home / "runs" / "whole", home / "runs" / "other"
        for run, seed in ((self.run, 123), (self.other, 321)):
            code, _, err = call("run", *settings(home, run, **{"run.seed": seed}))
            assert code == 0, err
        self.truth = figures(self.run)
        self.page = self.shown(self.run)

    def shown(self, run: Path) -> str:
        "The report of a run, without what it cost"
        return re.sub(r"<h3 id=.cost.>.*?</table>", "", (run / "report.html").read_text(), flags=re.S)

    def check(self, kind: str, name: str, wrong: str) -> None:
        "Count a fault that was injected, and print it where it was not borne"
        self.passed[kind] += not wrong
        if wrong:
            self.failed.append(name)
            print(f"FAIL {kind}: {name}: {wrong}", flush=True)

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        "The finished run, to be damaged in its own place, so that what it says of itself stays true"
        kept = self.home / "kept"
        shutil.copytree(self.run, kept)
        try:
            yield self.run
        finally:
            shutil.rmtree(self.run)
            kept.rename(self.run)

    def resumed(self, run: Path) -> str:
        "What is wrong after `run --resume`: figures that differ, a traceback, no sentence"
        code, _, err = call("run", "--resume", "--set", f"logging.save_dir={run}")
        if code:
            return one_sentence(code, err)
        return "" if figures(run) == self.truth and self.shown(run) == self.page else "other figures, exit code 0"

    def reported(self, run: Path) -> str:
        "What is wrong with the report of a damaged run"
        code, out, err = call("report", str(run))
        if code:
            return one_sentence(code, err)
        return "" if self.shown(run) == self.page else "another report, exit code 0"

    def seen(self, run: Path) -> str:
        "What is wrong when a damaged run is asked whether it is whole"
        try:
            cfg = absolute_paths(load_config(run / "config.yaml"))
            verify_run(run)
            if any(cli.why_unfinished(cfg, run, p, experiments_dir()) for p in (1, 2, 3, 4)):
                return ""
            ActivationStore(run / "activations").load()
        except UserError as e:
            return one_sentence(2, f"error: {one_line(str(e), 400)}")
        return "not seen"

    def damaged_files(self) -> None:
        "Every file of the run, damaged in every way: reported, then resumed"
        names = sorted(str(p.relative_to(self.run)) for p in self.run.rglob("*") if p.is_file())
        cases = [(name, how) for name in names if not AIDS.fullmatch(name) for how in DAMAGES]
        if self.short:  # every kind of file in some way, every way on some file
            kinds = sorted(cases, key=lambda case: random.Random(str(case)).random())
            kind_of = lambda name: re.sub(r"[a-z_]+/seed_\d+|_[0-9a-f]{8}|\d", "", name.replace("shuffled_", ""))
            cases = [c for i, c in enumerate(kinds) if kind_of(c[0]) not in {kind_of(k[0]) for k in kinds[:i]}]
        for name, how in cases:
            with self.copy() as run:
                path, other = run / name, self.other / name
                new = DAMAGES[how](path.read_bytes(), other.read_bytes() if other.exists() else b"other")
                path.unlink() if new is None else path.write_bytes(new)
                what = f"{name} {how}"
                if not self.short or name in SHOWN or "notebook" in name:
                    self.check("damaged file, report", what, self.reported(run))
                if not self.short or random.Random(what).random() < 0.3:
                    self.check("damaged file, resumed", what, self.resumed(run))
                else:
                    self.check("damaged file, seen", what, self.seen(run))

    # ---- kills

    def started(self, run: Path, *more: str) -> int:
        "A child process that runs the study in this folder; its number"
        child = os.fork()
        if child == 0:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os._exit(call("run", *settings(self.home, run), *more)[0])
        return child

    def kills(self, wanted: int) -> None:
        "Killed at random moments, again and again, until it is through: figures equal to the bit, nothing left over"
        draw, n = random.Random(time.time_ns()), 0
        while n < wanted:
            run, began, killed = self.home / "runs" / "killed", time.monotonic(), 0
            whole = getattr(self, "seconds", 12.0)
            while True:
                child, patience = self.started(run), draw.uniform(0.05, 0.7 * whole) if killed < 6 else 1e6
                ended = time.monotonic() + patience
                while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < ended:
                    time.sleep(0.01)
                if done[0]:
                    break
                how = draw.choice([signal.SIGKILL, signal.SIGTERM])
                os.kill(child, how)
                os.waitpid(child, 0)
                killed, n = killed + 1, n + 1
            code = os.waitstatus_to_exitcode(done[1])
            wrong = f"exit code {code}" if code else "" if figures(run) == self.truth else "other figures"
            log = [json.loads(line) for f in run.glob("training/*/log.jsonl") for line in f.read_text().splitlines()]
            twice = Counter((line["model"], line["step"], "ev" in line, "val_1-EV" in line) for line in log)
            wrong = wrong or ("a line of a log is there twice" if max(twice.values(), default=0) > 1 else "")
            litter = [str(p.relative_to(run)) for p in run.rglob(".*")]
            wrong = wrong or (f"left over: {litter[0]}" if litter else "")
            for _ in range(max(killed, 1)):
                self.check(
                    "kill or SIGTERM at a random moment", f"{killed} kills in {time.monotonic() - began:.0f} s", wrong
                )
            shutil.rmtree(run)

    def two_at_once(self) -> None:
        "A second run in the same folder is refused while the first one works, and the first one is not harmed"
        run = self.home / "runs" / "shared"
        child = self.started(run)
        while not (run / ".run.lock").exists():
            time.sleep(0.01)
        code, _, err = call("run", *settings(self.home, run))
        wrong = one_sentence(code, err) or ("" if f"process {child} on" in err else err)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.check("two runs in one folder", "the second one", wrong)
        self.check("two runs in one folder", "the first one", f"exit code {code}" if code else "")
        self.check("two runs in one folder", "figures", "" if figures(run) == self.truth else "other figures")
        shutil.rmtree(run)

    # ---- numbers

    def numbers(self, cases: dict[str, dict[str, Any]]) -> None:
        "Sizes and values at the edge of what is possible: one sentence, or a whole run"
        for name, changed in cases.items():
            run = self.home / "runs" / "edge"
            code, _, err = call("run", *settings(self.home, run, **changed))
            self.check("numbers at the edge", name, one_sentence(code, err) if code else "")
            print(f"     {name}: {err.strip().splitlines()[-1][:200] if code else 'a whole run'}", flush=True)
            shutil.rmtree(run, ignore_errors=True)


EDGES: dict[str, dict[str, Any]] = {
    "one parent": {"concepts.parents": 1},
    "children of one parent only": {"concepts.max_children": 1},
    "every parent active": {"hsae.m_top": 3, "hsae.topk_parent": 3},
    "one child per latent": {"hsae.m_low": 1, "concepts.max_children": 1},
    "a learning rate of 1000": {"training.lr": 1000.0},
    "a learning rate of 1e30": {"training.lr": 1e30},
    "every latent dead at once": {"hsae.dead_after": 1},
    "an L1 weight of 1e6": {"hsae.l1_parent": 1e6, "hsae.l1_child": 1e6},
    "hardly a validation split": {"concepts.split": [0.98, 0.01, 0.01]},
    "a rank-deficient metric": {"geometry.shrinkage": 0.0, "geometry.eigen_floor": 0.0},
    "a metric without floor, half precision": {"data.store_dtype": "float16", "data.outlier_norm": 1e-3},
    "a subspace as wide as the residual": {"hsae.subspace_dim": 16},
    "few tokens": {"data.token_budget": 200},
    "one seed": {"eval.seeds": 1},
    "no doses": {"eval.steering_magnitudes": []},
    "a huge dose": {"eval.steering_magnitudes": [1e30]},
    "one draw of everything": {"eval.n_bootstrap": 1, "eval.validation.n_permutations": 1},
}


# ---- input

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


def one_error(work: Callable[[], Any]) -> None:
    "Do something; it may be refused in one sentence, within a second, and nothing else may happen"
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            work()
        except UserError as e:
            assert len(str(e).splitlines()) == 1, str(e)
    assert time.monotonic() - began < 1, f"took {time.monotonic() - began:.1f} s"


def fuzzed(faults: Faults, cases: int) -> None:
    "Configurations, overrides, templates, texts, word lists and every file of a run, with anything in them"
    how = dict(
        max_examples=cases, database=None, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False
    )

    def tried(kind: str, work: Callable[[], Any]) -> None:
        one_error(work)
        faults.passed[f"input: {kind}"] += 1

    def hold_up(kind: str, strategy: st.SearchStrategy, work: Callable[[Any], Any]) -> None:
        try:
            hypothesis.settings(**how)(given(strategy)(lambda value: tried(kind, lambda: work(value))))()
        except Exception as e:
            faults.check("input", kind, f"{type(e).__name__}: {e}"[:600])

    place = faults.home / "input"
    place.mkdir()
    written = lambda name, content: atomic_write(place / name, content)
    hold_up(
        "configuration", texts(), lambda text: load_config(written("a.yaml", text.encode("utf-8", "surrogatepass")))
    )
    hold_up("bytes as configuration", st.binary(max_size=300), lambda raw: load_config(written("b.yaml", raw)))
    pairs = st.one_of(texts(), st.tuples(st.sampled_from(config_keys()), texts()).map("=".join))
    hold_up("override", pairs, lambda text: absolute_paths(load_config("demo", [text])))
    hold_up("name of a configuration", texts(), load_config)
    frames = st.lists(
        st.sampled_from(["{a}", "{b}", "{x", "}", "{a.b}", "{a[0]}", "!r", ":>9", "{", "word ", "{}"]), max_size=9
    )
    hold_up("template", st.one_of(frames.map("".join), st.text(max_size=40)), check_frame)
    hold_up("text source", st.binary(max_size=400), lambda raw: check_source(str(written("c.txt", raw))))
    hold_up(
        "JSON lines",
        blobs(b'{"text": "a dog"}\n{"text": "a cat"}\n'),
        lambda raw: check_source(str(written("d.jsonl", raw))),
    )
    hold_up("table", blobs(b"id,text\n1,a dog\n2,a cat\n"), lambda raw: check_source(str(written("e.csv", raw))))
    tree = json.dumps(TAXONOMY).encode()
    hold_up("taxonomy", blobs(tree[:300] + b"]}}"), lambda raw: read_taxonomy(written("f.yaml", raw)))
    for kind, (path, read) in readers(faults.run).items():
        whole = path.read_bytes()

        def damaged(raw: bytes) -> None:
            path.write_bytes(raw)
            read(path)

        hold_up(kind, blobs(whole), damaged)
        path.write_bytes(whole)


PROMISES = {  # how the kinds of faults begin → what is promised, what is done, what comes of it
    "damaged file, report": (
        "a report shows no figure that the run has not left",
        "a file cut, emptied, with a bit flipped or a digit edited, of another run, deleted; then `report`",
        "the same page, or one sentence with the command that helps",
    ),
    "damaged file, resumed": (
        "a damaged run can go on",
        "the same; then `run --resume`",
        "the same figures to the bit, or one sentence",
    ),
    "damaged file, seen": (
        "no phase reads what an earlier one has not left",
        "the same; then a look at the list",
        "the damage is named",
    ),
    "kill": (
        "nothing is lost, and nothing counted twice",
        "SIGKILL and SIGTERM at random moments of a run, again and again, then the same command",
        "the same figures to the bit, no line of a log twice, nothing left over",
    ),
    "two runs": (
        "a folder has one run at a time",
        "a second run in the folder of a working one",
        "the second is refused",
    ),
    "numbers": (
        "what cannot be measured is named",
        "one parent, one child, all parents active, learning rates of 10³ and 10³⁰, no validation words, …",
        "a whole run, or one sentence",
    ),
    "input": (
        "whatever is read, a mistake is one sentence, within a second",
        "configurations, overrides, templates, texts, taxonomies and every file of a run, with anything in them",
        "read, or refused",
    ),
}


def rows(faults: Faults) -> list[dict[str, Any]]:
    "What was injected and what came of it, for the page on it"
    count = lambda begin: sum(n for kind, n in faults.passed.items() if kind.startswith(begin))
    return [
        dict(promise=promise, fault=fault, times=count(begin), outcome=outcome)
        for begin, (promise, fault, outcome) in PROMISES.items()
        if count(begin)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="a sample of each kind, as `make test` runs it")
    parser.add_argument("--only", choices=("files", "kills", "numbers", "input"), help="one kind of fault")
    parser.add_argument("--save", action="store_true", help="write the counts for the page on faults")
    args, started = parser.parse_args(), time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as d:
        faults = Faults(Path(d).resolve(), args.short)
        print(f"a run in miniature finished twice in {time.monotonic() - started:.0f} s", flush=True)
        faults.seconds = (time.monotonic() - started) / 2
        if not args.only or args.only == "files":
            faults.damaged_files()
        if not args.only or args.only == "kills":
            faults.two_at_once()
            faults.kills(2 if args.short else 40)
        if not args.only or args.only == "input":
            fuzzed(faults, 150 if args.short else 4_500)
        if not args.only or args.only == "numbers":
            faults.numbers(dict(list(EDGES.items())[:2]) if args.short else EDGES)
    if args.save and not (args.only or faults.failed):
        page = Path(__file__).resolve().parent.parent / "nbs" / "reports" / "faults.json"
        page.write_text(json.dumps(rows(faults), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for kind, n in faults.passed.items():
        print(f"ok   {n:5} {kind}")
    print(f"{time.monotonic() - started:.0f} s")
    print(f"{sum(faults.passed.values())} passed, {len(faults.failed)} failed")
    return 1 if faults.failed else 0


if __name__ == "__main__":
    sys.exit(main())
