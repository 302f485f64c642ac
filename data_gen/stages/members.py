"""Leaving images out of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_gen.samples import Dropped, SubjectSet


def keep_images(sample: SubjectSet, keep: Sequence[int]) -> SubjectSet:
    """The set with the images at these positions only, in this order. None of its references may be missing."""
    keep, members = list(keep), sample.members
    return sample.with_members(
        (members[i] for i in keep),
        references=[keep.index(i) for i in sample.references],
        scores={
            name: [score[i] for i in keep] if _is_of_images(score, sample) else score
            for name, score in sample.scores.items()
        },
    )


def without(sample: SubjectSet, bad: Mapping[int, str], stage: str, least: int | None) -> SubjectSet | Dropped:
    """The set without its bad images (position -> reason), or the note that it is dropped: where `least` is None,
    fewer than `least` images are left, or an image is bad that the set needs as a reference.

    The images left out are counted in `provenance["left_out"][stage]` by reason; their scores are in
    `scores["left_out"]`, so that a threshold can be judged by what it costs. What the provenance says of single
    images (prompts, seeds, ...) stays as it was: `provenance["kept"][stage]` tells which of them are left.
    """
    if not bad:
        return sample
    if least is None or len(sample.images) - len(bad) < least or set(bad) & set(sample.references):
        return Dropped(sample.key, bad[min(bad)], sample.scores, sample)
    places = [i for i in range(len(sample.images)) if i not in bad]
    told = {"left_out": dict(Counter(bad[i] for i in sorted(bad))), "kept": places}
    provenance = {name: {**sample.provenance.get(name, {}), stage: value} for name, value in told.items()}
    kept = keep_images(sample, places)
    return replace(kept, provenance={**sample.provenance, **provenance}, scores=kept.scores | _lost(sample, bad))


def _lost(sample: SubjectSet, bad: Mapping[int, str]) -> dict[str, Any]:
    """`left_out`: the scores of the bad images, by name, after those of images that were left out before."""
    lost = dict(sample.scores.get("left_out", {}))
    for name, score in sample.scores.items():
        if _is_of_images(score, sample):
            lost[name] = [*lost.get(name, []), *(score[i] for i in sorted(bad))]
    return {"left_out": lost} if lost else {}


def _is_of_images(score: Any, sample: SubjectSet) -> bool:
    """Whether it is a list with a score for each image."""
    return isinstance(score, list) and len(score) == len(sample.images)
