# %%NBQA-CELL-SEP4baf75
# | default_exp experiment.plan


# %%NBQA-CELL-SEP4baf75
# | export
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import psutil
import torch

from polytope_hsae.assets.lookup import MODEL_ASSETS
from polytope_hsae.assets.packages import converted_dir
from polytope_hsae.config import Config
from polytope_hsae.core import UserError, atomic_write, file_sha256
from polytope_hsae.experiment.tuning import trials
from polytope_hsae.experiment.variants import Flat, Recipe, recipes, stages_of, taught, untaught
from polytope_hsae.training.memory import free_memory


# %%NBQA-CELL-SEP4baf75
# | hide
from fastcore.test import test_close, test_eq, test_fail
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from polytope_hsae.config import load_config
from polytope_hsae.experiment.setup import planted_run
from polytope_hsae.experiment.train import train_variants
from polytope_hsae.experiment.variants import loss_weights, new_sae, train_options
from polytope_hsae.training.step import Trainee, TrainSpec


# %%NBQA-CELL-SEP4baf75
# | export


class ModelShape(NamedTuple):
    "What a plan needs to know of a language model."

    vocabulary: int  # V, rows of the unembedding
    width: int  # d, of the residual
    blocks: int
    body: int  # numbers in the blocks' matrices
    softcap: bool = False  # whether logits are capped, so that an edit's effect does not factor
    tied: bool = True  # whether the embedding is the unembedding

    @property
    def numbers(self) -> int:
        "All weights: the blocks', and the embeddings'"
        return self.body + self.vocabulary * self.width * (1 if self.tied else 2)


# %%NBQA-CELL-SEP4baf75
# | export


def shape_of(
    config: Mapping[str, Any],  # the content of a config.json
) -> ModelShape:
    "The shape of a decoder by its configuration. Raises KeyError with the first number that is not there."
    config = config.get("text_config") or config

    def number(*names: str) -> int:
        found = [config[n] for n in names if config.get(n) is not None]
        if not found:
            raise KeyError(names[0])
        return int(found[0])

    width, heads = number("hidden_size", "n_embd", "d_model"), number("num_attention_heads", "n_head")
    groups = int(config.get("num_key_value_heads") or heads)
    head, inner = int(config.get("head_dim") or width // heads), config.get("intermediate_size") or config.get(
        "n_inner"
    )
    gated = not str(config.get("model_type")).startswith(("gpt", "opt", "bloom", "falcon", "mpt", "starcoder", "phi"))
    attention = 2 * width * head * (heads + groups)
    mlp = (3 if gated else 2) * width * int(inner or 4 * width)
    blocks = number("num_hidden_layers", "n_layer")
    tied = bool(config.get("tie_word_embeddings", True))
    capped = config.get("final_logit_softcapping") is not None
    return ModelShape(number("vocab_size"), width, blocks, blocks * (attention + mlp), capped, tied)


# %%NBQA-CELL-SEP4baf75
small = dict(vocab_size=100, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160)
grouped = dict(num_key_value_heads=2, head_dim=24)
for kind, more in {"llama": grouped, "gemma2": grouped, "gpt_neox": {}, "gpt2": dict(n_inner=160)}.items():
    config = AutoConfig.for_model(kind, **small, **more, pad_token_id=0)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    matrices = sum(p.numel() for name, p in built.get_decoder().named_parameters() if p.ndim == 2 and "emb" not in name)
    matrices -= sum(p.numel() for name, p in built.named_parameters() if name.endswith(("wte.weight", "wpe.weight")))
    found = shape_of(config.to_dict())
    test_eq((kind, found.body, found.vocabulary, found.width, found.blocks), (kind, matrices, 100, 64, 3))
    test_eq(found.softcap, kind == "gemma2")
test_fail(lambda: shape_of({"hidden_size": 4}), exc=KeyError, contains="num_attention_heads")


# %%NBQA-CELL-SEP4baf75
# | export
KNOWN_SHAPES = {  # for models whose config.json is not at hand
    "embedded": ModelShape(49_152, 576, 30, 106_168_320),
    "gemma-3-270m": ModelShape(262_144, 640, 18, 100_270_080),
    "google/gemma-2b": ModelShape(256_000, 2048, 18, 1_981_808_640),
    "google/gemma-2-2b": ModelShape(256_000, 2304, 26, 2_024_275_968, softcap=True),
    "EleutherAI/pythia-410m": ModelShape(50_304, 1024, 24, 301_989_888, tied=False),
}


# %%NBQA-CELL-SEP4baf75
# | exporti


def _config_file(name: str, revision: str | None) -> Path | None:
    "Where a model's config.json lies on this machine; None when it does not"
    if name in MODEL_ASSETS:
        path = converted_dir(name) / "config.json"
        return path if path.is_file() else None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision) if name.count("/") == 1 else None
    return Path(cached) if isinstance(cached, str) else None


# %%NBQA-CELL-SEP4baf75
# | export


def model_shape(
    name: str,  # an asset, a folder, or owner/name on the hub
    revision: str | None = None,  # hub revision
) -> ModelShape:
    "The shape of a model by name, without its weights. Raises UserError when its configuration cannot be read."
    path = _config_file(name, revision)
    if path is None and name in KNOWN_SHAPES:
        return KNOWN_SHAPES[name]
    if path is None:
        known = ", ".join(KNOWN_SHAPES)
        raise UserError(
            f"model '{name}' is no folder here, and its config.json is not in the hub's cache, so its sizes are not "
            f"known: run `hf download {name} config.json`, or name a folder or one of {known}"
        )
    try:
        return shape_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as e:
        found = f"'{e.args[0]}' is missing in {path}" if isinstance(e, KeyError) else f"{path} cannot be read ({e})"
        raise UserError(f"the sizes of model '{name}' are not known, because {found}: name a causal model") from e


# %%NBQA-CELL-SEP4baf75
config = dict(small, **grouped, model_type="llama")
with tempfile.TemporaryDirectory() as d:
    test_fail(lambda: model_shape(d), exc=UserError, contains="config.json cannot be read")
    (Path(d) / "config.json").write_text(json.dumps(config))
    test_eq(model_shape(d), shape_of(config))
    (Path(d) / "config.json").write_text(json.dumps(dict(vocab_size=3)))
    test_fail(lambda: model_shape(d), exc=UserError, contains="'hidden_size' is missing in")
