"""Packaging: every value comes from settings.ini, so that nbdev and pip read one file.

A wheel also carries what a run needs besides code, in polytope_hsae/shipped: presets, word lists and phase notebooks.
In a checkout (and an editable installation) they are read where they are.
"""

import configparser
import shlex
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ["configs/*.yaml", "data/*", "nbs/experiments/*.ipynb", "constraints.txt"]
config = configparser.ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


class BuildWithShipped(build_py):
    "build_py, and the shipped files copied into the build folder only"

    def shipped(self) -> dict[Path, Path]:
        "Where each shipped file is built, and where it comes from"
        home = Path(self.build_lib) / cfg["lib_path"] / "shipped"
        files = [f for pattern in SHIPPED for f in sorted(ROOT.glob(pattern)) if f.is_file()]
        return {} if self.editable_mode else {home / f.relative_to(ROOT): f for f in files}

    def run(self):
        super().run()
        for built, source in self.shipped().items():
            self.mkpath(str(built.parent))
            self.copy_file(str(source), str(built))

    def get_outputs(self, include_bytecode=True):
        return super().get_outputs(include_bytecode) + [str(built) for built in self.shipped()]


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="MIT",
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["polytope_hsae", "polytope_hsae.*"]),
    package_data={"polytope_hsae.explorer": ["*.js", "*.css", "voila/templates/polytope/*"]},
    python_requires=f">={cfg['min_python']}",
    # accelerate brings the trackers; and without it transformers cannot read GGUF, the embedded model's format
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={"dev": shlex.split(cfg["dev_requirements"]), "wandb": ["wandb"], "saelens": ["sae-lens>=6.50"]},
    entry_points={
        "console_scripts": shlex.split(cfg["console_scripts"]),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    cmdclass={"build_py": BuildWithShipped},
    zip_safe=False,
)
