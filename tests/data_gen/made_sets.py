"""Sets with exact masks for the tests of stages: coloured shapes on backgrounds of noise, and a plain configuration."""

import copy

import numpy as np
from PIL import Image, ImageDraw

from data_gen.context import Context
from data_gen.samples import SubjectSet

SIDE = 48


def photo(
    colour: tuple[int, int, int],
    seed: int,
    size: tuple[int, int] = (SIDE, SIDE),
    box: tuple[float, ...] = (0.3, 0.2, 0.7, 0.8),
) -> tuple[Image.Image, Image.Image]:
    """An ellipse of that colour in `box` (shares of the sides) on green noise, and its mask."""
    noise = np.random.default_rng(seed).integers(0, 80, (size[1], size[0], 3), dtype=np.uint8)
    noise[..., 1] += 120
    image, mask = Image.fromarray(noise), Image.new("L", size)
    corners = [round(share * size[i % 2]) for i, share in enumerate(box)]
    ImageDraw.Draw(mask).ellipse(corners, fill=255)
    # The subject has a pattern of its own, so that a pixel that moved or was blended shows.
    pattern = np.asarray(colour) + np.random.default_rng(seed + 1000).integers(-30, 30, (size[1], size[0], 3))
    image.paste(Image.fromarray(pattern.clip(0, 255).astype(np.uint8)), (0, 0), mask)
    return image, mask


def make_set(
    index: int, name: str, kind: str, colour: tuple[int, int, int], n: int = 4, split: str = "train", **options
):
    """A set of `n` images of one ellipse; `options` are those of `image`."""
    images, masks = zip(*(photo(colour, 100 * index + i, **options) for i in range(n)), strict=True)
    return SubjectSet(
        key=f"{split}-{index:08d}",
        subject={"id": f"{name}-{index}", "name": name, "class": kind},
        captions=[f"a {name} on image {i}, under a tree" for i in range(n)],
        images=list(images),
        masks=list(masks),
        attributes=[{"background": "noise", "member": i} for i in range(n)],
        licence="CC0-1.0",
        provenance={"prompt": "a prompt"},
    )


def make_unit() -> list[SubjectSet]:
    """Four sets of four images: red foxes, cups, apples and another fox."""
    return [
        make_set(0, "red fox", "animal", (200, 40, 40)),
        make_set(1, "cup", "thing", (40, 40, 220)),
        make_set(2, "apple", "food", (220, 200, 30)),
        make_set(3, "red fox", "animal", (150, 30, 90)),
    ]


def context(**changes) -> Context:
    """What a stage reads of the configuration, its own section aside."""
    return Context("data", **{"resolution": SIDE, "device": "cpu", **changes})


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def same(a: SubjectSet, b: SubjectSet) -> bool:
    """Whether two sets are equal, images included."""
    pairs = [*zip(a.images, b.images, strict=True), *zip(a.masks, b.masks, strict=True)]
    equal = all(x is y or (x is not None and y is not None and x.tobytes() == y.tobytes()) for x, y in pairs)
    said = (a.key, a.subject, a.captions, a.attributes, a.provenance, a.licence, a.references)
    return equal and said == (b.key, b.subject, b.captions, b.attributes, b.provenance, b.licence, b.references)


def copied(one: SubjectSet) -> SubjectSet:
    """A deep copy, to see whether a stage changes what it is given."""
    return copy.deepcopy(one)
