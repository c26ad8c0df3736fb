"""A run in miniature in fresh processes: on one thread and on two, with other hashes of text, the figures are the same.

    python scripts/repeat.py

The run is that of scripts/faults.py. Two processes start with PYTHONHASHSEED 1 and 2 and compute on as many threads; no
figure, end of an interval or null may be apart by more than a millionth of its size, or of 10⁻³ where it is smaller. A
third process takes the first one's run up after phase 2, on two threads, and ends with the same; the results say which
phase had how many. Ends with `N passed, N failed`; exits 1 when anything failed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator

import torch

from polytope_hsae.results import load_results

TOLERANCE = 1e-6  # of the larger of a figure and FLOOR
FLOOR = 1e-3


def study(home: Path, run: Path) -> int:
    "The study in this process, taken up where there is one; exit code of the command"
    threads = torch.get_num_threads()  # as the environment says: the next import sets it for those that follow
    from faults_world import call, settings

    torch.set_num_threads(threads)
    resumed = ("--resume", "--set", f"logging.save_dir={run}")
    code, out, err = call("run", *(resumed if (run / "config.yaml").exists() else settings(home, run)))
    print(out, err)
    return code


def apart(home: Path, run: Path, number: int) -> None:
    "The study in a fresh process with this many threads and this hash seed"
    env = os.environ | {"OMP_NUM_THREADS": str(number), "PYTHONHASHSEED": str(number)}
    done = subprocess.run([sys.executable, __file__, str(home), str(run)], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"FAIL a run with {number} threads: {(done.stdout + done.stderr)[-2000:]}")


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    "Every number and text in a record, with where it stands"
    if isinstance(value, dict):
        for k, v in value.items():
            yield from numbers(v, f"{name} {k}")
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from numbers(v, f"{name} {i}")
    else:
        yield name, value


def difference(a: Any, b: Any) -> float:
    "How far two entries are apart, as a share of the larger of their size and FLOOR; infinite for other words"
    if a == b or a != a and b != b:
        return 0.0
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) / max(abs(a), abs(b), FLOOR)
    return float("inf")


def compared(name: str, run: Path, truth: dict[str, Any]) -> bool:
    "Whether the figures of a run are those that they must be; prints the largest difference"
    from faults_world import figures

    found = dict(numbers(figures(run)))
    away = {k: difference(found.get(k), v) for k, v in truth.items()} | {k: 1.0 for k in found.keys() - truth.keys()}
    worst = max(away, key=lambda k: away[k])
    ok = away[worst] <= TOLERANCE
    same = sum(not d for d in away.values())
    print(
        f"{'ok  ' if ok else 'FAIL'} {name}: {same} of {len(away)} entries to the bit, {away[worst]:.0e} at most{worst}"
    )
    return ok


def main() -> int:
    from faults_world import figures, make_world

    with tempfile.TemporaryDirectory() as d:
        home = Path(d).resolve()
        make_world(home)
        runs = {n: home / "runs" / f"threads_{n}" for n in (1, 2)}
        apart(home, runs[1], 1)
        truth = dict(numbers(figures(runs[1])))
        apart(home, runs[2], 2)
        passed = [compared("two threads, another hash seed", runs[2], truth)]
        for phase in (3, 4):
            shutil.rmtree(next(runs[1].glob(f"phase{phase}_*")))
        apart(home, runs[1], 2)
        passed.append(compared("one thread, then two", runs[1], truth))
        threads = [phase.metadata["threads"] for phase in load_results(runs[1]).phases.values()]
        passed.append(threads == [1, 1, 2, 2])
        print(f"{'ok  ' if passed[-1] else 'FAIL'} its results say so: phases on {threads} threads")
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(study(Path(sys.argv[1]), Path(sys.argv[2])) if len(sys.argv) > 2 else main())
