"""Pages of SAEDashboard for a hierarchical SAE, made in an environment of its own, and compared with our own codes.

SAEDashboard wants datasets < 4, transformers < 4.57 and transformer-lens < 3 and cannot be installed beside this
package. So the tiny language model, texts and SAE of scripts/saebench.py are written to a folder here;
scripts/saedashboard_inside.py reads them there, without a network, and writes the page.
`scripts/saedashboard.py [--environment FOLDER] [--page FILE]` makes the environment, in half a minute: what it has in
common with this one is linked. It is kept where a folder is given, and so is the page. Exits 1 when a latent's density,
a value in a text that is shown or a word's logit is not ours to 1e-4; SAEDashboard rounds its figures.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from neighbours import linked

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ASKED = (  # the versions that this was tried with; all that differs from what is installed here
    "sae-dashboard==0.8.0 transformers==4.56.2 tokenizers==0.22.2 huggingface-hub==0.36.2 safetensors==0.4.5 "
    "datasets==3.6.0 dill==0.3.8 multiprocess==0.70.16 fsspec==2025.3.0 transformer-lens==2.17.0 eindex-callum==0.1.2 "
    "decode-clt==0.0.1 dataclasses-json==0.6.7 marshmallow==3.26.2 typing-inspect==0.9.0 mypy-extensions==1.2.0 "
    "hf-transfer==0.1.9 sae-lens==6.54.12 typer==0.12.5 jaxtyping==0.2.38 rich==13.9.4 fancy-einsum==0.0.3 "
    "better-abc==0.0.3 beartype==0.14.1 typeguard==4.6.1"
)
LATENTS = [0, 1, 2, 24, 25, 30]  # parents, then children


def written(home: Path) -> None:
    "The model, in the form that older readers know, the texts' tokens, the SAE, and which latents are asked for"
    from saebench import trained, world
    from safetensors.torch import save_file

    found = world(home)
    trained(found, home)
    told = home / "model" / "tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    save_file({"ids": found["ids"].view(-1, 12).contiguous(), "resid": found["resid"]}, home / "texts.safetensors")
    (home / "latents.json").write_text(json.dumps(LATENTS))


def compare(home: Path) -> dict[str, float]:
    "Largest differences between SAEDashboard's figures and those of our codes and rows"
    import torch
    from safetensors.torch import load_file
    from transformers import GPT2LMHeadModel

    from polytope_hsae.integrations.saelens import read_saelens

    read, lens = json.loads((home / "read.json").read_text()), read_saelens(str(home / "sae"))
    norm_F = lens.W_dec.norm(dim=1)
    texts = load_file(home / "texts.safetensors")
    value_NF = lens.encode(texts["resid"]).dense(lens.n_latents) * norm_F
    value_BTF, ids_BT = value_NF.view(*texts["ids"].shape, -1), texts["ids"].tolist()
    with torch.no_grad():
        rows_FD = lens.W_dec / norm_F[:, None]
        logit_FV = rows_FD @ GPT2LMHeadModel.from_pretrained(home / "model").lm_head.weight.T
    worst = {"density": 0.0, "values in texts": 0.0, "logits": 0.0}
    for latent, found in zip(LATENTS, read, strict=True):
        density, values = float(re.search(r"([\d.]+)%", found["title"])[1]) / 100, []
        for row, ids, shown in found["texts"]:
            n = len(ids)
            at = next(t for t in range(len(ids_BT[row]) - n + 1) if ids_BT[row][t : t + n] == ids)
            values.append(float((value_BTF[row, at : at + n, latent] - torch.tensor(shown)).abs().max()))
        apart = {
            "density": abs(density - float((value_NF[:, latent] > 0).float().mean())),
            "values in texts": max(values),
            "logits": float((logit_FV[latent].topk(10).values - torch.tensor(found["top_logits"])).abs().max()),
        }
        worst = {what: max(value, apart[what]) for what, value in worst.items()}
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--environment", help="where SAEDashboard's environment is kept; made and thrown away when not given"
    )
    parser.add_argument("--page", help="where the page is kept")
    args, start = parser.parse_args(), time.time()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        written(home)
        python = linked(Path(args.environment).resolve() if args.environment else home / "environment", ASKED)
        alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        alone |= {"HF_HUB_OFFLINE": "1", "JAXTYPING_DISABLE": "1"}
        command = [str(python), str(HERE / "saedashboard_inside.py"), str(home)]
        done = subprocess.run(command, cwd=home, env=alone, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout[-3000:] + done.stderr[-6000:])
            return 1
        differences, size = compare(home), (home / "page.html").stat().st_size
        if args.page:
            shutil.copyfile(home / "page.html", args.page)
    print(f"a page of {size / 1e3:.0f} kB on {len(LATENTS)} latents")
    for what, value in differences.items():
        print(f"{'ok  ' if value < 1e-4 else 'FAIL'} {what}: largest difference {value:.1e}")
    print(f"done in {time.time() - start:.0f} s")
    return 0 if max(differences.values()) < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
