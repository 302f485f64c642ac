"""The stage `resize`: the images of a set get the size that the data set is made of, or one of its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from PIL import Image

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES, Stage
from data_gen.stages.compositing import area, where
from jedi.io.config import ConfigError
from jedi.io.images import binary, fit
from jedi.io.ranges import OneOf, Range
from jedi.io.sizes import Size, best_size, bucket_sizes, crop_box

_Pair = tuple[Image.Image, Image.Image | None]


@dataclass
class ResizeSettings:
    """`shape`: `square`, all images `resolution` x `resolution`; or `keep_aspect`: aspect-ratio buckets as SD-XL has
    them, of at most `resolution`^2 pixels each. All images of a set get one size, the one that leaves most of them.
    `fit`: `crop`, or `pad`: the whole image, and margins of the mean colour of its edges. `centre`: around what is
    cropped, the image's middle or (where there is a mask) the subject's. `min_side`: a set
    with an image of a shorter side is dropped, since enlarging invents nothing; null: half of `resolution`.
    `multiple_of` and `max_aspect` (longer to shorter side) are of `keep_aspect`."""

    shape: Annotated[str, OneOf(("square", "keep_aspect"))] = "square"
    fit: Annotated[str, OneOf(("crop", "pad"))] = "crop"
    centre: Annotated[str, OneOf(("image", "subject"))] = "subject"
    min_side: Annotated[int, Range(1, 10_000)] | None = None
    multiple_of: Annotated[int, Range(8, 512)] = 64
    max_aspect: Annotated[float, Range(1, 8)] = 2.0


@STAGES.register("resize")
class Resize(Stage):
    """Cuts the largest part of the right shape out of each image and its mask and resizes it, or pads the image.

    Boxes of subjects in the attributes move along.
    """

    Settings, uses_model = ResizeSettings, False

    def __init__(self, settings: ResizeSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.min_side = settings.min_side or max(1, context.resolution // 2)
        self.sizes = [(context.resolution, context.resolution)]
        if settings.shape == "keep_aspect":
            self.sizes = bucket_sizes(context.resolution, settings.multiple_of, settings.max_aspect)
        if not self.sizes:
            raise ConfigError(
                f"resolution={context.resolution} is less than resize.multiple_of={settings.multiple_of}; lower that"
            )

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        return [self._resized(sample) for sample in sets]

    def _resized(self, sample: SubjectSet) -> SubjectSet | Dropped:
        if min(min(image.size) for image in sample.images) < self.min_side:
            return Dropped(sample.key, "image too small", sample.scores, sample)
        size, members = best_size([image.size for image in sample.images], self.sizes), []
        for caption, image, mask, described in sample.members:
            told = {"original_size": [image.height, image.width], "crop_top_left": [0, 0]}  # SD-XL reads them
            if self.settings.fit == "pad":
                image, mask = self._padded(image, mask, size)
            else:
                box = crop_box(image.size, size, self._centre(mask))
                scale = size[0] / (box[2] - box[0])
                told["crop_top_left"] = [round(box[1] * scale), round(box[0] * scale)]
                mask = mask and binary(mask.resize(size, Image.Resampling.BOX, box))
                image = image.resize(size, Image.Resampling.LANCZOS, box)
            described = described if mask is None else _described(described, mask)
            members.append((caption, image, mask, described | told))
        return sample.with_members(members)

    def _padded(self, image: Image.Image, mask: Image.Image | None, size: Size) -> _Pair:
        image, (left, top, right, bottom) = fit(image, *size)
        if mask is not None:
            inner = mask.resize((right - left, bottom - top), Image.Resampling.BOX)
            mask = Image.new("L", size)
            mask.paste(binary(inner), (left, top))
        return image, mask

    def _centre(self, mask: Image.Image | None) -> tuple[float, float] | None:
        box = mask.getbbox() if mask is not None and self.settings.centre == "subject" else None
        return None if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def _described(attributes: dict[str, Any], mask: Image.Image) -> dict[str, Any]:
    """What the attributes say of the subject's box, share and centre, as the new mask has it."""
    now = {**where(mask), "mask_share": round(area(mask), 4)}
    return {name: now.get(name, value) for name, value in attributes.items()}
