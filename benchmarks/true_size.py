"""Peak memory of what a run does at the size of v2-focused, with synthetic rows: V = 256,000, d = 2,048.

    python benchmarks/true_size.py [--tiny] [--save benchmarks/true_size.txt]

Every part runs in a process of its own, on the CPU, where everything lies in main memory; a GPU takes over what is
trained and measured. A store of one shard of 262,144 rows; the input map fitted on it; one training step of one model
at batch 8,192 with 256 parents, subspaces of 256 dimensions and 32 children, its checkpoints included; cross-entropy
of 256 reconstructions; one null draw of 715 nested concepts in four word sets each. `--tiny` runs the same lines in
seconds. Exits 1 when a part takes more than 12 GiB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from polytope_hsae.activations.store import SPLITS, ActivationStore, StoreWriter
from polytope_hsae.assets.unembed import Unembedding
from polytope_hsae.core import atomic_write
from polytope_hsae.estimators.batched import estimate_sets, plan_estimation
from polytope_hsae.geometry.causal import CausalGeometry
from polytope_hsae.metrics.reconstruction import ce_scores, clean_predictions
from polytope_hsae.models.hierarchical import HierarchicalSAE
from polytope_hsae.runner.phase import peak_mib
from polytope_hsae.training.init import fit_input_map
from polytope_hsae.training.loop import train
from polytope_hsae.training.losses import LossWeights
from polytope_hsae.training.schedules import Stage, TrainOptions
from polytope_hsae.training.step import TrainSpec

GOAL = 12.0  # GiB


class Sizes(NamedTuple):
    "What is run"

    vocabulary: int = 256_000
    width: int = 2048
    rows: int = 262_144
    batch: int = 8192
    parents: int = 256
    dim: int = 256
    children: int = 32
    concepts: int = 715


TINY = Sizes(2000, 32, 4096, 256, 8, 8, 4, 30)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    "Normal numbers"
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def store(s: Sizes, folder: Path) -> None:
    "Write a shard as capture does, 4,096 rows at a time"
    writer, labels = StoreWriter(folder, {}, s.rows), torch.zeros(4096, dtype=torch.int32)
    for first in range(0, s.rows, 4096):
        columns = {name: labels for name in ("token", "next_token", "doc", "split", "picked")}
        writer.add({"resid": drawn(4096, s.width, seed=first).half()} | columns)
    writer.flush(s.rows, {"read": s.rows, "stored": s.rows}, complete=True)


def space(s: Sizes) -> CausalGeometry:
    "A causal space whose covariance is known"
    scale_D = torch.linspace(0.5, 2, s.width)
    return CausalGeometry(torch.zeros(s.width), scale_D.diag(), (1 / scale_D).diag(), scale_D**2, 0, "synthetic", 0.0)


def fit(s: Sizes, folder: Path) -> None:
    "Fit the input map on the training split"
    rows = (part["resid"].float() for part in ActivationStore(folder).stream(SPLITS["train"], ["resid"]))
    assert fit_input_map(rows, space(s)).scale > 0


def step(s: Sizes, folder: Path) -> None:
    "One training step, with the checkpoints before and after it"
    sae = HierarchicalSAE(s.width, s.parents, 1, s.dim, s.children, 1)
    input_map = fit_input_map([drawn(512, s.width)], space(s))
    weights = LossWeights(l1_parent=1e-3, l1_child=1e-3, biorth=5e-4)
    spec = TrainSpec(sae, [Stage("only", 1, 3e-4)], weights, input_map)
    batches, options = ActivationStore(folder).batches(s.batch, 0), TrainOptions(lr_warmup=0, keep_last_k=1)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        train({"model": spec}, batches, out_dir=work, options=options, progress=False)


def scores(s: Sizes, folder: Path) -> None:
    "Cross-entropy of reconstructions"
    resid_BD, next_B = drawn(256, s.width), torch.arange(256)
    head = Unembedding(drawn(s.vocabulary, s.width, seed=1), None, None, 0)
    ce_scores(clean_predictions(resid_BD, next_B, head), resid_BD + 0.1, head)


def draw(s: Sizes, folder: Path) -> None:
    "Estimate the concepts of a vocabulary once, from shuffled rows"
    rng, sets = np.random.default_rng(0), []
    for i, n in enumerate(rng.lognormal(4.8, 0.6, s.concepts).astype(int).clip(20, s.vocabulary // 20).tolist()):
        union = np.unique(np.concatenate(sets[-10:])) if i % 11 == 10 else None
        sets.append(rng.permutation(s.vocabulary)[:n] if union is None else union)
    parts = [rng.permutation(t)[: max(3, int(share * len(t)))] for share in (1.0, 0.7, 0.7, 0.9) for t in sets]
    plan = plan_estimation([torch.from_numpy(np.sort(t)) for t in parts], s.width)
    shuffled_V = torch.from_numpy(rng.permutation(s.vocabulary))
    found = estimate_sets(drawn(s.vocabulary, s.width), plan, rows_V=shuffled_V)
    assert bool(found.vector_SD.isfinite().all())


PARTS: dict[str, Callable[[Sizes, Path], None]] = {
    "store": store,
    "fit": fit,
    "step": step,
    "scores": scores,
    "draw": draw,
}


def measured(part: str, tiny: bool, folder: Path) -> tuple[float, float]:  # GiB at the peak, seconds
    "One part in a process of its own"
    started = time.perf_counter()
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), *["--tiny"] * tiny]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1]) / 1024, time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the same lines at small sizes")
    parser.add_argument("--save", type=Path, help="file that gets the table as well")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = TINY if args.tiny else Sizes()
    if args.part:
        PARTS[args.part](sizes, args.folder)
        print(peak_mib())
        return 0
    lines, worst = [f"{sizes}", "", "part      host GiB   seconds"], 0.0
    with tempfile.TemporaryDirectory(dir=args.folder) as d:
        for part in PARTS:
            gib, seconds = measured(part, args.tiny, Path(d) / "store")
            lines.append(f"{part:8}  {gib:8.2f}  {seconds:8.0f}")
            print(lines[-1], flush=True)
            worst = max(worst, gib)
    lines += ["", f"largest: {worst:.2f} GiB, goal at most {GOAL:g}"]
    print(lines[-1])
    if args.save:
        atomic_write(args.save, "\n".join(lines) + "\n")
    return 1 if worst > GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
