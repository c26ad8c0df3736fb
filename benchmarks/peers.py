"""The other systems of `train_step.py`: each function builds a model in its own library and returns a function that takes one step.

Imported only by worker processes inside the peers' environment. Every step is the library's own: forward, loss, backward, clipping,
decoder normalisation where the library has it, optimiser.
"""

import os
from typing import Callable

import numpy as np


def load(name: str) -> Callable:
    "The system of this name, its libraries imported and its threads set."
    if name == "jax":
        import equinox  # noqa: F401, E401
        import jax
        import optax

        return jax_hsae
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if name == "dictionary-learning":
        import dictionary_learning.trainers.top_k  # noqa: F401

        return dictionary_learning_topk
    if name == "sparsify":
        import sparsify  # noqa: F401

        return sparsify_topk
    import sae_lens  # noqa: F401

    return lambda shape, x: sae_lens_topk(shape, x, sparse=name == "sae-lens-sparse")


def sae_lens_topk(shape, x: np.ndarray, sparse: bool) -> Callable[[], object]:
    "SAELens' TopK, by default or with sparse activations (which need its rescaling off on a CPU)."
    import torch
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=shape.width,
            d_sae=shape.latents,
            k=shape.k,
            use_sparse_activations=sparse,
            rescale_acts_by_decoder_norm=not sparse,
        )
    )
    optimizer, x_BD = torch.optim.Adam(sae.parameters(), lr=3e-4), torch.from_numpy(x)

    def step() -> None:
        out = sae.training_forward_pass(TrainStepInput(sae_in=x_BD, coefficients={}, dead_neuron_mask=None, n_training_steps=0))
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def dictionary_learning_topk(shape, x: np.ndarray) -> Callable[[], object]:
    "dictionary_learning's TopK trainer."
    import torch
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10_000,
        activation_dim=shape.width,
        dict_size=shape.latents,
        k=shape.k,
        layer=0,
        lm_name="none",
        device="cpu",
        lr=3e-4,
    )
    x_BD, step = torch.from_numpy(x), iter(range(1, 10_000))
    return lambda: trainer.update(next(step), x_BD)


def sparsify_topk(shape, x: np.ndarray) -> Callable[[], object]:
    "sparsify's SparseCoder with the step of its trainer, Adam."
    import torch
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    sae = SparseCoder(shape.width, SparseCoderConfig(num_latents=shape.latents, k=shape.k))
    optimizer, x_BD = torch.optim.Adam(sae.parameters(), lr=3e-4), torch.from_numpy(x)

    def step() -> None:
        sae.set_decoder_norm_to_unit_norm()
        sae(x_BD).fvu.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def jax_hsae(shape, x: np.ndarray) -> Callable[[], object]:
    "The published H-SAE step (Muchane et al. 2025): weights gathered per context, L1 on all codes, m×m orthogonality, clip, Adam, unit rows."
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    M, k, S, n, D = shape.latents, shape.k, shape.dim, shape.children, shape.width
    unit = lambda w: w / jnp.linalg.norm(w, axis=-1, keepdims=True)
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    E, V, C = (
        unit(jax.random.normal(keys[0], (M, D))),
        unit(jax.random.normal(keys[1], (M, S, D))),
        unit(jax.random.normal(keys[2], (M, n, S))),
    )
    params = dict(E=E, D=E, V=V, U=V, C=C, d=C)
    hard = lambda z, slope: jnp.where(z >= D**-0.5, z, slope * z)

    def one(p: dict, x_D: jax.Array) -> tuple:
        z_M = hard(p["E"] @ x_D, 0.0)
        z_k, i_k = jax.lax.top_k(z_M, k)
        c_kn = hard(jnp.einsum("kns,ks->kn", p["C"][i_k], jnp.einsum("ksd,d->ks", p["V"][i_k], x_D)), 1e-2)
        kept_kn = c_kn * jax.nn.one_hot(c_kn.argmax(1), n) * (z_k > 0)[:, None]
        top = z_k @ p["D"][i_k]
        low = jnp.einsum("ks,ksd->d", jnp.einsum("kn,kns->ks", kept_kn, p["d"][i_k]), p["U"][i_k])
        return jnp.sum((x_D - top - low) ** 2), jnp.sum((x_D - top) ** 2), jnp.abs(z_M).sum() + jnp.abs(c_kn).sum()

    def loss(p: dict, x_BD: jax.Array) -> jax.Array:
        whole, top, l1 = (t.mean() for t in jax.vmap(one, (None, 0))(p, x_BD))
        ED = p["E"] @ p["D"].T
        return whole + 0.1 * top + 1e-3 * l1 + 0.1 * jnp.linalg.norm(ED - jnp.diag(jnp.diag(ED))) / (M * M - M)

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-4))

    @eqx.filter_jit(donate="all")
    def update(p: dict, state: optax.OptState, x_BD: jax.Array) -> tuple:
        grads = jax.grad(loss)(p, x_BD)
        for name in ("D", "d"):
            grads[name] = grads[name] - (grads[name] * p[name]).sum(-1, keepdims=True) * p[name]
        updates, state = optimizer.update(grads, state, p)
        p = optax.apply_updates(p, updates)
        return {**p, "D": unit(p["D"]), "d": unit(p["d"])}, state

    params = jax.tree.map(jnp.array, params)
    held = [params, optimizer.init(params)]
    x = x / np.linalg.norm(x, axis=1, keepdims=True)

    def step() -> None:
        held[:] = update(*held, jnp.asarray(x))
        jax.block_until_ready(held[0])

    return step
