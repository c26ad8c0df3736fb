"""Runs of three sizes beside what was planned for them, all on one thread and in CPU time, so that a shared machine
may be used.

    python benchmarks/plan.py [--sizes small middle large] [--save benchmarks/results/plan.json]

Every phase of a run is a command of its own, `polytope-hsae run --phase N`; its CPU time is that of the command and the
kernel it starts. The machine is probed before and after each run, and the middle of both is what the plan is asked at.
Prints planned over measured for time, memory and disk. A quarter of an hour to an hour of CPU time.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from polytope_hsae.config import load_config
from polytope_hsae.core import atomic_write
from polytope_hsae.experiment.plan import Amounts, disk_parts, model_shape, plan_phases, probe

SIZES = {
    "small": (
        "data.token_budget=20_000",
        "concepts.parents=12",
        "eval.seeds=1",
        "eval.validation={n_permutations: 1, other_pos: false, metrics: [], published: false}",
        "training.baseline.steps=100",
        "training.stage_B.steps=100",
        "hsae.m_top=32",
        "hsae.topk_parent=2",
        "logging.log_every=50",
    ),
    "middle": (
        "data.token_budget=40_000",
        "eval.seeds=2",
        "eval.validation={n_permutations: 2, metrics: [euclidean]}",
        "training.baseline.steps=200",
        "training.stage_B.steps=200",
    ),
    "large": (
        "eval.validation.n_permutations=5",
        "hsae.m_top=256",
        "hsae.subspace_dim=32",
        "training.batch_size_acts=2048",
        "eval.seeds=2",
        "ablate.rotated_teacher=true",
        "training.baseline.steps=200",
        "training.stage_B.steps=200",
    ),
}


def cpu_seconds(command: list[str]) -> float:
    "User and system time of a command and of all that it started and waited for"
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{said[-2000:]}")
    return used.ru_utime + used.ru_stime


def run(name: str, folder: Path) -> dict:
    "One run, phase by phase"
    settings = [*SIZES[name], f"logging.save_dir={folder}"]
    shape, found = model_shape("embedded"), {"name": name, "settings": list(SIZES[name]), "phases": {}}
    look = lambda: probe(shape, folder=folder.parent, clock=time.process_time).rates
    before = look()
    for phase in (1, 2, 3, 4):
        sets = [x for s in settings for x in ("--set", s)]
        command = [
            sys.executable,
            "-m",
            "polytope_hsae.runner",
            "run",
            "--config",
            "demo",
            "--phase",
            str(phase),
            *sets,
        ]
        seconds = cpu_seconds(command)
        told = json.loads((folder / "results.json").read_text(encoding="utf-8"))["phases"][str(phase)]
        disk = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        found["phases"][phase] = dict(seconds=seconds, mib=told["peak_mib"], disk=disk)
        print(f"{name}, phase {phase}: {seconds:.0f} s, {told['peak_mib']:.0f} MiB, {disk / 1e6:.0f} MB", flush=True)
    rates = [(a + b) / 2 for a, b in zip(before, look())]
    return found | {"rates": Amounts(*rates)._asdict()}


def beside(found: dict) -> None:
    "Print planned over measured"
    cfg = load_config("demo", found["settings"])
    rates, kept = Amounts(**found["rates"]), disk_parts(cfg, model_shape("embedded"))
    for plan in plan_phases(cfg, model_shape("embedded")):
        was = found["phases"][plan.phase]
        ratios = plan.amounts.seconds(rates) / was["seconds"], plan.host / 2**20 / was["mib"], plan.disk / was["disk"]
        print(f"{found['name']}, phase {plan.phase}: planned over measured {', '.join(f'{r:.2f}' for r in ratios)}")
    print(f"  checkpoints {kept['hsae.subspace_dim'] / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--save", type=Path, help="JSON file that gets the runs, in place of those of the same name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.sizes:
        with tempfile.TemporaryDirectory() as d:
            found = run(name, Path(d) / "run")
        beside(found)
        if args.save:
            saved = json.loads(args.save.read_text(encoding="utf-8")) if args.save.exists() else []
            kept = [r for r in saved if r["name"] != name] + [found]
            atomic_write(
                args.save, json.dumps(sorted(kept, key=lambda r: list(SIZES).index(r["name"])), indent=1) + "\n"
            )


if __name__ == "__main__":
    main()
