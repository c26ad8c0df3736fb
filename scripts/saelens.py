"""Export a run for SAELens, read it in a fresh environment, and compare explained variance there with the run's own.

`scripts/saelens.py RUN` takes a finished run's folder; without one a miniature is trained first. The environment is
made in a temporary folder and holds nothing but sae-lens and this package (with what they require, at the versions of
constraints.txt). Prints one line a model and exits 1 when a figure differs by more than 1e-5.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))
from wheel import build  # noqa: E402, of scripts/

ROOT = Path(__file__).resolve().parent.parent
READER = """
import json, sys
import polytope_hsae.integrations.saelens  # registers the class of hierarchical models
from pathlib import Path
from sae_lens import SAE
from sae_lens.evals import ExplainedVarianceCalculator
from safetensors.torch import load_file

folder = Path(sys.argv[1])
x, found = load_file(folder / "residuals.safetensors")["residuals"], {}
for place in sorted(folder.glob("*/seed_*")) + sorted(folder.glob("*/seed_*/parents")):
    sae = SAE.load_from_disk(place)
    ev = ExplainedVarianceCalculator()
    for batch in x.split(1024):
        ev.add_batch(sae(batch).detach(), batch)
    found[place.relative_to(folder).as_posix()] = ev.compute()
print(json.dumps(found))
"""


def miniature(folder: Path) -> Path:
    "A run of planted concepts, trained and scored in seconds"
    from polytope_hsae.config import save_resolved
    from polytope_hsae.experiment.score import score_variants
    from polytope_hsae.experiment.setup import planted_run
    from polytope_hsae.experiment.train import train_variants

    run = planted_run(folder)
    save_resolved(run.cfg, folder)
    train_variants(run, ["baseline", "teacher"])
    score_variants(run, ["baseline", "teacher"])
    return folder


def export(run_dir: Path, out: Path) -> dict[str, float]:
    "Write the folders and the contexts behind the run's scores; explained variance of each model, as it is here"
    import torch
    from safetensors.torch import save_file

    from polytope_hsae.activations.store import SPLITS, ActivationStore
    from polytope_hsae.experiment.folder import model_dir
    from polytope_hsae.experiment.score import RANDOM_CONTEXTS
    from polytope_hsae.integrations.trained import trained_models
    from polytope_hsae.metrics.evaluate import load_scores
    from polytope_hsae.metrics.reconstruction import ExplainedVariance
    from polytope_hsae.models.files import load_sae
    from polytope_hsae.models.hierarchical import HierarchicalSAE
    from polytope_hsae.training.init import load_input_map

    command = [
        sys.executable,
        "-m",
        "polytope_hsae.runner",
        "export",
        str(run_dir),
        "--to",
        "saelens",
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    columns = ActivationStore(run_dir / "activations").load(SPLITS["test"], ["resid", "picked"])
    x_ND = columns["resid"][columns["picked"] == 0][:RANDOM_CONTEXTS].float()
    save_file({"residuals": x_ND.contiguous()}, out / "residuals.safetensors")
    known = {}
    for model in trained_models(run_dir):
        name, folder = f"{model.variant}/seed_{model.seed}", model_dir(run_dir, model.variant, model.seed)
        known[name] = load_scores(folder / "scores.json").ev_residual
        sae, input_map = load_sae(folder), load_input_map(folder / "input_map.safetensors")
        if isinstance(sae, HierarchicalSAE):
            parents, ev = sae.parents_only(), ExplainedVariance()
            with torch.no_grad():
                ev.update(x_ND, input_map.invert(parents.decode(parents.encode(input_map.apply(x_ND)))))
            known[f"{name}/parents"] = ev.compute()
    return known


def environment(folder: Path) -> Path:
    "The interpreter of a new environment with this package, built as a wheel beside it, and sae-lens"
    built = folder.with_name("wheel")
    built.mkdir()
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = ["-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([str(python), *pip, f"{build(built)}[saelens]"], check=True, cwd=folder)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="a finished run's folder; a miniature when none is given")
    args = parser.parse_args()
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "run").mkdir()
        run_dir = Path(args.run).resolve() if args.run else miniature(home / "run")
        known = export(run_dir, home / "saelens")
        python = environment(home / "environment")
        alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        (home / "read.py").write_text(READER, encoding="utf-8")
        done = subprocess.run(
            [str(python), "read.py", str(home / "saelens")], cwd=home, env=alone, capture_output=True, text=True
        )
    if done.returncode:
        print(done.stdout + done.stderr)
        return 1
    found = json.loads(done.stdout.splitlines()[-1])
    for place, ev in known.items():
        print(f"{'ok  ' if abs(found[place] - ev) < 1e-5 else 'FAIL'} {place}: {ev:.6f} here, {found[place]:.6f} there")
    print(f"{len(known)} models in {time.time() - start:.0f} s")
    return 0 if found.keys() == known.keys() and all(abs(found[k] - v) < 1e-5 for k, v in known.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
