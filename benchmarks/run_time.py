"""Where the minutes of a finished run went: every phase, by the section of its notebook.

    python benchmarks/run_time.py RUN [--save FILE]

Reads how long each cell took from the executed notebooks in the run's folder; nothing is run. With `--save` the
sections go to a file, as those in benchmarks/results.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml


def sections(notebook: Path) -> dict[str, float]:  # heading → seconds, in order
    "Seconds of the cells below each heading of an executed notebook"
    found: dict[str, float] = {}
    heading = ""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            heading = [heading, *re.findall(r"^#+ +(.*)", cell.source, flags=re.M)][-1]
        found[heading] = found.get(heading, 0.0) + (cell.metadata.get("papermill", {}).get("duration") or 0.0)
    return found


def run_time(run_dir: Path) -> list[dict[str, Any]]:  # one row per section
    "What each section of each phase took, and its share of the run"
    notebooks = sorted(run_dir.glob("phase*/notebook.ipynb"))
    if not notebooks:
        raise SystemExit(f"{run_dir} holds no executed notebook: give the folder of a finished run, such as runs/demo")
    rows = [
        dict(phase=int(path.parent.name[5]), section=heading, seconds=seconds)
        for path in notebooks
        for heading, seconds in sections(path).items()
    ]
    whole = sum(row["seconds"] for row in rows)
    return [row | {"share": row["seconds"] / whole} for row in rows]


def main() -> None:
    "Print the sections, longest first, and perhaps save them"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--save", type=Path, help="write what was found to this file")
    args = parser.parse_args()
    rows = run_time(args.run)
    table = pd.DataFrame(rows).sort_values("seconds", ascending=False)
    print(table.assign(share=table["share"].map("{:.0%}".format)).to_string(index=False, float_format="%.1f"))
    print(f"all phases: {table['seconds'].sum():.0f} s")
    if args.save:
        there = yaml.safe_load((args.run / "config.yaml").read_text(encoding="utf-8"))["provenance"]["hardware"]
        machine = f"{there['cores']} cores, {there['memory_gib']:.0f} GiB, {len(there['gpus'])} GPUs"
        args.save.write_text(json.dumps(dict(machine=machine, sections=rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
