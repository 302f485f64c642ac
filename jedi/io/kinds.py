"""Which Stable Diffusion a model folder holds, by what lies in it; anything else by its name, in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jedi.errors import InputError, short
from jedi.io.model_files import read_model_json

INDEX = "model_index.json"
SUPPORTED = (
    "JeDi takes Stable Diffusion 1.x and 2.x, SD-XL, their inpainting variants and fine-tunes of these, "
    "and models that JeDi trained"
)
_OTHERS = (
    ("StableDiffusion3", "Stable Diffusion 3"),
    ("StableDiffusionDepth2Img", "Stable Diffusion 2's depth variant"),
    ("StableDiffusionLatentUpscale", "Stable Diffusion's latent upscaler"),
    ("StableDiffusionUpscale", "Stable Diffusion's x4 upscaler"),
    ("StableDiffusionImageVariation", "Stable Diffusion's image variations"),
    ("StableDiffusionGLIGEN", "GLIGEN"),
    ("StableDiffusionLDM3D", "LDM3D"),
    ("StableDiffusionInstructPix2Pix", "InstructPix2Pix"),
    ("StableDiffusionXLInstructPix2Pix", "InstructPix2Pix for SD-XL"),
    ("StableUnCLIP", "Stable unCLIP"),
    ("UnCLIP", "unCLIP"),
    ("StableCascade", "Stable Cascade"),
    ("StableVideoDiffusion", "Stable Video Diffusion"),
    ("Wuerstchen", "Wuerstchen"),
    ("Flux2", "FLUX.2"),
    ("Flux", "FLUX"),
    ("PixArt", "PixArt"),
    ("Kandinsky", "Kandinsky"),
    ("LatentConsistencyModel", "a latent consistency model (its UNet takes the guidance scale as an input)"),
    ("IF", "DeepFloyd IF"),
)
"""How the names of pipelines begin, and what the models are called."""
_OURS = re.compile(r"(Jedi|StableDiffusion(XL)?(PAG|Img2Img|Inpaint|ControlNet\w*)?)Pipeline")


@dataclass(frozen=True)
class ModelKind:
    """What a model is; :func:`detect` reads it from its folder."""

    family: str
    """`Stable Diffusion 1.x`, `Stable Diffusion 2.x`, `SD-XL`, or `Stable Diffusion` of another text width."""
    inpainting: bool
    """Whether its UNet takes a mask and given latents: an inpainting base, or a model that JeDi trained."""
    prediction_type: str
    """`epsilon`, `v_prediction` or `sample`."""
    size: int | list[int] | None
    """Of the latents that the UNet was trained on."""
    trained: bool
    """Whether it is JeDi's: it names the modes that it was trained in. An inpainting base names none."""

    def __str__(self) -> str:
        what = ["trained by JeDi" if self.trained else "inpainting" if self.inpainting else "text to image"]
        return f"{self.family} ({', '.join([*what, self.prediction_type])})"


def detect(folder: Path) -> ModelKind:
    """The kind of the model in a diffusers folder.

    Raises:
        InputError: a model of another kind; the message says its name and what is supported.
    """
    index, unet, scheduler = (
        read_model_json(path) if path.exists() or path.name == INDEX else {}
        for path in (
            folder / INDEX,
            folder / "unet" / "config.json",
            folder / "scheduler" / "scheduler_config.json",
        )
    )
    if other := _other(index, unet):
        raise InputError(f"{folder} is {other}; {SUPPORTED}")
    families = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
    family = next((name for width, name in families.items() if unet.get("cross_attention_dim") == width), None)
    return ModelKind(
        family="SD-XL" if _has(index, "text_encoder_2") else family or "Stable Diffusion",
        inpainting=unet.get("in_channels") != unet.get("out_channels"),
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        size=unet.get("sample_size"),
        trained=is_trained(index),
    )


def is_trained(index: Mapping[str, Any]) -> bool:
    """Whether a model_index.json is that of a model that JeDi trained: not of a base, nor of one that was loaded as a
    pipeline and saved, which has the mode of untrained models and no number of references that it was trained with."""
    saved = index.get("trained_modes") == ["reference_only"] and index.get("max_trained_references") is None
    return "trained_modes" in index and not saved


def class_name(index: Mapping[str, Any]) -> str:
    """Of the pipeline: the last one where the index also names the file that it is in."""
    found = index.get("_class_name")
    found = found[-1] if isinstance(found, list) and found else found
    return found if isinstance(found, str) else ""


def _has(index: Mapping[str, Any], part: str) -> bool:
    return index.get(part) not in (None, [None, None])


def _other(index: Mapping[str, Any], unet: Mapping[str, Any]) -> str | None:
    """The name of a model that is not supported, None for one that may be."""
    name = class_name(index)
    for start, other in _OTHERS:
        if name.startswith(start) and name.endswith("Pipeline"):
            return other
    if not _has(index, "unet") and not _OURS.fullmatch(name):
        return f"of the class {short(name)}" if name else "no model of diffusers: its index names no pipeline"
    if _has(index, "text_encoder_2") and not _has(index, "text_encoder"):
        return "SD-XL's refiner"
    if _has(index, "image_encoder") and unet.get("class_embed_type") == "projection":
        return "Stable unCLIP"
    known = {5: "Stable Diffusion 2's depth variant", 7: "Stable Diffusion's x4 upscaler", 8: "InstructPix2Pix"}
    for channels, other in known.items():
        if (unet.get("in_channels"), unet.get("out_channels")) == (channels, 4):
            return f"{other} (its UNet takes {channels} channels, not 4 or 9)"
    return None
