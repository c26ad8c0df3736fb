"""Export a run for SAELens, read it in a fresh environment, and compare explained variance there with the run's own.

`scripts/saelens.py RUN` takes a finished run's folder; without one a miniature is trained first. The environment is
made in a temporary folder and holds nothing but sae-lens and this package, with what they require: linked from what is
installed here, in seconds, or with `--registry` installed anew at the versions of constraints.txt, in minutes. Prints
one line a model and exits 1 when a figure differs by more than 1e-5.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

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
    os.environ["TQDM_DISABLE"] = "1"
    train_variants(run, ["baseline", "teacher"])
    score_variants(run, ["baseline", "teacher"])
    return folder


def export(run_dir: Path, out: Path) -> dict[str, float]:
    "Write the folders and the contexts behind the run's scores; explained variance of each model, as it is here"
    import torch
    from safetensors.torch import save_file
    from typer.testing import CliRunner

    from polytope_hsae.activations.store import SPLITS, ActivationStore
    from polytope_hsae.experiment.folder import model_dir
    from polytope_hsae.experiment.score import RANDOM_CONTEXTS
    from polytope_hsae.integrations.trained import trained_models
    from polytope_hsae.metrics.evaluate import load_scores
    from polytope_hsae.metrics.reconstruction import ExplainedVariance
    from polytope_hsae.models.files import load_sae
    from polytope_hsae.models.hierarchical import HierarchicalSAE
    from polytope_hsae.runner.cli import app
    from polytope_hsae.training.init import load_input_map

    done = CliRunner().invoke(app, ["export", str(run_dir), "--to", "saelens", "--out", str(out)])
    if done.exit_code:
        raise SystemExit(f"FAIL polytope-hsae export\n{done.output}")
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


def declared(top: Distribution, extra: str) -> dict[str, Distribution]:
    "What a distribution with an extra asks for, at any depth, as it is installed here, by name"
    found: dict[str, Distribution] = {}
    asked, seen = [(top, extra)], set()
    while asked:
        own, extra = asked.pop()
        for needed in map(Requirement, own.requires or []):
            wanted = needed.marker is None or needed.marker.evaluate({"extra": extra})
            for part in needed.extras or {""} if wanted else ():
                if (needed.name, part) not in seen:
                    seen.add((needed.name, part))
                    found[needed.name] = distribution(needed.name)
                    asked.append((found[needed.name], part))
    return found


def linked(folder: Path) -> Path:
    """The interpreter of a new environment with this package, unpacked from its wheel, and links to what it and
    sae-lens ask for, as it is installed here: nothing that neither has declared can be imported"""
    built = folder.with_name("wheel")
    built.mkdir()
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(build(built)) as wheel:
        wheel.extractall(site)
    (metadata,) = site.glob("polytope_hsae-*.dist-info")
    for own in declared(Distribution.at(metadata), "saelens").values():
        home = Path(str(own.locate_file("")))
        for top in {file.parts[0] for file in own.files or []} - {"..", "__pycache__"}:
            if (home / top).exists() and not (site / top).exists():
                (site / top).symlink_to(home / top)
    return folder / "bin" / "python"


def installed(folder: Path) -> Path:
    "The same from the package registry, at the versions of constraints.txt"
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
    parser.add_argument("--registry", action="store_true", help="install the environment instead of linking it")
    args = parser.parse_args()
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "run").mkdir()
        run_dir = Path(args.run).resolve() if args.run else miniature(home / "run")
        known = export(run_dir, home / "saelens")
        python = (installed if args.registry else linked)(home / "environment")
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
