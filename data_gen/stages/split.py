"""The stage `split`: from a photo collage to a set of its panels; `collage_split` finds them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES, Stage
from data_gen.stages.collage_split import SplitSettings, find_panels
from jedi.io.config import ConfigError


@STAGES.register("split")
class Split(Stage):
    """Makes a set of each collage: its panels in reading order. Their attributes say where each stood in the collage
    (`panel`: [left, top, right, bottom] in pixels), the provenance how many were found (`panels_found`)."""

    Settings, uses_model = SplitSettings, False
    needs, gives = frozenset({"collage"}), frozenset({"images"})

    def __init__(self, settings: SplitSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.most = context.images_per_set
        if self.most < self.settings.min_panels:
            raise ConfigError(
                f"split.min_panels is {self.settings.min_panels}, but sets hold images_per_set={self.most} images: "
                "lower the one, or raise the other"
            )

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        return [self._split(sample) for sample in sets]

    def _split(self, sample: SubjectSet) -> SubjectSet | Dropped:
        collage = sample.images[0]
        boxes = find_panels(collage, self.settings)
        if boxes is None:
            return Dropped(sample.key, "no collage", sample.scores, sample)
        trim = self.settings.trim
        panels = [(left + trim, top + trim, right - trim, bottom - trim) for left, top, right, bottom in boxes]
        sides = [min(right - left, bottom - top) for left, top, right, bottom in panels]
        large = [i for i, side in enumerate(sides) if side >= self.settings.min_side]
        if len(large) < self.settings.min_panels:
            reason = "too few panels" if len(panels) < self.settings.min_panels else "panels too small"
            return Dropped(sample.key, reason, sample.scores, sample)
        chosen = self._choose(sample.key, large)
        captions = self._captions(sample, len(panels))
        attributes = [{**sample.attributes[0], "panel": list(panel)} for panel in panels]
        return sample.with_members(
            ((captions[i], collage.crop(panels[i]), None, attributes[i]) for i in chosen),
            provenance={**sample.provenance, "panels_found": len(panels)},
        )

    def _choose(self, key: str, panels: list[int]) -> list[int]:
        """As many as a set may hold, in reading order; at random by the seed and the set's key alone."""
        if self.settings.choose == "random" and len(panels) > self.most:
            return sorted(random.Random(f"{self.context.seed}/{key}/split").sample(panels, self.most))
        return panels[: self.most]

    def _captions(self, sample: SubjectSet, count: int) -> list[str]:
        own = sample.provenance.get("panel_captions") or []
        if self.settings.panel_captions and len(own) >= count:
            return own[:count]
        return [sample.provenance.get("panel_caption") or sample.captions[0]] * count