test_fail(lambda: model_shape("no/such-model"), exc=UserError, contains="hf download no/such-model config.json")
test_eq(model_shape("google/gemma-2b"), KNOWN_SHAPES["google/gemma-2b"])
families = {  # what their configurations say
    "embedded": dict(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49_152,
    ),
    "gemma-3-270m": dict(
        hidden_size=640,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        intermediate_size=2048,
        vocab_size=262_144,
    ),
    "google/gemma-2b": dict(
        hidden_size=2048,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        intermediate_size=16_384,
        vocab_size=256_000,
    ),
    "google/gemma-2-2b": dict(
        hidden_size=2304,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        intermediate_size=9216,
        vocab_size=256_000,
        final_logit_softcapping=30.0,
    ),
    "EleutherAI/pythia-410m": dict(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        vocab_size=50_304,
        intermediate_size=4096,
        model_type="gpt_neox",
        tie_word_embeddings=False,
    ),
}
for name, told in families.items():
    test_eq((name, shape_of(told)), (name, KNOWN_SHAPES[name]))


# %%NBQA-CELL-SEP4baf75
# | export


class Amounts(NamedTuple):
    "How much a piece of work asks of a machine; or how much a machine does in a second."

    products: float = 0.0  # operations of float32 products of large matrices
    small: float = 0.0  # operations of many small float32 products and factorisations
    forward: float = 0.0  # operations of the language model, in its dtype
    double: float = 0.0  # operations of float64 products
    passes: float = 0.0  # bytes through the memory of the device
    files: float = 0.0  # bytes read from disk and written to it
    calls: float = 0.0  # kernels started
    host: float = 0.0  # seconds of one core of the machine whose constants these are

    def times(self, n: float) -> "Amounts":
        "The same work n times"
        return Amounts(*(n * x for x in self))

    def plus(self, *others: "Amounts") -> "Amounts":
        "This work and some more"
        return Amounts(*map(sum, zip(self, *others)))

    def seconds(self, rates: "Amounts") -> float:
        "How long it takes at some rates, one thing after the other"
        return sum(x / r for x, r in zip(self, rates) if x)

    @property
    def operations(self) -> float:
        "Floating-point operations of all kinds"
        return self.products + self.small + self.forward + self.double


# %%NBQA-CELL-SEP4baf75
work = Amounts(products=6, passes=10).plus(Amounts(products=2, double=1)).times(2)
test_eq((work.products, work.passes, work.operations), (16, 20, 18))
test_eq(work.seconds(Amounts(products=4, passes=10, double=1)), 16 / 4 + 20 / 10 + 2 / 1)


# %%NBQA-CELL-SEP4baf75
# | export


class Machine(NamedTuple):
    "A machine that may run the study."

    name: str
    rates: Amounts  # what it does in a second
    memory: float = math.inf  # bytes of its main memory
    device_memory: float = 0.0  # bytes of its GPU; 0: the CPU does everything


# %%NBQA-CELL-SEP4baf75
# | export
PUBLISHED = {  # vendor's data sheet: float32, bfloat16 (dense) and float64 in TFLOP/s; TB/s; GB
    "H100": (66.9, 989.4, 33.5, 3.35, 80),  # SXM5
    "A100-40": (19.5, 312, 9.7, 1.555, 40),  # without TF32, which PyTorch leaves off for float32 products
    "4090": (82.6, 165.2, 1.29, 1.008, 24),
}


# %%NBQA-CELL-SEP4baf75
# | export
REACHED = {  # share of these rates, as measured elsewhere
    "products": 0.7,  # large float32 products by cuBLAS reach 0.8 to 0.95
    "small": 0.12,  # batched products and Cholesky factors of hundreds of rows
    "forward": 0.4,  # 0.46 of the peak is what PaLM reached in training (Chowdhery et al., 2022, table 3)
    "double": 0.5,
    "passes": 0.75,  # a copy reaches 0.85 to 0.92
}


# %%NBQA-CELL-SEP4baf75
# | export


def named_machines() -> list[Machine]:
    """Machines by their published rates and the shares of these that are reached elsewhere.

    Their disk is taken to move 2 GB/s, a kernel to start in 7 µs, and a core to be as fast as the one timed here."""
    machines = []
    for name, (float32, bfloat16, float64, memory, size) in PUBLISHED.items():
        peak = dict(products=float32, small=float32, forward=bfloat16, double=float64, passes=memory)
        rates = {k: REACHED[k] * x * 1e12 for k, x in peak.items()}
        machines.append(Machine(name, Amounts(**rates, files=2e9, calls=1.5e5, host=1.0), device_memory=size * 1e9))
    return machines


# %%NBQA-CELL-SEP4baf75
# | export
Clock = Callable[
    [], float
]  # seconds since some moment: `time.perf_counter`, or `time.process_time` on a shared machine


# %%NBQA-CELL-SEP4baf75
# | exporti


