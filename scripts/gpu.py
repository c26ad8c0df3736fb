"""What only a GPU can show: kernels, a training step and a whole run on CUDA beside the CPU, and rates at full size.

    python scripts/gpu.py            # at most nine minutes, no network; writes benchmarks/gpu.json
    python scripts/gpu.py --cpu      # every line of it at tiny shapes on the CPU; writes nothing

Exits 1 when a result differs from the CPU's by more than its tolerance, and 2 where there is no GPU. Errors are
relative: the largest difference over the largest value. Rates are medians. Products by pattern are also held against
what they replace: copies of a row for every entry, and the decoder of sparsify where that is installed.
"""

import argparse
import functools
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from torch import Tensor

from polytope_hsae.activations.capture import final_residual
from polytope_hsae.assets.models import LoadedModel
from polytope_hsae.config import load_config
from polytope_hsae.core import atomic_write
from polytope_hsae.estimators.batched import estimate_sets, plan_estimation
from polytope_hsae.experiment.geometry_tests import run_geometry_tests
from polytope_hsae.experiment.plan import (
    KNOWN_SHAPES,
    ModelShape,
    hours,
    plan_phases,
    probe,
)
from polytope_hsae.experiment.probe import probe_variants
from polytope_hsae.experiment.score import score_variants
from polytope_hsae.experiment.setup import planted_concepts, planted_run, planted_setup
from polytope_hsae.experiment.steer import steer_variants
from polytope_hsae.experiment.teachers import store_teacher
from polytope_hsae.experiment.train import train_variants
from polytope_hsae.experiment.variants import recipes
from polytope_hsae.geometry.causal import causal_geometry
from polytope_hsae.metrics.reconstruction import ExplainedVariance, final_logits
from polytope_hsae.models import kernels, subspaces
from polytope_hsae.models.hierarchical import HierarchicalSAE, restore_frames
from polytope_hsae.models.kernels import (
    Pattern,
    dots_at,
    k_largest,
    kth_largest,
    sparse_decode,
)
from polytope_hsae.models.subspaces import project_down, project_up
from polytope_hsae.steering import steer_contexts
from polytope_hsae.training.loop import train
from polytope_hsae.training.losses import LossWeights
from polytope_hsae.training.schedules import Stage, TrainOptions
from polytope_hsae.training.step import Trainee, TrainSpec

ROOT = Path(__file__).resolve().parent.parent
CLOSE, HALF = 2e-4, 5e-2  # tolerances after products in float32, and in bfloat16


class Check(NamedTuple):
    "One result on the device beside the CPU's."

    what: str
    dtype: str
    error: float  # relative
    allowed: float


class Sizes(NamedTuple):
    "Shapes at which rates are taken: those of v2-focused and Gemma-2B, or tiny ones."

    vocabulary: int = 256_000
    width: int = 2048
    blocks: int = 18
    heads: int = 8
    inner: int = 16_384
    batch: int = 8192
    parents: int = 256
    dim: int = 256
    children: int = 32
    windows: int = 32
    window: int = 128
    concepts: int = 700
    seconds: float = 5.0  # a rate is measured for
    latents: int = 16_384  # of a flat model
    active: int = 32  # of them
    branches: int = 8  # active parents


TINY = Sizes(2000, 32, 2, 2, 64, 256, 8, 8, 4, 2, 16, 20, 0.05, 64, 4, 2)


def difference(found: Tensor, expected: Tensor) -> float:
    "Largest difference over the largest value, both brought to the CPU"
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    if found.shape != expected.shape:
        return math.inf
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)) if expected.numel() else 0.0


def drawn(*shape: int, seed: int = 0) -> Tensor:
    "Normal numbers, the same on every device"
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- kernels


class Shape(NamedTuple):
    "At which the kernels of the models are compared."

    name: str
    B: int
    D: int
    P: int
    S: int
    K: int


SHAPES = Shape("even", 96, 64, 24, 16, 4), Shape("odd", 75, 150, 7, 40, 3)


