"""A model by its name: a folder, a run of train.py, or a name on the hub. For the front ends.

Every failure is an ``InputError`` of one line that names the option, ``--model`` or ``--device``.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from jedi.errors import InputError

if TYPE_CHECKING:
    import torch

    from jedi.pipeline import JediPipeline

PARTS = ("unet", "vae", "text_encoder")
"""The parts of a model that have weights."""


_OURS = {"runs", "models", "data", "out", "checkpoints", "configs", "photos", "assets"}
"""Folders that the project's own commands write to or read from."""


def is_hub_name(name: str) -> bool:
    """Whether a model of that name may be asked of the hub: OWNER/NAME, and nothing of a path.

    ``runs/tiny-base`` is meant as a folder also where there is none yet: on the hub, a stranger could own the name.
    """
    owner = name.partition("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and owner not in _OURS and not Path(owner).is_dir()


def find_model(name: str) -> str:
    """Where the model is: "folder", "run" (of train.py) or "hub". Raises ``InputError`` if nowhere."""
    path = Path(name)
    if path.is_dir():
        return "folder" if (path / "model_index.json").is_file() else "run"
    if is_hub_name(name):
        return "hub"
    raise InputError(f"--model {name}: no such folder (a model, a training run, or OWNER/NAME on the hub)")


def find_device(name: str | None) -> str:
    """``name``, by default a GPU if there is one. Raises ``InputError`` if it cannot be used here."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return name


def silence() -> None:
    """Only errors of diffusers and transformers, and no progress bars of theirs. Loads both."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def load_pipeline(name: str, device: str | None = None, dtype: str = "float32") -> tuple[JediPipeline, dict[str, str]]:
    """The pipeline on its device, silent, and the sha256 of its parts' weights in float32.

    Raises ``InputError`` for a model or a device that cannot be used.
    """
    origin = find_model(name)
    import torch

    from jedi.pipeline import JediPipeline

    silence()
    device = find_device(device)
    try:
        if origin == "run":
            from jedi.training.export import load_run

            pipe = load_run(name)
        else:
            pipe = JediPipeline.from_pretrained(name)
    except InputError as error:
        where = " from the hub (there is no such folder here)" if origin == "hub" else ""
        raise InputError(f"--model {name}: cannot be loaded{where}: {error}") from error
    # Now: in another dtype the same weights would have another digest.
    digests = model_sha256(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, getattr(torch, dtype)), digests


def model_sha256(pipe: JediPipeline) -> dict[str, str]:
    """The sha256 of the weights of each part of the model, as they are now."""
    return {name: weights_sha256(getattr(pipe, name)) for name in PARTS}


def weights_sha256(part: torch.nn.Module) -> str:
    """sha256 over the bytes of all tensors of a part of a model, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for _, tensor in sorted(part.state_dict().items()):
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