def _rate(
    work: Callable[[], Any], amount: float, seconds: float = 1.0, device: str = "cpu", clock: Clock = time.perf_counter
) -> float:
    "Amount of work done per second, by the middle one of as many runs as fit into some seconds, at least three"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    began, taken = time.perf_counter(), []
    while len(taken) < 3 or time.perf_counter() - began < seconds and len(taken) < 1000:
        start = clock()
        work()
        wait()
        taken.append(clock() - start)
    return amount / sorted(taken)[len(taken) // 2]


# %%NBQA-CELL-SEP4baf75
# | exporti


def _solve(x_BND: torch.Tensor) -> torch.Tensor:
    "What an estimate does with sets of a hundred words"
    gram_BNN = x_BND @ x_BND.mT
    gram_BNN.diagonal(dim1=1, dim2=2).add_(1.0)
    return torch.linalg.cholesky_ex(gram_BNN).L @ x_BND


# %%NBQA-CELL-SEP4baf75
# | exporti


def _disk_rate(folder: Path, clock: Clock, size: int = 2**26) -> float:
    "Bytes per second written and verified, as the store does it"
    data, start = os.urandom(2**20) * (size // 2**20), clock()
    with tempfile.TemporaryDirectory(dir=folder) as d:
        file_sha256(atomic_write(Path(d) / "probe", data))
    return 2 * size / (clock() - start)


# %%NBQA-CELL-SEP4baf75
# | exporti


def _host_loop() -> dict[int, str]:
    "A piece of Python like those that build concepts; the core that the constants were timed on takes HOST_LOOP"
    return {i: str(i)[::-1] for i in range(100_000)}


# %%NBQA-CELL-SEP4baf75
# | export
HOST_LOOP = 0.035  # seconds


# %%NBQA-CELL-SEP4baf75
# | export


def probe(
    shape: ModelShape,  # of the language model
    dtype: str = "float32",  # of its weights
    device: str = "cpu",  # or cuda
    folder: Path | str = ".",  # on the disk in question
    clock: Clock = time.perf_counter,
) -> Machine:
    "Measure this machine. Cost: about ten seconds, 1 GiB of memory, 64 MiB of disk for a moment."
    on = dict(device=device)
    a_NN, inner = torch.randn(2048, 2048, **on), 4 * shape.width
    sets_BND = torch.randn(16, 128, shape.width, **on)
    up_DI, down_ID = (
        torch.randn(s, **on).to(getattr(torch, dtype)) for s in ((shape.width, inner), (inner, shape.width))
    )
    tokens_ND, wide_NN = torch.randn(1024, shape.width, **on).to(up_DI.dtype), a_NN[:1024, :1024].double()
    weight_N = torch.nn.Parameter(torch.ones(2**22, **on))
    weight_N.grad, adam = torch.ones_like(weight_N), torch.optim.AdamW([weight_N], fused=True)
    dot, tiny_N = lambda x_NN: 2 * len(x_NN) ** 3, torch.zeros(16, **on)
    rate = lambda work, amount, seconds=1.0: _rate(work, amount, seconds, device, clock)
    rates = Amounts(
        products=rate(lambda: a_NN @ a_NN, dot(a_NN), 1.5),
        small=rate(lambda: _solve(sets_BND), 16 * (4 * 128**2 * shape.width + 128**3 / 3)),
        forward=rate(lambda: tokens_ND @ up_DI @ down_ID, 4 * 1024 * shape.width * inner, 1.5),
        double=rate(lambda: wide_NN @ wide_NN, dot(wide_NN)),
        passes=rate(adam.step, 7 * weight_N.nbytes),
        files=_disk_rate(Path(folder), clock),
        calls=rate(lambda: [tiny_N.add_(1.0) for _ in range(1000)], 1000, 0.5),
        host=_rate(_host_loop, HOST_LOOP, clock=clock),
    )
    gpu = torch.cuda.get_device_properties(0) if device == "cuda" else None
    return Machine("here", rates, psutil.virtual_memory().total, gpu.total_memory if gpu else 0.0)


# %%NBQA-CELL-SEP4baf75
started = time.perf_counter()
here = probe(KNOWN_SHAPES["embedded"])
assert all(math.isfinite(rate) and rate > 0 for rate in here.rates) and time.perf_counter() - started < 20
assert 1e9 < here.rates.small < 3 * here.rates.products < 1e15 and 1e8 < here.rates.passes < 1e13, here
assert here.memory > 2**30 and here.device_memory == 0


# %%NBQA-CELL-SEP4baf75
# | export


def parameters(
    recipe: Recipe,
    d: int,  # width of the residual
) -> int:
    "Trained numbers of a variant's model, without building it."
    h = recipe.cfg.hsae
    if recipe.flat is not None:
        return flat_latents(recipe.cfg, recipe.flat, d) * (2 * d + 1) + d
    return h.m_top * (2 * d + 1 + h.m_low * (2 * h.subspace_dim + 1) + 2 * h.subspace_dim * d) + d


# %%NBQA-CELL-SEP4baf75
# | export


def flat_latents(
    cfg: Config,
    flat: Flat,
    d: int,  # width of the residual
) -> int:
    "Latents of a flat model of the hierarchical one's size, without building either."
    h = cfg.hsae
    if flat.match == "latents":
        return h.m_top * (1 + h.m_low)
    return (parameters(Recipe(cfg, "random"), d) - d) // (2 * d + 1)


# %%NBQA-CELL-SEP4baf75
sizes = ["hsae.m_top=8", "hsae.subspace_dim=5", "hsae.m_low=3", "ablate.flat=[topk, matryoshka]", "concepts.parents=3"]
wide = load_config("demo", [*sizes, "concepts.max_children=2", "ablate.flat_match=[latents, parameters]"])
for recipe in recipes(wide).values():
    built = new_sae(recipe, 16, 0)  # as when it is built
    test_eq(parameters(recipe, 16), sum(p.numel() for p in built.parameters()))
    if recipe.flat:
        test_eq(flat_latents(recipe.cfg, recipe.flat, 16), built.n_latents)


# %%NBQA-CELL-SEP4baf75
# | export
STEP_CALLS = 400  # kernels that one step of one model starts, counted with torch.profiler


# %%NBQA-CELL-SEP4baf75
# | export


def training_step(
    recipe: Recipe,
    d: int,  # width of the residual
    frozen: bool = False,  # the decoder does not move
) -> Amounts:
    "One step of one model, without its batch: the sum in the text above."
    h, B = recipe.cfg.hsae, recipe.cfg.training.batch_size_acts
    numbers, k = parameters(recipe, d), h.topk_parent
    if recipe.flat is not None:
        latents, used = flat_latents(recipe.cfg, recipe.flat, d), k * (1 + h.topk_child)
        products = 2 * B * d * latents
        passes = 4 * (9 * numbers + B * (6 * latents + 20 * d + 4 * used * d))
        return Amounts(products=products, passes=passes, calls=STEP_CALLS / 2)
    pair, frames = 2 * B * k * h.subspace_dim * d, 4 * h.m_top * h.subspace_dim**2 * d
    energy = 6 * h.m_top * min(h.m_top, d) * (h.m_top + d) / 2 if h.biorth else 0
    products, small = 2 * B * d * h.m_top + energy + (0 if frozen else frames), (7 if frozen else 8) * pair
    moved = (5 if frozen else 9) * numbers + (0 if frozen else 6 * h.m_top * h.subspace_dim * d)
    passes = 4 * (moved + B * (3 * h.m_top + 104 * d + 40 * k * d))
    return Amounts(products=products, small=small, passes=passes, calls=STEP_CALLS)


# %%NBQA-CELL-SEP4baf75
def counted(batch, **how):
    "Operations of one step as PyTorch counts them, and as planned; all parents are in use, and nothing is dead"
    sizes = dict(m_top=8, topk_parent=8, subspace_dim=16, m_low=4) | how
    sizes_text = [f"hsae.{k}={v}" for k, v in sizes.items()]
    cfg = load_config("demo", [*sizes_text, "concepts.parents=3", f"training.batch_size_acts={batch}"])
    recipe = Recipe(cfg, "random")
    sae = new_sae(recipe, 64, 0)
    trainee = Trainee(TrainSpec(sae, stages_of(recipe), loss_weights(recipe, sae)), train_options(cfg))
    x_BD = torch.randn(batch, 64, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        assert trainee.gradients(x_BD, 0) is None
        trainee.apply(0)
    pair = 2 * batch * sizes["topk_parent"] * sizes["subspace_dim"] * 64
    return counter.get_total_flops(), training_step(recipe, 64).operations - 3 * pair + pair


for batch, how in ((512, {}), (16, dict(subspace_dim=48)), (64, dict(m_top=32, topk_parent=32))):
    found, planned = counted(batch, **how)
    test_close(planned / found, 1, eps=0.05)


# %%NBQA-CELL-SEP4baf75
# | export


class Work(NamedTuple):
    "One kind of work of one phase."

    phase: int  # 1 … 4
    what: str
    amounts: Amounts


# %%NBQA-CELL-SEP4baf75
# | export
TYPICAL = dict(  # timed on one core (HOST_LOOP) for the demo unless said otherwise; seconds
    start=40.0,  # a phase's imports, model, figures and page
    words=12.0,  # concepts of one part of speech or rule, for 49,152 tokens
    tokens=16e-6,  # a token of text, tokenised
    measure=0.29,  # statistics of a draw, for 49,152 tokens
    geometry=100.0,  # intervals, hulls, interventions and figures of phase 1, for 49,152 tokens
    antonyms=12.0,
    validation=0.05,  # sums of a validation of one model
    scoring=1.0,  # sums and bootstraps of one scored model
    probing=2.0,  # probes of one model
    space=18.0,  # dense probes of one space
    steering=0.6,  # intervals of one method at one magnitude and level
)


# %%NBQA-CELL-SEP4baf75
# | export


def concept_count(vocabulary: int) -> float:
    "Noun concepts of a vocabulary: 369 of 49,152 tokens and 715 of 262,144, a power between them."
    return 369 * (vocabulary / 49_152) ** 0.395


# %%NBQA-CELL-SEP4baf75
# | export


def draw_operations(
    vocabulary: int,
    d: int,
) -> float:
    """Operations that estimate all noun concepts once, in all their splits.

    Plans for 49,152 and 262,144 tokens at d = 576 and 2,048 take 0.10, 0.21, 1.9 and 5.6 TFLOP; a power law in both
    sizes, whose exponents rise with each other, goes through all four."""
    tokens, width = math.log(vocabulary / 49_152), math.log(d / 576)
    return 1.03e11 * math.exp(0.427 * tokens + 2.293 * width + 0.171 * tokens * width)


# %%NBQA-CELL-SEP4baf75
# | export


def draws(cfg: Config) -> float:
    """Estimations of all noun concepts in phase 1, verbs counted as what they cost beside nouns.

    n shuffles and a fifth of them of each of four other nulls, for one or two parts of speech; six under each other
    metric; five controls; eight, by their cost, of the published rules."""
    v = cfg.eval.validation
    n = 1 + v.n_permutations + 4 * max(v.n_permutations // 5, min(v.n_permutations, 19))
    return n * (1.13 if v.other_pos else 1.0) + 6 * len(v.metrics) + 5 + 8 * v.published


# %%NBQA-CELL-SEP4baf75
# | export


def extraction(cfg: Config, shape: ModelShape) -> list[Work]:
    """Phase 1: read N tokens with a model of `body` numbers, store d per token, measure V rows, draw nulls.

    2·body·N operations, N·(2d + 14) bytes written and verified; per metric 2·V·d² + 10·d³ in float64 and 2·V·d² in
    float32; `draws` × `draw_operations`."""
    N, V, d, t = cfg.data.token_budget, shape.vocabulary, shape.width, TYPICAL
    attention = 4 * cfg.data.window_length * d * shape.blocks
    read = Amounts(forward=1.1 * N * (2 * shape.body + attention), files=2 * stored_bytes(cfg, d))
    read = read.plus(Amounts(host=t["tokens"] * max(4 * N, 2_000_000), calls=N / 128 / cfg.data.capture_batch * 400))
    metrics, scale = 2 + len(cfg.eval.validation.metrics), V / 49_152
    rows = Amounts(double=metrics * (2 * V * d**2 + 10 * d**3), products=metrics * 2 * V * d**2)
    rules = 1 + cfg.eval.validation.other_pos + cfg.eval.validation.published
    host = t["start"] + t["antonyms"] + t["geometry"] * scale**0.6 + rules * t["words"] * scale
    n, ops = draws(cfg), draw_operations(V, d)
    null = Amounts(small=n * ops, passes=n * 0.03 * ops, calls=n * 3000, host=n * t["measure"] * scale**0.75)
    return [
        Work(1, "reading the corpus", read),
        Work(1, "null draws", null),
        Work(1, "metrics of the vocabulary", rows),
        Work(1, "concepts and figures", Amounts(host=host)),
    ]


# %%NBQA-CELL-SEP4baf75
# | export


def stored_bytes(
    cfg: Config,
    d: int,  # width of the residual
) -> float:
    "Bytes of the activation store, at most: a residual in `data.store_dtype` and 14 bytes of labels per token."
    return cfg.data.token_budget * ((4 if cfg.data.store_dtype == "float32" else 2) * d + 14)


# %%NBQA-CELL-SEP4baf75
# | export


def steps_of(recipe: Recipe) -> tuple[int, int]:  # with a frozen decoder, with a moving one
    "Steps of a variant's schedule; an early stop may save some."
    stages = stages_of(recipe)
    frozen = sum(s.steps for s in stages if s.freeze_decoder)
    return frozen, sum(s.steps for s in stages) - frozen


# %%NBQA-CELL-SEP4baf75
# | export


def training(
    cfg: Config,
    shape: ModelShape,
    phase: int,  # 2: variants that see no teacher; 3: the others
) -> list[Work]:
    """Phases 2 and 3: M models of every variant take all its steps, are validated and kept, and are scored.

    Per step M × `training_step`, 2·B·d² for the map into the variant's space and B rows read; per validation 2^14
    contexts encoded; per checkpoint 12 bytes a parameter written and verified; per model 2·V·d operations for each of
    2^13 contexts, and as much once for the clean model."""
    d, M, variants = shape.width, cfg.eval.seeds, recipes(cfg)
    names = untaught(variants) if phase == 2 else taught(variants)
    work = {name: Amounts() for name in ("training", "batches", "validation", "checkpoints", "scores")}
    for recipe in (variants[name] for name in names):
        frozen, moving = steps_of(recipe)
        steps, B, log = frozen + moving, recipe.cfg.training.batch_size_acts, recipe.cfg.logging
        tuned = len(trials(cfg)) * cfg.training.tune.steps if recipe.like is None and len(trials(cfg)) > 1 else 0
        still, free = (training_step(recipe, d, freeze).times(M) for freeze in (True, False))
        free = free.times(moving + tuned / M)
        batch = Amounts(products=2 * B * d**2, passes=20 * B * d).times(steps + tuned / max(len(trials(cfg)), 1))
        batch = batch.plus(Amounts(files=read_again(cfg, d, steps * B)))
        looks = M * math.ceil(steps / log.log_every)
        work["training"] = work["training"].plus(still.times(frozen), free)
        work["batches"] = work["batches"].plus(batch)
        work["validation"] = work["validation"].plus(looking(recipe, d, 2**14).times(looks))
        kept = 2 * 12 * parameters(recipe, d) * M * (1 + math.ceil(steps / log.checkpoint_every))
        work["checkpoints"] = work["checkpoints"].plus(Amounts(files=kept))
        work["scores"] = work["scores"].plus(scoring(recipe, shape).times(M))
    start = Amounts(host=TYPICAL["start"], double=2 * shape.vocabulary * d**2 + 10 * d**3)
    work["scores"] = work["scores"].plus(start, Amounts(files=0.3 * stored_bytes(cfg, d) * len(names)))
    return [Work(phase, what, amounts) for what, amounts in work.items()]


# %%NBQA-CELL-SEP4baf75
# | export


def read_again(
    cfg: Config,
    d: int,
    rows: float,  # that training asks for
) -> float:
    "Bytes read from disk for some rows in random order: each once, where all fit into the buffer of 2^18 rows."
    train = cfg.data.token_budget * cfg.concepts.split[0]
    return (rows if train > 2**18 else min(rows, train)) * stored_bytes(cfg, d) / cfg.data.token_budget


# %%NBQA-CELL-SEP4baf75
# | export


def looking(
    recipe: Recipe,
    d: int,
    contexts: float,
) -> Amounts:
    "A model's reconstruction of some contexts, with its input map: 2·d² + 2·d·P + 4·k·S·d operations each."
    h = recipe.cfg.hsae
    wide = (
        2 * d * flat_latents(recipe.cfg, recipe.flat, d)
        if recipe.flat
        else 2 * d * h.m_top + 4 * h.topk_parent * (h.subspace_dim * d)
    )
    rows = 0 if recipe.flat else 2 * h.m_top * h.m_low * h.subspace_dim * d
    products = contexts * (2 * d**2 + wide) + math.ceil(contexts / 4096) * rows
    return Amounts(
        products=products, passes=contexts * d * 120, calls=contexts / 4096 * 100, host=TYPICAL["validation"]
    )


# %%NBQA-CELL-SEP4baf75
# | export


def scoring(
    recipe: Recipe,
    shape: ModelShape,
) -> Amounts:
    "Scores of one model: labelled contexts, about one in twenty, and 2^13 others, whose logits are computed."
    cfg, V = recipe.cfg, shape.vocabulary
    labelled = 0.05 * cfg.data.token_budget * sum(cfg.concepts.split[1:])
    n = min(2**13, cfg.data.token_budget * cfg.concepts.split[2])
    logits = Amounts(products=2 * n * V * shape.width, passes=n * V * 4 * 8, host=TYPICAL["scoring"])
    return looking(recipe, shape.width, labelled + n).plus(logits)


# %%NBQA-CELL-SEP4baf75
# | export


def evaluation(cfg: Config, shape: ModelShape) -> list[Work]:
    """Phase 4: N concepts are steered in 200 contexts by every method and seed at A magnitudes; models are probed.

    Per method, seed and magnitude 2·200·V·N operations in float64 and passes over N·V numbers; over 200·N·V where
    logits are capped and an edit's effect does not factor."""
    V, d, variants = shape.vocabulary, shape.width, recipes(cfg)
    controls = sum(r.start in ("shuffled", "rotated") and r.like is None for r in variants.values())
    methods = (2 + controls + 1) * cfg.eval.seeds + 2
    concepts = cfg.concepts.parents * (1 + min(cfg.concepts.max_children, 3) * 0.7)
    numbers = methods * len(cfg.eval.steering_magnitudes) * concepts * V
    steer = Amounts(double=400 * numbers, passes=8 * numbers * (200 * 12 if shape.softcap else 16))
    steer = steer.plus(Amounts(products=2 * methods * concepts * V * d, files=stored_bytes(cfg, d)))
    steer = steer.plus(Amounts(host=TYPICAL["steering"] * 2 * (controls + 5) * len(cfg.eval.steering_magnitudes)))
    spaces = len({r.cfg.hsae.space for r in variants.values()})
    models = cfg.eval.seeds * (len(variants) + spaces)
    host = TYPICAL["probing"] * models + TYPICAL["space"] * spaces
    probes = Amounts(host=host, files=stored_bytes(cfg, d))
    texts = Amounts(forward=2 * shape.body * 3 * 25 * 20, calls=36 * shape.blocks * 40, host=5.0)
    start = Amounts(host=TYPICAL["start"], double=2 * V * d**2 + 10 * d**3)
    return [Work(4, "steering", steer), Work(4, "probes", probes), Work(4, "texts and figures", start.plus(texts))]


# %%NBQA-CELL-SEP4baf75
# | export


def disk_parts(
    cfg: Config,
    shape: ModelShape,
    together: int | None = None,  # models of a variant that are trained at once; None: all seeds
) -> dict[str, float]:  # by the key that lowers it
    "Bytes that a run's folder holds at its largest."
    d, variants, half = shape.width, recipes(cfg), cfg.model.dtype != "float32"
    maps = 8 * d**2
    kept = sum((2 if half else 4) * parameters(r, d) + maps for r in variants.values()) * cfg.eval.seeds
    largest = max(parameters(r, d) for r in variants.values())
    models = min(together or cfg.eval.seeds, cfg.eval.seeds)
    return {
        "data.token_budget": stored_bytes(cfg, d),
        "eval.seeds": kept,
        "logging.keep_last_k": 12 * largest * models * (cfg.logging.keep_last_k + 1),
        "geometry.min_vocab_count": 2e7 + 40 * shape.vocabulary,
    }


# %%NBQA-CELL-SEP4baf75
# | export
BASE_MEMORY = 0.95 * 2**30  # bytes of Python, PyTorch, transformers and a notebook; measured


# %%NBQA-CELL-SEP4baf75
# | export


def device_parts(
    cfg: Config,
    shape: ModelShape,
    phase: int,
    together: int | None = None,  # models trained at once; None: all seeds
    on_gpu: bool = True,  # gathers rows for dead latents, and steps one model at a time
) -> dict[str, float]:  # by the key that lowers it
    "Bytes that lie where the heavy work is done, at their peak in a phase."
    V, d, t = shape.vocabulary, shape.width, cfg.training
    weights = shape.numbers * (4 if cfg.model.dtype == "float32" else 2)
    rows = 4 * V * d * (2 if cfg.model.dtype == "float32" and shape.tied is False else 1)
    if phase == 1:
        kept = min(2**30, 0.6 * concept_count(V) * 4 * d**2)
        reading = cfg.data.capture_batch * cfg.data.window_length * (shape.body / shape.blocks / d + 8 * d) * 2
        return {
            "model.dtype": 2 * weights + 5 * rows,
            "data.capture_batch": reading,
            "geometry.min_vocab_count": 2 * kept,
        }
    head = {"model.dtype": weights + 2 * rows}
    if phase == 4:
        return head | {"concepts.parents": 2**30 + 24 * V * 200}
    numbers, h = max(parameters(r, d) for r in recipes(cfg).values()), cfg.hsae
    models, k = min(together or cfg.eval.seeds, cfg.eval.seeds), h.topk_parent
    inside = d * (10 + 3 * k) + 3 * h.m_top + k * (5 * h.subspace_dim + 2 * h.m_low) + (32 * d if on_gpu else 0)
    step = {"training.batch_size_acts": 4 * t.batch_size_acts * inside * (1 if on_gpu else models)}
    frames = 8 * h.m_top * h.subspace_dim * d * (1 if on_gpu else models)
    return head | step | {"hsae.subspace_dim": 16 * numbers * models + frames}


# %%NBQA-CELL-SEP4baf75
# | export


def host_parts(
    cfg: Config,
    shape: ModelShape,
    phase: int,
    on_gpu: bool = False,
    together: int | None = None,  # models trained at once; None: all seeds
) -> dict[str, float]:  # by the key that lowers it
    "Bytes of main memory, at their peak in a phase."
    d, width = shape.width, 4 if cfg.data.store_dtype == "float32" else 2
    train, weights = cfg.data.token_budget * cfg.concepts.split[0], shape.numbers
    held = width * d * (min(train, 2**18) * (2 if train > 2**18 else 1) if phase in (2, 3) else 2**16)
    text = 60 * cfg.data.token_budget + 8 * max(4 * cfg.data.token_budget, 2e6) if phase == 1 else 0
    own = {"data.shard_size_tokens": held, "data.token_budget": text, "": BASE_MEMORY}
    if on_gpu:
        return own | {"model.dtype": weights * (4 if cfg.model.dtype == "float32" else 2)}
    return own | device_parts(cfg, shape, phase, together, False)


# %%NBQA-CELL-SEP4baf75
# | export


class PhasePlan(NamedTuple):
    "What one phase will ask of a machine."

    phase: int
    activations: float  # stored (1), trained on by all models together (2, 3), read (4)
    disk: float  # bytes in the run's folder once it is done
    host: float  # bytes of main memory at the peak
    device: float  # bytes of a GPU at the peak; 0 on the CPU
    work: list[Work]

    @property
    def amounts(self) -> Amounts:
        "All its work together"
        return Amounts().plus(*(w.amounts for w in self.work))


# %%NBQA-CELL-SEP4baf75
# | export


def plan_phases(
    cfg: Config,
    shape: ModelShape,  # of the language model
    on_gpu: bool = False,  # where the heavy work will be done
) -> list[PhasePlan]:
    "All four phases. Cost: microseconds."
    variants, M = recipes(cfg), cfg.eval.seeds
    trained = lambda names: M * sum(sum(steps_of(variants[n])) * cfg.training.batch_size_acts for n in names)
    seen = [cfg.data.token_budget, trained(untaught(variants)), trained(taught(variants)), cfg.data.token_budget]
    parts = disk_parts(cfg, shape)
    share = len(untaught(variants)) / len(variants)
    store = parts["data.token_budget"] + parts["geometry.min_vocab_count"]
    disk = [store, store + share * parts["eval.seeds"], *[store + parts["eval.seeds"]] * 2]
    work = [extraction(cfg, shape), training(cfg, shape, 2), training(cfg, shape, 3), evaluation(cfg, shape)]
    total = lambda of: sum(of.values())
    return [
        PhasePlan(
            p,
            seen[p - 1],
            disk[p - 1],
            total(host_parts(cfg, shape, p, on_gpu)),
            total(device_parts(cfg, shape, p)) if on_gpu else 0.0,
            work[p - 1],
        )
        for p in (1, 2, 3, 4)
    ]


# %%NBQA-CELL-SEP4baf75
# | export


def hours(
    plans: Sequence[PhasePlan],
    machine: Machine,
) -> float:
    "What some phases take on a machine, hours."
    return sum(plan.amounts.seconds(machine.rates) for plan in plans) / 3600


# %%NBQA-CELL-SEP4baf75
# | exporti


def _hours(seconds: float, fits: bool = True) -> str:
    "Hours in three digits; in brackets where the machine's memory does not suffice"
    h = seconds / 3600
    text = f"{h:,.0f}" if h >= 100 else f"{h:.1f}" if h >= 10 else f"{h:.2f}"
    return text if fits else f"({text})"


# %%NBQA-CELL-SEP4baf75
# | exporti


def _rows(plans: Sequence[PhasePlan], machines: Sequence[Machine], items: int) -> list[list[str]]:
    "Cells of the table: phases and their sum, then the largest kinds of work, each kind by what it takes here"
    here, giga, gib = machines[0], 1e9, 2**30

    def row(name: str, amounts: Amounts, fits: Sequence[bool], *sizes: str) -> list[str]:
        times = [_hours(amounts.seconds(m.rates), ok) for m, ok in zip(machines, fits)]
        return [name, *sizes, f"{amounts.operations / 1e15:,.3g}", *times]

    names = {1: "1 teacher extraction", 2: "2 baseline H-SAE", 3: "3 teacher H-SAE", 4: "4 evaluation"}
    fit = lambda p, m: p.device <= m.device_memory if m.device_memory else p.host <= m.memory
    rows = []
    for p in sorted(plans, key=lambda p: -p.amounts.seconds(here.rates)):
        sizes = f"{p.activations / 1e6:,.4g}", f"{p.disk / giga:.1f}", f"{p.host / gib:.1f}", f"{p.device / gib:.1f}"
        rows.append(row(names[p.phase], p.amounts, [fit(p, m) for m in machines], *sizes))
    whole = Amounts().plus(*(p.amounts for p in plans))
    top = lambda of, unit: f"{max(getattr(p, of) for p in plans) / unit:.1f}"
    every = [all(fit(p, m) for p in plans) for m in machines]
    rows.append(row("all", whole, every, "", top("disk", giga), top("host", gib), top("device", gib)))
    work = sorted((w for p in plans for w in p.work), key=lambda w: -w.amounts.seconds(here.rates))
    return rows + [row(f"{w.phase}: {w.what}", w.amounts, [True] * len(machines), *[""] * 4) for w in work[:items]]


# %%NBQA-CELL-SEP4baf75
# | exporti


def _heading(cfg: Config, shape: ModelShape, here: Machine) -> list[str]:
    "What is planned, and what this machine does in a second"
    r, threads = here.rates, f"{torch.get_num_threads()} threads"
    where = f"a GPU with {here.device_memory / 1e9:.0f} GB" if here.device_memory else threads
    return [
        f"{cfg.model.name}: V = {shape.vocabulary:,}, d = {shape.width:,}, {shape.blocks} blocks; "
        f"{len(recipes(cfg))} variants, {cfg.eval.seeds} seeds",
        f"here: {where}; {r.products / 1e9:,.0f} GFLOP/s in products, {r.forward / 1e9:,.0f} in forward passes; "
        f"{r.passes / 1e9:,.1f} GB/s in memory, {r.files / 1e9:.2f} on disk",
    ]


# %%NBQA-CELL-SEP4baf75
# | export


def plan_text(
    cfg: Config,
    shape: ModelShape,  # of the language model
    here: Machine,  # as probed
    items: int = 9,  # kinds of work that are listed
) -> str:  # at most 25 lines of at most 110 characters
    "What a run will ask of this machine and of named ones, what takes longest here first."
    on_gpu, on_cpu = plan_phases(cfg, shape, True), plan_phases(cfg, shape)
    plans = [g._replace(host=c.host) if not here.device_memory else g for g, c in zip(on_gpu, on_cpu)]
    machines = [here, *named_machines()]
    head = ["", "act. M", "disk GB", "host GiB", "GPU GiB", "PFLOP", *(f"{m.name} h" for m in machines)]
    rows = [head, *_rows(plans, machines, items)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    line = lambda row: row[0].ljust(widths[0]) + "".join("  " + c.rjust(w) for c, w in zip(row[1:], widths[1:]))
    table, kept = [line(row).rstrip() for row in rows], disk_parts(cfg, shape)["logging.keep_last_k"]
    last = f"Checkpoints of the variant in training take up to {kept / 1e9:.1f} GB of disk more."
    return "\n".join([*_heading(cfg, shape, here), "", *table[:6], "", *table[6:], "", last])


# %%NBQA-CELL-SEP4baf75
two_cores = Amounts(1e11, 4e10, 8e10, 4e10, 1e10, 5e8, 1e5, 1.0)
laptop = Machine("here", two_cores, memory=24e9)
v2, shape = load_config("v2-focused"), model_shape("google/gemma-2b")
text = plan_text(v2, shape, laptop)
assert len(text.splitlines()) <= 25 and max(map(len, text.splitlines())) <= 110, text
time_on = {m.name: hours(plan_phases(v2, shape, True), m) for m in named_machines()}
assert time_on["A100-40"] <= 30 and time_on["H100"] <= 12, time_on
test_eq(len(recipes(v2)), 16)
print(text)


# %%NBQA-CELL-SEP4baf75
# | export


class Room(NamedTuple):
    "What a run can have of this machine, bytes."

    disk: float
    memory: float
    device: float | None = None  # None: the CPU does everything


# %%NBQA-CELL-SEP4baf75
# | exporti


def _folder_size(folder: Path) -> int:
    "Bytes of the files in a folder; 0 when there is none"
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else 0


# %%NBQA-CELL-SEP4baf75
# | export


def room_here(
    run_dir: Path | str,  # the run's folder, there or not
    device: torch.device,  # of the language model
) -> Room:
    "Room on this machine: free and what this run already takes. Cost: one look at the names of the run's files."
    folder = Path(run_dir).expanduser().absolute()
    there = next(p for p in (folder, *folder.parents) if p.is_dir())
    memory = free_memory(torch.device("cpu")) + psutil.Process().memory_info().rss
    gpu = free_memory(device) + torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    return Room(shutil.disk_usage(there).free + _folder_size(folder), memory, gpu)


# %%NBQA-CELL-SEP4baf75
# | export
PARTS = {  # key that lowers a part → what the part is, and what to do
    "data.token_budget": ("the corpus and its activations", "lower data.token_budget"),
    "data.shard_size_tokens": ("rows that are shuffled together", "lower data.token_budget"),
    "data.capture_batch": ("windows that are read at once", "lower data.capture_batch"),
    "eval.seeds": ("the trained models", "lower eval.seeds or hsae.subspace_dim"),
    "logging.keep_last_k": ("checkpoints", "lower logging.keep_last_k"),
    "geometry.min_vocab_count": ("concepts and sums of their words", "raise geometry.min_vocab_count"),
    "concepts.parents": ("edits of all concepts", "lower concepts.parents"),
    "model.dtype": ("the language model and its unembedding", "name a smaller model.name, or set model.dtype=bf16"),
    "hsae.subspace_dim": ("a model in training", "lower hsae.subspace_dim or hsae.m_top"),
    "training.batch_size_acts": ("a batch in training", "lower training.batch_size_acts"),
}


# %%NBQA-CELL-SEP4baf75
# | exporti


def _lack(what: str, parts: Mapping[str, float], free: float) -> str | None:
    "One sentence when some parts are larger than what is free, naming the key that lowers the largest"
    need = sum(parts.values())
    if need <= free:
        return None
    key = max((k for k in parts if k), key=lambda k: parts[k])
    meaning, cure = PARTS[key]
    gib = lambda x: f"{x / 2**30:.3g} GiB"
    return f"this run needs {gib(need)} {what}, {gib(parts[key])} of it for {meaning}, but {gib(free)} is free: {cure}"


# %%NBQA-CELL-SEP4baf75
# | export


def check_room(
    cfg: Config,
    shape: ModelShape,
    room: Room,
) -> None:
    "Raise UserError when disk or memory cannot suffice, naming the key that lowers most of it."
    on_gpu, needed = room.device is not None, [("of disk", disk_parts(cfg, shape, 1), room.disk)]
    for phase in (1, 2, 3, 4):
        needed.append(("of memory", host_parts(cfg, shape, phase, on_gpu, 1), room.memory))
        if room.device is not None:
            needed.append(("on the GPU", device_parts(cfg, shape, phase, 1), room.device))
    for what, parts, free in needed:
        sentence = _lack(what, parts, free)
        if sentence is not None:
            raise UserError(sentence)


# %%NBQA-CELL-SEP4baf75
ample = Room(1e13, 1e12, 1e12)
check_room(v2, shape, ample)
gemma = lambda *how: load_config("v2-focused", list(how))
spoilt = {
    ("data.token_budget=10_000_000_000",): (ample, "GiB of disk", "lower data.token_budget"),
    ("eval.seeds=50_000",): (ample, "GiB of disk", "lower eval.seeds"),
    ("logging.keep_last_k=10_000",): (ample, "GiB of disk", "lower logging.keep_last_k"),
    ("training.batch_size_acts=10_000_000",): (ample, "on the GPU", "lower training.batch_size_acts"),
    ("data.capture_batch=2_000_000",): (ample, "on the GPU", "lower data.capture_batch"),
    ("hsae.m_top=100_000", "hsae.subspace_dim=2_000"): (ample._replace(disk=1e18), "on the GPU", "hsae.subspace_dim"),
    ("eval.seeds=5",): (ample._replace(device=1e9), "on the GPU", "name a smaller model.name"),
    ("eval.seeds=4",): (Room(1e13, 3e9), "of memory", "name a smaller model.name"),
}
for how, (room, where, cure) in spoilt.items():
    test_fail(lambda: check_room(gemma(*how), shape, room), exc=UserError, contains=where)
    test_fail(lambda: check_room(gemma(*how), shape, room), contains=cure)
for key in {k for p in (1, 2, 3, 4) for k in host_parts(v2, shape, p) | disk_parts(v2, shape) if k}:
    assert key in PARTS, key


# %%NBQA-CELL-SEP4baf75
with tempfile.TemporaryDirectory() as d:
    found = room_here(Path(d) / "runs" / "new", torch.device("cpu"))
    assert found.device is None and 2**20 < found.memory <= psutil.virtual_memory().total
    assert abs(found.disk - shutil.disk_usage(d).free) < 2**30
    run = planted_run(d, ["logging.keep_last_k=1"])
    train_variants(run, ["baseline", "teacher", "shuffled_teacher"])
    tiny = ModelShape(len(run.setup.g_VD), 16, 2, 0)
    kept = sum(f.stat().st_size for f in (Path(d) / "checkpoints").rglob("*") if f.is_file())
    overhead = 6 * 2 * 2000  # names, shapes and settings of six models, which matter at this size only
    assert 0.9 < kept / disk_parts(run.cfg, tiny)["eval.seeds"] < 1.1 + overhead / kept, kept
    test_eq(_folder_size(Path(d)), sum(f.stat().st_size for f in Path(d).rglob("*") if f.is_file()))


# %%NBQA-CELL-SEP4baf75
# | hide
import nbdev

nbdev.nbdev_export()
