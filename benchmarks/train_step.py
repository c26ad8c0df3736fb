"""How long one training step takes, ours and others', on the same activations of the embedded model.

    python benchmarks/train_step.py                 # every system at C1, C1-batch, C1-tree, C2-k1, C2-k8 and C3
    python benchmarks/train_step.py --uncentred     # the same on contexts with their mean
    # instead: held-out error at C1 after so many steps of each flat system
    python benchmarks/train_step.py --quality 300
    python benchmarks/train_step.py --growth        # instead: our step against batch, parents, k, S, n and d
    # instead: where our step's time goes, and where it would go in plain PyTorch
    python benchmarks/train_step.py --profile

A step is forward, all losses, backward, gradient projection, clipping, Adam and normalisation, fed from memory. The
other libraries live
in environments of their own, built on first use. Every system is one live process; they take turns step by step, so
that a busy
machine slows all of them alike. Threads wait passively between steps. Times are medians, on a GPU in fp32 and bf16
where there is one.
Prints tables and, last, `RATIO <shape> <system> <its time ÷ ours>`; the floor is the encoder's one dense product, its
ratio below 1.
`--save FILE` adds what was measured to a JSON file.
"""

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before any OpenMP runtime is loaded

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peers import System, tree_levels

HERE = Path(__file__).resolve().parent
BATCH, WIDTH, HELD_OUT, BATCHES = 2048, 576, 4096, 16


class Shape(NamedTuple):
    "A model's shape; parents only means a flat TopK model, or a learned tree by its rule."

    latents: int  # latents of a flat model, or parents
    k: int  # active latents, or parents
    dim: int = 0  # S, dimensions of a subspace
    children: int = 0  # n, children per parent
    batch: int = BATCH
    width: int = WIDTH
    rule: str = "topk"  # by which a flat model keeps latents


SHAPES = {
    "C1": Shape(4096, 32),
    "C1-batch": Shape(4096, 32, rule="batchtopk"),
    "C1-tree": Shape(4096, 32, rule="tree"),
    "C2-k1": Shape(256, 1, 64, 32),
    "C2-k8": Shape(256, 8, 64, 32),
    "C3": Shape(4096, 32, 4, 16),
}
FLAT, DEEP = ["C1"], ["C2-k1", "C2-k8", "C3"]
BATCH_RULE, TREE = ["C1-batch"], ["C1-tree"]
PLAIN = FLAT + DEEP + TREE  # shapes that are also written in plain PyTorch
PEERS = {  # system: its environment and the shapes it can train
    "sae-lens": ("torch", FLAT + BATCH_RULE),
    "sae-lens-sparse": ("torch", FLAT),
    "dictionary-learning": ("torch", FLAT + BATCH_RULE),
    "sparsify": ("torch", FLAT),
    "jax": ("jax", DEEP),
    "jax-published": ("jax", DEEP),
    "tree-published": (None, TREE),  # needs nothing but PyTorch
}
ENVIRONMENTS = {
    "torch": ["torch==2.13.0", "sae-lens==6.54.12", "dictionary-learning==0.1.0", "eai-sparsify==1.3.3"],
    "jax": ["jax==0.10.2", "equinox==0.13.8", "optax==0.2.8"],
}


def has_gpu() -> bool:
    "Whether PyTorch sees a CUDA device."
    import torch

    return torch.cuda.is_available()


# ---------------------------------------------------------------- activations


