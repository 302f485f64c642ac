"""What a data set holds, read back: its sets, all scores with their thresholds, drops, and counts (`statistics.json`).

Sets are read from the shards or, before any is packed, from the tars of the units that are done.
"""

from __future__ import annotations

import bisect
import functools
import json
import math
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_gen.config import DataConfig
from data_gen.finish import RESULT, is_packed
from data_gen.plan import Plan, Unit
from data_gen.samples import SPLITS
from data_gen.shards import read_images
from data_gen.sources import SOURCES
from data_gen.stages import STAGES
from data_gen.stages.filter import filter_names
from data_gen.stages.filters import FILTERS
from jedi.io.ranges import evenly_spaced

BINS = 40
EXAMPLES = {True: 6, False: 3}
"""How many are shown on each side of a threshold: images, if the score is one of images, else sets."""
QUANTILES = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
_DIGITS = 4  # by which values are told apart: memory is bounded, and the filters' cosines lose nothing
_FAR = 3  # a threshold this many spans away from all values is told in words, not drawn
_MANY = 500  # an attribute with more values than these (a file's name, say) is named, not counted
_MODELS = ("model", "segmenter", "captioner", "data_set")  # what provenance calls them


# ---- reading


@dataclass(frozen=True)
class Stored:
    """The sets of a plan's data set that can be read now."""

    plan: Plan

    @cached_property
    def shards(self) -> dict[str, list[Path]]:
        """The packed shards of each split, in order."""
        found = {split: sorted((self.plan.out / split).glob("*.tar")) for split in SPLITS}
        return {split: [path for path in paths if is_packed(path, self.plan)] for split, paths in found.items()}

    @property
    def is_packed(self) -> bool:
        """Whether it is read from shards. A finished data set may have none: then every set was dropped."""
        return self._result is not None or any(self.shards.values())

    @property
    def is_complete(self) -> bool:
        """Whether `finish` has packed all shards, and they are there."""
        return self._result is not None and self._result["shards"] == sum(map(len, self.shards.values()))

    @cached_property
    def tars(self) -> dict[str, list[Path]]:
        """What the sets of each split are read from."""
        if self.is_packed:
            return self.shards
        made = {split: [self.plan.tar(unit) for unit, _ in self.units(split)] for split in SPLITS}
        return {split: [path for path in paths if path.is_file()] for split, paths in made.items()}

    def units(self, split: str) -> Iterator[tuple[Unit, dict[str, Any]]]:
        """The units of a split that are done, each with its manifest."""
        for unit in self.plan.units:
            if unit.split == split and (manifest := self.plan.manifest(unit)) is not None:
                yield unit, manifest

    @property
    def duplicates(self) -> list[dict[str, Any]]:
        """The sets that `finish` dropped: key, reason, and of which set."""
        return self._result["duplicates"] if self._result else []

    @cached_property
    def _result(self) -> dict[str, Any] | None:
        """What `finish` wrote of this plan."""
        path = self.plan.out / RESULT
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return result if result.get("plan") == self.plan.hash else None

    def descriptions(self, split: str) -> Iterator[dict[str, Any]]:
        """The JSON of every set of a split, in order."""
        for path in self.tars[split]:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        yield json.load(tar.extractfile(member))

    def spread(self, split: str, count: int) -> list[tuple[Path, str]]:
        """Tar and key of `count` sets that lie evenly over the split, of all where there are no more."""
        found = [(path, row["key"]) for path in self.tars[split] for row in read_manifest(path)["sets"]]
        return evenly_spaced(found, count)

    def find(self, keys: set[str]) -> dict[str, Path]:
        """The tars that hold these sets, as far as they can be read."""
        tars = (path for split in SPLITS for path in self.tars[split])
        return {row["key"]: path for path in tars for row in read_manifest(path)["sets"] if row["key"] in keys}


def read_manifest(tar: Path) -> dict[str, Any]:
    return json.loads(tar.with_suffix(".json").read_text(encoding="utf-8"))


def read_set(path: Path, key: str) -> tuple[dict[str, Any], list[Image.Image]]:
    """The JSON of a set in a tar, and its images."""
    with tarfile.open(path) as tar:
        description = json.load(tar.extractfile(f"{key}.json"))
        return description, read_images(tar, key, len(description["captions"]))


def read_rejected(path: Path, key: str, n: int) -> list[Image.Image]:
    """The small images of a dropped set, of a unit's `X.dropped.tar`."""
    with tarfile.open(path) as tar:
        return read_images(tar, key, n)


