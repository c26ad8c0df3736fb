"""Ten million activations through store, shuffle and training, and whether memory stays flat.

    python benchmarks/load.py [--rows 1000000 3000000 10000000] [--dim 16] [--batch 4096]

For every number of rows: rows are written as a capture writes them, measured for the input map, and read in random
order by a small hierarchical SAE in training, once through. Memory is what this process holds itself (RssAnon: mapped
files do not count), sampled in every stage after its first tenth. It is flat when its largest and smallest sample in
training differ by at most 5 %; the exit code is 1 when they do not.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from polytope_hsae.activations.store import ActivationStore, StoreWriter
from polytope_hsae.models.hierarchical import HierarchicalSAE
from polytope_hsae.training.init import fit_input_map
from polytope_hsae.training.loop import train
from polytope_hsae.training.schedules import Stage, TrainOptions

FLAT = 0.05  # largest difference of samples, share


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

    def spread(self) -> float:
        "Largest over smallest sample, less 1, after the first tenth"
        kept = self.samples[len(self.samples) // 10 :]
        return max(kept) / min(kept) - 1

    def told(self) -> str:
        seconds, kept = time.perf_counter() - self.began, self.samples[len(self.samples) // 10 :]
        memory = f"{min(kept):7.0f} to {max(kept):5.0f} MiB ({100 * self.spread():.1f} %)"
        return f"{self.n:12,} {self.name:9} {seconds:7.1f} s {self.n / seconds:12,.0f} rows/s {memory}"


def measure(n: int, d: int, batch: int, folder: Path, say: Callable[[str], None]) -> float:
    "Store, measure and train on n rows; how far memory in training is from flat"
    watch, writer = Watch("store", n), StoreWriter(folder / "store", {"rows": n}, 262_144)
    done = 0
    for columns in rows_of(n, d):
        writer.add(columns)
        done += len(columns["resid"])
        writer.flush(done, {"stored": done}, complete=done == n)
        watch.look()
    say(watch.told())
    store, watch = ActivationStore(folder / "store"), Watch("input map", n)

    def watched() -> Iterator[torch.Tensor]:
        for part in store.stream(0, ["resid"]):
            watch.look()
            yield part["resid"]

    input_map = fit_input_map(watched())
    say(watch.told())
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
    say(watch.told())
    return watch.spread()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000], help="activations")
    parser.add_argument("--dim", type=int, default=16, help="numbers in an activation")
    parser.add_argument("--batch", type=int, default=4096, help="activations a step")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args, uneven = parser.parse_args(), 0
    torch.set_num_threads(args.threads)
    for n in args.rows:
        with tempfile.TemporaryDirectory() as d:
            spread = measure(n, args.dim, args.batch, Path(d), lambda line: print(line, flush=True))
        uneven += spread > FLAT
    print(
        f"memory in training is {'flat' if not uneven else 'not flat'}: {uneven} of {len(args.rows)} differ by over 5 %"
    )
    return 1 if uneven else 0


if __name__ == "__main__":
    raise SystemExit(main())
