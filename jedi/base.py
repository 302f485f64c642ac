"""The base model of a training run: the parts of a Stable-Diffusion-shaped diffusers folder."""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from jedi.errors import InputError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
FROZEN_PARTS = PARTS[1:]


@dataclass
class Base:
    """Parts of a base model, as diffusers and transformers load them."""

    unet: UNet2DConditionModel
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    folder: Path

    def fingerprint(self, *parts: str) -> str:
        """sha256 over the files of these parts: equal when they are equal, wherever the folder lies."""
        digest = hashlib.sha256()
        for part in parts:
            for path in sorted((self.folder / part).rglob("*")):
                if path.is_file():
                    digest.update(path.relative_to(self.folder).as_posix().encode())
                    with path.open("rb") as file:
                        while block := file.read(1 << 20):
                            digest.update(block)
        return digest.hexdigest()


def load_base(name: str | Path) -> Base:
    """Loads a base from a folder or, if there is none of that name, from the model hub.

    Raises:
        InputError: nothing there, or a folder that lacks a part.
    """
    folder = _folder(name)
    index = json.loads((folder / "model_index.json").read_text())
    lacking = [part for part in PARTS if part not in index or not (folder / part).is_dir()]
    if lacking:
        raise InputError(
            f"base {folder} has no {', '.join(lacking)}: a diffusers folder with {', '.join(PARTS)} is needed"
        )
    parts = {part: _load_part(folder, part, *index[part]) for part in PARTS}
    check_unet(parts["unet"], parts["vae"], parts["text_encoder"], f"base {folder}")
    for part in ("vae", "text_encoder"):
        parts[part].requires_grad_(False).eval()
    return Base(**parts, folder=folder)


def load_unet(name: str | Path, prediction_type: str) -> UNet2DConditionModel:
    """The UNet of a model folder, to start from its weights.

    Raises:
        InputError: there is none, or its model predicts something else than ``prediction_type``.
    """
    folder = _folder(name)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.exists():
        found = json.loads(scheduler.read_text()).get("prediction_type", "epsilon")
        check_prediction_type(found, prediction_type, folder)
    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet")


def check_unet(unet: UNet2DConditionModel, vae: Any, text_encoder: Any, source: str) -> None:
    """Raises ``InputError`` unless the unet of ``source`` makes the vae's latents and reads the encoded text."""
    for what, found, of, wanted in (
        ("makes latents of {} channels", unet.config.out_channels, "vae", vae.config.latent_channels),
        ("reads text of width {}", unet.config.cross_attention_dim, "text_encoder", text_encoder.config.hidden_size),
    ):
        if found != wanted:
            raise InputError(
                f"{source}: the unet {what.format(found)}, the {of} gives {wanted}; take both from one model"
            )


def check_prediction_type(found: str, wanted: str, source: str | Path) -> None:
    """Raises ``InputError`` when weights that predict one thing would be trained to predict another."""
    if found != wanted:
        raise InputError(
            f"init_from {source} predicts {found!r}, the base's scheduler says {wanted!r}: "
            f"start from a model of that prediction type, or change prediction_type in the base's scheduler"
        )


def _folder(name: str | Path) -> Path:
    folder = Path(name)
    if (folder / "model_index.json").is_file():
        return folder
    if folder.exists() or folder.is_absolute() or len(folder.parts) != 2:  # a hub name is OWNER/NAME
        raise InputError(f"{name} is not a model: a diffusers folder has a model_index.json")
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(str(name)))
    except (OSError, ValueError) as error:
        raise InputError(
            f"no folder {name}, and the model hub does not give it: {str(error).splitlines()[0]}"
        ) from None


def _load_part(folder: Path, part: str, library: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(library), name).from_pretrained(folder / part)
    except (OSError, ImportError, AttributeError) as error:
        raise InputError(f"{folder / part}: not loadable as {library}.{name}: {str(error).splitlines()[0]}") from None
