"""Write README.md from nbs/index.ipynb: its prose and code, without hidden cells and outputs."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
REPO_LINKS = re.compile(r"\]\((?!https?:|#)([^)]+)\)")  # links in the notebook are relative to nbs/


def to_root(match: re.Match) -> str:
    "A link relative to nbs/ as one relative to the repository's root"
    target = match.group(1)
    return f"]({target[3:]})" if target.startswith("../") else f"](nbs/{target})"


def main() -> None:
    parts = ["<!-- Generated from nbs/index.ipynb by scripts/readme.py: edit the notebook. -->"]
    for cell in nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4).cells:
        source = cell.source.strip()
        if cell.cell_type == "markdown":
            parts.append(REPO_LINKS.sub(to_root, source))
        elif cell.cell_type == "code" and source and not re.match(r"#\s*\|\s*hide", source):
            parts.append(f"```python\n{source}\n```")
    (ROOT / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
