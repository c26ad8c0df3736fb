"""What scripts/saebench.py runs in SAEBench's own environment: this package is not there, and both talk through files.

`saebench_inside.py FOLDER` reads a language model, texts and an SAE of a block's stream from a folder, lets SAEBench's
core, sparse probing and absorption work on them without a network, and writes `scores.json` and `words.safetensors`.
`Exported` is all that SAEBench needs to score a folder that `polytope-hsae export --to saelens` has written.
"""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from sae_bench.custom_saes.base_sae import BaseSAE
from sae_bench.evals.absorption.feature_absorption_calculator import (
    FeatureAbsorptionCalculator,
)
from sae_bench.evals.core.main import multiple_evals
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing.main import run_eval
from sae_bench.sae_bench_utils import dataset_info, dataset_utils
from safetensors.torch import load_file, save_file
from tiny_hooked import hooked


class Exported(BaseSAE):
    "An exported hierarchical SAE of a decoder block's stream, as SAEBench wants one."

    def __init__(self, folder: Path, rule: Path):
        cfg, weights = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
        hook = cfg["metadata"]["hook_name"]
        if not hook.startswith("blocks."):
            raise SystemExit(f"{hook} is behind the last block, where SAEBench never looks: give an SAE of a block")
        model, layer = cfg["metadata"]["model_name"], int(hook.split(".")[1])
        super().__init__(cfg["d_in"], cfg["d_sae"], model, layer, torch.device("cpu"), torch.float32, hook)
        self.load_state_dict(weights)
        self.norm_F = self.W_dec.detach().norm(dim=1)  # rows of norm 1, as SAEBench takes them to be
        self.W_dec.data /= self.norm_F[:, None]
        spec = spec_from_file_location("rule", rule)
        found = module_from_spec(spec)
        spec.loader.exec_module(found)
        self.keep = lambda pre: found.two_level_topk(pre, *(cfg[k] for k in ("m_top", "topk_parent", "topk_child")))
        self.cfg.architecture = "polytope_hsae"

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.keep((x - self.b_dec) @ self.W_enc + self.b_enc) * self.norm_F

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


def probing(sae: Exported, texts: dict[str, list[str]], out: Path) -> dict:
    "Sparse probing of the texts' classes, half of them for training"
    half = len(next(iter(texts.values()))) // 2
    cut = {k: v[:half] for k, v in texts.items()}, {k: v[half:] for k, v in texts.items()}
    sizes = dict(probe_train_set_size=half, probe_test_set_size=half, context_length=16, k_values=[1, 2, 5])
    cfg = SparseProbingEvalConfig(
        dataset_names=["texts"], model_name="tiny", llm_batch_size=32, llm_dtype="float32", **sizes
    )
    named = patch.dict(dataset_info.chosen_classes_per_dataset, texts=list(texts))
    with named, patch.object(dataset_utils, "get_multi_label_train_test_data", lambda *_: cut):
        places = str(out / "probing"), True, True, False, str(out / "artifacts")
        run_eval(cfg, [("polytope", sae)], "cpu", *places)
    (written,) = (out / "probing").glob("*.json")
    return json.loads(written.read_text())["eval_result_metrics"]


def core(sae: Exported, corpus: Path, out: Path) -> dict:
    "SAEBench's core figures on a local folder of texts"
    all_of_it = ("density_statistics", "weight_based_metrics")  # without them, it cannot write what it has found
    few = {f"compute_featurewise_{part}": True for part in all_of_it}
    few |= dict(n_eval_reconstruction_batches=4, n_eval_sparsity_variance_batches=8, eval_batch_size_prompts=8)
    place = dict(dataset=str(corpus), context_size=16, output_folder=str(out / "core"), device="cpu", force_rerun=True)
    found = multiple_evals([("polytope", sae)], **few, **place)
    if not found:
        raise SystemExit("SAEBench's core has scored nothing; what it logged is above")
    return found[0]["metrics"]


def main() -> None:
    folder = Path(sys.argv[1])
    sae, model = Exported(folder / "sae", folder / "rule.py"), hooked(folder / "model")
    asked = json.loads((folder / "asked.json").read_text())
    loads = SimpleNamespace(from_pretrained_no_processing=lambda *_, **__: model)
    with patch("sae_bench.evals.sparse_probing.main.HookedTransformer", loads):
        found = {"probing": probing(sae, asked["texts"], folder)}
    with patch("sae_bench.evals.core.main.HookedTransformer", loads):
        found["core"] = core(sae, folder / "corpus", folder)
    calculator = FeatureAbsorptionCalculator(model, [], shuffle_examples=False, topk_feats=sae.cfg.d_sae)
    direction_D = torch.tensor(asked["direction"])
    words = calculator.calculate_absorption(sae, asked["words"], direction_D, asked["main"], sae.cfg.hook_layer, False)
    found["fraction"] = [float(w.absorption_fraction) for w in words.word_results]
    found["full"] = [bool(w.is_full_absorption) for w in words.word_results]
    hook = sae.cfg.hook_name
    with torch.no_grad():
        read = model.run_with_cache([w.prompt for w in words.word_results], names_filter=[hook])[1][hook][:, -2]
        save_file({"residuals": read.contiguous(), "codes": sae.encode(read)}, folder / "words.safetensors")
    (folder / "scores.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
