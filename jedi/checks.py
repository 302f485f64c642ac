"""What may be asked of a pipeline. A check raises ``InputError``: the argument, what came, what is right;
``ValueError`` where only a program can be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from jedi.errors import InputError
from jedi.guidance import GUIDANCE
from jedi.io import images


def check_prompts(prompts: Sequence[str], num_images: int) -> None:
    """At least one prompt, at least one image each."""
    if not prompts or not all(isinstance(x, str) for x in prompts):
        raise InputError(f"prompt must be a string or a list of strings with at least one, got {prompts!r}")
    if not isinstance(num_images, int) or num_images < 1:
        raise InputError(f"num_images must be a whole number above 0, got {num_images!r}")


def check_mode(mode: str, trained: Sequence[str]) -> None:
    """A model does what it was trained for."""
    if mode not in trained:
        raise InputError(f"mode {mode!r}: this model was trained in {', '.join(trained)}")


def check_references(references: Any, prompts: Any, masks: Any, cache: Any = None, mode: str = "one_way") -> None:
    """PIL images, with as many captions and masks; or a cache in their place."""
    if cache is not None and (references or prompts is not None or masks is not None or mode != "one_way"):
        raise InputError("cache stands for references, their prompts and masks, and means mode 'one_way'")
    references = [] if references is None else references
    if isinstance(references, Image.Image) or not all(isinstance(x, Image.Image) for x in references):
        raise InputError("references must be a list of PIL images; jedi.io.images.load_image reads a file")
    for name, values in (("reference_prompts", prompts), ("reference_masks", masks)):
        if values is not None and not isinstance(values, str) and len(values) != len(references):
            raise InputError(f"{name}: {len(values)} given for {len(references)} references")
    for i, (image, mask) in enumerate(zip(references, masks or [], strict=False)):
        if mask is not None:
            check_mask(f"reference_masks[{i}]", image, mask)


def check_cache(cache: Any, sets: int) -> None:
    """The same references for all sets, or those of each."""
    if cache is not None and cache.batch not in (1, sets):
        raise InputError(f"cache holds the references of {cache.batch} sets, {sets} are made: it must hold 1 or {sets}")


def check_edit(image: Any, mask: Any) -> None:
    """An image and its mask, or neither."""
    if (image is None) != (mask is None):
        raise InputError("image and mask go together: an image, and what of it is to be generated (white)")
    if image is not None:
        check_mask("mask", image, mask)
        if images.to_mask(mask).getextrema()[1] == 0:
            raise InputError("mask is black: nothing is to be generated")


def check_mask(name: str, image: Image.Image, mask: Image.Image) -> None:
    """Both of one size, once they stand upright."""
    of_mask, of_image = images.to_mask(mask, name).size, images.to_rgb(image).size
    if of_mask != of_image:
        raise InputError(f"{name} has {of_mask} pixels, its image {of_image}: they must agree")


def check_noise(generator: Any, latents: Tensor | None, shape: tuple[int, ...]) -> None:
    """A list of generators has one for each image; initial noise has the shape of all images' latents."""
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ValueError(f"generator: {len(generator)} given for {shape[0]} images; one each, or a single")
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents must be [n c h w] = {list(shape)}, got {list(latents.shape)}")


def check_interval(name: str, interval: tuple[float, float]) -> None:
    """Shares of the run, in order."""
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise InputError(f"{name} must be (start, end) with 0 <= start <= end <= 1, got {interval!r}")


def check_outputs(output_type: str, tensor_inputs: Sequence[str], known: Sequence[str]) -> None:
    """Kinds of output, and tensors that a callback may see."""
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type {output_type!r}: 'pil', 'np', 'pt' or 'latent'")
    if odd := sorted(set(tensor_inputs) - set(known)):
        raise ValueError(f"callback_on_step_end_tensor_inputs {odd}: known are {list(known)}")


def check_steps(steps: Any) -> None:
    """Number of steps: a whole number above 0."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"num_inference_steps must be a whole number above 0, got {steps!r}")


def check_scale(name: str, scale: Any) -> None:
    """A guidance scale: finite, 0 or more."""
    if not isinstance(scale, (int, float)) or not math.isfinite(scale) or scale < 0:
        raise InputError(f"{name} must be a number of 0 or more, got {scale!r}")


def uses_reference_scale(guidance: str) -> bool:
    """Whether the rule weighs the references by themselves. Raises ``InputError`` for an unknown rule."""
    return {"none", "refs"} <= set(GUIDANCE.get(guidance).branches)


def prediction_type(scheduler: Any) -> str:
    """What the scheduler takes the network's output for."""
    found = scheduler.config.get("prediction_type")
    if found is None or not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(f"{type(scheduler).__name__} is no discrete-time diffusion scheduler (DDIM, DPM-Solver++...)")
    return found


def check_scheduler(scheduler: Any, trained: str) -> None:
    """The scheduler must read the network's output as what the network was trained to say."""
    found, name = prediction_type(scheduler), type(scheduler).__name__
    if found != trained:
        raise InputError(
            f"{name} is set to prediction_type {found!r}, this model was trained with {trained!r}; make it "
            f"by {name}.from_config(pipe.scheduler.config)"
        )
