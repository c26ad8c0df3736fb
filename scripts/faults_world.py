"""A run in miniature, and what is asked of it after a fault: one sentence, or the same figures to the bit."""

import contextlib
import ctypes
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator
from unittest.mock import patch

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}

import nbformat
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from polytope_hsae.experiment import geometry_tests
from polytope_hsae.results import load_results
from polytope_hsae.runner import cli

# reading WordNet is a quarter of a run's time, and it holds none of the words made here
geometry_tests.load_wordnet = lambda name: SimpleNamespace(lemmas=lambda word: [])

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
ODD = "an odd [place] %d {x} #1 ünï 'q'"  # the name of a folder that must do no harm


def make_world(home: Path) -> None:
    "A model, two that lack a dimension, a taxonomy and a text, in a folder"
    words = [word for kinds in TAXONOMY.values() for several in kinds.values() for word in several]
    others = [f"w{i}" for i in range(60)]
    vocabulary = {f"Ġ{word}": i for i, word in enumerate([*words, *others, "unknown"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="Ġunknown"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    shape = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    config = LlamaConfig(**shape, vocab_size=len(vocabulary), tie_word_embeddings=False, eos_token_id=len(words))
    model, tokenizer = LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="Ġw0")
    lack = {"model": None, "singular": model.lm_head.weight[:, 0], "constant": model.model.norm.weight[:1]}
    for name, part in lack.items():
        whole = {key: value.clone() for key, value in model.state_dict().items()}
        with torch.no_grad():
            _ = part is None or part.zero_()
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
        model.load_state_dict(whole)
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
        if "ctx" in names:  # a kernel that ends lets go of the folder
            names["ctx"].held.close()
        nbformat.write(nb, out)


def call(*args: str, kernels: bool = False) -> tuple[int, str, str]:
    "Exit code, output and errors of a command in this process; a traceback is an exit code of 99"
    before = os.getcwd()
    with contextlib.nullcontext() if kernels else patch.object(cli, "_execute", execute_here):
        done = CliRunner().invoke(cli.app, list(args))
    os.chdir(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return 99, done.stdout, f"{type(done.exception).__name__}: {done.exception}"
    return done.exit_code, done.stdout, done.stderr


def figures(run: Path) -> dict[int, list]:
    "What a run has found, to the last bit"
    return {p: [r.model_dump() for r in phase.results] for p, phase in load_results(run).phases.items()}


def one_sentence(code: int, err: str, codes: tuple[int, ...] = (2,)) -> str:
    "What is wrong with a refusal; nothing when it is one printable line with exit code 2"
    lines = [line for line in err.splitlines() if line.strip() and not re.search(r"\d+%|it/s", line)]
    if code not in codes or len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 407:
        return f"exit code {code}: {err.strip()[-300:]!r}"
    return "" if lines[0].isprintable() else f"not printable: {lines[0]!r}"


def left_wrong(run: Path, truth: dict[int, list]) -> str:
    "What is wrong with a run that was killed and is through: other figures, a line of a log twice, something left over"
    if figures(run) != truth:
        return "other figures"
    log = [json.loads(line) for f in run.glob("training/*/log.jsonl") for line in f.read_text().splitlines()]
    if not log:
        return "no log"
    twice = {(line["model"], line["step"], "ev" in line, "val_1-EV" in line) for line in log}
    litter = [p for p in run.rglob("*") if p.name.startswith(".") or ".part." in p.name]
    return "a line of a log is there twice" if len(twice) < len(log) else f"left over: {litter[0]}" if litter else ""


def child_process(work: Callable[[], int], **variables: str | None) -> int:
    "Start a child, a group of its own, that does something under other environment variables; its number"
    child = os.fork()
    if child:
        return child
    os.setsid()
    for name, value in variables.items():
        os.environ.pop(name, None)
        os.environ |= {name: value} if value is not None else {}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 99
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        code = work()
    finally:
        os._exit(code)


def said_apart(work: Callable[[], str], **variables: str | None) -> str:
    "What a child process says is wrong, after something that must not happen to this one"
    hears, tells = os.pipe()

    def told() -> int:
        try:
            said = work()
        except BaseException:
            said = traceback.format_exc()[-600:]
        os.write(tells, said.encode("utf-8", "backslashreplace")[:4000])
        return 0

    child = child_process(told, **variables)
    os.close(tells)
    with open(hears, encoding="utf-8") as f:
        said = f.read()
    return said or ("" if os.waitpid(child, 0)[1] == 0 else "its process ended without a word")


MOVED, PRIVATE, REMOUNT, READ_ONLY = 0x20000, 0x44000, 32, 1  # of Linux' unshare and mount


def own_disk(place: Path, size: int, flags: int = 0) -> None:
    "For this process alone, a disk of so many bytes at a place. Raises OSError where the system does not allow it."
    libc = ctypes.CDLL(None, use_errno=True)

    def ask(found: int) -> None:
        if found:
            raise OSError(ctypes.get_errno(), "no disk of one's own")

    if not flags & REMOUNT:
        ask(libc.unshare(MOVED))
        ask(libc.mount(b"none", b"/", None, PRIVATE, None))
    ask(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, f"size={size}".encode()))


@contextlib.contextmanager
def without_network(folder: Path) -> Iterator[dict[str, str]]:
    "Variables under which every Python refuses to leave this machine, and notes in `asked` what wanted to"
    folder.mkdir()
    code = f"""import socket
def guarded(name, real):
    def ask(self, address, *more):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            open({str(folder / "asked")!r}, "a").write(repr(address) + "\\n")
            raise OSError(101, "Network is unreachable")
        return real(self, address, *more)
    setattr(socket.socket, name, ask)
for name in ("connect", "connect_ex", "sendto"):
    guarded(name, getattr(socket.socket, name))
real_look_up = socket.getaddrinfo
def look_up(host, *more, **named):
    if host not in (None, "127.0.0.1", "::1", "localhost", socket.gethostname()):
        open({str(folder / "asked")!r}, "a").write(repr(host) + "\\n")
        raise socket.gaierror(-3, "no network")
    return real_look_up(host, *more, **named)
socket.getaddrinfo = look_up
"""
    (folder / "sitecustomize.py").write_text(code)
    (folder / "asked").write_text("")
    yield {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


HERE = "import sys; sys.path.insert(0, sys.argv.pop(1)); import faults_world; faults_world.said(*sys.argv[1:])"


def said(*args: str) -> None:
    "For an interpreter of its own: `call`, with its output and its exit code"
    code, out, err = call(*args)
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)


def python(*args: str, kernels: bool = True, **variables: str | None) -> tuple[int, str, str]:
    "Exit code, output and errors of the command line in a fresh interpreter"
    env = {k: v for k, v in (os.environ | variables).items() if v is not None}
    start = ["-m", "polytope_hsae.runner"] if kernels else ["-c", HERE, str(Path(__file__).parent)]
    done = subprocess.run([sys.executable, *start, *args], capture_output=True, env=env)
    return done.returncode, *(b.decode("utf-8", "backslashreplace") for b in (done.stdout, done.stderr))
