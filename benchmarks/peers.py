"""The other systems of `train_step.py`, each in its own library:
a function of (shape, learning rate, device) that returns a `System`.

Imported only by worker processes inside the peers' environments. Every step is the library's own: forward, loss,
backward, clipping,
decoder normalisation where the library has it, optimizer.
"""

from typing import Any, Callable, NamedTuple

import numpy as np


class System(NamedTuple):
    "A model in training."

    put: Callable[[np.ndarray], Any]  # activations to where and how the system wants them
    step: Callable[[Any], object]  # one training step on a batch
    reconstruct: Callable[[Any], Any] | None = None  # a batch after encoding and decoding
    encode: Callable[[Any], Any] | None = None  # codes of a batch; ours only


def load(name: str) -> Callable:
    "The builder of this name, its libraries imported, so that they do not count as the step's memory."
    if name.startswith("jax"):
        import equinox  # noqa: F401
        import jax  # noqa: F401
        import optax  # noqa: F401

        return jax_published if name == "jax-published" else jax_minimal
    if name == "dictionary-learning":
        import dictionary_learning.trainers.batch_top_k  # noqa: F401
        import dictionary_learning.trainers.top_k  # noqa: F401

        return dictionary_learning_topk
    if name == "tree-published":
        return tree_published
    if name == "sparsify":
        import sparsify  # noqa: F401

        return sparsify_topk
    import sae_lens  # noqa: F401

    return lambda *args: sae_lens_topk(*args, sparse=name == "sae-lens-sparse")


def sae_lens_topk(shape, lr: float, device: str, sparse: bool) -> System:
    "SAELens' TopK or BatchTopK, by default or with sparse activations (which need its rescaling off on a CPU)."
    import sae_lens
    import torch
    from sae_lens.saes.sae import TrainStepInput

    rule = "BatchTopK" if shape.rule == "batchtopk" else "TopK"
    sae = getattr(sae_lens, f"{rule}TrainingSAE")(
        getattr(sae_lens, f"{rule}TrainingSAEConfig")(
            d_in=shape.width,
            d_sae=shape.latents,
            k=shape.k,
            device=device,
            use_sparse_activations=sparse,
            rescale_acts_by_decoder_norm=not sparse,
        )
    )
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr)

    def step(x_BD) -> None:
        given = TrainStepInput(
            sae_in=x_BD, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
        )
        sae.training_forward_pass(given).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return System(lambda x: torch.from_numpy(x).to(device), step, sae)


def dictionary_learning_topk(shape, lr: float, device: str) -> System:
    "dictionary_learning's TopK or BatchTopK trainer, without its thousand steps of warm-up."
    import torch
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    batch = shape.rule == "batchtopk"
    given = dict(activation_dim=shape.width, dict_size=shape.latents, k=shape.k, lr=lr, device=device)
    trainer = (BatchTopKTrainer if batch else TopKTrainer)(
        steps=10_000, warmup_steps=0, layer=0, lm_name="none", **given
    )
    ae, step = trainer.ae, iter(range(1, 10_000))
    reconstruct = (lambda x_BD: ae.decode(ae.encode(x_BD, use_threshold=False))) if batch else ae
    return System(lambda x: torch.from_numpy(x).to(device), lambda x_BD: trainer.update(next(step), x_BD), reconstruct)


def sparsify_topk(shape, lr: float, device: str) -> System:
    "sparsify's SparseCoder with the step of its trainer, Adam."
    import torch
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    sae = SparseCoder(shape.width, SparseCoderConfig(num_latents=shape.latents, k=shape.k), device=device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr)

    def step(x_BD) -> None:
        sae.set_decoder_norm_to_unit_norm()
        sae(x_BD).fvu.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return System(lambda x: torch.from_numpy(x).to(device), step, lambda x_BD: sae(x_BD).sae_out)


def tree_levels(shape) -> tuple[int, int, int, int]:
    "Parents, children, and how many of each are kept: the shares of Tree SAE's published two-level models."
    parents, kept = shape.latents // 4, round(shape.k * 26 / 32)
    return parents, shape.latents - parents, kept, shape.k - kept


