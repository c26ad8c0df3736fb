"""Capture beside the bare forward pass: same model, same windows, same process, taken in turns.

The bare loop is `model.model(batch)` over the same windows with nothing kept. A ratio of 1 means that choosing
positions, converting, checksumming and writing shards cost nothing.

With `--run` also what a labelled test context costs there, in tokens that the model reads: in the documents that were
picked for their words, and if each were read only up to its last labelled word, as a causal model may.

    python benchmarks/capture.py [--windows 128] [--rounds 2] [--run runs/demo] [--save FILE]
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads distort ratios when anything else runs

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from polytope_hsae.activations.capture import capture
from polytope_hsae.activations.corpus import Packed, Plan, opening_tokens, pack, read_documents
from polytope_hsae.activations.store import SPLITS
from polytope_hsae.assets import iter_texts, load_model, load_wordnet
from polytope_hsae.config import load_config
from polytope_hsae.core import atomic_write
from polytope_hsae.experiment import open_run
from polytope_hsae.experiment.contexts import corpus_windows


def windows_of_text(tokenizer, n: int, window: int) -> Packed:
    "The first windows of the gloss corpus"
    documents = read_documents(iter_texts("wordnet-glosses", load_wordnet()), tokenizer, 2 * n * window)
    order = np.arange(len(documents.lengths))
    separator = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    packed = pack(
        documents, Plan(order, np.zeros_like(order), np.zeros_like(order)), window, separator, opening_tokens(tokenizer)
    )
    return Packed(*(part[:n] for part in packed[:-1]), tail=0)


def seconds(run) -> float:
    "Wall-clock time of a call"
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def tokens_per_label(folder: Path) -> dict[str, int]:
    "What a finished run's picked test documents hold: tokens, labelled contexts, tokens up to the last label of each"
    run = open_run(load_config(folder / "config.yaml"), folder)
    packed = corpus_windows(run.cfg, run.setup.loaded, run.setup.labels, run.setup.split_V)
    wanted_BW = (packed.split_BW == SPLITS["test"]) & (packed.picked_BW == 1)
    doc_N, next_N = packed.doc_BW[wanted_BW], packed.next_BW[wanted_BW]
    label_N = run.setup.own_words(next_N.clamp(min=0), "test", run.setup.labels.parent_V)
    on_N = ((label_N >= 0) & (next_N >= 0)).numpy()
    _, first, owner_N = np.unique(doc_N.numpy(), return_index=True, return_inverse=True)
    until_M = np.zeros(len(first), dtype=int)  # tokens of each document up to its last label
    np.maximum.at(until_M, owner_N[on_N], (np.arange(len(owner_N)) - first[owner_N] + 1)[on_N])
    return {"tokens": len(owner_N), "labelled": int(on_N.sum()), "up_to_last": int(until_M.sum())}


def main() -> None:
    "Print both rates and their ratio"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--windows",
        type=int,
        default=128,
        help="windows per round; few of them measure the one-off check of the model instead (0.8 s)",
    )
    parser.add_argument("--window", type=int, default=128, help="tokens per window")
    parser.add_argument("--batch", type=int, default=8, help="windows per forward pass")
    parser.add_argument("--rounds", type=int, default=2, help="times both are measured")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--run", type=Path, help="folder of a finished run whose labelled contexts are counted")
    parser.add_argument("--save", type=Path, help="file that gets what was measured, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = load_model("embedded")
    packed = windows_of_text(loaded.tokenizer, args.windows, args.window)

    @torch.inference_mode()
    def bare() -> None:
        for batch in packed.input_BW.split(args.batch):
            loaded.model.model(batch, use_cache=False)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            capture(loaded, packed, Path(folder) / "activations", {}, batch=args.batch, shard_size=16_384)

    with torch.inference_mode():
        loaded.model.model(packed.input_BW[: args.batch])  # first call: memory and kernels
    times = [(seconds(bare), seconds(ours)) for _ in range(args.rounds)]
    tokens = packed.input_BW.numel()
    for name, column in zip(("bare forward", "capture"), zip(*times)):
        print(
            f"{name:12s} {tokens / statistics.median(column):8.0f} tokens/s  "
            f"(median of {args.rounds}, {tokens} tokens each, {args.threads} threads)"
        )
    ratio = statistics.median(b / c for b, c in times)
    found = {"machine": f"{args.threads} threads of {platform.processor() or platform.machine()}", "tokens": tokens}
    found |= {"bare_s": [b for b, _ in times], "capture_s": [c for _, c in times], "ratio": ratio}
    if args.run:
        found["labels"] = tokens_per_label(args.run)
        print(
            "picked test documents: {tokens} tokens, {labelled} labelled; {up_to_last} up to the last".format(
                **found["labels"]
            )
        )
    if args.save:
        atomic_write(args.save, json.dumps(found, indent=1) + "\n")
    print(f"RATIO capture {ratio:.3f}")


if __name__ == "__main__":
    main()
