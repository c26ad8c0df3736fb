"""Concept vectors of all noun synsets of the embedded model: the plain computation against ours, in one process.

Plain is the computation of Park et al.: per synset scikit-learn's Ledoit-Wolf, a d x d pseudo-inverse, one product. Ours is
`estimation_plan`. Both get the same float32 vectors and the same two threads. Then the cost of ours is measured as a
function of the number of synsets, of words per synset, of d, and the cost of the geometry as a function of V and d, on synthetic data.

    python benchmarks/phase1_estimation.py [--plain N] [--out FOLDER]

Prints tables, writes a plot, and ends with `RATIO phase1 <plain seconds / our seconds, planning included>`.
"""

import os

os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2", TOKENIZERS_PARALLELISM="false")

import argparse
import resource
import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.covariance import ledoit_wolf
from tqdm.auto import tqdm

from polytope_hsae.assets import load_model, load_wordnet, unembedding
from polytope_hsae.concepts import build_concepts
from polytope_hsae.estimation_plan import estimate_sets, plan_estimation
from polytope_hsae.geometry import causal_geometry


def seconds(work):
    "Wall-clock seconds of one call, and its result"
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def plain_vector(x_ND):
    "One synset as in the published code (hierarchical/category.py)"
    cov_DD = torch.from_numpy(ledoit_wolf(x_ND.numpy())[0])
    v_D = torch.linalg.pinv(cov_DD) @ x_ND.mean(0)
    v_D = v_D / v_D.norm()
    return (x_ND.mean(0) @ v_D) * v_D


def side_by_side(n_plain):
    "Both sides on the embedded model; ours is timed five times, spread over the plain pass, so that a busy machine slows both"
    loaded = load_model()
    gamma_VD = unembedding(loaded.model, loaded.tokenizer).weight_VD
    t_geometry, geometry = seconds(lambda: causal_geometry(gamma_VD, shrinkage=0.0))
    g_VD = geometry.tokens(gamma_VD)
    sets = build_concepts(load_wordnet(), loaded.tokenizer, "n", rule="park").token_sets
    chosen = torch.linspace(0, len(sets) - 1, min(n_plain or len(sets), len(sets))).long().tolist()
    t_plan, t_ours, t_plain, worst, plain = [], [], 0.0, 0.0, {}
    for part in range(5):
        t, plan = seconds(lambda: plan_estimation(sets, g_VD.shape[1]))
        t_plan.append(t)
        t, found = seconds(lambda: estimate_sets(g_VD, plan))
        t_ours.append(t)
        for s in tqdm(chosen[part::5], desc=f"plain {part + 1}/5"):
            t, plain[s] = seconds(lambda: plain_vector(g_VD[sets[s]]))
            t_plain += t * len(sets) / len(chosen)
    worst = max(float((found.vector_SD[s] - v).norm() / v.norm()) for s, v in plain.items())
    plan_s, ours_s = statistics.median(t_plan), statistics.median(t_ours)
    size = plan.size_S
    print(
        f"\n{len(sets)} noun synsets (Park's rule), {int(size.min())} to {int(size.max())} words, {int((size >= g_VD.shape[1]).sum())} with n >= d = {g_VD.shape[1]}"
    )
    if len(chosen) < len(sets):
        print(f"plain side extrapolated from {len(chosen)} synsets, evenly spread")
    print(
        pd.DataFrame(
            [
                ("plain: Ledoit-Wolf + pinv", t_plain),
                ("ours: plan", plan_s),
                ("ours: estimate, also each further permutation", ours_s),
                ("geometry, once", t_geometry),
            ],
            columns=["step", "seconds"],
        ).to_string(index=False, float_format="%.3f")
    )
    print(f"largest relative difference: {worst:.1e}   plain / further permutation: {t_plain / ours_s:.0f}")
    return t_plain / (plan_s + ours_s)


def synthetic_sets(n_sets, n_words, n_vocab, generator):
    "Random children of `n_words` words; every eleventh set is the union of the ten before it"
    sets = []
    while len(sets) < n_sets:
        family = [torch.randperm(n_vocab, generator=generator)[:n_words] for _ in range(10)]
        sets += [*family, torch.cat(family).unique()]
    return sets[:n_sets]


def growth():
    "Seconds of plan and estimation against synsets, words and d; of the geometry against V and d"
    generator, rows = torch.Generator().manual_seed(0), []
    base = dict(synsets=220, words=100, d=512, vocab=32_000)
    sweeps = [("synsets", dict(base, synsets=s)) for s in (55, 110, 220, 440, 880)]
    sweeps += [("words", dict(base, words=n)) for n in (50, 100, 200, 400, 800)]
    sweeps += [("d", dict(base, synsets=110, words=60, d=d, vocab=16_000)) for d in (256, 512, 1024, 2048, 4096)]
    sweeps += [("vocab", dict(base, d=512, vocab=v)) for v in (32_000, 64_000, 128_000, 256_000)]
    for varied, point in tqdm(sweeps, desc="growth"):
        g_VD = torch.randn(point["vocab"], point["d"], generator=generator)
        sets = synthetic_sets(point["synsets"], point["words"], point["vocab"], generator)
        t_plan, plan = seconds(lambda: plan_estimation(sets, point["d"]))
        t_estimate = min(seconds(lambda: estimate_sets(g_VD, plan))[0] for _ in range(2))
        t_geometry = seconds(lambda: causal_geometry(g_VD))[0] if varied in ("vocab", "d") else float("nan")
        rows.append(dict(varied=varied, **point, plan_s=t_plan, estimate_s=t_estimate, geometry_s=t_geometry))
        del g_VD
    return pd.DataFrame(rows)


def draw(table, path):
    "One panel per varied quantity, both axes logarithmic"
    fig, axes = plt.subplots(1, 4, figsize=(11, 2.8), sharey=True)
    for ax, (varied, part) in zip(axes, table.groupby("varied", sort=False)):
        for column, colour, label in (
            ("estimate_s", "#0072B2", "estimate"),
            ("plan_s", "#E69F00", "plan"),
            ("geometry_s", "#009E73", "geometry"),
        ):
            if part[column].notna().any():
                ax.loglog(part[varied], part[column], "o-", ms=3, color=colour, label=label)
        ax.set(xlabel={"synsets": "synsets", "words": "words per child", "d": "d", "vocab": "V"}[varied])
        ax.set_xticks(part[varied], [f"{v // 1000}k" if v >= 10_000 else str(v) for v in part[varied]], fontsize=7)
        ax.minorticks_off()
        ax.grid(True, which="major", lw=0.3)
    axes[0].set_ylabel("seconds, 2 threads")
    axes[-1].legend(frameon=False, fontsize=8)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--plain", type=int, default=0, help="synsets on the plain side (0: all; fewer are extrapolated and said so)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of the plot and the table")
    args = parser.parse_args()
    torch.set_num_threads(2)
    ratio = side_by_side(args.plain)
    table = growth()
    print("\ncost growth on synthetic sets (every eleventh set is the union of ten others)")
    print(table.to_string(index=False, float_format="%.3f", na_rep="-"))
    draw(table, args.out / "phase1_estimation.png")
    table.to_csv(args.out / "phase1_estimation.csv", index=False)
    print(
        f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, plot {args.out / 'phase1_estimation.png'}"
    )
    print(f"RATIO phase1 {ratio:.1f}")
