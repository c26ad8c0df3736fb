"""Concept vectors of all noun synsets of the embedded model: the plain computation against ours, in one process.

Plain is the computation of Park et al.: per synset scikit-learn's Ledoit-Wolf, a d x d pseudo-inverse, one product.
Ours is
`estimation_plan`. Both get the same float32 vectors and the same two threads. Then the cost of ours is measured as a
function of the number of synsets, of words per synset, of d, and the cost of the geometry as a function of V and d,
on synthetic data.

    python benchmarks/phase1_estimation.py [--plain N] [--also MODEL] [--save FOLDER]

Then whole draws of a null, as phase 1 makes a hundred of them: rows of other words, vectors of all word sets of the
study (whole, halves by lemma and by form, parents without a child's words), every statistic. Two go side by side, in
turns with dense products of the same number of operations: what no exact draw of this kind can be faster than. With
--also the same on a second model, such as gemma-3-270m.

Prints tables, with --save writes them to FOLDER/phase1_estimation.json (plotted by
nbs/benchmarks/phase1_estimation.ipynb), and ends with
`RATIO phase1 <plain seconds / our seconds, planning included>`, `RATIO draw <the same of a whole draw>` and
`FLOOR draw <our seconds / seconds of the dense products>`. Exits 1 when the answers differ by more than 1e-4.
"""

import os

os.environ.update(
    OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2", TOKENIZERS_PARALLELISM="false"
)

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.covariance import ledoit_wolf
from tqdm.auto import tqdm

from polytope_hsae.assets import load_model, load_wordnet, unembedding
from polytope_hsae.concepts.selection import build_concepts
from polytope_hsae.core import side_by_side as together
from polytope_hsae.estimators.batched import estimate_sets, plan_estimation
from polytope_hsae.geometry.causal import causal_geometry
from polytope_hsae.validation.design import plan_study, planned_estimator, study_vectors, word_sets
from polytope_hsae.validation.measures import measure
from polytope_hsae.validation.simplex import plan_simplices
from polytope_hsae.validation.validate import null_rows


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


def side_by_side(loaded, n_plain):
    """Both sides on the embedded model; ours is timed ten times, spread over the plain pass, and averaged, so that a
    busy machine slows both
    """
    gamma_VD = unembedding(loaded.model, loaded.tokenizer).weight_VD
    t_geometry, geometry = seconds(lambda: causal_geometry(gamma_VD, shrinkage=0.0))
    g_VD = geometry.tokens(gamma_VD)
    sets = build_concepts(load_wordnet(), loaded.tokenizer, "n", rule="park").token_sets
    chosen = torch.linspace(0, len(sets) - 1, min(n_plain or len(sets), len(sets))).long().tolist()
    t_plan, t_ours, t_plain, plain = [], [], 0.0, {}
    for part in range(10):
        t, plan = seconds(lambda: plan_estimation(sets, g_VD.shape[1]))
        t_plan.append(t)
        t, found = seconds(lambda: estimate_sets(g_VD, plan))
        t_ours.append(t)
        for s in tqdm(chosen[part::10], desc=f"plain {part + 1}/10"):
            t, plain[s] = seconds(lambda: plain_vector(g_VD[sets[s]]))
            t_plain += t * len(sets) / len(chosen)
    worst = max(float((found.vector_SD[s] - v).norm() / v.norm()) for s, v in plain.items())
    plan_s, ours_s = statistics.mean(t_plan), statistics.mean(t_ours)
    size = plan.size_S
    print(
        f"\n{len(sets)} noun synsets (Park's rule), {int(size.min())} to {int(size.max())} words, "
        f"{int((size >= g_VD.shape[1]).sum())} with n >= d = {g_VD.shape[1]}"
    )
    if len(chosen) < len(sets):
        print(f"plain side extrapolated from {len(chosen)} synsets, evenly spread")
    steps = {
        "plain: Ledoit-Wolf + pinv": t_plain,
        "ours: plan": plan_s,
        "ours: estimate, also each further permutation": ours_s,
        "geometry, once": t_geometry,
    }
    print(pd.Series(steps, name="seconds").to_string(float_format="%.3f"))
    print(f"largest relative difference: {worst:.1e}   plain / further permutation: {t_plain / ours_s:.0f}")
    return {
        "synsets": len(sets),
        "synsets_timed_plain": len(chosen),
        "words": [int(size.min()), int(size.max())],
        "dim": g_VD.shape[1],
        "seconds": steps,
        "estimate_seconds_all_runs": t_ours,
        "largest_difference": worst,
        "ratio": t_plain / (plan_s + ours_s),
        "ratio_further_permutation": t_plain / ours_s,
    }


