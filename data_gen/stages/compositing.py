"""Subjects cut out of images: soft edges without the old background, and pasting.

Along a subject's outline a camera (or a painter's antialiasing) mixes the subject with what stood behind it, and a
mask is seldom right to the pixel. Pasted as it is, such a rim shines: the halo of a bad collage. So an outline is first
moved inwards by `erode` pixels, which throws the mixed pixels away, and then the subject fades in over the next
`feather` pixels, which hides the cut. Further inside the subject is left exactly as it was: no blur of the mask, whose
tails would reach the whole subject. Thin parts (legs, handles, antennae) have no inside: for them both widths shrink
until their middle stays, but not below a third, or slivers of background in a coarse mask would come along.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from jedi.io.images import binary
from jedi.io.ranges import Range

_THINNEST = 1 / 3  # to this share of what they are elsewhere edges shrink on thin parts
SIDES = ("left", "top", "right", "bottom")


Pixels = Annotated[float, Range(0, 64)]


@dataclass
class EdgesSettings:
    """Edges of cut-outs, in pixels of an image whose shorter side has 512; in others in proportion.

    One pixel of erosion removes what antialiasing mixes; with masks of a coarse segmenter take 2 to 3. A feather of
    2 to 3 looks like the focus of a lens, a wider one like fog.
    """

    erode: Pixels = 1.0
    feather: Pixels = 2.5
    """At least half a pixel of the image itself, whatever its size."""

    def alpha(self, mask: Image.Image) -> Image.Image:
        """How much of each pixel stays: a mask (L, from 128 on the subject) -> L; 0 outside of the mask and in the
        eroded rim, then rising to 255.

        Where a subject is cut by the image's own border there is no outline: it stays whole up to the border.
        """
        scale = min(mask.size) / 512
        erode, feather = self.erode * scale, max(0.5, self.feather * scale)
        from scipy import ndimage

        depth = _depth(np.asarray(mask) >= 128, erode + feather)
        highest_near = ndimage.maximum_filter(depth, 2 * int(np.ceil(erode + feather)) + 1, mode="constant")
        thin = (highest_near / (erode + feather)).clip(_THINNEST, 1)
        return Image.fromarray((255 * ((depth / thin - erode) / feather).clip(0, 1)).round().astype(np.uint8))


def _depth(inside: NDArray[np.bool_], limit: float) -> NDArray[np.float32]:
    """`[H W]`: distance of each pixel's centre to the nearest outline, 0 outside, at most `limit`.

    To the outline it is half a pixel less than to the next pixel outside.
    """
    from scipy import ndimage

    reach = int(np.ceil(limit)) + 1  # beyond the border the subject goes on as it reaches it, so far
    padded = np.pad(np.pad(inside, reach, mode="edge"), 1)
    nearest = ndimage.distance_transform_edt(padded)[reach + 1 : -reach - 1, reach + 1 : -reach - 1]
    return np.clip(nearest.astype(np.float32) - np.float32(0.5), 0, limit, dtype=np.float32)


def grown(mask: Image.Image, pixels: float) -> Image.Image:
    """The mask (L, from 128 on) and all that lies within so many pixels of it, as 0 and 255."""
    if pixels <= 0:
        return binary(mask)
    outside = np.asarray(mask) < 128
    return Image.fromarray(np.where(_depth(outside, pixels + 1) > pixels, 0, 255).astype(np.uint8))


def area(mask: Image.Image) -> float:
    """The subject's share of its image, [0, 1]."""
    return float((np.asarray(mask) >= 128).mean())


def cut_sides(mask: Image.Image, tolerance: float = 0.05) -> set[str]:
    """The sides ("left", "top", "right", "bottom") at which the image's border cuts the subject.

    A few pixels at the border (`tolerance` of the subject's extent along it) only touch it.
    """
    inside = np.asarray(mask) >= 128
    if not inside.any():
        return set()
    extents = (int(inside.any(1).sum()), int(inside.any(0).sum()))  # height, width
    borders = (inside[:, 0], inside[0], inside[:, -1], inside[-1])
    return {
        side
        for side, border, extent in zip(SIDES, borders, extents * 2, strict=True)
        if border.sum() > tolerance * extent
    }


def is_hidden(attributes: Mapping[str, Any]) -> bool:
    """Whether a source says that something covers a part of a subject (`visible`, as the emoji source does): cut out,
    such a subject has a hole."""
    each = attributes.get("standing", [attributes])
    return any(subject.get("visible", 1.0) < 0.99 for subject in each)


def cut(image: Image.Image, mask: Image.Image, edges: EdgesSettings) -> Image.Image | None:
    """The subject as RGBA, cropped to its box; None where the mask leaves nothing of it."""
    alpha = edges.alpha(mask)
    box = alpha.getbbox()
    if box is None:
        return None
    whole = image.convert("RGB")
    whole.putalpha(alpha)
    return whole.crop(box)


def resized(cutout: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A cut-out of another size; PIL weighs its colours by alpha, so nothing of the old background comes in."""
    return cutout if cutout.size == size else cutout.resize(size, Image.Resampling.LANCZOS)


def paste(
    behind: Image.Image, cutouts: Sequence[Image.Image], corners: Sequence[tuple[int, int]]
) -> tuple[Image.Image, list[Image.Image]]:
    """Cut-outs (RGBA) on a copy of an image, each with its left upper corner there, and the mask of each alone."""
    image, masks = behind.copy(), []
    for cutout, corner in zip(cutouts, corners, strict=True):
        image.paste(cutout, corner, cutout)
        alpha = Image.new("L", behind.size)
        alpha.paste(cutout.getchannel("A"), corner)
        masks.append(binary(alpha))
    return image, masks


def where(mask: Image.Image) -> dict[str, list]:
    """What attributes say of a subject: its `box` in pixels, and its `centre` as fractions of the image's sides."""
    left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
    centre = [round((left + right) / 2 / mask.width, 4), round((top + bottom) / 2 / mask.height, 4)]
    return {"box": [left, top, right, bottom], "centre": centre}


def union(masks: Sequence[Image.Image]) -> Image.Image:
    """What any of the masks (L, of one size) holds."""
    return functools.reduce(ImageChops.lighter, masks)
