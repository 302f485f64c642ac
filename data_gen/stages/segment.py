"""The stage `segment`: where in each image the subject is. Masks, boxes, and the sets that show no subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from PIL import Image

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES, Stage, in_batches
from data_gen.stages.members import without
from data_gen.stages.segmenters import make_segmenter
from jedi.io.config import ConfigError
from jedi.io.ranges import Interval, OneOf, Range, Share


@dataclass
class SegmentSettings:
    """Which model finds the subject, and when a mask is no subject.

    `model` is KIND:SOURCE, a kind of data_gen/stages/segmenters.py:
    rembg:isnet-general-use (the default: Apache-2.0, fetched by rembg when first used; birefnet-general is
    better and slower), rembg:/path/model.onnx, rembg:SESSION=/path/model.onnx; clipseg:X, asked for the
    subject's name, and sam:X, asked what is in the middle, X a folder or a hub name of transformers;
    border, no model at all, for plain backgrounds only.

    Parts of a mask smaller than `min_part` of the largest part are specks and go: they would make boxes huge.
    `share` is the least and the most of the image that a subject may fill: under 2 % there is nothing to
    learn from, over 90 % no background. `max_border`: the share of the image's edge that it may lie on;
    null: any. A mask on most of the edge is usually the background."""

    model: str = "rembg:isnet-general-use"
    threshold: Annotated[float, Range(0.01, 1)] = 0.5
    """From which value of a mask on a pixel is the subject's."""
    min_part: Share = 0.1
    share: Annotated[list[float], Interval(0, 1)] = field(default_factory=lambda: [0.02, 0.9])
    max_border: Share | None = 0.6
    prompt: Annotated[str, OneOf(("point", "box"))] = "point"
    """Of sam: point (the image's middle) or box (its middle 80 %)."""
    batch: Annotated[int, Range(1, 1024)] = 8
    """Images in one forward pass."""
    replace: bool = False
    """Also the masks that sets have already."""
    drop_images: bool = False
    """Leave out the image alone, not its set, where `min_images` remain."""
    min_images: Annotated[int, Range(1, 64)] = 2

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("segment.model is empty; expected KIND:SOURCE, for instance rembg:isnet-general-use")


@STAGES.register("segment")
class Segment(Stage):
    """Gives each image its mask, and writes into its attributes `box` ([left, top, right, bottom] in pixels) and
    `mask_share` (of the image). Scores `mask_share` and `mask_border` (of the edge), one for each image."""

    Settings, gives = SegmentSettings, frozenset({"masks"})
    thresholds = (("mask_share", "share"), ("mask_border", "max_border"))

    def __init__(self, settings: SegmentSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.segmenter = make_segmenter(settings, context)
        self.uses_model = self.segmenter.uses_model
        self.packages = ("scipy", *self.segmenter.packages)

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        known = [[mask if not self.settings.replace else None for mask in sample.masks] for sample in sets]
        wanted = [
            (image, str(sample.subject["name"]))
            for sample, masks in zip(sets, known, strict=True)
            for image, mask in zip(sample.images, masks, strict=True)
            if mask is None
        ]
        found = iter(in_batches(wanted, self.settings.batch, self._find))
        return [
            self._judge(sample, [mask or next(found) for mask in masks], None in masks)
            for sample, masks in zip(sets, known, strict=True)
        ]

    def _find(self, items: Sequence[tuple[Image.Image, str]]) -> list[Image.Image]:
        masks = self.segmenter.find(*map(list, zip(*items, strict=True)))
        return [clean(mask, self.settings.threshold, self.settings.min_part) for mask in masks]

    def _judge(self, sample: SubjectSet, masks: list[Image.Image], are_new: bool) -> SubjectSet | Dropped:
        on = [np.asarray(mask) >= 255 * self.settings.threshold for mask in masks]
        shares = [round(float(x.mean()), 4) for x in on]
        borders = [round(_on_the_border(x), 4) for x in on]
        described = [
            {**old, "box": _box(x), "mask_share": share}
            for old, x, share in zip(sample.attributes, on, shares, strict=True)
        ]
        made_by = {"segmenter": self.settings.model} if are_new else {}
        sample = replace(
            sample,
            masks=masks,
            attributes=described,
            provenance={**sample.provenance, **made_by},
            scores={**sample.scores, "mask_share": shares, "mask_border": borders},
        )
        reasons = map(self._why, shares, borders)
        bad = {i: reason for i, reason in enumerate(reasons) if reason}
        return without(sample, bad, "segment", self.settings.min_images if self.settings.drop_images else None)

    def _why(self, share: float, border: float) -> str | None:
        """Why an image with such a mask will not do."""
        least, most = self.settings.share
        if share == 0:
            return "no subject found"
        if share < least:
            return f"subject smaller than {least:g} of the image"
        if share > most:
            return f"subject larger than {most:g} of the image"
        if self.settings.max_border is not None and border > self.settings.max_border:
            return f"subject on more than {self.settings.max_border:g} of the edge"
        return None


def clean(mask: Image.Image, threshold: float, min_part: float) -> Image.Image:
    """The mask without its specks: connected parts (of pixels from `threshold` on) smaller than `min_part` of the
    largest. The soft edge of a part that stays, 1 % of the side wide, stays too; all else becomes 0."""
    from scipy import ndimage

    values = np.asarray(mask)
    parts, count = ndimage.label(values >= 255 * threshold)
    if not count:
        return Image.new("L", mask.size)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = (sizes >= max(1, min_part * sizes.max()))[parts]
    edge = max(1, round(0.01 * max(mask.size)))
    near = ndimage.uniform_filter(kept.astype(np.float32), 2 * edge + 1, mode="constant") > 0.5 / (2 * edge + 1) ** 2
    return Image.fromarray(np.where(near & ((parts == 0) | kept), values, 0).astype(np.uint8))


def _box(on: np.ndarray) -> list[int]:
    return list(Image.fromarray(on).getbbox() or (0, 0, 0, 0))


def _on_the_border(on: np.ndarray) -> float:
    """The share of the image's outermost pixels."""
    rim = np.ones_like(on)
    rim[1:-1, 1:-1] = False
    return float(on[rim].mean())