def sparse_kernels(device: str, dtype: torch.dtype, shape: Shape) -> dict[str, Tensor]:
    "Every kernel of the models and the gradients that flow through it"
    _, B, D, P, S, K = shape
    score_BP = drawn(B, P)
    score_BP[:, -2:] = -9  # two rows that nobody uses
    index_BK = score_BP.topk(K, dim=1).indices.sort(dim=1).values
    leaf = lambda *shape, seed: drawn(*shape, seed=seed).to(device, dtype).requires_grad_()
    x_BD, rows_PD, value_BK = leaf(B, D, seed=1), leaf(P, D, seed=2), leaf(B, K, seed=3)
    frames_PSD, inside_BKS = leaf(P, S, D, seed=4), leaf(B, K, S, seed=5)
    pattern = Pattern(index_BK.to(device), P)
    padded = Pattern(pattern.index_BK, P, (drawn(B, K, seed=6) > 0).to(device))
    outputs: dict[str, Callable[[], Tensor]] = {
        "sparse_decode": lambda: sparse_decode(pattern, value_BK, rows_PD),
        "dots_at": lambda: dots_at(pattern, x_BD, rows_PD),
        "sparse_decode, padded": lambda: sparse_decode(padded, value_BK, rows_PD),
        "dots_at, padded": lambda: dots_at(padded, x_BD, rows_PD),
    }
    for path in ("dense", "grouped", "sparse", "gather"):
        outputs[f"project_down, {path}"] = lambda path=path: project_down(pattern, x_BD, frames_PSD, path=path)
    for path in ("dense", "grouped", "sparse"):
        outputs[f"project_up, {path}"] = lambda path=path: project_up(pattern, inside_BKS, frames_PSD, path=path)
    found = {}
    for name, work in outputs.items():
        leaves = [x_BD, rows_PD, value_BK, frames_PSD, inside_BKS]
        out = work()
        grads = torch.autograd.grad(out.float().square().sum(), leaves, allow_unused=True)
        found[name] = out
        found |= {f"{name}, gradient {i}": g for i, g in enumerate(grads) if g is not None}
    values_BK = k_largest(score_BP.to(device), K)[0]
    found |= {"k_largest": values_BK.sort().values, "kth_largest": kth_largest(score_BP.to(device), 100)}
    return {f"{name}, {shape.name} sizes": value for name, value in found.items()}


def other_kernels(device: str) -> dict[str, Tensor]:
    "Frames, estimates, geometry, logits, explained variance and steering, in float32"
    V, D, B = 600, 48, 64
    gamma_VD, resid_BD = (drawn(V, D) * torch.linspace(0.5, 2, D)).to(device), drawn(B, D, seed=1).to(device)
    frames_PSD = torch.linalg.qr(drawn(6, D, 8)).Q.mT.contiguous() + 0.01 * drawn(6, 8, D, seed=2)
    frames_PSD = frames_PSD.to(device)
    restore_frames(frames_PSD)
    sets = [torch.arange(i, V, 5 + i) for i in range(6)] + [torch.arange(300)]
    ev = ExplainedVariance()
    ev.update(resid_BD, resid_BD + 0.1 * drawn(B, D, seed=3).to(device))
    words = [torch.arange(i, V, 7) for i in range(3)]
    found = {
        "restore_frames": frames_PSD,
        "estimate_sets": estimate_sets(gamma_VD, plan_estimation(sets, D)).vector_SD,
        "causal_geometry": causal_geometry(gamma_VD, 0.05).tokens(gamma_VD),
        "final_logits": final_logits(resid_BD, gamma_VD, softcap=30.0),
        "explained variance": torch.tensor(ev.compute()),
    }
    for cap in (None, 30.0):
        effects = steer_contexts(
            resid_BD, drawn(3, D, seed=4).to(device), words, torch.arange(3), gamma_VD, softcap=cap
        )
        found[f"steer{', capped' * (cap is not None)}"] = effects.on_ABN
    return found


