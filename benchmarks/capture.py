"""Capture beside the bare forward pass: same model, same windows, same process, taken in turns.

The bare loop is `model.model(batch)` over the same windows with nothing kept. A ratio of 1 means that choosing
positions,
converting, checksumming and writing shards cost nothing. Run: python benchmarks/capture.py [--windows 128] [--rounds 2]
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads distort ratios when anything else runs

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from polytope_hsae.activations.capture import capture
from polytope_hsae.activations.corpus import Packed, Plan, opening_tokens, pack, read_documents
from polytope_hsae.assets import iter_texts, load_model, load_wordnet


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
    print(f"RATIO capture {statistics.median(b / c for b, c in times):.3f}")


if __name__ == "__main__":
    main()
