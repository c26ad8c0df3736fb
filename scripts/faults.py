"""Inject every fault that a run is meant to survive, and check what comes of each.

    python scripts/faults.py            # the long form: hundreds of damaged files, kills at random moments
    python scripts/faults.py --short    # a sample of each kind, for `make test`
    python scripts/faults.py --only input --save    # one kind in its long form; its counts go to the page on faults

A run in miniature (a model with random weights, a taxonomy and a text made here) is finished once, then damaged, killed
and resumed. A fault passes when it is one sentence with exit code 2, or when the figures come out equal to the last
bit; a traceback, another figure or a run that cannot go on fails. Ends with `N passed`; exits 1 when anything failed.
With `--save` each kind that ran in its long form and failed nowhere leaves its count in nbs/reports/faults.json.
"""

import argparse
import contextlib
import errno
import importlib
import itertools
import json
import math
import os
import random
import re
import resource
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence
from unittest.mock import patch

import psutil
import torch
from faults_input import cases
from faults_world import (
    ODD,
    READ_ONLY,
    REMOUNT,
    call,
    child_process,
    figures,
    left_wrong,
    make_world,
    one_sentence,
    own_disk,
    python,
    said_apart,
    settings,
    without_network,
)

from polytope_hsae.activations.store import ActivationStore
from polytope_hsae.config import absolute_paths, load_config, read_saved
from polytope_hsae.core import UserError, one_line
from polytope_hsae.runner import cli
from polytope_hsae.runner.lock import PHASE_LOCK, RUN_LOCK
from polytope_hsae.runner.phase import PHASES, experiments_dir, verify_run

capture = importlib.import_module("polytope_hsae.activations.capture")  # the door has a function of this name
training_step = importlib.import_module("polytope_hsae.training.step")
MIB = 2**20
TUNED = {"training.tune.lr": [3e-4, 1e-2], "training.tune.steps": 8}  # beside the settings of a run in miniature

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