def kernel_checks(device: str) -> list[Check]:
    "All kernels in float32, those of the models in bfloat16 as well, beside float32 on the CPU"
    whole, half = torch.float32, torch.bfloat16
    every = lambda where, dtype: {k: v for shape in SHAPES for k, v in sparse_kernels(where, dtype, shape).items()}
    expected, found, again = every("cpu", whole), every(device, whole), every(device, whole)
    rounded = {k: v for k, v in every(device, half).items() if "largest" not in k}
    checks = [
        Check(name, str(dtype)[6:], difference(value, expected[name]), CLOSE if dtype == whole else HALF)
        for dtype, values in ((whole, found), (half, rounded))
        for name, value in values.items()
    ]
    ours = [k for k in found if k.startswith(("sparse_decode", "dots_at")) or "grouped" in k]
    moved = sum(not found[k].equal(again[k]) for k in ours)
    checks.append(Check(f"{len(ours)} results of products by pattern, of which the bits change", "float32", moved, 0))
    others, on_cpu = other_kernels(device), other_kernels("cpu")
    return checks + [Check(name, "float32", difference(v, on_cpu[name]), CLOSE) for name, v in others.items()]


# ---------------------------------------------------------------- a step, a run


def trained(device: str, half: bool, folder: Path, steps: int = 4) -> tuple[HierarchicalSAE, dict[str, Any]]:
    "A model after a few steps with every loss, frozen at first, and the health of its last step"
    generator = torch.Generator().manual_seed(0)
    sae = HierarchicalSAE(64, 16, 2, 16, 8, 1, generator=generator).to(device)
    stages = [Stage("A", 1, 1e-3, freeze_decoder=True, causal_ortho=True), Stage("B", steps - 1, 1e-3)]
    spec = TrainSpec(sae, stages, LossWeights(l1_parent=1e-3, l1_child=1e-3, biorth=5e-4, causal_ortho=2e-4))
    options = TrainOptions(bf16=half, lr_warmup=0, l1_warmup=0)
    report = train({"model": spec}, list(drawn(steps, 512, 64)), out_dir=folder, options=options, progress=False)
    return sae, report.last["model"]


def step_checks(device: str) -> list[Check]:
    "A whole training step, four times: losses, and how far the parameters moved"
    with tempfile.TemporaryDirectory() as d:
        runs = [
            trained(*how, Path(d) / str(i)) for i, how in enumerate((("cpu", False), (device, False), (device, True)))
        ]
    start = HierarchicalSAE(64, 16, 2, 16, 8, 1, generator=torch.Generator().manual_seed(0))
    move = lambda sae: torch.cat(
        [(a.detach().cpu() - b.detach()).flatten() for a, b in zip(sae.parameters(), start.parameters())]
    )
    (sae, health), *others = runs
    checks = []
    for (other, told), dtype, loss_allowed, turn_allowed in zip(
        others, ("float32", "bfloat16"), (1e-4, 2e-2), (1e-3, 0.2)
    ):
        losses = ("total", "recon", "biorth", "causal_ortho", "grad_norm")
        worst = max(abs(told[k] - health[k]) / max(abs(health[k]), 1e-6) for k in losses if k in health)
        turn = 1 - float(torch.nn.functional.cosine_similarity(move(other), move(sae), dim=0))
        checks.append(Check("training step, losses", dtype, worst, loss_allowed))
        checks.append(Check("training step, 1 − cosine of the move", dtype, turn, turn_allowed))
    return checks


@functools.cache  # --cpu asks for the same twice
def miniature(device: str) -> dict[str, float]:
    "All four phases of a planted run; what its models and their scores are"
    with tempfile.TemporaryDirectory() as d:
        run = planted_run(d, ["eval.validation.n_permutations=2"], planted_setup(planted_concepts(), device=device))
        tested = run_geometry_tests(run.cfg, run.setup.g_VD, run.setup.concepts, run.rng)
        store_teacher(run)
        names = list(recipes(run.cfg))
        train_variants(run, names)
        scores = score_variants(run, names)
        steering = steer_variants(run, names)
        probes = probe_variants(run, names)
        found = {"held-out projection": float(tested.validation.tables["synsets"]["held_out_lemma"].mean())}
        found |= {f"ev of {name}": statistics.mean(s.ev for s in of) for name, of in scores.items()}
        found |= {f"ce of {name}": statistics.mean(s.ce.score for s in of) for name, of in scores.items()}
        found["steering of the teacher's vector"] = float(
            steering.table.set_index("method").loc["teacher vector"]["on_target"].mean()
        )
        return found | {"results of the probes": float(len(probes.results))}


