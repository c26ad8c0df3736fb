"""How long a training step takes two processes that share its batch, beside one process with the whole of it.

    python benchmarks/data_parallel.py                       # three shapes, a minute or two
    python benchmarks/data_parallel.py --save results.json   # and add them to a file

Both start from the same model and see the same batches of drawn activations; one thread a process, sums by Gloo.
They take turns, a few steps each, so that a busy machine slows both alike; the first step of a turn does not count.
Times are medians, and of the first process: on a clock, and of its core, which depends less on what else the machine
does. Ends with an error unless both arrive at the same weights. Prints, last,
`RATIO <shape> <one's time ÷ two's> <the same of the core>`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: the processes are forks of this one

import torch

from polytope_hsae.assets.processes import Team, forked_team
from polytope_hsae.assets.shares import own_rows, shared_batches, total
from polytope_hsae.core import atomic_write
from polytope_hsae.models.base import SAE
from polytope_hsae.models.flat import FlatSAE
from polytope_hsae.models.hierarchical import HierarchicalSAE
from polytope_hsae.training.losses import LossWeights
from polytope_hsae.training.schedules import Stage, TrainOptions
from polytope_hsae.training.step import Trainee, TrainSpec

BATCH, WIDTH, STEPS = 2048, 576, 4  # of a turn
PARENTS = 256
SHAPES = ("flat, 4096 latents", "8 of 256 parents, S 8", "1 of 256 parents, S 64")


def model(shape: str) -> SAE:
    "The same model for everyone who asks"
    generator = torch.Generator().manual_seed(0)
    if shape.startswith("flat"):
        return FlatSAE(WIDTH, 4096, 32, generator=generator)
    k, inside, children = (8, 8, 16) if shape.startswith("8") else (1, 64, 32)
    return HierarchicalSAE(WIDTH, PARENTS, k, inside, children, generator=generator)


def batches(n: int) -> list[torch.Tensor]:
    "Sparse sums of drawn directions"
    generator = torch.Generator().manual_seed(1)
    rows_FD = torch.nn.functional.normalize(torch.randn(1024, WIDTH, generator=generator), dim=1)
    on = [(torch.rand(BATCH, 1024, generator=generator) < 0.02).float() for _ in range(n)]
    return [on_BF @ rows_FD * 5 for on_BF in on]


def trainee(shape: str) -> Trainee:
    "A model in training, with the losses of a run"
    sae = model(shape)
    terms = LossWeights(0.1, 1e-3, 1e-3, 1e-4) if isinstance(sae, HierarchicalSAE) else LossWeights()
    return Trainee(TrainSpec(sae, [Stage("only", 10_000, 1e-3)], terms), TrainOptions(lr_warmup=0))


def clocks() -> tuple[float, float]:
    "Seconds since some moment, and those that this process has had of a core"
    return time.perf_counter(), time.process_time()


def turn(one: Trainee, data: list[torch.Tensor], begun: int) -> list[tuple[float, ...]]:
    "Some steps; seconds of each by both clocks"
    taken = []
    for step in range(begun, begun + STEPS):
        start = clocks()
        assert one.gradients(own_rows(data[step % len(data)]), step) is None
        one.apply(step)
        taken.append(tuple(b - a for a, b in zip(start, clocks())))
    return taken[1:]


def sums(one: Trainee) -> list[tuple[float, ...]]:
    "Seconds that the sum of the gradients takes by itself"
    taken = []
    for _ in range(3):
        start = clocks()
        for p in one.sae.parameters():
            total(torch.zeros_like(p, requires_grad=False))
        taken.append(tuple(b - a for a, b in zip(start, clocks())))
    return taken


def measure(shape: str, rounds: int, mine: Team, path: Path) -> None:
    "What one process of two does; the first writes down what was found"
    alone, both, data = trainee(shape) if mine.rank == 0 else None, trainee(shape), batches(8)
    times: dict[str, list[tuple[float, ...]]] = {"one": [], "two": [], "sums": []}
    for i in range(rounds):
        if alone is not None:
            times["one"] += turn(alone, data, i * STEPS)
        with shared_batches(mine):
            times["two"] += turn(both, data, i * STEPS)
            times["sums"] += sums(both)
    if alone is not None:
        pairs = zip(alone.sae.parameters(), both.sae.parameters(), strict=True)
        found = {"shape": shape, "parameters": sum(p.numel() for p in both.sae.parameters())}
        for name, some in times.items():
            found |= {f"{name}_{what}": 1e3 * statistics.median(t) for what, t in zip(("ms", "cpu_ms"), zip(*some))}
        found |= {"ratio": found["one_ms"] / found["two_ms"], "cpu_ratio": found["one_cpu_ms"] / found["two_cpu_ms"]}
        found["apart"] = max(float((a - b).detach().abs().max()) for a, b in pairs)
        path.write_text(json.dumps(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--save", type=Path, help="JSON file that gets what was measured, in place of what it held")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    machine = f"{platform.machine()}, {cores} cores, load {load:.1f}, torch {torch.__version__}"
    rows = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "found.json"
            codes = forked_team(2, lambda mine: measure(shape, args.rounds, mine, path), seconds=600)
            if codes != [0, 0]:
                print(f"FAIL {shape}: the processes ended with {codes}")
                return 1
            rows.append({"machine": machine, "rounds": args.rounds} | json.loads(path.read_text()))
        row = rows[-1]
        print(
            f"{shape}: {row['parameters'] / 1e6:.1f} M parameters, one {row['one_ms']:.0f} ms, two {row['two_ms']:.0f} "
            f"ms, of which sums {row['sums_ms']:.0f}; of a core {row['one_cpu_ms']:.0f}, {row['two_cpu_ms']:.0f} and "
            f"{row['sums_cpu_ms']:.0f}; weights differ by {row['apart']:.1e}",
            flush=True,
        )
    if args.save:
        atomic_write(args.save, json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(f"RATIO {row['shape']} {row['ratio']:.2f} {row['cpu_ratio']:.2f}")
    return 0 if max(row["apart"] for row in rows) < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