class Faults:
    "A finished run, another one, and what came of every fault."

    def __init__(self, home: Path, short: bool):
        self.home, self.short, self.wanted = home, short, 40
        self.passed, self.failed = Counter(), Counter()
        make_world(home)
        self.run, self.umask = home / "runs" / "whole", 0o027
        began = time.monotonic()
        with patch("os.fsync", wraps=os.fsync) as written:
            code, _, err = call("run", *settings(home, self.run))
        assert code == 0, err
        self.seconds, self.writes = time.monotonic() - began, written.call_count
        self.truth = figures(self.run)
        self.page = self.shown(self.run)

    @cached_property
    def other(self) -> Path:
        "A run with another seed, in an awkward place, under another umask; in the short form half of one"
        run, part = self.home / "runs" / ODD, ("--phase", "1", "--phase", "2") if self.short else ()
        with masked(self.umask):
            code, _, err = call("run", *settings(self.home, run, **{"run.seed": 321}), *part)
        assert code == 0, err
        return run

    def shown(self, run: Path) -> str:
        "The report of a run, without what it cost and the commit it was made at, which may move meanwhile"
        page = re.sub(r"<h3 id=.cost.>.*?</table>", "", (run / "report.html").read_text(), flags=re.S)
        return re.sub(r"commit <code>.*?</code>", "", page)

    def check(self, kind: str, name: str, wrong: str, times: int = 1) -> None:
        "Count a fault that was injected, and print it where it was not borne"
        (self.failed if wrong else self.passed)[kind] += times
        if wrong:
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
            return self.refused(code, err)
        return "" if figures(run) == self.truth and self.shown(run) == self.page else "other figures, exit code 0"

    def reported(self, run: Path) -> str:
        "What is wrong with the report of a damaged run"
        code, out, err = call("report", str(run))
        if code:
            return self.refused(code, err)
        return "" if self.shown(run) == self.page else "another report, exit code 0"

    def refused(self, code: int, err: str) -> str:
        "What is wrong with a refusal of a damaged run: no sentence, or no command that helps"
        return one_sentence(code, err) or ("" if "polytope-hsae run" in err else f"no command: {err.strip()!r}")

    def seen(self, run: Path) -> str:
        "What is wrong when a damaged run is asked whether it is whole"
        try:
            read_saved(run)
            cfg = absolute_paths(load_config(run / "config.yaml"))
            verify_run(run)
            if any(cli.why_unfinished(cfg, run, p, experiments_dir()) for p in (1, 2, 3, 4)):
                return ""
            ActivationStore(run / "activations").load()
        except UserError as e:
            return self.refused(2, f"error: {one_line(str(e), 400)}")
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        return "not seen"

    def damaged_files(self) -> None:
        "Every file of the run, damaged in every way: reported, then resumed; none of it is asked of a whole one"
        with self.copy() as run:
            wrong = "damage is seen where there is none" if self.seen(run) != "not seen" else ""
            (run / "report.html").unlink()
            self.check("no damage", "a whole run", wrong or self.reported(run) or self.resumed(run))
        names = sorted(str(p.relative_to(self.run)) for p in self.run.rglob("*") if p.is_file())
        cases = [(name, how) for name in names if not AIDS.fullmatch(name) for how in DAMAGES]
        random.Random(0 if self.short else time.time_ns()).shuffle(cases)
        kind_of = lambda name: re.sub(r"[a-z_]+/seed_\d+|[a-z_]+_[0-9a-f]{8}|(?<=shard_)\d+", "", name)
        which = lambda case: kind_of(case[0]) if self.short else (kind_of(case[0]), case[1])
        cases = list({which(case): case for case in cases}.values())  # variants, seeds and shards stand for one another
        for name, how in cases:
            with self.copy() as run:
                path, other = run / name, self.other / name
                new = DAMAGES[how](path.read_bytes(), other.read_bytes() if other.exists() else b"other")
                path.unlink() if new is None else path.write_bytes(new)
                what = f"{name} {how}"
                if not self.short or name in SHOWN or "notebook" in name:
                    self.check("damaged file, report", what, self.reported(run))
                if not self.short or random.Random(what).random() < 0.08:
                    self.check("damaged file, resumed", what, self.resumed(run))
                else:
                    self.check("damaged file, seen", what, self.seen(run))

    # ---- kills

    @cached_property
    def tuned_truth(self) -> dict[int, list]:
        "The figures of an undisturbed run that tunes as well"
        run = self.home / "runs" / "tuned"
        code, _, err = call("run", *settings(self.home, run, **TUNED))
        assert code == 0, err
        return figures(run)

    def started(self, run: Path, *more: str, kernels: bool = False, tuned: bool = False) -> int:
        "A child process that runs the study in this folder; its number"

        def work() -> int:
            asked = more or settings(self.home, run, **(TUNED if tuned else {}))
            code, _, err = call("run", *asked, kernels=kernels)
            (self.home / "said").write_text(err)
            return code

        return child_process(work)

    def ended(self, child: int, patience: float) -> int | None:
        "The exit code of a child; None when it is still at work after so many seconds"
        until = time.monotonic() + patience
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                return None
            time.sleep(0.01)
        return os.waitstatus_to_exitcode(done[1])

    def killed_until_through(
        self, kind: str, run: Path, most: int, moment: Callable[[], float], kill: Callable[[int], str], **how: Any
    ) -> int:
        "Kill a run at random moments, go on, until it is through: figures equal to the bit, nothing left over"
        killed, wrongs, resume = 0, [], ("--resume", "--set", f"logging.save_dir={run}")
        truth = self.tuned_truth if how.get("tuned") else self.truth
        while True:
            more = resume if (run / "config.yaml").exists() else ()
            child = self.started(run, *more, **how)
            if (code := self.ended(child, moment() if killed < most else 1e6)) is not None:
                break
            wrongs.append(kill(child))
            killed += 1
        wrong = f"exit code {code}: {(self.home / 'said').read_text()[-300:]!r}" if code else left_wrong(run, truth)
        for own in wrongs or [""]:
            self.check(kind, f"one of {killed} kills", own or wrong)
        shutil.rmtree(run)
        return max(killed, 1)

    def kills(self, wanted: int) -> None:
        "SIGKILL and SIGTERM, phases in the process that is killed, renames that take their time"
        draw, n, run = random.Random(time.time_ns()), 0, self.home / "runs" / "killed"
        replace = os.replace

        def slowly(*args: Any) -> None:
            time.sleep(draw.uniform(0, 0.03))
            replace(*args)

        while n < wanted:
            moment = lambda: draw.uniform(0.05, 0.4 * self.seconds)
            with patch("os.replace", slowly):
                kind = "kill or SIGTERM at a random moment"
                n += self.killed_until_through(kind, run, wanted - n, moment, self.kill, tuned=True)

    def kernels(self, wanted: int) -> None:
        "The whole with real kernels: once undisturbed without a network, then killed in every way at random moments"
        run, draw, n, began = self.home / "runs" / "kernels", random.Random(time.time_ns()), 0, time.monotonic()
        with without_network(self.home / "alone") as alone:
            alone |= {"HF_HUB_OFFLINE": None, "PYTHONHASHSEED": str(draw.randrange(2**32))}
            work = lambda: (
                runpy.run_path(str(self.home / "alone" / "sitecustomize.py")),
                call("run", *settings(self.home, run, **TUNED), kernels=True),
            )[1][0]
            code = self.ended(child_process(work, **alone), 1e6)
            wrong = f"exit code {code}" if code else left_wrong(run, self.tuned_truth)
            self.check("same figures: kernels of their own, another PYTHONHASHSEED", run.name, wrong)
            asked = (self.home / "alone" / "asked").read_text()
            self.check("network: a run that cannot leave this machine", run.name, asked or wrong)
        whole = time.monotonic() - began
        print(f"     a run with kernels of its own took {whole:.0f} s", flush=True)
        shutil.rmtree(run)

        def kill(child: int) -> str:
            return self.kill_with_kernels(child, draw.choice(["group", "kernel", "SIGTERM", "Ctrl-C"]))

        while n < wanted:
            moment = lambda: draw.uniform(0.5, 0.35 * whole)
            kind = "kill of a run with kernels at a random moment"
            n += self.killed_until_through(kind, run, min(14, wanted - n), moment, kill, kernels=True, tuned=True)
            print(f"     {n} kills, {time.monotonic() - began:.0f} s", flush=True)

    def kill_with_kernels(self, child: int, how: str) -> str:
        "End a run in one way; what is wrong with what it says, or with what it leaves running"
        family = psutil.Process(child).children(recursive=True)
        kernels = [p for p in family if "ipykernel" in command_of(p)]
        if how == "kernel" and kernels:
            kernels[0].kill()
            code = self.ended(child, 60)
            said = (self.home / "said").read_text()
            wrong = one_sentence(code or 0, said, (1,)) or ("" if "was killed" in said else said)
        else:
            os.killpg(child, {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}.get(how, signal.SIGKILL))
            wrong = "" if self.ended(child, 60) is not None else f"it goes on after {how}"
            if wrong:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
        alive = [command_of(p) for p in psutil.wait_procs(family, timeout=20)[1]]
        return wrong or (f"{how} left running: {alive[0]}" if any(alive) else "")

    def started_and_asked_for_again(self, run: Path) -> int:
        "A child process that runs the study; a second run in its folder, refused while the first one works, is counted"
        child, until = self.started(run), time.monotonic() + 60
        while not (run / ".run.lock").exists() and time.monotonic() < until:
            time.sleep(0.01)
        code, _, err = call("run", *settings(self.home, run))
        wrong = one_sentence(code, err) or ("" if f"process {child} on" in err else err)
        self.check("two runs in one folder", "the second one", wrong)
        return child

    def sample(self) -> None:
        "For `make test`: one run that meets a full disk, is asked for twice, and is killed, until it is through"
        run, draw = self.home / "runs" / f"{ODD} again", random.Random(time.time_ns())
        self.odd_run()
        self.stale_locks([RUN_LOCK])
        at = draw.randrange(40)
        self.check("storage: disk full", f"at write {at}", said_apart(lambda: self.filled(run, errno.ENOSPC, at)))
        child = self.started_and_asked_for_again(run)
        time.sleep(draw.uniform(0, 0.3 * self.seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        moment = lambda: draw.uniform(0.05, 0.4 * self.seconds)
        self.killed_until_through("kill or SIGTERM at a random moment", run, 1, moment, self.kill)

    def kill(self, child: int) -> str:
        "End a child without a word or with one"
        os.kill(child, random.choice([signal.SIGKILL, signal.SIGTERM]))
        os.waitpid(child, 0)
        return ""

    def two_at_once(self) -> None:
        "A second run in the same folder is refused while the first one works, and the first one is not harmed"
        run = self.home / "runs" / "shared"
        child = self.started_and_asked_for_again(run)
        code = self.ended(child, 1e6) or 0
        self.check("two runs in one folder", "the first one", f"exit code {code}" if code else "")
        self.check("two runs in one folder", "figures", "" if figures(run) == self.truth else "other figures")
        shutil.rmtree(run)

    # ---- storage

    def goes_on(self, run: Path, code: int, err: str) -> str:
        "What is wrong after a run that could not write: no sentence, or it does not go on when it can"
        if wrong := one_sentence(code, err, (1, 2)):
            return wrong
        return self.through(run)

    def through(self, run: Path) -> str:
        "What is wrong after a run that is begun or goes on, and nothing is in its way"
        code, _, err = call("run", *settings(self.home, run))
        return f"exit code {code}: {err[-300:]!r}" if code else left_wrong(run, self.truth)

    def filled(self, run: Path, number: int, writes: int) -> str:
        "A run of which a write and all later ones fail with an error of the system"
        count, sync = itertools.count(), os.fsync

        def full(file: int) -> None:
            if next(count) >= writes:
                raise OSError(number, os.strerror(number))
            sync(file)

        with patch("os.fsync", full):
            code, _, err = call("run", *settings(self.home, run))
        return one_sentence(code, err, (1, 2))

    def unwritten(self, number: int, writes: int) -> str:
        "The same, and then the run is given room"
        run = self.home / "runs" / "unwritten"
        wrong = self.filled(run, number, writes) or self.through(run)
        shutil.rmtree(run)
        return wrong

    def small_disk(self, size: int) -> str:
        "A run on a disk that it fills, then on a larger one, then on one that is read-only"
        disk = self.home / "disk"
        disk.mkdir(exist_ok=True)
        try:
            own_disk(disk, size)
        except OSError as e:
            return f"not tried: {e.strerror}"
        code, _, err = call("run", *settings(self.home, disk / "run"))
        own_disk(disk, 64 * MIB, REMOUNT)
        wrong = self.goes_on(disk / "run", code, err)
        own_disk(disk, 64 * MIB, REMOUNT | READ_ONLY)
        code, _, err = call("run", *settings(self.home, disk / "new"))
        return wrong or one_sentence(code, err, (1, 2)) or ("" if "read-only" in err.lower() else err)

    def short_files(self, size: int) -> str:
        "A run that may write no file larger than this, then one that may"
        run, unlimited = self.home / "runs" / "limited", (resource.RLIM_INFINITY,) * 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        code, _, err = call("run", *settings(self.home, run))
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        wrong = self.goes_on(run, code, err)
        shutil.rmtree(run)
        return wrong

    def renamed(self, number: int, done: bool) -> str:
        "A run that is killed while one of its renames takes long, before it is done or just after; then it goes on"
        run, count, rename = self.home / "runs" / "renamed", itertools.count(), os.replace

        def slowly(*args: Any) -> None:
            last = next(count) >= number
            if done or not last:
                rename(*args)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

        with patch("os.replace", slowly):
            code = self.ended(self.started(run), 1e6)
        wrong = self.through(run) if code == -signal.SIGKILL else f"exit code {code}, not killed"
        shutil.rmtree(run)
        return wrong

    def two_threads(self) -> str:
        "A whole run with another number of threads"
        torch.set_num_threads(2)
        run = self.home / "runs" / "threads"
        code, _, err = call("run", *settings(self.home, run))
        return f"exit code {code}: {err[-300:]!r}" if code else apart(figures(run), self.truth, 1e-4)

    def afresh(self, **variables: str | None) -> str:
        "A whole run in an interpreter that starts under other environment variables"
        run = self.home / "runs" / "afresh"
        code, _, err = python("run", *settings(self.home, run), kernels=False, **variables)
        wrong = f"exit code {code}: {err[-300:]!r}" if code else left_wrong(run, self.truth)
        shutil.rmtree(run, ignore_errors=True)
        return wrong

    def odd_run(self) -> None:
        "The other run has an awkward path, and was made under another umask"
        self.check("storage: a path with spaces, brackets, %, quotes", ODD, "")
        wrong = (f"{p}: {p.stat().st_mode:o}" for p in (self.other, *self.other.rglob("*")) if not self.as_masked(p))
        self.check("storage: modes follow the umask", f"{self.umask:o}", next(wrong, ""))

    def as_masked(self, path: Path) -> bool:
        "Whether a file or folder of the other run has the mode that its umask leaves"
        return path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~self.umask

    def stale_locks(self, names: Sequence[str]) -> None:
        "Locks that nobody holds any more: what was left here does no harm, and another machine's is told"
        here, gone = socket.gethostname(), 2**22 + 1  # no process has this number
        left = {"of a process that is gone": json.dumps({"host": here, "pid": gone}), "empty": "", "cut": '{"host": '}
        for name, (what, content) in itertools.product(names, left.items()):
            with self.copy() as run:
                (run / name).write_text(content)
                wrong = self.resumed(run) or (f"{name} is left over" if (run / name).exists() else "")
                self.check("storage: a stale lock", f"{name} {what}", wrong)
        for name in names:
            with self.copy() as run:
                (run / name).write_text(json.dumps({"host": "far-away", "pid": 1}))
                code, _, err = call("run", "--resume", "--set", f"logging.save_dir={run}")
                wrong = one_sentence(code, err) or ("" if "far-away" in err and f"delete {run / name}" in err else err)
                (run / name).unlink()
                self.check("storage: a stale lock", f"{name} of another machine", wrong or self.resumed(run))

    def storage(self) -> None:
        "Disks that are full or read-only, renames that take long, locks of the dead, no home, no cache"
        draw = random.Random(time.time_ns())
        self.odd_run()
        self.stale_locks([RUN_LOCK, PHASE_LOCK])
        full = [(errno.ENOSPC, "disk full"), (errno.EDQUOT, "quota used up")]
        for number, name in full * 4:
            at = draw.randrange(self.writes)
            self.check(f"storage: {name}", f"at write {at}", said_apart(lambda: self.unwritten(number, at)))
        for done in (False, True) * 2:
            at = draw.randrange(self.writes)
            self.check("storage: slow rename", f"killed at rename {at}", self.renamed(at, done))
        sizes = [-(-p.stat().st_size // 4096) * 4096 for p in self.run.rglob("*") if p.is_file()]
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            wrong = said_apart(lambda: self.small_disk(int(share * sum(sizes))))
            if wrong.startswith("not tried"):
                print(f"     a disk of its own: {wrong}", flush=True)
                break
            self.check("storage: disk full", f"a disk of {share:.0%} of what is needed", wrong)
            self.check("storage: disk read-only", f"after one of {share:.0%}", wrong)
        for share in (0.01, 0.1, 0.5):
            wrong = said_apart(lambda: self.short_files(int(share * max(sizes))))
            self.check("storage: disk full", f"files of at most {share:.0%} of the largest", wrong)
        self.check("storage: no HOME", "unset", self.afresh(HOME=None, USER=None, LOGNAME=None, XDG_CACHE_HOME=None))
        self.check("storage: no HOME", "not there", self.afresh(HOME="/nonexistent", PYTHONHASHSEED="7"))
        nowhere = "/proc/nowhere"
        code, _, err = python("run", "--set", f"logging.save_dir={self.home / 'c'}", POLYTOPE_HSAE_CACHE=nowhere)
        self.check("storage: cache not writable", nowhere, one_sentence(code, err, (1, 2)))
        for encoding in ("ascii", "cp1252", "utf-8"):
            code, _, err = python("config", "check", "naïve 道 \u202e.yaml", PYTHONIOENCODING=encoding)
            self.check("storage: a terminal that cannot show everything", encoding, one_sentence(code, err))
        self.check("same figures: two threads", "to 1e-4", said_apart(self.two_threads))

    # ---- numbers

    def numbers(self, edges: dict[str, tuple[str, dict[str, Any]]]) -> None:
        "Sizes and values at the edge of what is possible: the sentence that is due, or a whole run where none is"
        for name, (says, changed) in edges.items():
            run = self.home / "runs" / "edge"
            changed = changed | {k: self.home / v for k, v in changed.items() if k == "model.name"}
            code, _, err = call("run", *settings(self.home, run, **changed))
            refused = one_sentence(code, err) or ("" if says and re.search(says, err) else f"not foreseen: {err}")
            whole = f"a whole run, but foreseen is {says}" if says else unfit(run) if code == 0 else ""
            self.check("numbers: at the edge", name, refused if code else whole)
            print(f"     {name}: {err.strip().splitlines()[-1][:200] if code else 'a whole run'}", flush=True)
            shutil.rmtree(run, ignore_errors=True)

    def planted(self, name: str) -> None:
        "A number that is not finite, or no variance at all, in the middle of a run: one sentence that says so"
        run, (phase, says, plant) = self.home / "runs" / "planted", PLANTED[name]
        with plant():
            if phase == 1:
                code, _, err = call("run", *settings(self.home, run), "--phase", "1")
            else:
                shutil.copytree(self.run, run)
                for old in [PHASES[p].folder for p in (2, 3, 4)] + ["training", "checkpoints", "tuning"]:
                    shutil.rmtree(run / old, ignore_errors=True)
                code, _, err = call("run", "--resume", "--set", f"logging.save_dir={run}")
        wrong = one_sentence(code, err) or ("" if re.search(says, err) else f"not foreseen: {err}")
        self.check("numbers: planted", name, wrong)
        print(f"     {name}: {(err.strip().splitlines() or ['nothing said'])[-1][:200]}", flush=True)
        shutil.rmtree(run, ignore_errors=True)


@contextlib.contextmanager
def masked(umask: int) -> Iterator[None]:
    "While open, files that are made lack these permissions"
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def command_of(process: psutil.Process) -> str:
    "The command line of a process; empty when it has ended"
    try:
        return " ".join(process.cmdline()) if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def unfit(run: Path) -> str:
    "The first figure of a run that is neither finite nor said to be unknown"
    for phase in figures(run).values():
        for r in phase:
            if not math.isfinite(r["value"]) and r["verdict"] not in (None, "cannot tell", "not measured"):
                return f"{r['statistic']} is {r['value']}, and the verdict {r['verdict']}"
    return ""


def apart(found: dict[int, list], truth: dict[int, list], tolerance: float) -> str:
    "The first figure that differs by more than this, relative to its size and to 1, or is known in one only"
    for p, phase in truth.items():
        for mine, theirs in zip(found[p], phase, strict=True):
            a, b = mine["value"], theirs["value"]
            known = math.isfinite(a) and math.isfinite(b)
            if abs(a - b) > tolerance * max(abs(a), abs(b), 1) if known else str(a) != str(b):
                return f"{mine['statistic']} of phase {p} is {a} and {b}"
    return ""


def spoiled(module: Any, name: str, first: int, change: Callable[[Any], Any]) -> contextlib.AbstractContextManager:
    "While open, what a function returns is changed from one of its calls on"
    real, count = getattr(module, name), itertools.count()

    def work(*args: Any, **named: Any) -> Any:
        found = real(*args, **named)
        return change(found) if next(count) >= first else found

    return patch.object(module, name, work)


def steep(self: Any, *args: Any, **named: Any) -> Any:
    "A backward pass after which one gradient is infinite"
    losses = BACKWARD(self, *args, **named)
    if args[2] >= 10:
        next(p for p in self.sae.parameters() if p.grad is not None).grad.flatten()[0] = float("inf")
    return losses


def deaf(self: Any, *args: Any, **named: Any) -> None:
    "A step after which no parent can fire"
    APPLY(self, *args, **named)
    if hasattr(self.sae, "parent_bias_P"):
        self.sae.parent_bias_P.data.fill_(-1e9)


NO_GUARD: dict[str, Any] = {"geometry.shrinkage": 0.0, "geometry.eigen_floor": 0.0}
BACKWARD, APPLY = training_step.Trainee._backward, training_step.Trainee.apply
stream = lambda change: lambda: spoiled(capture, "residual_stream", 9, change)
PLANTED: dict[str, tuple[int, str, Callable[[], contextlib.AbstractContextManager]]] = {
    "NaN in the activations": (1, "NaN", stream(lambda t: t.index_fill(1, torch.tensor([3]), float("nan")))),
    "infinity in the activations": (1, "NaN or infinity|not finite", stream(lambda t: t / 0)),
    "activations beyond float16": (1, "float16|store_dtype", stream(lambda t: t * 1e6)),
    "activations that never vary": (
        1,
        "do not vary",
        lambda: spoiled(capture, "residual_stream", 0, torch.ones_like),
    ),
    "NaN in the loss": (
        2,
        r"\bnan\b",
        lambda: spoiled(training_step, "loss_terms", 9, lambda x: x._replace(total=x.total * float("nan"))),
    ),
    "NaN in a term of the loss": (
        2,
        r"\bnan\b",
        lambda: spoiled(training_step, "loss_terms", 9, lambda x: x._replace(l1_parent=x.l1_parent * float("nan"))),
    ),
    "infinity in a gradient": (2, "gradient norm inf", lambda: patch.object(training_step.Trainee, "_backward", steep)),
    "every parent dead": (2, "no latent of .* fires", lambda: patch.object(training_step.Trainee, "apply", deaf)),
}
EDGES: dict[str, tuple[str, dict[str, Any]]] = {  # name → the sentence that is due, none for a whole run; settings
    "one parent": ("give at least 2", {"concepts.parents": 1}),
    "one child per parent": ("needs two children", {"concepts.max_children": 1}),
    "parents without children": ("max_children is 0", {"concepts.max_children": 0}),
    "one concept": ("needs two children|give at least 2", {"concepts.parents": 1, "concepts.max_children": 1}),
    "every parent active, k = m_top": ("", {"hsae.m_top": 3, "hsae.topk_parent": 3}),
    "more parents active than there are": ("only hsae.m_top=8", {"hsae.topk_parent": 9}),
    "one child latent per parent, m_low = 1": ("leaves no latent for each", {"hsae.m_low": 1}),
    "a learning rate of 1000": ("training.lr is 1000", {"training.lr": 1000.0}),
    "a learning rate of 10": ("|diverged|no latent|gradient norm|nan|inf", {"training.lr": 10.0}),
    "every latent counted as dead": ("", {"hsae.dead_after": 1}),
    "an L1 weight of 1e6": ("", {"hsae.l1_parent": 1e6, "hsae.l1_child": 1e6}),
    "an empty validation split": ("three shares above 0", {"concepts.split": [0.75, 0.0, 0.25]}),
    "hardly a validation split": ("are of one parent", {"concepts.split": [0.98, 0.01, 0.01]}),
    "a rank-deficient metric": ("is singular", NO_GUARD | {"model.name": "singular"}),
    "a rank-deficient metric with its guards": ("", {"model.name": "singular"}),
    "a metric without guards": ("", NO_GUARD),
    "residuals with a constant dimension": ("", {"model.name": "constant"}),
    "every position an outlier": ("has no contexts", {"data.outlier_norm": 1e-3}),
    "a subspace as wide as the residual": ("at most 15", {"hsae.subspace_dim": 16}),
    "few tokens": ("raise data.token_budget", {"data.token_budget": 200}),
    "targets that are no numbers": ("purity is nan", {"eval.targets.purity": ".nan"}),
    "infinite targets": ("leakage is -inf", {"eval.targets.leakage": "-.inf"}),
    "one seed": ("", {"eval.seeds": 1}),
    "no doses": ("steering_magnitudes is empty", {"eval.steering_magnitudes": []}),
    "a huge dose": ("push of 1e.30", {"eval.steering_magnitudes": [1e30]}),
    "one draw of everything": ("", {"eval.n_bootstrap": 1, "eval.validation.n_permutations": 1}),
}


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
    "no damage": (
        "a whole run is kept as it is",
        "none; then `report` and `run --resume`",
        "no damage is seen, the same page and the same figures to the bit",
    ),
    "kill or": (
        "nothing is lost, and nothing counted twice",
        "SIGKILL and SIGTERM at random moments of a run, with slow renames, again and again, then `run --resume`",
        "the same figures to the bit, no line of a log twice, nothing left over",
    ),
    "kill of": (
        "the same with kernels, which end with the run",
        "SIGKILL of the process group or of the kernel alone, SIGTERM, Ctrl-C, at random moments; then `run --resume`",
        "the same; no process is left running",
    ),
    "network": (
        "a run asks for nothing beyond this machine",
        "a run whose sockets refuse to leave it",
        "nothing was asked for",
    ),
    "same figures": (
        "figures depend on settings, code and data",
        "fresh kernels with another PYTHONHASHSEED; two threads instead of one",
        "the same to the bit; to four digits between numbers of threads",
    ),
    "storage": (
        "a disk that cannot be written costs nothing but time",
        "disk full or quota used up at some write, small disks, small files, read-only, a kill before or after a slow "
        "rename, stale locks, no HOME, no cache, odd paths, another umask",
        "one sentence; given room, the same figures to the bit",
    ),
    "two runs": (
        "a folder has one run at a time",
        "a second run in the folder of a working one",
        "the second is refused",
    ),
    "numbers": (
        "what cannot be measured is named",
        "one parent, one concept, one child, no children, k = m_top, m_low = 1, learning rates of 10 and 10³, hardly "
        "any validation words or none, a metric without full rank, targets and doses out of bounds; NaN, infinity, "
        "float16 overflow or no variance in activations, NaN in a loss, infinity in a gradient, every parent dead",
        "the sentence that is due, or a whole run",
    ),
    "input": (
        "whatever is read, a mistake is one sentence, within a second",
        "configurations, overrides, templates, texts, taxonomies and every file of a run, with anything in them",
        "read, or refused",
    ),
}


def save(part: str, counts: dict[str, int]) -> None:
    "Write what a part has injected, by kind, for the page on faults; other kinds stay as they were"
    page = Path(__file__).resolve().parent.parent / "nbs" / "reports" / "faults.json"
    kept = {row["promise"]: row.get("of", {}) for row in json.loads(page.read_text(encoding="utf-8"))}
    rows = []
    for begin, (promise, fault, outcome) in PROMISES.items():
        kinds = {kind: n for kind, n in counts.items() if kind.startswith(begin)}
        of = kept.get(promise, {})
        of |= {part: of.get(part, {}) | kinds} if kinds else {}
        times = sum(n for kinds in of.values() for n in kinds.values())
        rows.append(dict(promise=promise, fault=fault, times=times, outcome=outcome, of=of))
    page.write_text(json.dumps([r for r in rows if r["of"]], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parts(faults: Faults) -> dict[str, Callable[[], None]]:
    "What is injected, by kind, in the form asked for"
    short, planted = faults.short, list(PLANTED)

    def kills() -> None:
        faults.two_at_once()
        faults.kills(40)

    def fuzz() -> None:
        for kind, tried, wrong in cases(faults.home / "input", faults.run, 60 if short else 5_200):
            faults.check(f"input: {kind}", kind, "", tried)
            if wrong:
                faults.check(f"input: {kind}", kind, wrong)

    def numbers() -> None:
        faults.numbers(dict(list(EDGES.items())[:1]) if short else EDGES)
        for name in planted[:1] + planted[4:5] if short else planted:
            faults.planted(name)

    found = dict(files=faults.damaged_files, kills=faults.sample if short else kills, input=fuzz, numbers=numbers)
    return found if short else found | {"storage": faults.storage, "kernels": lambda: faults.kernels(faults.wanted)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="a sample of each kind, as `make test` runs it")
    parser.add_argument("--only", help="one kind of fault: files, kills, input, numbers, storage, kernels")
    parser.add_argument("--kills", type=int, default=40, help="of runs with kernels, in the long form")
    parser.add_argument("--save", action="store_true", help="write the counts for the page on faults")
    args, started = parser.parse_args(), time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as d:
        faults = Faults(Path(d).resolve(), args.short)
        faults.wanted = args.kills
        print(f"a run in miniature took {time.monotonic() - started:.0f} s", flush=True)
        for name, part in parts(faults).items():
            if args.only in (None, name):
                began, used, before = time.monotonic(), os.times(), Counter(faults.passed)
                try:
                    part()
                except Exception:
                    faults.check(name, "the harness itself", traceback.format_exc())
                cpu = sum(now - then for now, then in zip(os.times()[:4], used[:4]))
                print(f"     {name}: {time.monotonic() - began:.0f} s, {cpu:.0f} s of CPU", flush=True)
                if args.save and not args.short:
                    found = faults.passed - before
                    save(name, {kind: n for kind, n in found.items() if kind not in faults.failed})
    for kind, n in faults.passed.items():
        print(f"ok   {n:6} {kind}")
    print(f"{time.monotonic() - started:.0f} s, {sum(os.times()[:4]):.0f} s of CPU")
    print(f"{sum(faults.passed.values())} passed, {sum(faults.failed.values())} failed")
    return 1 if faults.failed else 0


if __name__ == "__main__":
    sys.exit(main())
