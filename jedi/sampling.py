"""The settings of sampling: what the caller asks for, else the model's defaults, else ``SAMPLING_DEFAULTS``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jedi.attention import ATTENTION_MODES
from jedi.checks import check_count, check_scale
from jedi.errors import InputError
from jedi.guidance import GUIDANCE

SAMPLING_DEFAULTS: dict[str, Any] = {
    "num_inference_steps": 30,
    "guidance": "two_branch",
    "guidance_scale": 5.0,
    "image_guidance_scale": 1.5,
}
"""For what neither the caller nor the model (``sampling_defaults`` in its config) sets."""


def check_modes(name: str, modes: Sequence[str]) -> None:
    """Raises ``InputError`` unless these are one or more of ``jedi.attention.ATTENTION_MODES``."""
    if not modes or set(modes) - set(ATTENTION_MODES):
        raise InputError(f"{name} {list(modes)}: take some of {', '.join(ATTENTION_MODES)}")


def check_defaults(defaults: Mapping[str, Any] | None) -> None:
    """Raises ``InputError`` for a default that is none of ``SAMPLING_DEFAULTS``."""
    if unknown := sorted(set(defaults or {}) - set(SAMPLING_DEFAULTS)):
        raise InputError(f"sampling_defaults has {unknown}; known are {', '.join(SAMPLING_DEFAULTS)}")


def sampling_settings(
    defaults: Mapping[str, Any],
    num_inference_steps: int | None = None,
    guidance: str | None = None,
    guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
) -> dict[str, Any]:
    """What these arguments mean for a model with ``defaults``; see :meth:`jedi.JediPipeline.sampling_settings`."""
    given: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance": guidance}
    given |= {"guidance_scale": guidance_scale, "image_guidance_scale": image_guidance_scale}
    settings = SAMPLING_DEFAULTS | dict(defaults) | {key: value for key, value in given.items() if value is not None}
    if not GUIDANCE.get(settings["guidance"]).weighs_references:
        if image_guidance_scale in (None, 1):
            settings["image_guidance_scale"] = 1.0
        elif guidance is None:
            settings["guidance"] = "three_branch"
        else:
            raise InputError(f"guidance {guidance!r} does not use image_guidance_scale; 'three_branch' does")
    check_count("num_inference_steps", settings["num_inference_steps"])
    for key in ("guidance_scale", "image_guidance_scale"):
        check_scale(key, settings[key])
    return settings
