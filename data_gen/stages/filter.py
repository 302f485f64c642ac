"""The stage `filter`: which sets are good enough. Their scores go into their JSON, with those of the dropped ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Annotated, Any

import data_gen.stages.filters
from data_gen.context import Context
from data_gen.parts import import_modules
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES, Stage
from data_gen.stages.filters import FILTERS, Encoders, Filter, Images, Verdict, rounded
from data_gen.stages.members import without
from jedi.errors import InputError
from jedi.io.config import ConfigError
from jedi.io.ranges import Range

import_modules(data_gen.stages.filters)
ORDER = ("identity", "text", "aesthetic", "sharpness", "duplicates", "people", "nsfw")
"""The first of these that fails is the reason for which a set is dropped; filters of extensions follow by name."""


@dataclass
class FilterSettings:
    """What sets must pass: a section for each filter, and these. All scores are computed for all sets and written into
    them."""

    drop_images: bool = False
    """Leave out a failing image alone, not its set, where `min_images` remain."""
    min_images: Annotated[int, Range(1, 64)] = 2


def filter_names() -> tuple[str, ...]:
    """All registered filters, in their order."""
    return (*ORDER, *(name for name in FILTERS if name not in ORDER))


@STAGES.register("filter")
class FilterSets(Stage):
    """Every filter that is on scores every set; then each set stays, loses images, or is dropped."""

    @classmethod
    def section(cls) -> type:
        """`FilterSettings`, with a section for each registered filter that has settings."""
        parts = {name: FILTERS.get(name).section() for name in filter_names()}
        fields = [(name, kind, field(default_factory=kind)) for name, kind in parts.items() if kind is not None]
        return make_dataclass("FilterSettings", fields, bases=(FilterSettings,))

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        made = {name: FILTERS.get(name)(getattr(settings, name, None), context) for name in filter_names()}
        self.filters: dict[str, Filter] = {name: part for name, part in made.items() if part.on}
        if not self.filters:
            raise ConfigError(
                "filter: all thresholds are null, nothing would be judged; set one, or take filter out of stages"
            )
        self.needs = frozenset({"images"}).union(*(part.needs for part in self.filters.values()))
        self.packages = tuple(sorted({name for part in self.filters.values() for name in part.needed_packages}))
        self.uses_model = any(part.uses_model for part in self.filters.values())
        self._encoders = Encoders(context)

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        if not sets:
            return []
        images = Images(sets, self._encoders)
        verdicts = {name: part.judge(images) for name, part in self.filters.items()}
        each = zip(*verdicts.values(), strict=True)
        return [self._decide(sample, dict(zip(verdicts, x, strict=True))) for sample, x in zip(sets, each, strict=True)]

    def _decide(self, sample: SubjectSet, verdicts: dict[str, Verdict]) -> SubjectSet | Dropped:
        scores = dict(sample.scores)
        for name, verdict in verdicts.items():
            try:
                scores[name] = rounded(verdict.score)
            except InputError as error:
                what = f"filter.{name}: {error} for set {sample.key}"
                raise InputError(f"{what}; its images or the model are broken") from None
        sample = replace(sample, scores=scores)
        bad: dict[int, str] = {}
        for verdict in reversed(verdicts.values()):  # of several complaints the first one counts
            bad |= verdict.images
        kept = without(sample, bad, "filter", self.settings.min_images if self.settings.drop_images else None)
        # Where leaving images out is no way, the first filter that complains of anything names the reason.
        is_dropped = isinstance(kept, Dropped)
        for verdict in verdicts.values():
            reason = verdict.reason or (verdict.images[min(verdict.images)] if is_dropped and verdict.images else None)
            if reason:
                return Dropped(sample.key, reason, scores, sample)
        return kept
