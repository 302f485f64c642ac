"""The stage `filter`: which sets are good enough. Their scores go into their JSON, with those of the dropped ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import data_gen.stages.filters.content
import data_gen.stages.filters.likeness
import data_gen.stages.filters.quality  # noqa: F401  (each module's filters register themselves)
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES
from data_gen.stages.filters import FILTERS, Encoders, Filter, Images, Verdict, rounded
from data_gen.stages.filters.settings import FilterConfig
from data_gen.stages.members import without
from jedi.errors import InputError
from jedi.io.config import ConfigError

if TYPE_CHECKING:
    from data_gen.config import DataConfig

__all__ = ["ORDER", "FilterConfig", "FilterSets"]

ORDER = ("identity", "text", "aesthetic", "sharpness", "duplicates", "people", "nsfw")
"""The first of these that fails is the reason for which a set is dropped; filters of extensions follow."""


@STAGES.register("filter")
class FilterSets:
    """Every filter that is on scores every set; then each set stays, loses images, or is dropped."""

    gives = frozenset()

    def __init__(self, config: DataConfig) -> None:
        self.settings = config.filter
        self.filters = _make(config)
        self.needs = frozenset({"images"}).union(*(one.needs for one in self.filters.values()))
        self.packages = tuple(sorted({name for one in self.filters.values() for name in one.packages}))
        self.uses_model = any(one.uses_model for one in self.filters.values())
        self._encoders = Encoders(config)

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        if not sets:
            return []
        images = Images(sets, self._encoders)
        verdicts = {name: one.judge(images) for name, one in self.filters.items()}
        return [
            self._decide(one, {name: of_sets[n] for name, of_sets in verdicts.items()}) for n, one in enumerate(sets)
        ]

    def _decide(self, one: SubjectSet, verdicts: Mapping[str, Verdict]) -> SubjectSet | Dropped:
        scores = dict(one.scores)
        for name, verdict in verdicts.items():
            try:
                scores[name] = rounded(verdict.score)
            except InputError as error:
                raise InputError(
                    f"filter.{name}: {error} for set {one.key}; its images or the model are broken"
                ) from None
        one = replace(one, scores=scores)
        bad: dict[int, str] = {}
        for verdict in verdicts.values():
            bad = {**verdict.images, **bad}
        kept = without(one, bad, "filter", self.settings.min_images if self.settings.drop_images else None)
        # Where leaving images out is no way, the first filter that complains of anything names the reason.
        hopeless = isinstance(kept, Dropped)
        for verdict in verdicts.values():
            reason = verdict.reason or (verdict.images[min(verdict.images)] if hopeless and verdict.images else None)
            if reason:
                return Dropped(one.key, reason, scores, one)
        return kept


def _make(config: DataConfig) -> dict[str, Filter]:
    """The filters that are on, in their order. ConfigError: an unknown one, or none."""
    made = {}
    for name in (*ORDER, *config.filter.extra):
        if name in made:
            raise ConfigError(f"filter.extra: {name!r} is named already, or is one of ours ({', '.join(ORDER)})")
        try:
            made[name] = FILTERS.get(name)(config)
        except ConfigError:
            raise
        except InputError as error:
            raise ConfigError(f"filter.extra: {error}") from None
    if not any(one.on for one in made.values()):
        raise ConfigError(
            "filter: all thresholds are null, nothing would be judged; set one, or take filter out of stages"
        )
    return {name: one for name, one in made.items() if one.on}