def miniature_checks(device: str) -> list[Check]:
    "The same run on the device and on the CPU"
    found, expected = miniature(device), miniature("cpu")
    apart = lambda k: abs(found[k] - expected[k]) / max(abs(expected[k]), 1e-6)
    return [Check(f"miniature, {k}", "float32", apart(k), 0.05) for k in expected]


# ---------------------------------------------------------------- rates


def rate(work: Callable[[], Any], amount: float, device: str, seconds: float) -> float:
    "Amount per second: the median of as many runs as fit, after one that warms up"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    work()
    wait()
    began, taken = time.perf_counter(), []
    while len(taken) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return amount / statistics.median(taken)


class Cost(NamedTuple):
    "What an operation and its gradients cost in single precision."

    operation: str
    how: str
    ms: float
    mib: float  # the most that was held beside inputs, result and gradients; 0 on the CPU
    of_copies: float  # the same, over the memory of one row for every entry


def cost(operation: str, how: str, work: Callable[..., Tensor], leaves: list[Tensor], pairs: int, s: Sizes) -> Cost:
    "The time of a step forwards and backwards, and its memory"
    device = leaves[0].device.type
    leaves = [t.requires_grad_() for t in leaves]
    weight = torch.ones_like(work(*leaves))

    def step() -> tuple[Tensor, ...]:
        out = work(*leaves)
        return out, *torch.autograd.grad(out, leaves, weight)

    ms, beside = 1000 / rate(step, 1, device, s.seconds / 5), 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = sum(t.nbytes for t in step())
        beside = torch.cuda.max_memory_allocated() - before - results
    return Cost(operation, how, ms, beside / 2**20, beside / (4 * pairs * s.width))


def sparsify_decoder() -> Callable[..., Tensor] | None:
    "sparsify's kernels: of this environment, or of that in which benchmarks/train_step.py has installed it"
    here = importlib.util.find_spec("sparsify")
    places = [Path(here.origin).parent] if here and here.origin else []
    places += (ROOT / ".venv" / "peers" / "torch").glob("lib/python*/site-packages/sparsify")
    for place in places:
        spec = importlib.util.spec_from_file_location("sparsify_xformers", place / "xformers.py")
        if spec and spec.loader:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.xformers_embedding_bag
    return None


def product_costs(device: str, s: Sizes) -> Iterator[Cost]:
    "Products by pattern at full size: our kernels, PyTorch's operations in their place, a copied row for every entry"
    B, D, F, K, P = s.batch, s.width, s.latents, s.active, s.parents
    draw, generator = (lambda *shape: drawn(*shape).to(device)), torch.Generator().manual_seed(0)
    rows_of = lambda n, k: torch.randint(n, (B, k), generator=generator).to(device)
    index_BK, parent_BK = rows_of(F, K), rows_of(P, s.branches)
    of_latents, of_parents = (lambda: Pattern(index_BK, F)), (lambda: Pattern(parent_BK, P))  # sorted anew each time
    ours = "Triton" if kernels.kernels_for(draw(1)) else "PyTorch"
    copied = {
        "decode": (lambda v, W: torch.einsum("bk,bkd->bd", v, W[index_BK]), [draw(B, K), draw(F, D)]),
        "dots": (lambda x, W: torch.einsum("bd,bkd->bk", x, W[index_BK]), [draw(B, D), draw(F, D)]),
    }
    by_pattern: dict[str, tuple[Callable[..., Tensor], list[Tensor], int]] = {
        "decode": (lambda v, W: sparse_decode(of_latents(), v, W), copied["decode"][1], B * K),
        "dots": (lambda x, W: dots_at(of_latents(), x, W), copied["dots"][1], B * K),
    }
    frames_PSD, down = draw(P, s.dim, D), lambda x, V: project_down(of_parents(), x, V, path="grouped")
    up = lambda v, U: project_up(of_parents(), v, U, path="grouped")
    by_pattern["into subspaces"] = down, [draw(B, D), frames_PSD], B * s.branches
    by_pattern["out of subspaces"] = up, [draw(B, s.branches, s.dim), frames_PSD], B * s.branches
    for operation, (work, leaves, pairs) in by_pattern.items():
        yield cost(operation, ours, work, leaves, pairs, s)
        if ours == "Triton":
            none = lambda tensor: None
            with patch.object(kernels, "kernels_for", none), patch.object(subspaces, "kernels_for", none):
                yield cost(operation, "PyTorch", work, leaves, pairs, s)
        if operation in copied:
            yield cost(operation, "copies", *copied[operation], pairs, s)
    theirs = sparsify_decoder() if device == "cuda" else None
    if theirs:
        yield cost("decode", "sparsify", lambda v, W: theirs(index_BK, W, v), copied["decode"][1], B * K, s)


