"""Checks of arguments, the same for the pipeline and the commands; the caller says what an argument is called.

A check raises ``InputError``: the argument, what came, what is right; ``ValueError`` where only a program can be wrong.
This module loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from jedi.errors import InputError
from jedi.io import images

if TYPE_CHECKING:
    from torch import Tensor


def check_count(name: str, value: Any) -> None:
    """A whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of 1 or more, got {value!r}")


def check_scale(name: str, value: Any) -> None:
    """A guidance scale: finite, 0 or more."""
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InputError(f"{name} must be a number of 0 or more, got {value!r}")


def check_options(options: Any, check: Callable[[str, Any], None], *names: str) -> None:
    """The check for each of these attributes that is not None, by its name on the command line."""
    for name in names:
        if (value := getattr(options, name)) is not None:
            check(f"--{name.replace('_', '-')}", value)


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """One of the known names."""
    if value not in known:
        raise InputError(f"{name} {value!r}: known are {', '.join(known)}")


def check_prompts(
    prompt: Any,
    prompt_embeds: Tensor | None,
    negative_prompt: Any,
    negative_prompt_embeds: Tensor | None,
    shape: tuple[int, int],
) -> None:
    """Prompts or their embeddings ``[p l d]``; negative ones: one for all, or one each, of as many tokens.

    ``shape`` is what the text encoder gives, (l, d); embeddings may be longer, as of prompts read piece by piece.
    """
    lengths = {}
    for name, text, embeds in (
        ("prompt", prompt, prompt_embeds),
        ("negative_prompt", negative_prompt, negative_prompt_embeds),
    ):
        if text is not None and embeds is not None:
            raise InputError(f"{name} and {name}_embeds exclude one another: give one of them")
        if embeds is not None and (embeds.ndim != 3 or not len(embeds) or embeds.shape[2] != shape[1]):
            raise InputError(f"{name}_embeds must be [p l d] = [p, {shape[0]}, {shape[1]}], got {list(embeds.shape)}")
        lengths[name] = shape[0] if embeds is None else embeds.shape[1]
        fine = isinstance(text, str) or (isinstance(text, Sequence) and text and all(isinstance(x, str) for x in text))
        needed = text is not None or (name == "prompt" and embeds is None)
        if needed and not fine:
            raise InputError(f"{name} must be a string or a list of strings with at least one, got {text!r}")
    if len(set(lengths.values())) > 1:
        found = " and ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"{found} tokens: they must have as many; give negative_prompt_embeds of that length too")
    count, negatives = num_prompts(prompt, prompt_embeds), num_prompts(negative_prompt, negative_prompt_embeds)
    if negatives not in (1, count):
        raise InputError(f"negative_prompt: {negatives} given for {count} prompts; give one for all, or one each")


def check_length(name: str, embeds: Tensor, length: int, mode: str) -> None:
    """As many tokens as the captions of references that go through the network beside them."""
    if embeds.shape[1] != length:
        raise InputError(
            f"{name} has {embeds.shape[1]} tokens; beside references in mode {mode!r} it must have {length}"
        )


def check_second_prompts(text_encoder_2: Any, prompts: Sequence[Any], second: Sequence[Any]) -> None:
    """Prompts for SD-XL's second text encoder, as many as for the first; other models have none."""
    for name, of, found in zip(("prompt_2", "negative_prompt_2"), prompts, second, strict=True):
        if found is None:
            continue
        if text_encoder_2 is None:
            raise InputError(f"{name} is for SD-XL's second text encoder, which this model has not")
        fine = isinstance(found, str) or (isinstance(found, Sequence) and all(isinstance(x, str) for x in found))
        if not fine or of is None or num_prompts(found, None) != num_prompts(of, None):
            first = name.removesuffix("_2")
            raise InputError(f"{name} must be as many strings as {first} is, beside it; got {found!r}")


def check_pooled(text_encoder_2: Any, embeds: Sequence[Tensor | None], pooled: Sequence[Tensor | None]) -> None:
    """SD-XL's pooled text ``[p e]`` beside the embeddings ``[p l d]`` of the same prompts; other models have none."""
    for name, of, found in zip(("pooled_prompt_embeds", "negative_pooled_prompt_embeds"), embeds, pooled, strict=True):
        if found is not None and (text_encoder_2 is None or of is None):
            why = "this model reads none" if text_encoder_2 is None else "give the prompts' embeds too"
            raise InputError(f"{name}: {why}")
        if text_encoder_2 is not None and of is not None:
            shape = (len(of), text_encoder_2.config.projection_dim)
            if found is None or tuple(found.shape) != shape:
                got = "nothing" if found is None else list(found.shape)
                raise InputError(f"{name} must be [p e] = {list(shape)} beside the embeds of this model, got {got}")


