"""What the units' manifests tell: what was dropped, where and why, and all scores. No image is read for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_gen.report.scores import Nearest, Spread, Threshold, numbers
from data_gen.report.stored import Stored, read_manifest
from data_gen.samples import SPLITS

EXAMPLES = {True: 6, False: 3}
"""How many are shown on each side of a threshold: images, if the score is one of images, else sets."""


@dataclass(frozen=True)
class Place:
    """Where the images of a score are: a set, and one of its images or None for all."""

    unit: str
    key: str
    n: int
    image: int | None


@dataclass
class Survey:
    """`drops` counts by split, stage and reason; `nearest` holds for each score and threshold the examples that were
    kept (False) and dropped (True)."""

    units: int
    limits: Mapping[str, tuple[Threshold, ...]]
    done: int = 0
    made: Counter[str] = field(default_factory=Counter)  # sets that arrived at the end of the stages, by split
    drops: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    spreads: dict[str, Spread] = field(default_factory=dict)
    nearest: dict[tuple[str, Threshold, bool], Nearest] = field(default_factory=dict)

    def dropped(self, split: str) -> Counter[str]:
        """By reason."""
        counted: Counter[str] = Counter()
        for (where, _, reason), count in self.drops.items():
            counted[reason] += count * (where == split)
        return +counted


def take_survey(stored: Stored, limits: Mapping[str, tuple[Threshold, ...]]) -> Survey:
    """One pass over the manifests of the units that are done; and `finish.json`."""
    result = Survey(len(stored.plan.units), limits)
    means = frozenset(name for name in limits if name.endswith(".mean"))
    gone = {row["key"] for row in stored.duplicates}
    for split in SPLITS:
        for unit, manifest in stored.units(split):
            result.done += 1
            result.made[split] += len(manifest["sets"])
            result.drops.update((split, row["stage"], row["reason"]) for row in manifest["dropped"])
            examples = stored.plan.tar(unit).with_suffix(".dropped.tar")
            there = examples.with_suffix(".json").is_file()
            shown = {row["key"]: row["n"] for row in read_manifest(examples)["sets"]} if there else {}
            for dropped, rows in ((False, manifest["sets"]), (True, manifest["dropped"])):
                for row in rows:
                    n = shown.get(row["key"]) if dropped else row["n"] if row["key"] not in gone else None
                    _score(result, row, dropped, means, Place(unit.name, row["key"], n, None) if n else None)
    result.drops.update((row["key"].split("-")[0], "finish", row["reason"]) for row in stored.duplicates)
    return result


def _score(
    result: Survey,
    row: Mapping[str, Any],
    dropped: bool,
    means: frozenset[str],
    place: Place | None,
) -> None:
    """Counts the scores of a set, and of images left out of it alone; one with a place becomes an example, if it is
    near to a threshold."""
    scores = dict(row.get("scores", {}))
    for name, value, _ in numbers(scores.pop("left_out", {})):
        if f"{name}.mean" not in means:
            result.spreads.setdefault(name, Spread(True)).add(value, True, result.limits.get(name, ()))
    for name, value, image in numbers(scores, means):
        spread = result.spreads.setdefault(name, Spread(image is not None))
        limits = result.limits.get(name, ())
        spread.add(value, dropped, limits)
        for limit in limits:
            if place is None or limit.fails(value) != dropped:
                continue  # a set that another score dropped shows nothing about this threshold
            nearest = result.nearest.setdefault((name, limit, dropped), Nearest(EXAMPLES[spread.of_images]))
            nearest.add(abs(value - limit.value), value, Place(place.unit, place.key, place.n, image))