def captured() -> np.ndarray:
    """Final residuals of the embedded model over WordNet's glosses, in order of the text; read through the model
    once, then kept.
    """
    from capture import windows_of_text

    from polytope_hsae.activations.capture import capture
    from polytope_hsae.activations.store import ActivationStore, is_complete
    from polytope_hsae.assets import cache_dir, load_model

    window, rows = 128, BATCHES * BATCH + HELD_OUT
    metadata, folder = {"corpus": "wordnet-glosses", "window": window}, cache_dir() / "benchmarks" / "train_step"
    if not is_complete(folder, metadata):
        loaded = load_model("embedded")
        capture(loaded, windows_of_text(loaded.tokenizer, rows // window + 16, window), folder, metadata)
    return ActivationStore(folder).load(0, ["resid"])["resid"].float().numpy()[:rows]


def activations(shape: Shape, store: Path | None, centred: bool = True) -> np.ndarray:
    """Contexts in training scale, minus their mean if `centred`, the last ones held out.

    Other widths see them through a random map, smaller stores repeat.
    """
    if store:
        from polytope_hsae.activations.store import ActivationStore

        x = ActivationStore(store).load(0, ["resid"])["resid"].float().numpy()
    else:
        x = captured()
    if shape.width != x.shape[1]:
        x = x @ np.random.default_rng(0).standard_normal((x.shape[1], shape.width)).astype(np.float32)
    train, held_out = x[:-HELD_OUT], x[-HELD_OUT:]
    order = np.random.default_rng(0).permutation(len(train))
    x = np.concatenate([train[order], held_out]) - (train.mean(0) if centred else 0)
    return (x * (shape.width / np.square(x).sum(1).mean()) ** 0.5).astype(np.float32)


# ---------------------------------------------------------------- our systems


FOR_GOOD = contextlib.ExitStack()  # what lasts as long as the process


def ours(shape: Shape, lr: float, device: str, autograd: bool = False) -> System:
    "Our step; with `autograd`, the same model and losses with nothing written by hand."
    import torch

    from polytope_hsae.models.flat import FlatSAE
    from polytope_hsae.models.hierarchical import HierarchicalSAE
    from polytope_hsae.models.tree import TreeSAE
    from polytope_hsae.training.losses import LossWeights, loss_terms
    from polytope_hsae.training.memory import keep_freed_memory
    from polytope_hsae.training.step import clip_in_step, make_optimizer

    generator, flat = torch.Generator().manual_seed(0), not shape.dim
    if not autograd:
        FOR_GOOD.enter_context(keep_freed_memory())  # as our trainer does
    parents, tree = (shape.width, shape.latents, shape.k), shape.rule == "tree"
    if tree:
        sae = TreeSAE(shape.width, *tree_levels(shape), settle=10**9, generator=generator)  # no move while it is timed
    elif flat:
        sae = FlatSAE(*parents, activation=shape.rule, generator=generator)
    else:
        sae = HierarchicalSAE(*parents, shape.dim, shape.children, generator=generator)
    sae = sae.to(device)
    weights = LossWeights(1.0 * tree) if flat else LossWeights(0.1, 1e-3, 1e-3, 1e-1)
    optimizer = make_optimizer(sae, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = lr

    def step(x_BD: torch.Tensor) -> None:
        optimizer.zero_grad()
        if autograd:
            loss = loss_terms(sae, x_BD, plain_pass(sae, x_BD), weights._replace(auxk=0.0, biorth=0.0)).total
            loss = loss + weights.biorth * plain_biorthogonality(sae)
        else:
            out = sae(x_BD)
            loss = loss_terms(sae, x_BD, out, weights).total
            del out  # as our trainer does: scores of all latents are not needed for the gradients
        loss.backward()
        sae.project_decoder_grads()
        clip_in_step(optimizer, 1.0)
        optimizer.step()
        sae.normalise_decoder()
        if not autograd:
            sae.after_step(loss.item() if tree else 0.0, shape.batch)

    return System(lambda x: torch.from_numpy(x).to(device), step, lambda x_BD: sae(x_BD).recon_BD, sae.encode)


def plain_pass(sae, x_BD):
    "The forward pass in the plainest PyTorch: every context gathers the rows and projections of its latents."
    import torch

    from polytope_hsae.models.base import SAEOutput, SparseCodes
    from polytope_hsae.models.flat import FlatSAE
    from polytope_hsae.models.tree import TreeSAE

    x_BD = x_BD - sae.dec_bias_D
    if isinstance(sae, TreeSAE):
        P, z_BF = sae.n_parents, (x_BD @ sae.enc_FD.T + sae.enc_bias_F).relu()
        top_BK, i_BK = z_BF[:, :P].topk(sae.k_parents, dim=1)
        fires_BP1 = torch.zeros_like(z_BF[:, : P + 1]).scatter(1, i_BK, (top_BK > 0).to(z_BF.dtype))
        fires_BP1[:, P] = 1  # the root
        low_BK, c_BK = (z_BF[:, P:] * fires_BP1[:, sae.parent_C]).topk(sae.k_children, dim=1)
        top_BD = torch.einsum("bk,bkd->bd", top_BK, sae.dec_FD[i_BK]) + sae.dec_bias_D
        recon_BD = top_BD + torch.einsum("bk,bkd->bd", low_BK, sae.dec_FD[P + c_BK])
        codes = SparseCodes(torch.cat([i_BK, P + c_BK], 1), torch.cat([top_BK, low_BK], 1))
        return SAEOutput(recon_BD, codes, nested=(top_BD,))
    if isinstance(sae, FlatSAE):
        value_BK, index_BK = (x_BD @ sae.enc_FD.T + sae.enc_bias_F).relu().topk(sae.k, dim=1)
        recon_BD = torch.einsum("bk,bkd->bd", value_BK, sae.dec_FD[index_BK]) + sae.dec_bias_D
        return SAEOutput(recon_BD, SparseCodes(index_BK, value_BK))
    z_BK, i_BK = (x_BD @ sae.parent_enc_PD.T + sae.parent_bias_P).relu().topk(sae.topk_parent, dim=1)
    inside_BKS = torch.einsum("bd,bksd->bks", x_BD, sae.down_PSD[i_BK])
    pre_BKL = torch.einsum("bks,bkls->bkl", inside_BKS, sae.child_enc_PLS[i_BK]) + sae.child_bias_PL[i_BK]
    c_BK, child_BK = pre_BKL.max(2)
    c_BK = c_BK.relu() * (z_BK > 0)
    top_BD = torch.einsum("bk,bkd->bd", z_BK, sae.parent_dec_PD[i_BK]) + sae.dec_bias_D
    low_BKS = c_BK[..., None] * sae.child_dec_PLS[i_BK, child_BK]
    recon_BD = top_BD + torch.einsum("bks,bksd->bd", low_BKS, sae.up_PSD[i_BK])
    index_BK = torch.cat([i_BK, sae.m_top + i_BK * sae.m_low + child_BK], 1)
    return SAEOutput(recon_BD, SparseCodes(index_BK, torch.cat([z_BK, c_BK], 1)), recon_top_BD=top_BD)


def plain_biorthogonality(sae):
    "The bi-orthogonality term from the products of all pairs; 0 for a flat model, which has no weight for it."
    if not hasattr(sae, "m_top"):
        return 0.0
    beside = lambda E, D: (E @ D.mT).square().sum() - (E * D).sum(-1).square().sum()
    children = beside(sae.child_enc_PLS, sae.child_dec_PLS) / (sae.m_top * sae.m_low)
    return beside(sae.parent_enc_PD, sae.parent_dec_PD) / sae.m_top + children


def floor(shape: Shape, lr: float, device: str) -> System:
    "The encoder's one dense product, into memory that is there already."
    import torch

    W_FD = torch.randn(shape.latents, shape.width, device=device)
    out_BF = torch.empty(shape.batch, shape.latents, device=device)

    def step(x_BD: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(device):
            return x_BD @ W_FD.T
        return torch.mm(x_BD, W_FD.T, out=out_BF)

    return System(lambda x: torch.from_numpy(x).to(device), step)


OWN = {"ours": ours, "autograd": lambda *args: ours(*args, autograd=True), "floor": floor}

# ---------------------------------------------------------------- taking turns


def held_out_error(system: System, x: np.ndarray) -> float | None:
    "Share of the held-out contexts' variance that a reconstruction misses."
    if system.reconstruct is None:
        return None
    import torch

    with torch.no_grad():
        error = x - system.reconstruct(system.put(x)).float().cpu().numpy()
    return float(np.square(error).sum() / np.square(x - x.mean(0)).sum())


def peak_mib() -> float:
    """Peak resident memory of this process. Linux tells that of the program itself; elsewhere it may include its
    parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(r for r in status.read_text().splitlines() if r.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def work(name: str, shape: Shape, data: Path, lr: float, device: str, half: bool) -> None:
    """A process of one system: per line read one step, answered with its milliseconds, CPU milliseconds and peak MiB;
    then the held-out error.
    """
    import peers

    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print, too
    in_torch, x = not name.startswith("jax"), np.load(data)
    if in_torch:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # what it imports is not the step's memory
    if name in OWN:
        import polytope_hsae.training.step  # noqa: F401  (nor are these imports)
    build = OWN.get(name) or peers.load(name)
    on_gpu = in_torch and device == "cuda"
    peak = lambda: torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_mib()
    before = peak()
    system = build(shape, lr, device)
    batches = [
        system.put(b) for b in np.split(x[:-HELD_OUT], range(shape.batch, len(x) - HELD_OUT, shape.batch))[:BATCHES]
    ]
    batches = [b for b in batches if len(b) == shape.batch]
    for i, line in enumerate(sys.stdin):
        if line == "error\n":
            print(json.dumps(held_out_error(system, x[-HELD_OUT:])), file=answers, flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.autocast(device, torch.bfloat16) if half and in_torch else contextlib.nullcontext():
            system.step(batches[i % len(batches)])
        if on_gpu:
            torch.cuda.synchronize()
        spent = [1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu), peak() - before]
        print(json.dumps(spent), file=answers, flush=True)


class Seen(NamedTuple):
    "What a system's steps cost."

    ms: float  # median wall-clock time of a step
    cpu_ms: float  # median time of all its threads together
    peak_mib: float  # peak resident memory over that of its imports; on a GPU, of its tensors
    error: float | None = None  # held-out error after the last step


class Setting(NamedTuple):
    "How everything is measured."

    rounds: int  # timed steps per system
    threads: int
    store: Path | None  # activations; those of the embedded model when None
    lr: float = 3e-4
    half: bool = False  # bf16 on a GPU
    centred: bool = True  # contexts minus their mean


def start(name: str, shape: Shape, data: Path, setting: Setting, device: str) -> subprocess.Popen:
    "The worker process of a system."
    threads = setting.threads
    needs = PEERS[name][0] if name in PEERS else None
    python = peers_python(needs) if needs else sys.executable
    env = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} "
        f"intra_op_parallelism_threads={threads}",
    }
    if setting.half:
        env["JAX_DEFAULT_MATMUL_PRECISION"] = "bfloat16"
    job = json.dumps(
        {"name": name, "shape": shape, "data": str(data), "lr": setting.lr, "device": device, "half": setting.half}
    )
    command = [python, "-W", "ignore", __file__, "--worker", job]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def take_turns(shape: Shape, systems: list[str], setting: Setting) -> dict[str, Seen]:
    "Cost of each system, one step at a time in turn; the first two rounds warm up."
    seen: dict[str, list] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as folder:
        data, device = Path(folder) / "x.npy", "cuda" if has_gpu() else "cpu"
        np.save(data, activations(shape, setting.store, setting.centred))
        workers = {name: start(name, shape, data, setting, device) for name in systems}

        def ask(name: str, line: str) -> Any:
            answer = ""
            with contextlib.suppress(BrokenPipeError):
                workers[name].stdin.write(line + "\n")
                workers[name].stdin.flush()
                answer = workers[name].stdout.readline()
            if not answer:
                raise SystemExit(f"the worker of {name} stopped at {shape}; its message is above")
            return json.loads(answer)

        for _ in range(setting.rounds + 2):
            for name in workers:
                seen[name].append(ask(name, "step"))
                if name.startswith(("jax", "autograd")):
                    time.sleep(0.5)  # both give back gigabytes after a step, which would slow the next system's
        errors = {name: ask(name, "error") for name in workers}
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    medians = lambda steps: [statistics.median(column) for column in list(zip(*steps))[:2]]
    return {name: Seen(*medians(s[2:]), s[-1][2], errors[name]) for name, s in seen.items()}


def peers_python(environment: str) -> str:
    "The interpreter of an environment of peers, built on first use."
    folder = HERE.parent / ".venv" / "peers" / environment
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing {', '.join(ENVIRONMENTS[environment])} (minutes, once)", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        wanted = [r.replace("jax==", "jax[cuda13]==") if has_gpu() else r for r in ENVIRONMENTS[environment]]
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "install", *wanted], check=True, env={k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
        )
        if environment == "torch":  # comes along, unused; built for a GPU it does not import beside a torch for CPUs
            subprocess.run([*pip, "uninstall", "--yes", "torchvision"], check=True)
        (folder / "ready").touch()
    return str(python)


# ---------------------------------------------------------------- what is measured


def compare(name: str, half: bool, setting: Setting) -> list[dict]:
    "All systems at one shape, as rows of a table, printed."
    shape, label = SHAPES[name], name + "-uncentred" * (not setting.centred) + "-bf16" * half
    systems = [
        "ours",
        *["autograd"] * (name in PLAIN),
        "floor",
        *(peer for peer, (_, shapes) in PEERS.items() if name in shapes),
    ]
    seen = take_turns(shape, systems, setting._replace(half=half))
    used = parents_used(shape, setting)
    print(
        f"\n{label}: {shape}, {used} in use\n\n"
        "| system | ms/step | ÷ ours | CPU ms | ÷ ours | peak MiB |\n|---|---|---|---|---|---|"
    )
    rows = []
    for system, cost in seen.items():
        ratio, cpu_ratio = cost.ms / seen["ours"].ms, cost.cpu_ms / seen["ours"].cpu_ms
        print(
            f"| {system} | {cost.ms:.0f} | {ratio:.2f} | {cost.cpu_ms:.0f} | {cpu_ratio:.2f} | {cost.peak_mib:.0f} |",
            flush=True,
        )
        rows.append(
            {"shape": label, "system": system, "ratio": ratio, "cpu_ratio": cpu_ratio, "used": used} | cost._asdict()
        )
    return rows


def parents_used(shape: Shape, setting: Setting) -> int:
    """How many parents, or latents of a flat model, the first batch uses when training starts: the more even the
    routing, the more work.
    """
    import torch

    system = ours(shape, setting.lr, "cpu")
    x_BD = system.put(activations(shape, setting.store, setting.centred)[: shape.batch])
    with torch.no_grad():
        codes = system.encode(x_BD)
    used_N = codes.index_BK[codes.value_BK > 0]
    return len(used_N[used_N < shape.latents].unique())


def quality(setting: Setting) -> list[dict]:
    "Held-out error at C1 of every flat system after the same number of steps of Adam at the same rate."
    systems = ["ours", *(peer for peer, (_, shapes) in PEERS.items() if "C1" in shapes)]
    seen = take_turns(SHAPES["C1"], systems, setting._replace(lr=1e-3))
    print(f"\nC1 after {setting.rounds + 2} steps\n\n| system | held-out FVU | ms/step |\n|---|---|---|")
    for system, cost in seen.items():
        print(f"| {system} | {cost.error:.4f} | {cost.ms:.0f} |", flush=True)
    return [{"system": system, "steps": setting.rounds + 2} | cost._asdict() for system, cost in seen.items()]


def growth(setting: Setting) -> list[dict]:
    "Our step against each size of the model, the others held."
    base = Shape(256, 8, 8, 16)
    sweeps = {
        "latents": [2**i for i in range(6, 15)],
        "k": [1, 2, 4, 8, 16, 32],
        "dim": [2, 4, 8, 16, 32, 64],
        "children": [4, 8, 16, 32, 64],
        "width": [144, 288, 576, 1152],
        "batch": [256, 512, 1024, 2048, 4096],
    }
    print(
        "\n| varied | value | ms | of it encoder | CPU ms | of it encoder | peak MiB |\n|---|---|---|---|---|---|---|"
    )
    rows = []
    for name, values in sweeps.items():
        for value in values:
            shape = base._replace(**{name: value})
            own, encoder = take_turns(shape, ["ours", "floor"], setting).values()
            cells = (own.ms, encoder.ms, own.cpu_ms, encoder.cpu_ms)
            print(f"| {name} | {value} | {' | '.join(f'{c:.1f}' for c in cells)} | {own.peak_mib:.0f} |", flush=True)
            encoder_only = {"encoder_ms": encoder.ms, "encoder_cpu_ms": encoder.cpu_ms}
            rows.append({"varied": name, "value": value} | encoder_only | own._asdict())
    return rows


def profile(setting: Setting) -> list[dict]:
    """Operations of our step by the time they take themselves, at every shape, in plain PyTorch and as it is, in this
    process.
    """
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    torch.set_num_threads(setting.threads)
    gpu, rows = has_gpu(), []
    for name, system in ((name, system) for system in ("autograd", "ours") for name in PLAIN):
        shape = SHAPES[name]
        built = OWN[system](shape, setting.lr, "cuda" if gpu else "cpu")
        x_BD = built.put(activations(shape, setting.store)[: shape.batch])
        for _ in range(3):
            built.step(x_BD)
        with recording(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as record:
            for _ in range(setting.rounds):
                built.step(x_BD)
        own = lambda e: (e.self_device_time_total if gpu else e.self_cpu_time_total) / 1000 / setting.rounds
        top = sorted(record.key_averages(), key=own, reverse=True)[:12]
        print(f"\n{name}, {system}\n\n| operation | ms/step | calls |\n|---|---|---|")
        for e in top:
            print(f"| {e.key} | {own(e):.1f} | {e.count // setting.rounds} |")
            seen = {"operation": e.key, "ms": own(e), "calls": e.count // setting.rounds}
            rows.append({"shape": name, "system": system} | seen)
    return rows


def machine(setting: Setting) -> str:
    "Where this runs, in one line."
    import torch

    if has_gpu():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        cpu = next(
            (
                r.split(":")[1].strip()
                for r in Path("/proc/cpuinfo").read_text().splitlines()
                if r.startswith("model name")
            ),
            cpu,
        )
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {setting.threads} of {os.cpu_count()} threads{busy}, torch {torch.__version__}"


def add_to(path: Path, kind: str, rows: list[dict]) -> None:
    "Put the rows into a JSON file in place of those of the same kind and, in a comparison, of the same shapes."
    saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    new = {row["shape"] for row in rows} if kind == "compare" else set()
    kept = [row for row in saved.get(kind, []) if new and row["shape"] not in new]
    path.write_text(json.dumps(saved | {kind: kept + rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    "Parse the command line, measure, print and save."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7, help="timed steps per system")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--uncentred", action="store_true", help="contexts with their mean, which sends most of them to few parents"
    )
    parser.add_argument("--store", type=Path, help="activation store to take the contexts from instead")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--quality", type=int, metavar="STEPS", help="held-out error of the flat systems after so many steps"
    )
    what.add_argument("--growth", action="store_true", help="our step against every size")
    what.add_argument("--profile", action="store_true", help="operations of our step")
    parser.add_argument("--save", type=Path, metavar="FILE", help="add the measurements to this JSON file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        job = json.loads(args.worker)
        return work(**job | {"shape": Shape(*job["shape"])})
    rounds = args.quality - 2 if args.quality else args.rounds
    setting = Setting(rounds, args.threads, args.store, centred=not args.uncentred)
    where, rows = machine(setting), []
    print(where)
    if args.quality:
        kind, rows = "quality", quality(setting)
    elif args.growth:
        kind, rows = "growth", growth(setting)
    elif args.profile:
        kind, rows = "profile", profile(setting)
    else:
        kind = "compare"
        for name in args.shapes:
            for half in (False, True) if has_gpu() else (False,):
                rows += compare(name, half, setting)
        print(
            "\n"
            + "\n".join(f"RATIO {r['shape']} {r['system']} {r['ratio']:.3f}" for r in rows if r["system"] != "ours")
        )
    if args.save:
        add_to(args.save, kind, [{"machine": where, "rounds": setting.rounds} | row for row in rows])


if __name__ == "__main__":
    main()