def num_prompts(prompt: str | Sequence[str] | None, embeds: Tensor | None) -> int:
    """How many prompts there are; None counts as one, the empty caption."""
    if embeds is not None:
        return len(embeds)
    return 1 if prompt is None or isinstance(prompt, str) else len(prompt)


def check_mode(mode: str, trained: Sequence[str]) -> None:
    """A model does what it was trained for."""
    if mode not in trained:
        raise InputError(f"mode {mode!r}: this model was trained in {', '.join(trained)}")


def check_references(references: Any, prompts: Any, masks: Any, cache: Any = None, mode: str | None = None) -> None:
    """PIL images, with as many captions and masks; or a cache in their place, of the same attention mode."""
    if cache is not None and (references or prompts is not None or masks is not None or mode != cache.mode):
        raise InputError(f"cache replaces references, their prompts and masks, and fixes mode {cache.mode!r}")
    references = [] if references is None else references
    if isinstance(references, Image.Image) or not all(isinstance(x, Image.Image) for x in references):
        raise InputError("references must be a list of PIL images; jedi.io.images.load_image reads a file")
    for name, values in (("reference_prompts", prompts), ("reference_masks", masks)):
        if values is not None and not isinstance(values, str) and len(values) != len(references):
            raise InputError(f"{name}: {len(values)} given for {len(references)} references")
    for i, (image, mask) in enumerate(zip(references, masks or [], strict=False)):
        if mask is not None:
            check_mask(f"reference_masks[{i}]", image, mask)


def check_cache(cache: Any, sets: int, size: tuple[int, ...] | None = None) -> None:
    """The same references for all sets, or those of each; of this size h w of their latents."""
    if cache is not None and cache.batch not in (1, sets):
        raise InputError(f"cache holds the references of {cache.batch} sets, {sets} are made: it must hold 1 or {sets}")
    if cache is not None and size is not None and cache.size != size:
        raise InputError(
            f"cache was made at another size, and mode {cache.mode!r} takes references of the targets' size only: give "
            "encode_references the height and width of the call"
        )


def check_pair(image_name: str, image: Any, mask_name: str, mask: Any) -> None:
    """An image and its mask, or neither."""
    if (image is None) != (mask is None):
        raise InputError(
            f"{image_name} and {mask_name} go together: an image, and what of it is to be generated (white)"
        )


def check_edit(image: Any, mask_image: Any, strength: float = 1.0, padding_mask_crop: int | None = None) -> None:
    """An image and its mask, or neither; the mask leaves something to be generated. What is about them needs them."""
    check_pair("image", image, "mask_image", mask_image)
    check_share("strength", strength)
    if padding_mask_crop is not None and (not isinstance(padding_mask_crop, int) or padding_mask_crop < 0):
        raise InputError(f"padding_mask_crop must be a number of pixels, 0 or more, got {padding_mask_crop!r}")
    if image is None:
        for name, value, unset in (("strength", strength, 1), ("padding_mask_crop", padding_mask_crop, None)):
            if value != unset:
                raise InputError(f"{name} is for an edit: give image and mask_image")
    else:
        check_mask("mask_image", image, mask_image)
        if images.to_mask(mask_image).getextrema()[1] == 0:
            raise InputError("mask_image is black: nothing is to be generated")


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


def check_share(name: str, value: Any) -> None:
    """A number from 0 to 1."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {value!r}")


def check_clip_skip(value: Any, layers: int) -> None:
    """None, or fewer layers than the text encoder has."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < layers):
        raise InputError(f"clip_skip must be a whole number from 0 to {layers - 1}, the text encoder's, got {value!r}")


def check_attention_kwargs(values: Any, own: Collection[str]) -> None:
    """``scale``, a finite number, and what the attention processors in use take besides ours."""
    known = ["scale", *sorted(own)]
    if unknown := sorted(set(values or {}) - set(known)):
        raise InputError(f"cross_attention_kwargs has {', '.join(unknown)}; known here: {', '.join(known)}")
    if values and "scale" in values:
        scale = values["scale"]
        if not isinstance(scale, int | float) or not math.isfinite(scale):
            raise InputError(f"cross_attention_kwargs: scale must be a number, got {scale!r}")


def check_interval(name: str, interval: tuple[float, float]) -> None:
    """Shares of the run, in order."""
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise InputError(f"{name} must be (start, end) with 0 <= start <= end <= 1, got {interval!r}")


def check_outputs(output_type: str, tensor_inputs: Sequence[str], known: Sequence[str]) -> None:
    """Kinds of output, and tensors that a callback may see."""
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type {output_type!r}: 'pil', 'np', 'pt' or 'latent'")
    if unknown := sorted(set(tensor_inputs) - set(known)):
        raise ValueError(f"callback_on_step_end_tensor_inputs {unknown}: known are {list(known)}")
