"""Sizes: what a model was trained at, and what it can make.

Sizes in pixels are ``(height, width)``, as in a UNet's ``sample_size`` and diffusers' arguments.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from jedi.errors import InputError

Size = tuple[int, int]
"""Height and width in pixels."""
REFERENCE_RESIZES = ("pad", "crop", "keep")
"""How references are brought to a size; see :attr:`jedi.references.ReferenceImages.resize`."""


def trained_size(unet: Any, factor: int) -> Size:
    """What a UNet was trained at: its ``sample_size``, a number or height and width, times the vae's ``factor``."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor


def wanted_size(height: int | None, width: int | None, trained: Size, factor: int) -> Size:
    """The size that is asked for, where nothing is the ``trained`` one.

    Raises ``InputError`` with the nearest sizes for what is no multiple of ``factor``, the vae's. The UNet asks for
    no more: where a latent size is odd, diffusers' rounds up on its way down and cuts on its way up.
    """
    size = (trained[0] if height is None else height, trained[1] if width is None else width)
    for name, value in zip(("height", "width"), size, strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of pixels, got {value!r}")
        if value % factor:
            below, above = value // factor * factor, (value // factor + 1) * factor
            nearest = f"{below} and {above}" if below else str(above)
            raise InputError(f"{name} {value}: the model makes multiples of {factor}; the nearest: {nearest}")
    return size


def own_size(image: Image.Image, trained: Size, factor: int) -> Size:
    """The size with the image's aspect and about the area of ``trained``, in multiples of ``factor``."""
    side = (trained[0] * trained[1] / (image.width * image.height)) ** 0.5 / factor
    height, width = (max(1, round(x * side)) * factor for x in (image.height, image.width))
    return height, width
