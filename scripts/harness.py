"""Score a steered model with EleutherAI's evaluation harness, in an environment of its own, and compare with hand sums.

`scripts/harness.py [--environment FOLDER]` makes an environment that sees what is installed here and holds the harness
besides, in a minute, and keeps it where a folder is given. There a tiny GPT-2 with drawn weights answers questions of a
task in a file, without a network: as it is, steered by `steer(...)`, and as it is again. Prints one line a way to steer
and exits 1 when a log-likelihood differs from that of the model's own logits, edited by hand, by more than 1e-4.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ASKED = "lm-eval==0.4.13"  # the version that this was tried with
TASK = """
task: tiny_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def world(folder: Path) -> list[dict]:
    "A model, its tokenizer and a task, as files; the questions: three words, and which of four comes next"
    import torch
    from saebench import world as model_and_texts

    words = model_and_texts(folder)["words"]
    drawn = torch.randint(len(words), (60, 7), generator=torch.Generator().manual_seed(1)).tolist()
    named = [[words[i] for i in row] for row in drawn]
    questions = [{"question": " ".join(row[:3]), "choices": row[3:], "answer": i % 4} for i, row in enumerate(named)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (folder / "task").mkdir()
    (folder / "task" / "tiny_words.yaml").write_text(TASK.format(folder=folder))
    return questions


def by_hand(model, tokenizer, questions: list[dict], layer: int | str, push_D) -> list[float]:
    "Log-likelihood of every choice, with the push added to the stream behind a block, or in front of the output head"
    import torch

    found = []
    for asked in questions:
        ids = tokenizer(asked["question"], return_tensors="pt").input_ids
        with torch.no_grad():
            resid_BTD = model(ids, output_hidden_states=True).hidden_states[0]
            for i, block in enumerate(model.transformer.h):  # without a mask its attention is causal
                out = block(resid_BTD)
                resid_BTD = (out[0] if isinstance(out, tuple) else out) + (push_D if i == layer else 0)
            resid_BTD = model.transformer.ln_f(resid_BTD) + (push_D if layer == "last" else 0)
            logp_V = model.lm_head(resid_BTD)[0, -1].log_softmax(-1)
        found += [float(logp_V[tokenizer.convert_tokens_to_ids(word)]) for word in asked["choices"]]
    return found


def inside(folder: Path) -> int:
    "What is done where the harness is installed"
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from polytope_hsae.steering import steer

    questions = world(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    harness, tasks = HFLM(pretrained=model, tokenizer=tokenizer), TaskManager(include_path=str(folder / "task"))

    def said() -> tuple[float, list[float]]:
        "Accuracy, and the log-likelihood of every choice, as the harness finds them"
        kw = dict(tasks=["tiny_words"], task_manager=tasks, log_samples=True, bootstrap_iters=0)
        out = simple_evaluate(harness, **kw)
        samples = sorted(out["samples"]["tiny_words"], key=lambda s: s["doc_id"])
        return out["results"]["tiny_words"]["acc,none"], [float(r[0]) for s in samples for r in s["filtered_resps"]]

    plain, fine = said(), True
    push_D = 3 * torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(2)), dim=0)
    for layer in ("last", 0, 1):
        with steer(model, tokenizer, push_D, dose=2.0, layer=layer):
            steered = said()
        hand = by_hand(model, tokenizer, questions, layer, 2 * push_D)
        apart = max(abs(a - b) for a, b in zip(steered[1], hand, strict=True))
        moved = max(abs(a - b) for a, b in zip(steered[1], plain[1], strict=True))
        good = apart < 1e-4 < 0.1 < moved
        fine = fine and good
        print(
            f"{'ok  ' if good else 'FAIL'} layer {layer}: accuracy {steered[0]:.3f} steered, {plain[0]:.3f} plain; "
            f"log-likelihoods moved by up to {moved:.2f}, and differ from those by hand by {apart:.1e}"
        )
    again = said()
    print(f"{'ok  ' if again == plain else 'FAIL'} afterwards: accuracy {again[0]:.3f}")
    return 0 if fine and again == plain else 1


def environment(folder: Path) -> Path:
    "The interpreter of an environment that sees what is installed here, and has the harness; made where there is none"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [str(python), "-m", "pip", "install", "-q", "--no-compile", "-c", str(HERE.parent / "constraints.txt")]
        subprocess.run([*pip, ASKED], check=True)
        (folder / "ready").write_text(ASKED)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--environment", help="where the harness's environment is kept; made and thrown away when not given"
    )
    args, start = parser.parse_args(), time.time()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name).resolve()
        if find_spec("lm_eval"):
            return inside(home)
        python = environment(Path(args.environment).resolve() if args.environment else home / "environment")
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        alone = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PYTHONPATH": path}
        done = subprocess.run([str(python), __file__], env=alone, capture_output=True, text=True)
    print(done.stdout if done.returncode == 0 else done.stdout + done.stderr[-4000:], end="")
    print(f"done in {time.time() - start:.0f} s")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
