"""Three predictions of the theory, measured on a language model; nbs/theory/t1 … t3 read what this writes.

    python scripts/theory.py runs/demo runs/demo_gemma     # writes nbs/reports/theory.json; five minutes, one thread

Each folder is a run whose first phase is done (`polytope-hsae run --phase 1`); where phase 3 is done too, its trained
teachers are measured as well. Everything is seeded, so a second execution writes the same file on the same machine.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from polytope_hsae.config import load_config
from polytope_hsae.core import atomic_write, repo_dir
from polytope_hsae.estimators.teacher import Teacher, load_teacher
from polytope_hsae.experiment.contexts import labelled_contexts
from polytope_hsae.experiment.folder import model_dir
from polytope_hsae.experiment.prepare import open_run
from polytope_hsae.experiment.setup import RunContext
from polytope_hsae.experiment.variants import loss_weights, new_sae, recipes, train_options
from polytope_hsae.geometry.causal import random_rotate, rotate_towards
from polytope_hsae.geometry.polytopes import fan_cells
from polytope_hsae.metrics.evaluate import LabelledContexts
from polytope_hsae.metrics.probing import probe_scores
from polytope_hsae.models.files import load_sae
from polytope_hsae.models.hierarchical import HierarchicalSAE
from polytope_hsae.stats.paired import crossed_interval
from polytope_hsae.training.init import InputMap, child_rows, fit_input_map, init_from_teacher, start_at_mean
from polytope_hsae.training.schedules import Stage
from polytope_hsae.training.step import Trainee, TrainSpec

SEEDS, ANGLES, STEPS, BATCH, EVERY = (0, 1, 2), (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0), 60, 512, 3


class World(NamedTuple):
    "What is measured on, one model."

    run: RunContext
    teacher: Teacher
    input_map: InputMap
    pool_ND: Tensor  # inputs of training contexts
    taught: LabelledContexts  # training contexts whose next word teaches; inputs in place of residuals
    held: LabelledContexts  # validation and test contexts with a label, the same


def open_world(folder: Path) -> World:
    "Read a run's contexts and its teacher."
    run = open_run(load_config(folder / "config.yaml"), folder)
    read = lambda split: LabelledContexts.join(list(labelled_contexts(run.setup, run.store, split)))
    train, held = read("train"), LabelledContexts.join([read("validation"), read("test")])
    geometry = run.setup.geometry if run.cfg.hsae.space == "causal" else None
    input_map = fit_input_map(train.resid_BD.split(4096), geometry)
    inputs = lambda contexts: contexts._replace(resid_BD=input_map.apply(contexts.resid_BD))
    labelled = lambda contexts: inputs(contexts.keep(contexts.parent_B >= 0))
    return World(run, load_teacher(folder), input_map, input_map.apply(train.resid_BD), labelled(train), labelled(held))


def started(world: World, teacher: Teacher, seed: int, degrees: float = 0.0) -> HierarchicalSAE:
    "A model at a teacher, before its first step."
    sae = new_sae(recipes(world.run.cfg)["teacher"], len(world.input_map.mean_D), seed)
    start_at_mean(sae, world.input_map)
    share, generator = world.run.cfg.geometry.energy_threshold, torch.Generator().manual_seed(seed)
    init_from_teacher(sae, teacher, init_jitter_deg=degrees, energy_threshold=share, generator=generator)
    return sae.eval()


def interval(value_SC: np.ndarray) -> list[float]:
    "Mean over seeds × concepts with its crossed 95 % interval"
    found = crossed_interval(value_SC, np.random.default_rng(0), 2000)
    return [round(float(v), 5) for v in (found.value, found.low, found.high)]


def rank_correlation(a_SC: np.ndarray, b_SC: np.ndarray) -> list[float]:
    "Mean Spearman correlation over seeds, with an interval over concepts drawn anew"
    rng, C = np.random.default_rng(0), a_SC.shape[1]
    mean = lambda at: np.nanmean([spearmanr(a[at], b[at]).statistic for a, b in zip(a_SC, b_SC)])
    drawn = [mean(rng.integers(0, C, C)) for _ in range(500)]
    return [round(float(v), 4) for v in (mean(np.arange(C)), *np.nanquantile(drawn, [0.025, 0.975]))]


# ---------------------------------------------------------------- T1


class Leak(NamedTuple):
    "What contexts of one parent (columns) do to the rows of another (rows)."

    gradient_PQ: Tensor  # mean length of the gradient of a decoder row, a context
    bound_PQ: Tensor  # mean of 2‖r‖(m|cos| + |u·n|)
    part_PQ: Tensor  # mean of the part 2‖r‖m|cos| alone
    violations: int  # single contexts above their bound


@torch.no_grad()
def leak(sae: HierarchicalSAE, contexts: LabelledContexts, concept_PD: Tensor) -> Leak:
    "Gradient of ‖x − x̂‖² by parent row, and its bound, from contexts x − b = m·u_q + n."
    P, unit_PD = len(concept_PD), torch.nn.functional.normalize(concept_PD, dim=1)
    x_BD, out = contexts.resid_BD - sae.dec_bias_D, sae(contexts.resid_BD)
    size_B = 2 * (contexts.resid_BD - out.recon_BD).norm(dim=1)
    z_BP = out.codes.dense(sae.n_latents)[:, :P]
    row_PD, label_B = sae.parent_enc_PD[:P], contexts.parent_B
    own_BD = (x_BD * unit_PD[label_B]).sum(1, keepdim=True) * unit_PD[label_B]
    part_BP, rest_BP = (own_BD @ row_PD.T).abs(), ((x_BD - own_BD) @ row_PD.T).abs()
    gradient_BP, bound_BP = size_B[:, None] * z_BP, size_B[:, None] * (part_BP + rest_BP)
    mean = lambda value_BP: torch.stack([value_BP[label_B == q].mean(0) for q in range(P)], 1)
    above = int((gradient_BP > bound_BP * (1 + 1e-4) + 1e-4).sum())
    return Leak(mean(gradient_BP), mean(bound_BP), mean(size_B[:, None] * part_BP), above)


def towards(parent_PD: Tensor, degrees: float) -> Tensor:
    "Every parent turned towards the other parent that is nearest to it, length kept."
    unit_PD = torch.nn.functional.normalize(parent_PD, dim=1)
    near_P = (unit_PD @ unit_PD.T - 2 * torch.eye(len(unit_PD))).argmax(1)
    return rotate_towards(parent_PD, unit_PD[near_P], degrees)


def t1(world: World) -> dict[str, Any]:
    "Cross-parent gradient at the start, over the angle by which the teacher is turned."
    parent_PD, P = world.teacher.parent_PD, len(world.teacher.parents)
    unit_PD, off_PP = torch.nn.functional.normalize(parent_PD, dim=1), ~torch.eye(P, dtype=torch.bool)
    lines: list[dict[str, Any]] = []
    for how, degrees in itertools.product(("random", "towards"), ANGLES):
        cross_SQ, own_SQ, above, tied, over = [], [], 0, [], []
        for seed in SEEDS:
            gen = torch.Generator().manual_seed(seed)
            turned_PD = random_rotate(parent_PD, degrees, gen) if how == "random" else towards(parent_PD, degrees)
            found = leak(started(world, world.teacher._replace(parent_PD=turned_PD), seed), world.taught, parent_PD)
            cos_PP = torch.nn.functional.normalize(turned_PD, dim=1) @ unit_PD.T
            cross_SQ.append(((found.gradient_PQ * off_PP).sum(0) / (P - 1)).numpy())
            own_SQ.append(found.gradient_PQ.diagonal().numpy())
            above += found.violations
            tied.append(spearmanr(cos_PP[off_PP], found.gradient_PQ[off_PP]).statistic)
            over.append(float(found.part_PQ[off_PP].sum() / found.bound_PQ[off_PP].sum()))
        lines.append(
            dict(
                how=how,
                degrees=degrees,
                cross=interval(np.array(cross_SQ)),
                own=interval(np.array(own_SQ)),
                above_bound=above,
                rank_with_cosine=[round(float(t), 4) for t in tied],
                share_of_bound_by_cosine=round(float(np.mean(over)), 4),
            )
        )
    return dict(lines=lines, n_contexts=len(world.taught.parent_B), n_pairs=P * (P - 1), width=parent_PD.shape[1])


# ---------------------------------------------------------------- T2


def route(sae: HierarchicalSAE, x_BD: Tensor, parent: int, slot_K: Tensor) -> Tensor:
    "The taught child that a model's own scores prefer"
    inside_BS = (x_BD - sae.dec_bias_D) @ sae.down_PSD[parent].T
    return (inside_BS @ sae.child_enc_PLS[parent, slot_K].T + sae.child_bias_PL[parent, slot_K]).argmax(1)


def deranged(chosen_B: Tensor, cell_B: Tensor, K: int) -> float:
    "Mean agreement with the same cells under wrong names: all permutations without a fixed point"
    wrong = [p for p in itertools.permutations(range(K)) if all(i != j for i, j in enumerate(p))]
    return float(np.mean([(chosen_B == torch.tensor(p)[cell_B]).float().mean() for p in wrong]))


@torch.no_grad()
def fan_agreement(sae: HierarchicalSAE, world: World, seed: int) -> np.ndarray:  # parents × 5
    "Agreement of a router with the teacher's fan, permuted fan, turned fan; hit rates of router and fan. NaN: no data"
    start, held, rows = child_rows(world.teacher), world.held, []
    gen, D = torch.Generator().manual_seed(seed), len(sae.dec_bias_D)
    turns = [torch.linalg.qr(torch.randn(D, D, generator=gen)).Q for _ in range(5)]
    for p in range(len(world.teacher.parents)):
        child_K = (world.teacher.parent_of_C == p).nonzero()[:, 0]
        x_BD = world.taught.resid_BD[world.taught.parent_B == p]
        if len(child_K) < 2 or len(x_BD) < 10:
            rows.append([np.nan] * 5)
            continue
        vertex_KD = torch.nn.functional.normalize(start.rows_PKD[p, start.slot_C[child_K]], dim=1)
        cells = lambda x_BD, v_KD: fan_cells(x_BD - sae.dec_bias_D, v_KD).cell_N
        chosen_B, fan_B = route(sae, x_BD, p, start.slot_C[child_K]), cells(x_BD, vertex_KD)
        same = lambda cell_B: float((chosen_B == cell_B).float().mean())
        turned = np.mean([same(cells(x_BD, vertex_KD @ turn_DD)) for turn_DD in turns])
        at_B = (held.child_B[:, None] == child_K).any(1)
        true_B = (held.child_B[at_B][:, None] == child_K).float().argmax(1)
        y_BD = held.resid_BD[at_B]
        hit = lambda c_B: float((c_B == true_B).float().mean()) if len(true_B) >= 5 else np.nan
        hits = hit(route(sae, y_BD, p, start.slot_C[child_K])), hit(cells(y_BD, vertex_KD))
        rows.append([same(fan_B), deranged(chosen_B, fan_B, len(child_K)), turned, *hits])
    return np.array(rows)


def t2(world: World, models: dict[str, list[HierarchicalSAE]]) -> dict[str, Any]:
    "Routers of several models against fans"
    found: dict[str, Any] = {}
    for name, saes in models.items():
        value_SPM = np.stack([fan_agreement(sae, world, seed) for seed, sae in enumerate(saes)])
        fan, permuted, turned, router_hits, fan_hits = np.moveaxis(value_SPM, 2, 0)
        found[name] = dict(
            agreement=interval(fan),
            permuted=interval(permuted),
            turned=interval(turned),
            over_permuted=interval(fan - permuted),
            over_turned=interval(fan - turned),
            router_hits=interval(router_hits),
            fan_hits=interval(fan_hits),
            hits_gap=interval(router_hits - fan_hits),
            seeds=len(saes),
            parents=int(np.isfinite(fan).all(0).sum()),
            parents_hits=int(np.isfinite(router_hits).all(0).sum()),
        )
    return found


# ---------------------------------------------------------------- T3, and what becomes of T1


def own_auc(sae: HierarchicalSAE, contexts: LabelledContexts, P: int) -> np.ndarray:  # P
    "AUC of every taught parent's own score, among contexts with a label; NaN for a parent with fewer than three"
    score_BP = ((contexts.resid_BD - sae.dec_bias_D) @ sae.parent_enc_PD[:P].T + sae.parent_bias_P[:P]).detach().numpy()
    own_BP = contexts.parent_B.numpy()[:, None] == np.arange(P)
    enough_P, found_P = own_BP.sum(0) >= 3, np.full(P, np.nan)
    found_P[enough_P] = probe_scores(score_BP[:, enough_P], own_BP[:, enough_P]).auc_C
    return found_P


@torch.no_grad()
def firing_leakage(sae: HierarchicalSAE, contexts: LabelledContexts, P: int) -> np.ndarray:  # P
    "Firing rate of every taught parent's own latent on contexts of the others"
    fires_BP = sae.encode(contexts.resid_BD).dense(sae.n_latents)[:, :P] > 0
    return np.array([float(fires_BP[contexts.parent_B != p, p].float().mean()) for p in range(P)])


class Trained(NamedTuple):
    "One model trained from a turned teacher, and its curve."

    sae: HierarchicalSAE
    auc_TP: np.ndarray
    cosine_TP: np.ndarray  # of parent decoder rows to the unturned teacher


def train_from(world: World, degrees: float, seed: int) -> Trained:
    "Sixty steps at full rate for all rows, taught or not."
    cfg, P = world.run.cfg, len(world.teacher.parents)
    sae, recipe = started(world, world.teacher, seed, degrees), recipes(world.run.cfg)["teacher"]
    spec = TrainSpec(sae, [Stage("all", STEPS, cfg.training.lr)], loss_weights(recipe, sae), seed=seed)
    trainee, rng = Trainee(spec, train_options(cfg)), np.random.default_rng(seed)
    auc, cosine = [], []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            row_PD = sae.parent_dec_PD[:P].detach()
            auc.append(own_auc(sae, world.held, P))
            cosine.append(torch.cosine_similarity(row_PD, world.teacher.parent_PD, dim=1).numpy())
        if step < STEPS:
            trouble = trainee.gradients(world.pool_ND[rng.integers(0, len(world.pool_ND), BATCH)], step)
            if trouble:
                raise RuntimeError(f"step {step} at {degrees}°, seed {seed}: {trouble}")
            trainee.apply(step)
    return Trained(sae.eval(), np.array(auc), np.array(cosine))


def t3(world: World, trained: dict[float, list[Trained]]) -> dict[str, Any]:
    "AUC of taught rows and their turn over training, by the angle of the start"
    auc_AS = {a: np.array([np.nanmean(t.auc_TP, 1) for t in ts]) for a, ts in trained.items()}
    step_T, lines = np.arange(0, STEPS + 1, EVERY), []
    for a, ts in trained.items():
        lines.append(
            dict(
                degrees=a,
                auc_start=interval(np.stack([t.auc_TP[0] for t in ts])),
                auc_end=interval(np.stack([t.auc_TP[-1] for t in ts])),
                auc_change=interval(np.stack([t.auc_TP[-1] - t.auc_TP[0] for t in ts])),
                cosine_end=interval(np.stack([t.cosine_TP[-1] for t in ts])),
                curve=[round(float(v), 4) for v in auc_AS[a].mean(0)],
            )
        )
    n = len(world.held.parent_B)
    return dict(step=step_T.tolist(), lines=lines, n_contexts=n, batch=BATCH)


def becomes(world: World, start: list[HierarchicalSAE], end: list[HierarchicalSAE]) -> list[float]:
    "Rank correlation of a parent's leakage before the first step and after training"
    P = len(world.teacher.parents)
    rates = lambda saes: np.stack([firing_leakage(sae, world.held, P) for sae in saes])
    return rank_correlation(rates(start), rates(end))


def measure(folder: Path) -> dict[str, Any]:
    "All three on one model"
    world = open_world(folder)
    print(f"{folder}: {len(world.taught.parent_B)} taught contexts, {len(world.held.parent_B)} held out", flush=True)
    found: dict[str, Any] = {"t1": t1(world)}
    trained = {a: [train_from(world, a, seed) for seed in SEEDS] for a in ANGLES}
    found["t3"] = t3(world, trained)
    start = [started(world, world.teacher, seed) for seed in SEEDS]
    models = {"start": start, f"{STEPS} steps": [t.sae for t in trained[0.0]]}
    kept = [model_dir(folder, "teacher", seed) for seed in world.run.seeds]
    if all((f / "model.safetensors").exists() for f in kept):
        models["phase 3"] = [load_sae(f).eval() for f in kept]
    found["t2"] = t2(world, models)
    ends = {name: saes for name, saes in models.items() if name != "start"}
    found["t1"]["start_predicts_end"] = {name: becomes(world, start, saes) for name, saes in ends.items()}
    cfg = world.run.cfg
    about = dict(model=cfg.model.name, token_budget=cfg.data.token_budget, parents=len(world.teacher.parents))
    return about | dict(seeds=list(SEEDS), lr=cfg.training.lr, steps=STEPS) | found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="runs with a finished first phase")
    parser.add_argument("--out", type=Path, default=repo_dir() / "nbs/reports/theory.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(folder) for folder in args.folders]
    atomic_write(args.out, json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
