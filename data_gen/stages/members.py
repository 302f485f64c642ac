"""Leaving images out of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_gen.samples import Dropped, SubjectSet


def keep_images(one: SubjectSet, keep: Sequence[int]) -> SubjectSet:
    """The set with the images at these positions only, in this order. None of its references may be missing."""
    keep = list(keep)
    return replace(
        one,
        captions=[one.captions[i] for i in keep],
        images=[one.images[i] for i in keep],
        masks=[one.masks[i] for i in keep],
        attributes=[one.attributes[i] for i in keep],
        references=[keep.index(i) for i in one.references],
        scores={name: _kept(score, keep, len(one.images)) for name, score in one.scores.items()},
    )


def without(one: SubjectSet, bad: Mapping[int, str], stage: str, least: int | None) -> SubjectSet | Dropped:
    """The set without its bad images (position -> reason), or the note that it is dropped: where `least` is None,
    fewer than `least` images are left, or an image is bad that the set needs as a reference.

    The images left out are counted in `provenance["left_out"][stage]` by reason; their scores are in
    `scores["left_out"]`, so that a threshold can be judged by what it costs. What the provenance says of single
    images (prompts, seeds, ...) stays as it was: `provenance["kept"][stage]` tells which of them are left.
    """
    if not bad:
        return one
    if least is None or len(one.images) - len(bad) < least or set(bad) & set(one.references):
        return Dropped(one.key, bad[min(bad)], one.scores, one)
    reasons = [bad[i] for i in sorted(bad)]
    counted = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    left_out = {**one.provenance.get("left_out", {}), stage: counted}
    places = [i for i in range(len(one.images)) if i not in bad]
    kept, told = keep_images(one, places), {**one.provenance.get("kept", {}), stage: places}
    provenance = {**one.provenance, "left_out": left_out, "kept": told}
    return replace(kept, provenance=provenance, scores=kept.scores | _lost(one, bad))


def _lost(one: SubjectSet, bad: Mapping[int, str]) -> dict[str, Any]:
    """`left_out`: the scores of the bad images, by name, after those of images that were left out before."""
    lost = dict(one.scores.get("left_out", {}))
    for name, score in one.scores.items():
        if isinstance(score, list) and len(score) == len(one.images):
            lost[name] = [*lost.get(name, []), *(score[i] for i in sorted(bad))]
    return {"left_out": lost} if lost else {}


def _kept(score: Any, keep: list[int], images: int) -> Any:
    """Of a list with a score for each image those of the images kept; else the score of the whole set, as it was."""
    return [score[i] for i in keep] if isinstance(score, list) and len(score) == images else score