def product_checks(costs: list[Cost]) -> list[Check]:
    "No kernel of ours holds a row for every entry"
    ours = [c for c in costs if c.how == "Triton"]
    return [Check(f"{c.operation}, memory over that of copies", "float32", c.of_copies, 0.5) for c in ours]


def capture_rate(device: str, s: Sizes) -> float:
    "Tokens per second through a model of Gemma's architecture with random weights in bfloat16"
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = dict(vocab_size=s.vocabulary, hidden_size=s.width, num_hidden_layers=s.blocks, intermediate_size=s.inner)
    config = AutoConfig.for_model(
        "gemma", **shape, num_attention_heads=s.heads, num_key_value_heads=1, head_dim=s.width // s.heads
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    loaded = LoadedModel(model, None, "random Gemma")  # type: ignore[arg-type]
    tokens_BW = torch.randint(s.vocabulary, (s.windows, s.window), generator=torch.Generator().manual_seed(0))
    return rate(lambda: final_residual(loaded, tokens_BW), tokens_BW.numel(), device, s.seconds)


def draw_rate(device: str, s: Sizes) -> tuple[float, float]:  # draws per second, operations of a draw
    "Estimations of all concepts from shuffled rows; every eleventh set is the union of the ten before it"
    generator, sets = torch.Generator().manual_seed(0), []
    sizes = np.random.default_rng(0).lognormal(4.8, 0.6, s.concepts).astype(int).clip(20, s.vocabulary // 20)
    for i, n in enumerate(sizes.tolist()):
        union = torch.cat(sets[-10:]).unique() if i % 11 == 10 else None
        sets.append(torch.randperm(s.vocabulary, generator=generator)[:n].sort().values if union is None else union)
    plan, rows_VD = plan_estimation(sets, s.width), drawn(s.vocabulary, s.width).to(device)
    solved = sum(float(b.rows_BN.shape[0]) * (2 * b.rows_BN.shape[1] ** 2 * s.width) for b in plan.dual)
    solved += sum(s.width**3 / 3 + 2 * s.width**2 * (len(p.plus_N) + len(p.minus_N)) for p in plan.primal)
    return rate(lambda: estimate_sets(rows_VD, plan), 1, device, s.seconds), solved


def step_rate(device: str, s: Sizes, half: bool) -> float:
    "Steps per second of one model of v2-focused, decoder moving"
    sae = HierarchicalSAE(s.width, s.parents, 1, s.dim, s.children, 1).to(device)
    spec = TrainSpec(sae, [Stage("only", 10**6, 1e-4)], LossWeights(l1_parent=1e-3, l1_child=1e-3, biorth=5e-4))
    trainee, x_BD = Trainee(spec, TrainOptions(bf16=half, lr_warmup=0)), drawn(s.batch, s.width).to(device)

    def step() -> None:
        trouble = trainee.gradients(x_BD, 0)
        assert trouble is None, trouble
        trainee.apply(0)

    return rate(step, 1, device, s.seconds)


def scoring_rates(device: str, s: Sizes) -> dict[str, float]:
    "Contexts per second that are encoded, and that are turned into logits"
    sae = HierarchicalSAE(s.width, s.parents, 1, s.dim, s.children, 1).to(device).eval()
    x_BD, gamma_VD = drawn(s.batch, s.width).to(device), drawn(s.vocabulary, s.width).to(device)
    few_BD = x_BD[: min(512, s.batch)]
    with torch.inference_mode():
        return {
            "encoded contexts per s": rate(lambda: sae.encode(x_BD), s.batch, device, s.seconds),
            "logits of contexts per s": rate(lambda: final_logits(few_BD, gamma_VD), len(few_BD), device, s.seconds),
        }


def rates(device: str, s: Sizes) -> dict[str, float]:
    "Everything that a plan is made of, measured at the shapes of v2-focused"
    found = {"captured tokens per s": capture_rate(device, s)}
    free = torch.cuda.empty_cache if device == "cuda" else lambda: None
    free()
    found["null draws per s"], operations = draw_rate(device, s)
    found["operations of a draw"] = operations
    free()
    found |= {f"training steps per s, {n}": step_rate(device, s, n == "bfloat16") for n in ("float32", "bfloat16")}
    found |= scoring_rates(device, s)
    if device == "cuda":
        found["peak memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def peers(rounds: int = 7) -> dict[str, float] | str:
    "Their time over ours for a training step at C1, where benchmarks/train_step.py has installed the other libraries"
    if not (ROOT / ".venv" / "peers" / "torch" / "ready").exists():
        return "not installed"
    with tempfile.TemporaryDirectory() as d:
        path, script = Path(d) / "step.json", str(ROOT / "benchmarks" / "train_step.py")
        command = [sys.executable, script, "--shapes", "C1", "--rounds", str(rounds), "--save", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        return {f"{r['shape']} {r['system']}": r["ratio"] for r in json.loads(path.read_text())["compare"]}


# ---------------------------------------------------------------- all of it


def measured(device: str, s: Sizes) -> dict[str, Any]:
    "All checks and rates; prints a line for each as it comes"
    began, checks, costs = time.perf_counter(), [], []

    def costly_checks(device: str) -> list[Check]:
        for one in product_costs(device, s):
            costs.append(one)
            print(f"     {one.ms:9.3g} ms {one.mib:9,.0f} MiB  {one.operation} and gradients, {one.how}", flush=True)
        return product_checks(costs)

    for part in (kernel_checks, step_checks, miniature_checks, costly_checks):
        for check in part(device):
            checks.append(check)
            verdict = "ok  " if check.error <= check.allowed else "FAIL"
            print(f"{verdict} {check.error:9.1e} of {check.allowed:7.1e}  {check.what}, {check.dtype}", flush=True)
    found = rates(device, s)
    for name, value in found.items():
        print(f"     {value:12,.4g}  {name}", flush=True)
    cfg, shape = load_config("v2-focused"), KNOWN_SHAPES["google/gemma-2b"]
    small = shape if device == "cuda" else ModelShape(s.vocabulary, s.width, s.blocks, 10**4)
    here = probe(small, "bfloat16" if device == "cuda" else "float32", device, seconds=s.seconds / 5)
    told = {"hours of v2-focused, planned": hours(plan_phases(cfg, shape, True), here)}
    beside = peers() if device == "cuda" else "not asked"
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"     {told['hours of v2-focused, planned']:12,.4g}  hours of v2-focused, planned\n     peers: {beside}")
    took = time.perf_counter() - began
    return dict(
        device=where,
        torch=torch.__version__,
        seconds=took,
        checks=[c._asdict() for c in checks],
        costs=[c._asdict() for c in costs],
        rates=found | told,
        probed=here.rates._asdict(),
        peers=beside,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="every line at tiny shapes on the CPU; writes nothing")
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        print(
            "error: there is no GPU here that PyTorch can use: run it where there is one, or try --cpu", file=sys.stderr
        )
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    found = measured("cpu", TINY) if args.cpu else measured("cuda", Sizes())
    if not args.cpu:
        atomic_write(ROOT / "benchmarks" / "gpu.json", json.dumps(found, indent=1) + "\n")
    failed = [c for c in found["checks"] if not c["error"] <= c["allowed"]]
    print(f"{len(found['checks']) - len(failed)} passed, {len(failed)} failed, {found['seconds']:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
