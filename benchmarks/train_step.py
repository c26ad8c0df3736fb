"""How long one training step takes, ours and others', on the same activations.

    python benchmarks/train_step.py                 # our step, plain autograd and the encoder's product alone
    python benchmarks/train_step.py --peers         # also sae-lens, dictionary-learning, sparsify and JAX, in an environment of their own
    python benchmarks/train_step.py --growth        # our step against batch, parents, k, S, n and d

A step is forward, all losses, backward, gradient projection, clipping, AdamW and normalisation, fed from memory. Every system is
one live process; they take turns step by step, so that a busy machine slows all of them alike. Threads wait passively between
steps. Times are medians. Prints tables and, last, `RATIO <shape> <system> <its time ÷ ours>`; the floor's ratio is below 1.
"""

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before any OpenMP runtime is loaded

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
BATCH, WIDTH = 2048, 576


class Shape(NamedTuple):
    "A model's shape; parents only means a flat TopK model."

    latents: int  # latents of a flat model, or parents
    k: int  # active latents, or parents
    dim: int = 0  # S, dimensions of a subspace
    children: int = 0  # n, children per parent
    batch: int = BATCH
    width: int = WIDTH


SHAPES = {"C1": Shape(4096, 32), "C2-k1": Shape(256, 1, 64, 32), "C2-k8": Shape(256, 8, 64, 32), "C3": Shape(4096, 32, 4, 16)}
PEERS = {
    "sae-lens": ["C1"],
    "sae-lens-sparse": ["C1"],
    "dictionary-learning": ["C1"],
    "sparsify": ["C1"],
    "jax": ["C2-k1", "C2-k8", "C3"],
}
REQUIREMENTS = [
    "sae-lens==6.18.0",
    "dictionary-learning==0.1.0",
    "eai-sparsify==1.3.0",
    "jax==0.5.3",
    "equinox==0.11.12",
    "optax==0.2.4",
]  # peers.py


def activations(shape: Shape, store: Path | None) -> np.ndarray:
    "Contexts in training scale: from a store of captured residuals, or a planted hierarchy plus noise."
    rng = np.random.default_rng(0)
    if store:
        from polytope_hsae.store import ActivationStore

        x = ActivationStore(store).load(0, ["resid"])["resid"][: shape.batch].float().numpy()
    else:
        top, low = rng.standard_normal((2, 512, shape.width)) / shape.width**0.5
        which = rng.zipf(1.3, (shape.batch, 6)) % 512
        x = (
            top[which] * rng.gamma(4, 2, which.shape)[..., None] + low[(which * 7 + rng.integers(0, 4, which.shape)) % 512] * 4
        ).sum(1)
        x = x + 0.3 * rng.standard_normal(x.shape)
    x = x - x.mean(0)
    return (x * (shape.width / np.square(x).sum(1).mean()) ** 0.5).astype(np.float32)


# ---------------------------------------------------------------- systems: each returns a function that takes one step


def ours(shape: Shape, x: np.ndarray, autograd: bool = False) -> Callable[[], object]:
    "Our step; with `autograd`, the same model and losses with nothing written by hand."
    import torch

    from polytope_hsae.kernels import keep_freed_memory
    from polytope_hsae.losses import LossWeights, loss_terms
    from polytope_hsae.models import FlatSAE, HierarchicalSAE, SAEOutput, SparseCodes

    x_BD, generator = torch.from_numpy(x), torch.Generator().manual_seed(0)
    if not autograd:
        keep_freed_memory()
    flat = not shape.dim
    sae = (
        FlatSAE(shape.width, shape.latents, shape.k, generator=generator)
        if flat
        else HierarchicalSAE(shape.width, shape.latents, shape.k, shape.dim, shape.children, generator=generator)
    )
    weights = LossWeights(0.1, 0.0, 0.0, 0.0, 0.0) if flat else LossWeights(0.1, 1e-3, 1e-3, 1e-1, 0.0)
    optimizer = torch.optim.AdamW(sae.parameters(), lr=3e-4, weight_decay=0.0, fused=True)

    def plain(x_BD: torch.Tensor) -> SAEOutput:
        x_BD = x_BD - sae.dec_bias_D
        if flat:
            value_BK, index_BK = (x_BD @ sae.enc_FD.T + sae.enc_bias_F).relu().topk(sae.k, dim=1)
            return SAEOutput(
                torch.einsum("bk,bkd->bd", value_BK, sae.dec_FD[index_BK]) + sae.dec_bias_D, SparseCodes(index_BK, value_BK)
            )
        z_BK, i_BK = (x_BD @ sae.parent_enc_PD.T + sae.parent_bias_P).relu().topk(sae.topk_parent, dim=1)
        inside = torch.einsum("bd,bksd->bks", x_BD, sae.down_PSD[i_BK])
        c_BK, j_BK = (torch.einsum("bks,bkls->bkl", inside, sae.child_enc_PLS[i_BK]) + sae.child_bias_PL[i_BK]).relu().max(2)
        c_BK = c_BK * (z_BK > 0)
        top = torch.einsum("bk,bkd->bd", z_BK, sae.parent_dec_PD[i_BK]) + sae.dec_bias_D
        low = torch.einsum("bks,bksd->bd", c_BK[..., None] * sae.child_dec_PLS[i_BK, j_BK], sae.up_PSD[i_BK])
        codes = SparseCodes(torch.cat([i_BK, sae.m_top + i_BK * sae.m_low + j_BK], 1), torch.cat([z_BK, c_BK], 1))
        return SAEOutput(top + low, codes, recon_top_BD=top)

    def step() -> None:
        optimizer.zero_grad()
        loss_terms(
            sae, x_BD, plain(x_BD) if autograd else sae(x_BD), weights if not autograd else weights._replace(auxk=0.0)
        ).total.backward()
        sae.project_decoder_grads()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.normalise_decoder()

    return step


