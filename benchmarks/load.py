"""Ten million activations through store, shuffle and training, and whether memory stays flat.

    python benchmarks/load.py [--rows 1000000 3000000 10000000] [--dim 16] [--batch 4096] [--save FILE]

For every number of rows: rows are written as a capture writes them, measured for the input map, and read in random
order by a small hierarchical SAE in training, once through. Memory is what this process holds itself (RssAnon: mapped
files do not count), sampled in every stage after its first tenth. It is flat when no sample in training is further
than 5 % from the middle of the largest and the smallest; the exit code is 1 when one is. With `--save`, seconds and
the curve of every stage go to a file, as those in benchmarks/results.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from polytope_hsae.activations.store import ActivationStore, StoreWriter
from polytope_hsae.models.hierarchical import HierarchicalSAE
from polytope_hsae.training.init import fit_input_map
from polytope_hsae.training.loop import train
from polytope_hsae.training.schedules import Stage, TrainOptions

FLAT = 0.05  # furthest that a sample may be from the middle of all, share
POINTS = 40  # of a curve that is kept


def anonymous_mib() -> float:
    "Memory that this process holds and that is no file, MiB"
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1024


def rows_of(n: int, d: int, piece: int = 32_768) -> Iterator[dict[str, torch.Tensor]]:
    "Columns of n rows of sums of planted directions, a piece at a time"
    generator = torch.Generator().manual_seed(0)
    directions_FD = torch.randn(4 * d, d, generator=generator)
    for start in range(0, n, piece):
        m = min(piece, n - start)
        on_BF = (torch.rand(m, 4 * d, generator=generator) < 0.05).float()
        whole = dict(dtype=torch.int32)
        yield dict(
            resid=(on_BF @ directions_FD).half(),
            token=torch.zeros(m, **whole),
            next_token=torch.zeros(m, **whole),
            doc=torch.zeros(m, **whole),
            split=torch.zeros(m, dtype=torch.int8),
            picked=torch.zeros(m, dtype=torch.int8),
        )


class Watch:
    "Samples of memory in one stage, and what it took."

    def __init__(self, name: str, n: int):
        self.name, self.n, self.samples, self.began = name, n, [], time.perf_counter()

    def look(self, *_: object) -> None:
        self.samples.append(anonymous_mib())

    def found(self) -> dict[str, Any]:
        "What the stage took, and memory after its first tenth: how far from its middle, and its curve, MiB"
        seconds, kept = time.perf_counter() - self.began, self.samples[len(self.samples) // 10 :]
        middle = (max(kept) + min(kept)) / 2
        parts = [kept[len(kept) * i // POINTS : len(kept) * (i + 1) // POINTS] for i in range(POINTS)]
        curve = [round(max(part), 1) for part in parts if part]
        away = max(kept) / middle - 1
        return dict(rows=self.n, stage=self.name, seconds=seconds, middle_mib=middle, away=away, curve_mib=curve)


def told(f: dict[str, Any]) -> str:
    "A stage in one line"
    memory = f"{f['middle_mib']:7.0f} MiB ± {100 * f['away']:.1f} %"
    return f"{f['rows']:12,} {f['stage']:9} {f['seconds']:7.1f} s {f['rows'] / f['seconds']:12,.0f} rows/s {memory}"


def measure(n: int, d: int, batch: int, folder: Path) -> Iterator[dict[str, Any]]:
    "Store, measure and train on n rows; what each stage took"
    watch, writer = Watch("store", n), StoreWriter(folder / "store", {"rows": n}, 262_144)
    done = 0
    for columns in rows_of(n, d):
        writer.add(columns)
        done += len(columns["resid"])
        writer.flush(done, {"stored": done}, complete=done == n)
        watch.look()
    yield watch.found()
    store, watch = ActivationStore(folder / "store"), Watch("input map", n)

    def watched() -> Iterator[torch.Tensor]:
        for part in store.stream(0, ["resid"]):
            watch.look()
            yield part["resid"]

    input_map = fit_input_map(watched())
    yield watch.found()
    watch = Watch("training", n)
    sae = HierarchicalSAE(d=d, m_top=16, topk_parent=2, subspace_dim=4, m_low=4)
    options = TrainOptions(lr_warmup=10, l1_warmup=10, log_every=200, checkpoint_every=500, validate_every=10**9)
    batches, plan = store.batches(batch, seed=0, buffer_rows=262_144), [Stage("only", n // batch, lr=1e-3)]
    train(
        {"h": sae},
        batches,
        plan,
        folder / "run",
        options=options,
        input_map=input_map,
        after_step=watch.look,
        progress=False,
    )
    yield watch.found()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000], help="activations")
    parser.add_argument("--dim", type=int, default=16, help="numbers in an activation")
    parser.add_argument("--batch", type=int, default=4096, help="activations a step")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--save", type=Path, help="write what was measured to this file")
    args, found = parser.parse_args(), []
    torch.set_num_threads(args.threads)
    for n in args.rows:
        with tempfile.TemporaryDirectory() as d:
            for stage in measure(n, args.dim, args.batch, Path(d)):
                print(told(stage), flush=True)
                found.append(stage)
    if args.save:
        threads = f"{args.threads} thread{'s' * (args.threads != 1)}"
        machine = f"{platform.processor() or platform.machine()}, {threads}, torch {torch.__version__}"
        args.save.write_text(json.dumps(dict(machine=machine, dim=args.dim, stages=found), indent=1) + "\n")
    uneven = sum(stage["away"] > FLAT for stage in found if stage["stage"] == "training")
    print(f"memory in training is {'not flat' if uneven else 'flat'}: {uneven} of {len(args.rows)} over ± 5 %")
    return 1 if uneven else 0


if __name__ == "__main__":
    raise SystemExit(main())
