"""Probe a hierarchical SAE by sae-probes, in an environment of its own, and compare its codes and scores with ours.

sae-probes wants pandas < 3, pyarrow < 26 and transformer-lens < 4 and cannot be installed beside this package; but it
reads activations from files, of any layer, and its data sets lie in its package. So its texts are read by a tiny
language model here, and an SAE of the final residual is written as a run's export would be.
`scripts/saeprobes.py [--environment FOLDER]` makes the environment, in half a minute: what it has in common with this
one is linked. It is kept where a folder is given. Prints what sae-probes found and exits 1 when a code, a choice of
latents or a score of one latent is not ours to 1e-5.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from neighbours import linked

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ASKED = "sae-probes==0.4.2 pandas==2.3.3 pyarrow==25.0.1 transformer-lens==3.9.0 xgboost==3.2.0 zstandard==0.25.0 pytz"
DATA = ["117_us_state_FL", "131_temp_cat_Typical Time"]  # two of 113
HOOK, KS = "ln_final.hook_normalized", [1, 2, 8]
READ = """
import json, sys
from sae_probes.utils_data import DATA_PATH, pd

read = lambda name: pd.read_csv(DATA_PATH / "cleaned_data" / f"{name}.csv.zst", compression="zstd")
json.dump({name: read(name)["prompt"].tolist() for name in json.loads(sys.argv[1])}, open("texts.json", "w"))
"""
PROBE = """
import json, sys
import torch
import polytope_hsae.integrations.saelens  # registers the class of hierarchical models
from sae_lens import SAE
from sae_probes import run_sae_evals
from sae_probes.generate_sae_activations import generate_sae_activations
from sae_probes.utils_data import get_xy_traintest

data, hook, ks = json.loads(sys.argv[1])
where = dict(hook_name=hook, model_name="tiny", model_cache_path="activations")
sae, kw = SAE.load_from_disk("sae"), dict(setting="normal", device="cpu", **where)
run_sae_evals(sae, reg_type="l1", ks=ks, datasets=data, results_path="results", **kw)
for name in data:
    codes = generate_sae_activations(sae, dataset=name, num_train=None, frac=None, **kw)
    x_train, _, x_test, _ = get_xy_traintest(len(codes.X_train), name, **where)
    torch.save({"x_train": x_train, "x_test": x_test, **codes._asdict()}, f"{name}.pt")
"""


def there(python: Path, home: Path, code: str, *asked: object) -> None:
    "Run a few lines in sae-probes' environment, without a network"
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    alone |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE.parent)}
    command = [str(python), "-c", code, json.dumps(asked[0] if len(asked) == 1 else asked)]
    done = subprocess.run(command, cwd=home, env=alone, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-6000:])


def activations(texts: dict[str, list[str]], home: Path):
    "Final residuals of a tiny GPT-2 with drawn weights behind every text, as files that sae-probes reads; all of them"
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    words = Counter(word for some in texts.values() for text in some for word in text.split())
    number = {word: i for i, (word, _) in enumerate(words.most_common(2000), 1)}  # 0: any other word
    cfg = GPT2Config(vocab_size=2001, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    model, place = GPT2LMHeadModel(cfg).eval(), home / "activations" / "model_activations_tiny"
    place.mkdir(parents=True)
    found = []
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)  # so that words tell more than positions
        for name, some in texts.items():
            ids = [torch.tensor([number.get(word, 0) for word in text.split()[-32:]]) for text in some]
            last_ND = torch.stack([model.transformer(i[None]).last_hidden_state[0, -1] for i in ids])
            torch.save(last_ND, place / f"{name}_{HOOK}.pt")
            found.append(last_ND)
    return torch.cat(found)


def exported(x_ND, home: Path) -> None:
    "A hierarchical SAE of these activations, exported for SAELens as a run's would be"
    import torch

    from polytope_hsae.integrations.saelens import to_saelens
    from polytope_hsae.models.hierarchical import HierarchicalSAE
    from polytope_hsae.training.init import fit_input_map
    from polytope_hsae.training.loop import train
    from polytope_hsae.training.schedules import Stage, TrainOptions
    from polytope_hsae.training.step import TrainSpec

    sae = HierarchicalSAE(32, 24, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    to_inputs = fit_input_map([x_ND], None)
    spec = TrainSpec(sae, [Stage("only", 200, 1e-2)], input_map=to_inputs)
    batches = x_ND[torch.randperm(len(x_ND), generator=torch.Generator().manual_seed(0))].split(480)
    train({"h": spec}, batches, out_dir=home / "training", options=TrainOptions(lr_warmup=20), progress=False)
    to_saelens(sae, to_inputs, {"model_name": "tiny", "hook_name": HOOK}).save_model(home / "sae")


def compare(home: Path, name: str) -> dict[str, float]:
    "Largest differences between sae-probes' codes, latents and score of one latent, and ours"
    import torch

    from polytope_hsae.integrations.saelens import read_saelens

    sae, read = read_saelens(str(home / "sae")), torch.load(home / f"{name}.pt", weights_only=True)
    encoded = {part: sae.encode(read[f"x_{part}"]).dense(sae.n_latents) for part in ("train", "test")}
    codes = max(float((encoded[part] - read[f"X_{part}"]).abs().max()) for part in encoded)
    (place,) = (home / "results").rglob(f"{name}_*.json")
    one, *_, most = json.loads(place.read_text())
    train_BF, yes_B = encoded["train"], read["y_train"] == 1
    mean_F = train_BF.abs().sum(0) / ((train_BF != 0).sum(0) + 1e-6) + 1e-6
    apart_F = ((train_BF[yes_B].mean(0) - train_BF[~yes_B].mean(0)) / mean_F).abs()
    latents = apart_F.topk(KS[-1]).indices.tolist()
    value_B, yes_B = encoded["test"][:, one["indices"][0]], read["y_test"] == 1
    above_PN = value_B[yes_B, None] - value_B[~yes_B]
    auc = float(((above_PN > 0) + 0.5 * (above_PN == 0)).mean())  # Mann and Whitney; a probe may turn the sign
    return {
        "codes": codes,
        "latents chosen": float(latents != most["indices"]),
        "AUC of one latent": min(abs(one["test_auc"] - a) for a in (auc, 1 - auc)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--environment", help="where sae-probes' environment is kept; made and thrown away when not given"
    )
    args, start, worst = parser.parse_args(), time.time(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        python = linked(Path(args.environment).resolve() if args.environment else home / "environment", ASKED)
        there(python, home, READ, DATA)
        exported(activations(json.loads((home / "texts.json").read_text()), home), home)
        there(python, home, PROBE, DATA, HOOK, KS)
        for name in DATA:
            (place,) = (home / "results").rglob(f"{name}_*.json")
            scores = {row["k"]: round(row["test_acc"], 3) for row in json.loads(place.read_text())}
            print(f"{name}: accuracy of probes on so many latents {scores}")
            for what, value in compare(home, name).items():
                print(f"{'ok  ' if value < 1e-5 else 'FAIL'} {what}: largest difference {value:.1e}")
                worst = max(worst, value)
    print(f"done in {time.time() - start:.0f} s")
    return 0 if worst < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