def tree_published(shape, lr: float, device: str) -> System:
    """The step of Tree SAE (2026) in the plainest PyTorch: dense codes, masks and decoders, as its authors compute it.

    Inputs standardised, two prefixes, parents' dead latents explain the parents' error, no clipping."""
    import torch

    P, C, k_top, k_low = tree_levels(shape)
    enc_FD = torch.nn.Parameter(torch.nn.Linear(shape.width, P + C, bias=False, device=device).weight.detach())
    dec_DF = torch.nn.Parameter((enc_FD / enc_FD.norm(dim=1, keepdim=True)).detach().T.clone())
    bias_D = torch.nn.Parameter(torch.zeros(shape.width, device=device))
    owner_C = torch.randint(0, P + 1, (C,), device=device)
    idle_F, capacity_P1 = torch.zeros(P + C, device=device), torch.zeros(P + 1, device=device)
    optimizer = torch.optim.Adam([enc_FD, dec_DF, bias_D], lr=lr, eps=6.25e-10)

    def keep(z_BN, k: int):
        value_BK, index_BK = z_BN.topk(k, dim=1)
        return torch.zeros_like(z_BN).scatter(1, index_BK, value_BK).relu()

    def run(x_BD):
        "Codes, scores and the two reconstructions"
        mean_B1 = x_BD.mean(1, keepdim=True)
        std_B1 = (x_BD - mean_B1).std(1, keepdim=True)
        pre_BF = ((x_BD - mean_B1) / (std_B1 + 1e-5) - bias_D) @ enc_FD.T
        top_BP = keep(pre_BF[:, :P], k_top)
        fires_BP1 = torch.cat([top_BP, torch.ones_like(top_BP[:, :1])], 1) > 1e-3
        codes_BF = torch.cat([top_BP, keep(pre_BF[:, P:] * fires_BP1[:, owner_C], k_low)], 1)
        back = lambda y_BD: y_BD * std_B1 + mean_B1
        return codes_BF, pre_BF, [back(codes_BF[:, :n] @ dec_DF[:, :n].T + bias_D) for n in (P, P + C)]

    def step(x_BD) -> None:
        codes_BF, pre_BF, recons = run(x_BD)
        fired_F = (codes_BF > 1e-3).any(0)
        idle_F.add_(1).masked_fill_(fired_F, 0)
        dead_BP = keep(pre_BF[:, :P] * (idle_F[:P] >= 2000), min(256, P))
        aux_BD = dead_BP @ dec_DF[:, :P].T + bias_D
        loss = sum((x_BD - r).square().mean() / (x_BD.var() + 1e-8) for r in recons)
        error_BD = x_BD - recons[0]
        spread = (error_BD - error_BD.mean(1, keepdim=True)).square().mean()
        loss = loss + ((error_BD - aux_BD).square().mean() / spread).nan_to_num(0) / 32
        with torch.no_grad():
            fired_P1 = torch.cat([fired_F[:P], fired_F.new_ones(1)])
            capacity_P1.add_(fired_P1 * (loss / fired_P1.sum()))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            dec_DF.div_(dec_DF.norm(dim=0))
            dec_DF.grad.sub_(dec_DF * (dec_DF.grad * dec_DF).sum(0))
        optimizer.step()

    return System(lambda x: torch.from_numpy(x).to(device), step, lambda x_BD: run(x_BD)[2][1])


# ---------------------------------------------------------------- the H-SAE of Muchane et al. 2025, in JAX


def _unit(w, axis: int = -1):
    "Vectors along an axis, divided by their norms."
    import jax.numpy as jnp

    return w / jnp.linalg.norm(w, axis=axis, keepdims=True)


def _leaky(z, offset: float, slope: float):
    "z from an offset on, a share of it below."
    import jax.numpy as jnp

    return jnp.where(z >= offset, z, slope * z)


def _jax_system(params: dict, loss: Callable, columns: dict[str, int], lr: float) -> System:
    """Clipping, Adam and unit decoder vectors around a loss; `columns` names decoder weights and the axis their
    vectors run along.
    """
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lr))

    @eqx.filter_jit(donate="all-except-first")
    def update(x_BD: jax.Array, params: dict, state: optax.OptState) -> tuple:
        grads = jax.grad(loss)(params, x_BD)
        for name, axis in columns.items():
            grads[name] -= (grads[name] * params[name]).sum(axis, keepdims=True) * params[name]
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return params | {name: _unit(params[name], axis) for name, axis in columns.items()}, state

    held = [params, optimizer.init(params)]

    def step(x_BD: jax.Array) -> None:
        held[:] = update(x_BD, *held)
        jax.block_until_ready(held[0])

    return System(lambda x: jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)), step)


