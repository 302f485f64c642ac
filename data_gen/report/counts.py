"""Counts over a data set, in one pass over the JSON of its sets: `statistics.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_gen.report.scores import Spread, Threshold
from data_gen.report.stored import Stored, read_manifest
from data_gen.report.survey import Survey
from data_gen.samples import SPLITS

MANY = 500  # an attribute with more values than these (a file's name, say) is named, not counted
_MODELS = ("model", "segmenter", "captioner", "data_set")  # what provenance calls them


@dataclass
class _Counts:
    """What is counted of the sets of one split, one after another."""

    subjects: dict[str, set[str]] = field(default_factory=dict)  # ids by class
    classes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    several: int = 0
    words: Counter[int] = field(default_factory=Counter)  # captions by their number of words
    said: int = 0
    named: int = 0
    attributes: dict[str, Counter[str] | None] = field(default_factory=dict)
    licences: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Mapping[str, Any], vocabulary: set[str]) -> None:
        subject = sample["subject"]
        several = subject.get("subjects") or []
        self.several += bool(several)
        for one in several or [subject]:
            self.subjects.setdefault(one.get("class", subject["class"]), set()).add(str(one.get("id", one["name"])))
        self.classes[subject["class"]] += 1
        self.sizes[len(sample["captions"])] += 1
        self.licences[sample["licence"]] += 1
        self.models.update(set(_models(sample.get("provenance", {}))))
        for stage, reasons in sample.get("provenance", {}).get("left_out", {}).items():
            self.left_out.update({f"{stage}: {reason}": count for reason, count in reasons.items()})
        for text in sample["captions"]:
            words = text.replace(",", "").split()
            vocabulary.update(words)
            self.words[len(words)] += 1
        for image in sample["images"]:
            self._add_attributes(image)

    def _add_attributes(self, image: Mapping[str, Any]) -> None:
        if "caption_says" in image:
            self.said += 1
            self.named += "name" in image["caption_says"]
        for key, value in image.items():
            if value is None or isinstance(value, str):
                counter = self.attributes.setdefault(key, Counter())
                if counter is not None:
                    counter[value or "none"] += 1
                    if len(counter) > MANY:
                        self.attributes[key] = None

    def summary(self) -> dict[str, Any]:
        counted = {key: counter for key, counter in sorted(self.attributes.items()) if counter is not None}
        return {
            "subjects": len(set().union(*self.subjects.values())),
            "coarse_captions": round(1 - self.named / self.said, 4) if self.said else None,
            "longest_caption_words": max(self.words, default=0),
            "classes": dict(sorted(self.classes.items())),
            "subjects_by_class": {kind: len(ids) for kind, ids in sorted(self.subjects.items())},
            "sets_by_images": {str(size): count for size, count in sorted(self.sizes.items())},
            "sets_of_several_subjects": self.several,
            "captions_by_words": {str(words): count for words, count in sorted(self.words.items())},
            "attributes": {key: dict(sorted(counter.items())) for key, counter in counted.items()},
            "attributes_of_many_values": sorted(set(self.attributes) - set(counted)),
            "licences": dict(sorted(self.licences.items())),
            "made_by": dict(sorted(self.models.items())),
            "left_out_images": dict(sorted(self.left_out.items())),
        }


def statistics(stored: Stored, found: Survey) -> dict[str, Any]:
    """Counts of sets, subjects, classes, attributes, words, licences, models and drops, by split, and the scores'
    quantiles; a pure function of the manifests and the sets.

    What it keeps in memory grows with the number of subjects and of words, not with that of images."""
    vocabulary: set[str] = set()
    subjects: dict[str, set[str]] = {}
    result: dict[str, Any] = {
        "read_from": "shards" if stored.is_packed else "units",
        "units": found.units,
        "units_done": found.done,
        "left_out_files": dict(sorted(stored.plan.left_out.items())),
        "splits": {},
    }
    for split in SPLITS:
        manifests = [read_manifest(path) for path in stored.tars[split]]
        counts = _Counts()
        for sample in stored.descriptions(split):
            counts.add(sample, vocabulary)
        subjects[split] = set().union(*counts.subjects.values())
        result["splits"][split] = {
            "shards": len(stored.shards[split]),
            "bytes": sum(manifest["bytes"] for manifest in manifests),
            "sets": sum(manifest["counts"]["sets"] for manifest in manifests),
            "images": sum(manifest["counts"]["images"] for manifest in manifests),
            "dropped": dict(sorted(found.dropped(split).items())),
            **counts.summary(),
        }
    result["subjects_in_both_splits"] = sorted(subjects["train"] & subjects["heldout"])
    result["licences"] = sorted({name for part in result["splits"].values() for name in part["licences"]})
    result["drops"] = [
        {"split": split, "stage": stage, "reason": reason, "sets": count}
        for (split, stage, reason), count in sorted(found.drops.items())
    ]
    spreads = sorted(found.spreads.items())
    result["scores"] = {name: _score(spread, found.limits.get(name, ())) for name, spread in spreads}
    result["vocabulary_size"] = len(vocabulary)
    result["vocabulary"] = sorted(vocabulary)
    return result


def _score(spread: Spread, limits: Sequence[Threshold]) -> dict[str, Any]:
    shares = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
    return {
        "of": "images" if spread.of_images else "sets",
        "kept": spread.kept.total(),
        "dropped": spread.dropped.total(),
        "quantiles": dict(zip(shares, spread.quantiles(list(shares.values())), strict=True)),
        "thresholds": [{"key": limit.key, "value": limit.value, "failing": spread.failing[limit]} for limit in limits],
    }


def _models(record: Any) -> Iterator[str]:
    """Models that a set's provenance names, at any depth."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            if key in _MODELS and isinstance(value, str) and value:
                yield value
            else:
                yield from _models(value)
    elif isinstance(record, list):
        for value in record:
            yield from _models(value)
