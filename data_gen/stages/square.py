"""The stage `square`: every image becomes the square that the data set is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from PIL import Image

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES, Stage
from data_gen.stages.compositing import area, where
from jedi.io.images import Box, binary
from jedi.io.ranges import OneOf, Range


@dataclass
class SquareSettings:
    """`centre`: around what the largest square is cut, the image's middle or (where there is a mask) the
    subject's. `min_side`: a set with an image of a shorter side is dropped, since enlarging invents
    nothing; null: half of `resolution`."""

    centre: Annotated[str, OneOf(("image", "subject"))] = "subject"
    min_side: Annotated[int, Range(1, 10_000)] | None = None


@STAGES.register("square")
class Square(Stage):
    """Cuts the largest square out of each image and its mask and resizes it to `resolution`. Boxes of
    subjects in the attributes move along."""

    Settings, uses_model = SquareSettings, False

    def __init__(self, settings: SquareSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.min_side = settings.min_side or max(1, context.resolution // 2)

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        return [self._square(sample) for sample in sets]

    def _square(self, sample: SubjectSet) -> SubjectSet | Dropped:
        if min(min(image.size) for image in sample.images) < self.min_side:
            return Dropped(sample.key, "image too small", sample.scores, sample)
        size, members = (self.context.resolution,) * 2, []
        for caption, image, mask, described in sample.members:
            box = square_box(image.size, self._centre(mask))
            if mask is not None:
                mask = binary(mask.resize(size, Image.Resampling.BOX, box))
                described = _described(described, mask)
            members.append((caption, image.resize(size, Image.Resampling.LANCZOS, box), mask, described))
        return sample.with_members(members)

    def _centre(self, mask: Image.Image | None) -> tuple[float, float] | None:
        box = mask.getbbox() if mask is not None and self.settings.centre == "subject" else None
        return None if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def square_box(size: tuple[int, int], centre: tuple[float, float] | None = None) -> Box:
    """The largest square inside an image of this size, as near to `centre` (pixels; None: the middle) as it
    goes: left, top, right, bottom."""
    side = min(size)
    x, y = centre or (size[0] / 2, size[1] / 2)
    left, top = (min(max(round(at - side / 2), 0), length - side) for at, length in zip((x, y), size, strict=True))
    return left, top, left + side, top + side


def _described(attributes: dict[str, Any], mask: Image.Image) -> dict[str, Any]:
    """What the attributes say of the subject's box, share and centre, as the new mask has it."""
    now = {**where(mask), "mask_share": round(area(mask), 4)}
    return {name: now.get(name, value) for name, value in attributes.items()}