# ---- scores and thresholds


@dataclass(frozen=True)
class Threshold:
    """A value of the configuration's key `key`, under which (`least`) or over which a score will not do."""

    key: str
    value: float
    least: bool

    @property
    def words(self) -> str:
        return f"{self.key.rpartition('.')[2]} {self.value:g}"

    def fails(self, score: float) -> bool:
        return score < self.value if self.least else score > self.value


def thresholds(config: DataConfig) -> dict[str, tuple[Threshold, ...]]:
    """The thresholds of each score, as the source, the stages and the filters tell them (`thresholds`). Those that the
    configuration leaves out (null) are left out."""
    parts = {config.source: SOURCES.get(config.source)}
    for name in config.stages:
        parts[name] = STAGES.get(name)
        if name == "filter":
            parts |= {f"filter.{one}": FILTERS.get(one) for one in filter_names()}
    found: dict[str, tuple[Threshold, ...]] = {}
    for section, part in parts.items():
        for score, last in part.thresholds:
            key = f"{section}.{last}"
            value = functools.reduce(lambda part, name: getattr(part, name, None), key.split("."), config)
            found[score] = found.get(score, ()) + tuple(_thresholds(key, value))
    return {score: those for score, those in found.items() if those}


def _thresholds(key: str, value: Any) -> Iterator[Threshold]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        yield from (Threshold(key, float(one), least) for one, least in zip(value, (True, False), strict=True))
    elif value is not None:
        yield Threshold(key, float(value), key.rpartition(".")[2].startswith("min"))


def numbers(scores: Mapping[str, Any], means: frozenset[str] = frozenset()) -> Iterator[tuple[str, float, int | None]]:
    """A set's scores one by one: name ("identity.mean" of a dict), value, and the image's place or None for the set.

    Of a list whose "NAME.mean" is in `means` the mean is given, else each image's.
    """
    for name, score in scores.items():
        if isinstance(score, Mapping):
            yield from numbers({f"{name}.{part}": value for part, value in score.items()}, means)
        elif isinstance(score, list | tuple):
            if f"{name}.mean" in means and score:
                yield f"{name}.mean", sum(score) / len(score), None
            else:
                yield from ((name, float(value), i) for i, value in enumerate(score) if value is not None)
        elif score is not None and not isinstance(score, bool | str):
            yield name, float(score), None


