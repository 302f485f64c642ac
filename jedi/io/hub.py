"""Names of models: a folder, a run of train.py, or OWNER/NAME on the model hub. Loads nothing."""

from __future__ import annotations

import re
from pathlib import Path

from jedi.errors import InputError

_OURS = {"runs", "models", "data", "out", "checkpoints", "configs", "photos", "assets"}
"""Folders that the project's own commands write to or read from."""


def is_hub_name(name: str) -> bool:
    """Whether a model of that name may be asked of the hub: OWNER/NAME, and nothing of a path.

    ``runs/tiny-base`` is meant as a folder also where there is none yet: on the hub, a stranger could own the name.
    """
    owner = name.partition("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and owner not in _OURS and not Path(owner).is_dir()


def find_model(name: str) -> str:
    """Where the model is: "folder", "file", "run" (of train.py) or "hub". Raises ``InputError`` if nowhere."""
    path = Path(name)
    if path.is_file():
        return "file"
    if path.is_dir():
        return "folder" if (path / "model_index.json").is_file() else "run"
    if is_hub_name(name):
        return "hub"
    raise InputError(f"--model {name}: no such folder or file (a model, a training run, or OWNER/NAME on the hub)")
