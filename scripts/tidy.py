"""What of a cell's output is worth storing, and how it is written so that the next execution writes the same."""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 900  # pixels of the widest stored figure
WIDGET = "application/vnd.jupyter.widget-view+json"
HIDDEN = {"hide", "exporti"}
PROGRESS = re.compile(r"\d+%\||\d+(\.\d+)?\s?(it|s)/(s|it)\b")
TIMED = re.compile(r"^(CPU times|Wall time)|\d ([mµun]?s) ± .* per loop")
OBJECT = re.compile(r"^[\[(]*<[^>]* at 0x[0-9a-f]+>|^<(Axes|Figure)\b|^Text\(|^\(?array\(\[\[?<Axes")
ADDRESS = re.compile(r"( at )?\b0x[0-9a-fA-F]{7,16}\b")
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
STYLER = re.compile(r"\bT_([0-9a-f]{5})(?=\b|_)")


def places() -> list[tuple[re.Pattern, str]]:
    "Paths of this machine and what stands for them; the deepest first"
    temporary = re.escape(tempfile.gettempdir())
    named = [
        (re.escape(f"{ROOT}/"), ""),
        (re.escape(str(ROOT)), "."),
        (rf"{temporary}/[\w.-]*tmp[\w.-]*", "…"),
        (rf"{temporary}(?=/|\b)", "…"),
        (re.escape(sys.prefix), "…"),
        (re.escape(str(Path.home())) + r"(?=/|\b)", "~"),
    ]
    return [(re.compile(pattern), name) for pattern, name in named]


def tidy_text(text: str, ids: dict[str, str], index: int) -> str:
    "Addresses, machine paths and random ids replaced; ids are numbered as they come, within cell `index`"
    for pattern, name in places():
        text = pattern.sub(name, text)

    def numbered(match: re.Match) -> str:
        return ids.setdefault(match.group(0), f"{index}_{len(ids)}")

    text = STYLER.sub(lambda m: f"T_{numbered(m)}", text)
    return ADDRESS.sub(lambda m: "" if m.group(1) else "0x…", UUID.sub(numbered, text))


def tidy_stream(lines: list[str]) -> list[str]:
    "What stays on the screen: carriage returns applied, progress bars and timings left out"
    kept = (line.rstrip("\n").rstrip("\r").rpartition("\r")[2] + "\n" * line.endswith("\n") for line in lines)
    return [line for line in kept if not PROGRESS.search(line) and not TIMED.search(line)]


def tidy_png(data: str) -> str:
    "A figure at most WIDTH wide, in 256 colours, without metadata: small, and the same bytes for the same picture"
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    image = page.convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    # the median cut spends its colours on greys, and two lines of a legend then have the same one
    image = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def tidy_output(output: dict, ids: dict[str, str], index: int) -> dict | None:
    "One output as it is stored; None when it shows nothing that stays"
    if output["output_type"] == "stream":
        text = [tidy_text(line, ids, index) for line in tidy_stream(output["text"])]
        return {**output, "text": text} if output["name"] == "stdout" and "".join(text).strip() else None
    data = dict(output["data"])
    plain = "".join(data.get("text/plain", ""))
    if WIDGET in data or (len(data) == 1 and OBJECT.search(plain)):
        return None
    for kind, value in data.items():
        if kind.startswith("text/"):
            data[kind] = [tidy_text(line, ids, index) for line in value]
        elif kind == "image/png":
            data[kind] = tidy_png(value)
    return {**output, "data": data, "metadata": {}}


def tidy_cell(cell: dict, directives: dict, index: int) -> None:
    "Make a cell's fresh output storable; cells the pages do not show keep none"
    hidden = HIDDEN & directives.keys() or directives.get("output:", [""])[0].lower() == "false"
    ids: dict[str, str] = {}
    outputs = [] if hidden else [tidy_output(output, ids, index) for output in cell["outputs"]]
    cell["outputs"] = [output for output in outputs if output]
