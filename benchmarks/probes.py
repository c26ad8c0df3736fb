"""Probes of all concepts: ours, beside one plain L-BFGS for all of them, and scikit-learn one by one.

*Sparse*: features like codes, mostly silent, each reader's own, of sizes and rates that differ from latent to latent.
*Whole*: wide standardised inputs shared by all readers, whose variance differs from axis to axis.
All on one thread.
Run: python benchmarks/probes.py [--concepts 34] [--rounds 3]
"""

import argparse
import statistics
import time

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from polytope_hsae.metrics.probing import LinearProbes, fit_probes


def world(concepts: int, contexts: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    "Codes (concepts × contexts × k), more often on for the concept's own contexts; labels"
    y_NC = rng.integers(0, concepts, contexts)[:, None] == np.arange(concepts)
    rate_C1K, size_C1K = rng.lognormal(-4.0, 1.0, (concepts, 1, k)), rng.lognormal(0.0, 1.0, (concepts, 1, k))
    fires_CNK = rng.random((concepts, contexts, k)) < np.where(y_NC.T[..., None], 6.0, 1.0) * rate_C1K
    return fires_CNK * size_C1K * rng.gamma(2.0, 1.0, fires_CNK.shape), y_NC


def inputs(concepts: int, contexts: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    "Inputs (contexts × width) with a falling spectrum, and labels that depend on them"
    mixed = rng.normal(size=(width, width)) * np.arange(1, width + 1) ** -0.7
    x_NK = rng.normal(size=(contexts, width)) @ mixed
    x_NK = (x_NK - x_NK.mean(0)) / x_NK.std(0)
    score_NC = x_NK @ rng.normal(size=(width, concepts)) / width**0.5
    return x_NK, score_NC + 2 * rng.normal(size=score_NC.shape) > np.quantile(score_NC, 0.97, axis=0)


def at_once(x: np.ndarray, y_NC: np.ndarray, tol: float) -> LinearProbes:
    "The same problem as one minimisation by L-BFGS"
    (N, C), K, sign_NC = y_NC.shape, x.shape[-1], np.where(y_NC, 1.0, -1.0)
    weight_NC = np.where(y_NC, 0.5 / y_NC.sum(0), 0.5 / (~y_NC).sum(0))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        readers = LinearProbes(theta[: C * K].reshape(C, K), theta[C * K :])
        margin_NC = sign_NC * readers.score(x)
        slope_NC = -weight_NC * sign_NC * expit(-margin_NC)
        along_CK = (slope_NC.T[:, None] @ x)[:, 0] if x.ndim == 3 else slope_NC.T @ x
        along_CK = along_CK + readers.weight_CK / N
        value = (weight_NC * np.logaddexp(0, -margin_NC)).sum() + 0.5 / N * np.square(readers.weight_CK).sum()
        return value, np.concatenate([along_CK.ravel(), slope_NC.sum(0)])

    options = dict(maxiter=300, ftol=tol, gtol=1e-6)
    theta = minimize(loss, np.zeros(C * K + C), jac=True, method="L-BFGS-B", options=options).x
    return LinearProbes(theta[: C * K].reshape(C, K), theta[C * K :])


def one_by_one(x: np.ndarray, y_NC: np.ndarray, tol: float) -> LinearProbes:
    "The same readers by scikit-learn"
    fit = lambda x, y: LogisticRegression(class_weight="balanced", tol=tol, max_iter=1000).fit(x, y)
    fitted = [fit(x[c] if x.ndim == 3 else x, y_N) for c, y_N in enumerate(y_NC.T)]
    return LinearProbes(np.concatenate([f.coef_ for f in fitted]), np.concatenate([f.intercept_ for f in fitted]))


def compare(kind: str, x: np.ndarray, y_NC: np.ndarray, rounds: int) -> None:
    "Print seconds and ratios of all ways on the same features, in turns"
    ways = {"ours": fit_probes, "one L-BFGS": at_once, "scikit-learn": one_by_one}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    score = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            readers = way(x, y_NC, tol=1e-6)
            seconds[name].append(time.perf_counter() - start)
            score[name] = readers.score(x)
    took = {name: statistics.median(times) for name, times in seconds.items()}
    for name, value in took.items():
        apart = np.abs(score[name] - score["ours"]).max()
        print(f"{kind}: {name:13} {1000 * value:8.1f} ms   decision values within {apart:.1e} of ours")
    for name in list(ways)[1:]:
        print(f"RATIO probes {kind} {name} ÷ ours {took[name] / took['ours']:.1f}")


def main() -> None:
    "Print seconds and ratios"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=34, help="readers")
    parser.add_argument("--contexts", type=int, default=3072, help="contexts")
    parser.add_argument("--latents", type=int, default=5, help="features of each reader")
    parser.add_argument("--width", type=int, default=576, help="of a whole input")
    parser.add_argument("--rounds", type=int, default=3, help="times all are measured, in turns")
    args = parser.parse_args()
    rng, many = np.random.default_rng(0), (args.concepts, args.contexts)
    for kind, made in (("sparse", world(*many, args.latents, rng)), ("whole", inputs(*many, args.width, rng))):
        compare(kind, *made, args.rounds)


if __name__ == "__main__":
    with threadpool_limits(1):  # two pools of BLAS threads would spin and slow SciPy's minimiser fourfold, ours as well
        main()
