"""The stage `split`: from a photo collage to a set of its panels; `collage_split` finds them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data_gen.checks import check_number
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES
from data_gen.stages.collage_split import find_panels
from jedi.io.config import ConfigError
from jedi.io.images import Box

if TYPE_CHECKING:
    from data_gen.config import DataConfig

CHOICES = ("first", "random")


@dataclass
class SplitConfig:
    """How collages are taken apart. Sets hold at most `images_per_set` images: of more panels, `choose` takes the
    first in reading order, or some at random (left in that order). A set with fewer than `min_panels` is dropped.

    Every panel gets the source's caption for panels (`provenance["panel_caption"]`), or the collage's where there is
    none. With `panel_captions` the panels, in reading order, get a caption each of `provenance["panel_captions"]`, if
    there are enough: right only where the collage was asked for with these scenes in this order."""

    min_panels: int = 2  # training needs a reference and a target
    choose: str = "first"
    panel_captions: bool = False
    trim: int = 2  # pixels cut off at each side of a panel, so that nothing of a blurred seam is left
    min_side: int = 64  # pixels; a smaller panel is left out: enlarged, it would teach blur
    least: float = 0.1  # nothing is cut to less than this fraction of the collage's width or height
    widest_gutter: float = 0.06  # as a fraction of the collage's shorter side; borders may be twice as wide
    # Evidence is explained in data_gen/stages/collage_split.py; a lower threshold finds more, also where nothing is.
    gutter_evidence: float = 0.6  # of at most 1.5 (and a little for parts of usual size)
    border_evidence: float = 0.6  # of at most 1.5
    seam_evidence: float = 0.0
    first_seam_evidence: float = 1.0  # of the strongest seam of a collage without gutters; photos hold weak ones
    search_size: int = 1024  # pixels of the longer side at which larger collages are searched

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise ConfigError(f"split.choose is {self.choose!r}; expected one of {', '.join(CHOICES)}")
        check_number("split.min_panels", self.min_panels, 1, 64)
        check_number("split.trim", self.trim, 0, 64)
        check_number("split.min_side", self.min_side, 8, 4096)
        check_number("split.least", self.least, 0.02, 0.5)
        check_number("split.widest_gutter", self.widest_gutter, 0.0, 0.2)
        for name in ("gutter_evidence", "border_evidence", "seam_evidence", "first_seam_evidence"):
            check_number(f"split.{name}", getattr(self, name), -10.0, 10.0)
        check_number("split.search_size", self.search_size, 256, 8192)


@STAGES.register("split")
class Split:
    """Makes a set of each collage: its panels in reading order. Their attributes say where each stood in the collage
    (`panel`: [left, top, right, bottom] in pixels), the provenance how many were found (`panels_found`)."""

    needs, gives, uses_model = frozenset({"collage"}), frozenset({"images"}), False

    def __init__(self, config: DataConfig) -> None:
        self.settings, self.most, self.seed = config.split, config.images_per_set, config.seed
        if self.most < self.settings.min_panels:
            raise ConfigError(
                f"split.min_panels is {self.settings.min_panels}, but sets hold images_per_set={self.most} images: "
                "lower the one, or raise the other"
            )

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        return [self._split(one) for one in sets]

    def _split(self, one: SubjectSet) -> SubjectSet | Dropped:
        collage = one.images[0]
        boxes = find_panels(collage, self.settings)
        if boxes is None:
            return Dropped(one.key, "no collage", one.scores, one)
        trim = self.settings.trim
        panels = [(left + trim, top + trim, right - trim, bottom - trim) for left, top, right, bottom in boxes]
        large = [i for i, panel in enumerate(panels) if self._is_large(panel)]
        if len(large) < self.settings.min_panels:
            reason = "too few panels" if len(panels) < self.settings.min_panels else "panels too small"
            return Dropped(one.key, reason, one.scores, one)
        chosen = self._choose(one.key, large)
        captions = self._captions(one, len(panels))
        return replace(
            one,
            captions=[captions[i] for i in chosen],
            images=[collage.crop(panels[i]) for i in chosen],
            masks=[None] * len(chosen),
            attributes=[{**one.attributes[0], "panel": list(panels[i])} for i in chosen],
            provenance={**one.provenance, "panels_found": len(panels)},
        )

    def _is_large(self, panel: Box) -> bool:
        left, top, right, bottom = panel
        return min(right - left, bottom - top) >= self.settings.min_side

    def _choose(self, key: str, panels: list[int]) -> list[int]:
        """As many as a set may hold, in reading order; at random by the seed and the set's key alone."""
        if self.settings.choose == "random" and len(panels) > self.most:
            return sorted(random.Random(f"{self.seed}/{key}/split").sample(panels, self.most))
        return panels[: self.most]

    def _captions(self, one: SubjectSet, count: int) -> list[str]:
        own = one.provenance.get("panel_captions") or []
        if self.settings.panel_captions and len(own) >= count:
            return own[:count]
        return [one.provenance.get("panel_caption") or one.captions[0]] * count
