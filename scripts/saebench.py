"""Score a hierarchical SAE by SAEBench, in an environment of its own, and compare its absorption with ours.

SAEBench wants numpy < 2 and datasets < 4 and cannot be installed beside this package. So a tiny language model, texts
and an SAE of its first block are written to a folder here; scripts/saebench_inside.py reads them there, without a
network.
`scripts/saebench.py [--environment FOLDER]` makes the environment, and keeps it where a folder is given: SAEBench's own
code with links to the libraries that are installed here, newer than it asks for, in seconds; or with `--registry` the
versions that it asks for, 2.4 GB, in minutes.
Prints what SAEBench found and exits 1 when a code or an absorption differs by more than 1e-5.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from neighbours import linked

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ASKED = ["torch==2.13.0", "sae-bench==0.6.0"]  # the versions that this was tried with
ITSELF = "sae-bench==0.6.0 collectibles==0.1.5 tabulate==0.10.0"  # all of it that is not here
TOPICS = {
    "animals": "ant badger bear camel cat cow deer dog eel fox goat hare horse lamb lion mole mouse otter owl panda",
    "food": "apple bacon bean bread butter cake cheese cream egg fig flour fruit grape ham honey jam juice lemon",
    "tools": "anvil axe bolt brush chisel clamp drill file gauge glue hammer hinge hoe jack knife lathe lever nail",
    "weather": "air blizzard breeze cloud cold damp dew draught dry dust flood fog frost gale hail haze heat ice mist",
}


def world(folder: Path) -> dict:
    "A tiny GPT-2 with drawn weights, texts of four topics, and residuals of its first block"
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {topic: line.split() for topic, line in TOPICS.items()}
    known = ["<s>", "</s>", "<pad>", "<unk>", ":", *(w for topic in words.values() for w in topic)]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    cfg = GPT2Config(
        vocab_size=len(known), n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
    )
    model = GPT2LMHeadModel(cfg).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)  # so that words tell more than positions
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    draw = lambda topic: " ".join(topic[i] for i in torch.randint(len(topic), (12,)))
    texts = {name: [draw(topic) for _ in range(200)] for name, topic in words.items()}
    (folder / "corpus").mkdir()
    lines = [json.dumps({"text": text}) for some in zip(*texts.values()) for text in some]
    (folder / "corpus" / "train.jsonl").write_text("\n".join(lines))
    ids = torch.tensor([tokenizer(text).input_ids for some in texts.values() for text in some])
    with torch.no_grad():
        resid_ND = model(ids, output_hidden_states=True).hidden_states[1].flatten(0, 1)
    return {"texts": texts, "words": sum(words.values(), []), "resid": resid_ND, "ids": ids.flatten(), "known": known}


def trained(found: dict, folder: Path):
    "A hierarchical SAE of these residuals, exported for SAELens as a run's would be"
    import torch

    from polytope_hsae.integrations.saelens import to_saelens, two_level_topk
    from polytope_hsae.models.hierarchical import HierarchicalSAE
    from polytope_hsae.training.init import fit_input_map
    from polytope_hsae.training.loop import train
    from polytope_hsae.training.schedules import Stage, TrainOptions
    from polytope_hsae.training.step import TrainSpec

    x_ND = found["resid"]
    sae = HierarchicalSAE(32, 24, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    to_inputs = fit_input_map([x_ND], None)
    spec = TrainSpec(sae, [Stage("only", 300, 1e-2)], input_map=to_inputs)
    order = torch.randperm(len(x_ND), generator=torch.Generator().manual_seed(0))
    batches = x_ND[order].split(480)
    train({"h": spec}, batches, out_dir=folder / "training", options=TrainOptions(lr_warmup=20), progress=False)
    metadata = {"model_name": "tiny", "hook_name": "blocks.0.hook_resid_post"}
    to_saelens(sae, to_inputs, metadata).save_model(folder / "sae")
    (folder / "rule.py").write_text("import torch\nfrom torch import Tensor\n\n" + inspect.getsource(two_level_topk))
    return sae, to_inputs


def question(found: dict, sae, to_inputs, folder: Path) -> None:
    "A direction for words that begin with b or c, the latent nearest to it, and what SAEBench is asked"
    import torch

    with torch.no_grad():
        x_ND = to_inputs.apply(found["resid"])
        begins_N = torch.tensor([found["known"][i][0] in "bc" for i in found["ids"].tolist()])
        direction_D = x_ND[begins_N].mean(0) - x_ND[~begins_N].mean(0)
        rows_FD = torch.nn.functional.normalize(sae.W_dec, dim=1)
        main = (rows_FD @ direction_D).topk(2).indices.tolist()
    words = [w for w in found["words"] if w[0] in "bc"]
    asked = {"texts": found["texts"], "words": words, "direction": direction_D.tolist(), "main": main}
    (folder / "asked.json").write_text(json.dumps(asked))


def registered(folder: Path) -> Path:
    "The interpreter of an environment with all that SAEBench asks for, made where it is not there yet"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        free = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-compile", *ASKED], check=True, env=free)
        # nobody here looks at pictures, and the registry's build need not fit the torch that is installed
        subprocess.run([str(python), "-m", "pip", "uninstall", "-qy", "torchvision"], check=True, env=free)
        (folder / "ready").write_text("\n".join(ASKED))
    return python


def compare(folder: Path) -> dict[str, float]:
    "Largest differences between SAEBench's codes and absorption and ours, on the contexts that it read"
    import torch
    from safetensors.torch import load_file

    from polytope_hsae.integrations.saelens import read_saelens
    from polytope_hsae.metrics.probing import absorption

    asked, scores = (json.loads((folder / name).read_text()) for name in ("asked.json", "scores.json"))
    read, lens = load_file(folder / "words.safetensors"), read_saelens(str(folder / "sae"))
    norm_F, codes = lens.W_dec.norm(dim=1), lens.encode(read["residuals"])
    codes = codes._replace(value_BK=codes.value_BK * norm_F[codes.index_BK])  # of rows of norm 1
    direction_D, main = torch.tensor(asked["direction"]), torch.tensor(asked["main"])
    ours = absorption(read["residuals"], codes, lens.W_dec / norm_F[:, None], direction_D, main)
    theirs = torch.tensor(scores["fraction"])
    return {
        "codes": float((codes.dense(lens.n_latents) - read["codes"]).abs().max()),
        "absorption, fraction": float((ours.fraction_N - theirs).abs().max()),
        "absorption, full": float((ours.full_N != torch.tensor(scores["full"])).float().max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--environment", help="where SAEBench's environment is kept; made and thrown away when not given"
    )
    parser.add_argument("--registry", action="store_true", help="install what SAEBench asks for instead of linking")
    args, start = parser.parse_args(), time.time()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        found = world(home)
        question(found, *trained(found, home), home)
        kept = Path(args.environment).resolve() if args.environment else home / "environment"
        python = registered(kept) if args.registry else linked(kept, ITSELF)
        alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        # its shapes are annotated wrongly (sizes of classes before and after balancing), which newer jaxtyping finds
        alone |= {"HF_HUB_OFFLINE": "1", "JAXTYPING_DISABLE": "1"}
        command = [str(python), str(HERE / "saebench_inside.py"), str(home)]
        done = subprocess.run(command, cwd=home, env=alone, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout[-3000:] + done.stderr[-6000:])
            return 1
        scores, differences = json.loads((home / "scores.json").read_text()), compare(home)
    print(json.dumps({"core": scores["core"], "sparse probing": scores["probing"]}, indent=1))
    used = sum(f > 0 for f in scores["fraction"])
    print(f"absorption of {len(scores['fraction'])} words: above 0 for {used}, full for {sum(scores['full'])}")
    for what, value in differences.items():
        print(f"{'ok  ' if value < 1e-5 else 'FAIL'} {what}: largest difference {value:.1e}")
    print(f"done in {time.time() - start:.0f} s")
    return 0 if max(differences.values()) < 1e-5 and 0 < used else 1


if __name__ == "__main__":
    sys.exit(main())