def floor(shape: Shape, x: np.ndarray) -> Callable[[], object]:
    "The encoder's one dense product, into memory that is there already."
    import torch

    x_BD, W_FD = torch.from_numpy(x), torch.randn(shape.latents, shape.width)
    out_BF = torch.empty(len(x), shape.latents)
    return lambda: torch.mm(x_BD, W_FD.T, out=out_BF)


OWN = {"ours": ours, "autograd": lambda s, x: ours(s, x, autograd=True), "floor": floor}

# ---------------------------------------------------------------- taking turns


def work(system: str, shape: Shape, data: Path) -> None:
    "A process of one system: every line read takes one step and answers with its milliseconds, CPU milliseconds and peak MiB over its imports."
    if system in OWN:
        import torch

        import polytope_hsae.losses  # counted as import, not as the step's memory

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        build = OWN[system]
    else:
        import peers

        build = peers.load(system)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = peak()
    step = build(shape, np.load(data))
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        print(json.dumps([1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu), peak() - before]), flush=True)


class Seen(NamedTuple):
    "What a system's steps cost."

    ms: float  # median wall-clock time of a step
    cpu_ms: float  # median time of all its threads together
    peak_mib: float  # peak resident memory over that of its imports


def take_turns(shape: Shape, systems: dict[str, str], rounds: int, threads: int, store: Path | None) -> dict[str, Seen]:
    "Cost of each system (name → interpreter), one step at a time in turn; the first two rounds warm up."
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "x.npy"
        np.save(data, activations(shape, store))
        env = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}",
        }
        command = lambda name, python: [
            python,
            "-W",
            "ignore",
            __file__,
            "--worker",
            name,
            "--data",
            str(data),
            "--shape",
            json.dumps(shape),
        ]
        workers = {
            name: subprocess.Popen(command(name, python), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
            for name, python in systems.items()
        }
        seen: dict[str, list] = {name: [] for name in workers}
        for _ in range(rounds + 2):
            for name, worker in workers.items():
                worker.stdin.write("step\n")
                worker.stdin.flush()
                line = worker.stdout.readline()
                if not line:
                    raise SystemExit(f"the worker of {name} stopped at {shape}; its message is above")
                seen[name].append(json.loads(line))
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return {name: Seen(*(statistics.median(column) for column in list(zip(*s[2:]))[:2]), s[-1][2]) for name, s in seen.items()}


def peers_python() -> str:
    "The interpreter of the peers' environment, built on first use."
    folder = HERE.parent / ".venv" / "peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        (folder / "ready").touch()
    return str(python)


def growth(rounds: int, threads: int) -> None:
    "Our step against each size of the model, the others held."
    base = Shape(256, 8, 16, 16, 1024)
    sweeps = {
        "latents": [2**i for i in range(6, 15, 2)],
        "k": [1, 4, 16],
        "dim": [4, 16, 64],
        "children": [4, 16, 64],
        "width": [256, 512, 1024],
        "batch": [512, 1024, 2048],
    }
    print("\n| varied | value | ms | of it encoder | peak MiB |\n|---|---|---|---|---|")
    for name, values in sweeps.items():
        for value in values:
            seen = take_turns(
                base._replace(**{name: value}), {"ours": sys.executable, "floor": sys.executable}, rounds, threads, None
            )
            print(
                f"| {name} | {value} | {seen['ours'].ms:.1f} | {seen['floor'].ms:.1f} | {seen['ours'].peak_mib:.0f} |", flush=True
            )


def main() -> None:
    "Parse the command line and print the tables."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7, help="timed steps per system")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, help="activation store to take the contexts from; a planted hierarchy otherwise")
    parser.add_argument("--peers", action="store_true", help="also time the other libraries")
    parser.add_argument("--growth", action="store_true", help="also time our step against every size")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, Shape(*args.shape), args.data)
    ratios = []
    for name in args.shapes:
        systems = {s: sys.executable for s in ("ours", "autograd", "floor")}
        if args.peers:
            systems |= {peer: peers_python() for peer, shapes in PEERS.items() if name in shapes}
        seen = take_turns(SHAPES[name], systems, args.rounds, args.threads, args.store)
        print(
            f"\n{name}: {SHAPES[name]}\n\n| system | ms/step | ÷ ours | CPU ms | ÷ ours | peak MiB over its imports |\n|---|---|---|---|---|---|"
        )
        own = seen["ours"]
        for system, cost in seen.items():
            print(
                f"| {system} | {cost.ms:.0f} | {cost.ms / own.ms:.2f} | {cost.cpu_ms:.0f} | {cost.cpu_ms / own.cpu_ms:.2f} | {cost.peak_mib:.0f} |",
                flush=True,
            )
            ratios += [f"RATIO {name} {system} {cost.ms / own.ms:.3f}"] * (system != "ours")
    if args.growth:
        growth(args.rounds, args.threads)
    print("\n" + "\n".join(ratios))


if __name__ == "__main__":
    main()
