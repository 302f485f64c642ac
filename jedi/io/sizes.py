"""Sizes of images in pixels, (width, height): the aspect-ratio buckets, and how an image comes to have one of them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from jedi.io.images import Box

Size = tuple[int, int]
"""Width and height."""


def bucket_sizes(resolution: int, multiple_of: int = 64, max_aspect: float = 2.0) -> list[Size]:
    """Aspect-ratio buckets as SD-XL has them: sizes of at most ``resolution``^2 pixels, by width.

    Sides are multiples of ``multiple_of``; for each shorter side the longer one is as long as it can be, up to
    ``max_aspect`` : 1; each upright and lying, and the largest square. 512 gives 384 x 640, 448 x 576, 512 x 512, 576 x
    448 and 640 x 384. Empty where ``resolution`` is less than ``multiple_of``.
    """
    side = resolution // multiple_of * multiple_of
    sizes: set[Size] = {(side, side)} if side else set()
    for short in range(multiple_of, side + 1, multiple_of):
        long = resolution**2 // short // multiple_of * multiple_of
        if long <= max_aspect * short:
            sizes |= {(short, long), (long, short)}
    return sorted(sizes)


def best_size(images: Sequence[Size], sizes: Sequence[Size]) -> Size:
    """The one of ``sizes`` that cropping to it leaves most of these images, by share; of equals the first."""

    def left(size: Size) -> float:
        ratios = [size[0] * height / (size[1] * width) for width, height in images]
        return sum(min(ratio, 1 / ratio) for ratio in ratios)

    return max(sizes, key=left)


def crop_box(size: Size, to: Size, centre: tuple[float, float] | None = None) -> Box:
    """The largest part of an image of ``size`` that has the aspect of ``to``, as near to ``centre`` (pixels; None: the
    middle) as it goes: left, top, right, bottom."""
    width, height = size
    if width * to[1] > height * to[0]:
        width = max(1, round(height * to[0] / to[1]))
    else:
        height = max(1, round(width * to[1] / to[0]))
    at = centre or (size[0] / 2, size[1] / 2)
    left = min(max(round(at[0] - width / 2), 0), size[0] - width)
    top = min(max(round(at[1] - height / 2), 0), size[1] - height)
    return left, top, left + width, top + height


def cropped(image: Image.Image, to: Size, centre: tuple[float, float] | None = None) -> Image.Image:
    """The image at size ``to``; what does not fit is cut off around ``centre``."""
    if image.size == to:
        return image
    return image.resize(to, Image.Resampling.LANCZOS, crop_box(image.size, to, centre))