@dataclass
class Spread:
    """How a score's values are spread, those of kept sets and of dropped ones."""

    of_images: bool
    kept: Counter[float] = field(default_factory=Counter)
    dropped: Counter[float] = field(default_factory=Counter)
    failing: Counter[Threshold] = field(default_factory=Counter)

    def add(self, value: float, dropped: bool, limits: Sequence[Threshold]) -> None:
        (self.dropped if dropped else self.kept)[float(f"{value:.{_DIGITS}g}")] += 1
        self.failing.update(limit for limit in limits if limit.fails(value))

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The values that these shares of all, in [0, 1], do not exceed."""
        return quantiles(self.kept + self.dropped, shares)

    def bins(self, limits: Sequence[Threshold] = ()) -> tuple[list[float], dict[str, list[int]], int]:
        """Edges, counts of "kept" and "dropped", and how many lie beyond the edges and are counted in the outermost
        bins. A threshold is one of the edges, where it is near the values at all."""
        both = self.kept + self.dropped
        low, high = quantiles(both, [0.005, 0.995])
        span = high - low or abs(low) or 1.0
        near = [x.value for x in limits if low - _FAR * span <= x.value <= high + _FAR * span]
        edges = even_edges(min(low, *near, high), max(high, *near, low), near[0] if near else None, both)
        counts = {}
        for name, counter in (("kept", self.kept), ("dropped", self.dropped)):
            values = np.clip(list(counter), edges[0], edges[-1])
            counts[name] = np.histogram(values, edges, weights=list(counter.values()))[0].astype(int).tolist()
        return edges, counts, sum(n for value, n in both.items() if not edges[0] <= value <= edges[-1])


def even_edges(low: float, high: float, anchor: float | None, values: Iterable[float]) -> list[float]:
    """The edges of at most about `BINS` bins over [low, high]; `anchor` is one of them. A few whole numbers get a bin
    each, with the number in its middle."""
    if all(value == round(value) for value in values) and high - low <= BINS:
        return [i - 0.5 for i in range(math.floor(low), math.ceil(high) + 2)]
    width = (high - low or abs(low) or 1.0) / BINS
    anchor = low if anchor is None else anchor
    first, last = math.floor((low - anchor) / width + 1e-9), math.ceil((high - anchor) / width - 1e-9)
    return [round(anchor + i * width, 10) for i in range(first, max(last, first + 1) + 1)]


def quantiles(counter: Mapping[float, int], shares: Sequence[float]) -> list[float]:
    """The smallest values that at least these shares of all do not exceed; of no values, nothing is known: nan."""
    if not counter:
        return [math.nan] * len(shares)
    values, counts = list(counter), list(counter.values())
    return np.quantile(values, shares, weights=counts, method="inverted_cdf").tolist()


# ---- one pass over the units' manifests


@dataclass(frozen=True)
class Place:
    """Where the images of a score are: a set, and one of its images or None for all."""

    unit: str
    key: str
    n: int
    image: int | None


@dataclass
class Survey:
    """What the units' manifests tell: what was dropped, where and why, and all scores. No image is read for it."""

    units: int
    limits: Mapping[str, tuple[Threshold, ...]]
    done: int = 0
    made: Counter[str] = field(default_factory=Counter)
    """Sets that arrived at the end of the stages, by split."""
    drops: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By split, stage and reason."""
    spreads: dict[str, Spread] = field(default_factory=dict)
    nearest: dict[tuple[str, Threshold, bool], list[tuple[float, Place]]] = field(default_factory=dict)
    """Of a score and threshold: the nearest scores that were kept (False) or dropped (True), with their places."""

    @property
    def begun(self) -> int:
        """Sets; those that `finish` dropped had arrived."""
        return self.made.total() + sum(count for (_, stage, _), count in self.drops.items() if stage != "finish")

    def add(self, row: Mapping[str, Any], dropped: bool, unit: str, n: int | None) -> None:
        """Counts the scores of a set, and of images left out of it alone. Where `n` images of it can be shown it
        becomes an example, if it is near to a threshold."""
        means = frozenset(name for name in self.limits if name.endswith(".mean"))
        scores = dict(row.get("scores", {}))
        for name, value, _ in numbers(scores.pop("left_out", {})):
            if f"{name}.mean" not in means:
                self.spreads.setdefault(name, Spread(True)).add(value, True, self.limits.get(name, ()))
        for name, value, image in numbers(scores, means):
            spread = self.spreads.setdefault(name, Spread(image is not None))
            spread.add(value, dropped, self.limits.get(name, ()))
            for limit in self.limits.get(name, ()):
                if n and limit.fails(value) == dropped:  # a set that another score dropped shows nothing about this one
                    found = self.nearest.setdefault((name, limit, dropped), [])
                    place = Place(unit, row["key"], n, image)
                    bisect.insort(found, (value, place), key=lambda pair: abs(pair[0] - limit.value))
                    del found[EXAMPLES[spread.of_images] :]


def take_survey(stored: Stored, limits: Mapping[str, tuple[Threshold, ...]]) -> Survey:
    """One pass over the manifests of the units that are done; and `finish.json`."""
    result = Survey(len(stored.plan.units), limits)
    gone = {row["key"] for row in stored.duplicates}
    for split in SPLITS:
        for unit, manifest in stored.units(split):
            result.done += 1
            result.made[split] += len(manifest["sets"])
            result.drops.update((split, row["stage"], row["reason"]) for row in manifest["dropped"])
            examples = stored.plan.tar(unit).with_suffix(".dropped.tar")
            there = examples.with_suffix(".json").is_file()
            shown = {row["key"]: row["n"] for row in read_manifest(examples)["sets"]} if there else {}
            for row in manifest["sets"]:
                result.add(row, False, unit.name, None if row["key"] in gone else row["n"])
            for row in manifest["dropped"]:
                result.add(row, True, unit.name, shown.get(row["key"]))
    result.drops.update((row["key"].split("-")[0], "finish", row["reason"]) for row in stored.duplicates)
    return result


# ---- one pass over the JSON of the sets


def statistics(stored: Stored, survey: Survey) -> dict[str, Any]:
    """Counts of sets, subjects, classes, attributes, words, licences, models and drops, by split, and the scores'
    quantiles; a pure function of the manifests and the sets.

    What it keeps in memory grows with the number of subjects and of words, not with that of images."""
    vocabulary: set[str] = set()
    subjects: dict[str, set[str]] = {}
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        manifests = [read_manifest(path) for path in stored.tars[split]]
        dropped: Counter[str] = Counter()
        for (where, _, reason), count in survey.drops.items():
            dropped.update({reason: count} if where == split else {})
        counted, subjects[split] = _count(stored.descriptions(split), vocabulary)
        splits[split] = {
            "shards": len(stored.shards[split]),
            "bytes": sum(manifest["bytes"] for manifest in manifests),
            "sets": sum(manifest["counts"]["sets"] for manifest in manifests),
            "images": sum(manifest["counts"]["images"] for manifest in manifests),
            "dropped": _sorted(dropped),
            "sets_by_pixels": _sorted(Counter(f"{x['width']} x {x['height']}" for y in manifests for x in y["sets"])),
            **counted,
        }
    return {
        "read_from": "shards" if stored.is_packed else "units",
        "units": survey.units,
        "units_done": survey.done,
        "left_out_files": _sorted(stored.plan.left_out),
        "splits": splits,
        "subjects_in_both_splits": sorted(subjects["train"] & subjects["heldout"]),
        "licences": sorted({name for part in splits.values() for name in part["licences"]}),
        "drops": [
            {"split": split, "stage": stage, "reason": reason, "sets": count}
            for (split, stage, reason), count in sorted(survey.drops.items())
        ],
        "scores": {
            name: _score(spread, survey.limits.get(name, ())) for name, spread in sorted(survey.spreads.items())
        },
        "vocabulary_size": len(vocabulary),
        "vocabulary": sorted(vocabulary),
    }


def _count(samples: Iterable[Mapping[str, Any]], vocabulary: set[str]) -> tuple[dict[str, Any], set[str]]:
    """What is counted of the sets of one split, and the ids of their subjects; their words join the vocabulary."""
    subjects: defaultdict[str, set[str]] = defaultdict(set)  # ids by class
    classes, sizes, words, licences, models, left_out = (Counter() for _ in range(6))
    attributes: dict[str, Counter[str] | None] = {}  # None: too many values
    several = said = named = 0
    for sample in samples:
        subject, provenance = sample["subject"], sample.get("provenance", {})
        several += bool(subject.get("subjects"))
        for one in subject.get("subjects") or [subject]:
            subjects[one.get("class", subject["class"])].add(str(one.get("id", one["name"])))
        classes[subject["class"]] += 1
        sizes[len(sample["captions"])] += 1
        licences[sample["licence"]] += 1
        models.update(set(_models(provenance)))
        for stage, reasons in provenance.get("left_out", {}).items():
            left_out.update({f"{stage}: {reason}": count for reason, count in reasons.items()})
        for caption in (text.replace(",", "").split() for text in sample["captions"]):
            vocabulary.update(caption)
            words[len(caption)] += 1
        for image in sample["images"]:
            if "caption_says" in image:
                said, named = said + 1, named + ("name" in image["caption_says"])
            for key, value in image.items():
                if value is None or isinstance(value, str):
                    counter = attributes.setdefault(key, Counter())
                    if counter is not None:
                        counter[value or "none"] += 1
                        attributes[key] = counter if len(counter) <= _MANY else None
    ids = set().union(*subjects.values())
    found = {
        "subjects": len(ids),
        "coarse_captions": round(1 - named / said, 4) if said else None,
        "longest_caption_words": max(words, default=0),
        "classes": _sorted(classes),
        "subjects_by_class": {kind: len(ids) for kind, ids in sorted(subjects.items())},
        "sets_by_images": {str(size): count for size, count in sorted(sizes.items())},
        "sets_of_several_subjects": several,
        "captions_by_words": {str(count): captions for count, captions in sorted(words.items())},
        "attributes": {key: _sorted(counter) for key, counter in sorted(attributes.items()) if counter is not None},
        "attributes_of_many_values": sorted(key for key, counter in attributes.items() if counter is None),
        "licences": _sorted(licences),
        "made_by": _sorted(models),
        "left_out_images": _sorted(left_out),
    }
    return found, ids


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _score(spread: Spread, limits: Sequence[Threshold]) -> dict[str, Any]:
    return {
        "of": "images" if spread.of_images else "sets",
        "kept": spread.kept.total(),
        "dropped": spread.dropped.total(),
        "quantiles": dict(zip(QUANTILES, spread.quantiles(list(QUANTILES.values())), strict=True)),
        "thresholds": [{"key": limit.key, "value": limit.value, "failing": spread.failing[limit]} for limit in limits],
    }


def _models(record: Any) -> Iterator[str]:
    """Models that a set's provenance names, at any depth."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            yield from [value] if key in _MODELS and isinstance(value, str) and value else _models(value)
    elif isinstance(record, list):
        for value in record:
            yield from _models(value)
