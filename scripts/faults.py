"""Inject every fault that a run is meant to survive, and check what comes of each.

    python scripts/faults.py            # the long form: hundreds of damaged files, kills at random moments
    python scripts/faults.py --short    # a sample of each kind, for `make test`

A run in miniature (a model with random weights, a taxonomy and a text made here) is finished once; its copies are damaged,
killed and resumed. A fault passes when it is one sentence with exit code 2, or when the figures come out equal to the last
bit; a traceback, another figure or a run that cannot go on fails. Ends with `N passed`; exits 1 when anything failed.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator
from unittest.mock import patch

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}

import nbformat
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from polytope_hsae.results import load_results
from polytope_hsae.runner import cli

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
                self.check("damaged file, report", what, self.reported(run))
                self.check("damaged file, resumed", what, self.resumed(run))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="a sample of each kind, as `make test` runs it")
    args, started = parser.parse_args(), time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as d:
        faults = Faults(Path(d).resolve(), args.short)
        print(f"a run in miniature finished twice in {time.monotonic() - started:.0f} s", flush=True)
        faults.damaged_files()
    for kind, n in faults.passed.items():
        print(f"ok   {n:5} {kind}")
    print(f"{time.monotonic() - started:.0f} s")
    print(f"{sum(faults.passed.values())} passed, {len(faults.failed)} failed")
    return 1 if faults.failed else 0


if __name__ == "__main__":
    sys.exit(main())