def jax_published(shape, lr: float, device: str) -> System:
    """The step as its authors published it (moe_eqx.py, MIT licence).

    Decoders stored by column, top-k by k rounds of argmax, codes masked by scatter.

    Their off-diagonal subtracts a broadcast vector; here it is the diagonal. Statistics for logging are left out.
    """
    import jax
    import jax.numpy as jnp

    M, k, S, n, D = shape.latents, shape.k, shape.dim, shape.children, shape.width
    keys, he = jax.random.split(jax.random.PRNGKey(0), 3), jax.nn.initializers.he_uniform(in_axis=-1, out_axis=-2)
    E, V, C = he(keys[0], (M, D)), _unit(he(keys[1], (M, S, D))), _unit(he(keys[2], (M, n, S)))
    params = dict(E=E, D=_unit(E).T, V=V, U=V.transpose(0, 2, 1), C=C, d=C.transpose(0, 2, 1))

    def top_k(z_M: jax.Array) -> tuple:
        def one(left_M: jax.Array, _: None) -> tuple:
            i = left_M.argmax()
            return left_M.at[i].set(-jnp.inf), (left_M[i], i)

        return jax.lax.scan(one, z_M, None, k)[1]

    def encode(p: dict, x_D: jax.Array) -> tuple:
        z_M = _leaky(p["E"] @ x_D, D**-0.5, 0.0)
        z_k, i_k = top_k(z_M)
        return z_M, _leaky(jnp.einsum("kns,ks->kn", p["C"][i_k], p["V"][i_k] @ x_D), D**-0.5, 1e-2), i_k, z_k

    def decode(p: dict, c_kn: jax.Array, i_k: jax.Array, z_k: jax.Array) -> tuple:
        top_D = p["D"][:, i_k] @ z_k
        return top_D + jnp.einsum("kds,ks->d", p["U"][i_k], jnp.einsum("ksn,kn->ks", p["d"][i_k], c_kn)), top_D

    def loss(p: dict, x_BD: jax.Array) -> jax.Array:
        z_BM, c_Bkn, i_Bk, z_Bk = jax.vmap(encode, (None, 0))(p, x_BD)
        rows, experts = jnp.arange(len(x_BD))[:, None], jnp.arange(k)[None]
        kept = jnp.zeros_like(c_Bkn).at[rows, experts, c_Bkn.argmax(-1)].set(1) * (z_Bk > 0)[..., None]
        recon_BD, top_BD = jax.vmap(decode, (None, 0, 0, 0))(p, kept * c_Bkn, i_Bk, z_Bk)
        DE = _unit(p["D"], 0).T @ _unit(p["E"]).T
        l1 = (jnp.abs(z_BM).sum() + jnp.abs(c_Bkn).sum()) / len(x_BD)
        errors = jnp.square(x_BD - recon_BD).sum(1).mean() + 0.1 * jnp.square(x_BD - top_BD).sum(1).mean()
        return errors + 1e-3 * l1 + 0.1 * jnp.linalg.norm(DE - jnp.diag(jnp.diag(DE))) / (M * M - M)

    return _jax_system(params, loss, {"D": 0, "d": 1}, lr)


def jax_minimal(shape, lr: float, device: str) -> System:
    "The same model and losses in JAX as we would write it: rows contiguous, XLA's own top-k, one gather per weight."
    import jax
    import jax.numpy as jnp

    M, k, S, n, D = shape.latents, shape.k, shape.dim, shape.children, shape.width
    normal = lambda key, *size: _unit(jax.random.normal(key, size))
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    E, V, C = normal(keys[0], M, D), normal(keys[1], M, S, D), normal(keys[2], M, n, S)
    params = {name: jnp.array(w) for name, w in dict(E=E, D=E, V=V, U=V, C=C, d=C).items()}

    def one(p: dict, x_D: jax.Array) -> tuple:
        z_M = _leaky(p["E"] @ x_D, D**-0.5, 0.0)
        z_k, i_k = jax.lax.top_k(z_M, k)
        c_kn = _leaky(jnp.einsum("kns,ks->kn", p["C"][i_k], jnp.einsum("ksd,d->ks", p["V"][i_k], x_D)), D**-0.5, 1e-2)
        kept_kn = c_kn * jax.nn.one_hot(c_kn.argmax(1), n) * (z_k > 0)[:, None]
        top_D = z_k @ p["D"][i_k]
        low_D = jnp.einsum("ks,ksd->d", jnp.einsum("kn,kns->ks", kept_kn, p["d"][i_k]), p["U"][i_k])
        return (
            jnp.square(x_D - top_D - low_D).sum(),
            jnp.square(x_D - top_D).sum(),
            jnp.abs(z_M).sum() + jnp.abs(c_kn).sum(),
        )

    def loss(p: dict, x_BD: jax.Array) -> jax.Array:
        whole, top, l1 = (t.mean() for t in jax.vmap(one, (None, 0))(p, x_BD))
        ED = p["E"] @ p["D"].T
        return whole + 0.1 * top + 1e-3 * l1 + 0.1 * jnp.linalg.norm(ED - jnp.diag(jnp.diag(ED))) / (M * M - M)

    return _jax_system(params, loss, {"D": -1, "d": -1}, lr)