def operations(plan):
    "Floating-point operations of one estimation: its products and factorisations, by the routes of the plan"
    d, size_S = plan.dim, plan.size_S.tolist()
    small = sum(2 * size_S[s] ** 2 * (d + size_S[s] / 6) for batch in plan.dual for s in batch.sets_B.tolist())
    large = sum(1.25 * (len(step.plus_N) + len(step.minus_N)) * d**2 + d**3 / 3 for step in plan.primal)
    return small + large


def draws(loaded, n=24, parts=4):
    "Whole draws of shuffled rows, two at a time, in turns with dense products of as many operations"
    gamma_VD = unembedding(loaded.model, loaded.tokenizer).weight_VD
    g_VD = causal_geometry(gamma_VD, shrinkage=0.0).tokens(gamma_VD)
    concepts, rng = build_concepts(load_wordnet(), loaded.tokenizer, "n"), np.random.default_rng(0)
    parts_of = concepts.token_sets, concepts.edges_E2, concepts.depth_S, concepts.subtree_S, concepts.lemma_V
    study = plan_study(*parts_of, rng)
    d, sets, simplices = g_VD.shape[1], word_sets(study), plan_simplices(study)
    estimator, flop = planned_estimator(study, d), operations(plan_estimation(sets, d))

    def draw(rng):
        rows_RD = null_rows("shuffled", g_VD, study, rng)
        return measure(rows_RD, study, simplices, study_vectors(rows_RD, study, estimator))

    a, b = torch.randn(1024, d), torch.randn(d, 1024)
    products = max(int(flop / (2 * a.numel() * 1024)), 1)  # that make one draw's operations

    def dense(_):
        for _ in range(products):
            a @ b

    list(together(draw, rng.spawn(2)))
    ours, floor = [], []
    for _ in range(parts):
        ours.append(seconds(lambda: list(together(draw, rng.spawn(n // parts))))[0] / (n // parts))
        floor.append(seconds(lambda: list(together(dense, range(n // parts))))[0] / (n // parts))
    rows_RD, some = g_VD[study.used_R], np.linspace(0, len(sets) - 1, 40).astype(int)
    by_size = sorted(sets, key=len)
    plain = sum(seconds(lambda: plain_vector(rows_RD[by_size[s]]))[0] for s in some) * len(sets) / len(some)
    found = dict(sets=len(sets), gflop=flop / 1e9, ours=statistics.median(ours), dense=statistics.median(floor))
    found |= dict(plain=plain, ratio=plain / found["ours"], floor=found["ours"] / found["dense"])
    print(f"\none draw: {len(sets)} word sets, {flop / 1e9:.0f} GFLOP; seconds with two at a time:")
    print(pd.Series({k: found[k] for k in ("plain", "ours", "dense")}).to_string(float_format="%.2f"))
    return found


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
        t_estimate = min(seconds(lambda: estimate_sets(g_VD, plan))[0] for _ in range(2))  # noqa: F821
        measured = varied in ("vocab", "d")
        t_geometry = seconds(lambda: causal_geometry(g_VD))[0] if measured else float("nan")  # noqa: F821
        rows.append(dict(varied=varied, **point, plan_s=t_plan, estimate_s=t_estimate, geometry_s=t_geometry))
        del g_VD  # flake8 takes it for undefined in the calls above
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--plain", type=int, default=0, help="synsets on the plain side (0: all; fewer are extrapolated and said so)"
    )
    parser.add_argument("--also", help="a second model whose draws are measured")
    parser.add_argument("--save", type=Path, help="folder that gets phase1_estimation.json")
    args = parser.parse_args()
    torch.set_num_threads(2)
    loaded = load_model()
    compared, drawn = side_by_side(loaded, args.plain), draws(loaded)
    also = {"also": draws(load_model(args.also), n=8, parts=2) | {"model": args.also}} if args.also else {}
    table = growth()
    print("\ncost growth on synthetic sets (every eleventh set is the union of ten others)")
    print(table.to_string(index=False, float_format="%.3f", na_rep="-"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory {peak:.2f} GiB")
    if args.save:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": 2,
            "cpu": platform.machine(),
        }
        rows = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]  # without NaN
        found = {"machine": machine, "peak_gib": peak, "side_by_side": compared, "draw": drawn, "growth": rows} | also
        args.save.mkdir(parents=True, exist_ok=True)
        (args.save / "phase1_estimation.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"RATIO phase1 {compared['ratio']:.1f}")
    print(f"RATIO draw {drawn['ratio']:.1f}")
    print(f"FLOOR draw {drawn['floor']:.2f}")
    sys.exit(compared["largest_difference"] > 1e-4)
