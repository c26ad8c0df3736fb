"""What scripts/saedashboard.py runs in SAEDashboard's own environment: both talk through files.

`saedashboard_inside.py FOLDER` reads a language model, tokens and an SAE of a block's stream from a folder, lets
SAEDashboard look at some latents, and writes `page.html` and, for comparison, `read.json`. `Exported` is all that it
needs to show a folder that `polytope-hsae export --to saelens` has written.
"""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import torch
from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens.saes.topk_sae import TopK
from safetensors.torch import load_file
from tiny_hooked import hooked


class Exported(torch.nn.Module):
    "An exported hierarchical SAE of a decoder block's stream, as SAEDashboard wants one: rows of norm 1."

    def __init__(self, folder: Path, rule: Path):
        super().__init__()
        cfg, weights = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
        for name, t in weights.items():
            setattr(self, name, torch.nn.Parameter(t, requires_grad=False))
        self.norm_F = self.W_dec.norm(dim=1)
        self.W_dec.data /= self.norm_F[:, None]
        spec = spec_from_file_location("rule", rule)
        found = module_from_spec(spec)
        spec.loader.exec_module(found)
        self.keep = lambda pre: found.two_level_topk(pre, *(cfg[k] for k in ("m_top", "topk_parent", "topk_child")))
        self.cfg = SimpleNamespace(hook_name=cfg["metadata"]["hook_name"], architecture="polytope_hsae")
        self.hook_z_reshaping_mode, self.device = False, torch.device("cpu")
        self.activation_fn = TopK(1)  # says only that latents depend on each other: SAEDashboard encodes by all of them

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.keep((x - self.b_dec) @ self.W_enc + self.b_enc) * self.norm_F

    def fold_W_dec_norm(self) -> None:
        "Nothing is left to fold: codes are multiplied by the norms after the rule"


def main(home: Path) -> None:
    sae, latents = Exported(home / "sae", home / "rule.py"), json.loads((home / "latents.json").read_text())
    cfg = SaeVisConfig(hook_point=sae.cfg.hook_name, features=latents, minibatch_size_features=8)
    tokens = load_file(home / "texts.safetensors")["ids"]
    data = SaeVisRunner(cfg).run(encoder=sae, model=hooked(home / "model"), tokens=tokens)
    save_feature_centric_vis(data, home / "page.html")
    found = []
    for latent in latents:
        seen = data.feature_data_dict[latent]
        shown = [text for group in seen.sequence_data.seq_group_data for text in group.seq_data]
        texts = [[int(text.original_index), text.token_ids, text.feat_acts] for text in shown]
        table = seen.logits_table_data
        found.append({"title": seen.acts_histogram_data.title, "texts": texts, "top_logits": table.top_logits})
    (home / "read.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
