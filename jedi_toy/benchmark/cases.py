"""The toy benchmark's cases: which images of a held-out subject are given, which is asked for, which judge it.

A *case* is one subject: a target (its caption is the prompt), references whose pose and background differ from the
target's, and a gallery of further real images of the subject, by which it is recognised. Copying a reference is then no
answer. Cases are chosen by the attributes in the shards, always in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from jedi.data import DataError, SetDataset, SetIndex
from jedi.io.images import Box
from jedi.rng import keyed_seed

ATTRIBUTES = ("background", "pose", "angle", "box", "caption_says")
"""What a question needs to know of each image."""
REFERENCES = 3
"""References of each case; rows with fewer take the first ones."""
GALLERY = 4
"""Images of each subject that it is recognised by: neither references nor the target."""


@dataclass(frozen=True)
class ToyCase:
    """One question about one subject. Members are numbers of the images in its set."""

    id: str
    """The subject's."""
    drawing: str
    """What intervals resample: recolourings of one drawing are not independent."""
    index: int
    """The set's position in the index."""
    target: int
    references: tuple[int, ...]
    gallery: tuple[int, ...]
    prompt: str
    background: str
    pose: str
    angle: float
    """By which the target is tilted, degrees, counter-clockwise."""
    box: Box
    """Where the subject is in the target."""


@dataclass(frozen=True)
class PairCase:
    """One question about two subjects that are to stand together in one image."""

    id: str
    subjects: tuple[str, str]
    index: int
    target: int
    references: tuple[int, ...]
    """One image of each subject, alone."""
    gallery: tuple[tuple[tuple[int, Box], ...], ...]
    """For each subject: other images of both, and where it is in them."""
    prompt: str
    background: str
    boxes: tuple[Box, ...]
    """Where each subject is in the target."""
    says_place: bool
    """Whether the prompt says who stands where."""

    @property
    def drawing(self) -> str:
        """What intervals resample: each pair by itself."""
        return self.id


@dataclass(frozen=True)
class ToyCases:
    """What was chosen from a data folder, and why other sets were not."""

    sets: SetDataset
    single: tuple[ToyCase, ...]
    pairs: tuple[PairCase, ...]
    left_out: dict[str, int]
    """Reason -> sets."""

    def image(self, case: ToyCase | PairCase, member: int) -> Image.Image:
        """A real image of the case's set."""
        return self.sets.image(case.index, member)

    def references(self, case: ToyCase | PairCase, count: int | None = None) -> tuple[Image.Image, ...]:
        """The first ``count`` references, by default all."""
        return tuple(self.image(case, member) for member in case.references[:count])


def read_cases(data: str | Path, subjects: int = 100, pairs: int = 50, split: str = "heldout") -> ToyCases:
    """The first ``subjects`` single subjects, of as many different drawings as there are, and the first ``pairs``
    pairs in which no subject comes twice.

    Raises:
        DataError: the folder cannot be read, or no set of it makes a case; the message says why.
    """
    sets = SetDataset(SetIndex.read(data, split))
    single: list[ToyCase] = []
    several: list[PairCase] = []
    left_out: Counter[str] = Counter()
    for index in range(len(sets)):
        record = sets.record(index)
        made = pair_case(record, index) if "subjects" in record["subject"] else single_case(record, index)
        if isinstance(made, str):
            left_out[made] += 1
        elif isinstance(made, ToyCase):
            single.append(made)
        else:
            several.append(made)
    if not single:
        reasons = ", ".join(f"{count} sets: {reason}" for reason, count in left_out.items()) or "it holds pairs only"
        raise DataError(f"{data}/{split} makes no benchmark ({reasons}); configs/data_gen/benchmark.yaml does")
    return ToyCases(sets, tuple(_different(single, subjects)), tuple(_disjoint(several, pairs)), dict(left_out))


def single_case(record: dict[str, Any], index: int) -> ToyCase | str:
    """The case of a set of one subject, or the reason why there is none."""
    images, captions = record["images"], record["captions"]
    if any(key not in image for image in images for key in ATTRIBUTES):
        return f"an image lacks one of the attributes {', '.join(ATTRIBUTES)}"
    # The prompt must say what is asked for, and not the name: that would tell what only the references may.
    asks = [i for i, x in enumerate(images) if {"background", "pose"} <= set(x["caption_says"])]
    asks = [i for i in asks if "name" not in images[i]["caption_says"]]
    if not asks:
        return "no caption says background and pose, and only the class"
    offers = {}
    for i in asks:
        different = [j for j, x in enumerate(images) if x["background"] != images[i]["background"]]
        given = [j for j in different if images[j]["pose"] != images[i]["pose"]][:REFERENCES]
        judges = [j for j in different if j not in given][:GALLERY]
        if len(given) == REFERENCES and len(judges) == GALLERY:
            offers[i] = (tuple(given), tuple(judges))
    if not offers:
        return f"fewer than {REFERENCES} references of another pose and background, or than {GALLERY} further images"
    subject = record["subject"]
    target = list(offers)[keyed_seed(0, "target", subject["id"]) % len(offers)]
    given, judges = offers[target]
    shown = images[target]
    return ToyCase(
        id=subject["id"],
        drawing=subject.get("base", subject["id"]),
        index=index,
        target=target,
        references=given,
        gallery=judges,
        prompt=captions[target],
        background=shown["background"],
        pose=shown["pose"],
        angle=shown["angle"],
        box=tuple(shown["box"]),
    )


def pair_case(record: dict[str, Any], index: int) -> PairCase | str:
    """The case of a set of two subjects, or the reason why there is none."""
    images, captions = record["images"], record["captions"]
    names = [subject["id"] for subject in record["subject"]["subjects"]]
    if len(names) != 2:
        return f"{len(names)} subjects"
    together = [i for i, image in enumerate(images) if sorted(image["subjects"]) == [0, 1] and "standing" in image]
    alone = [next((i for i, image in enumerate(images) if image["subjects"] == [j]), None) for j in (0, 1)]
    if None in alone or len(together) < 1 + GALLERY:
        return f"not each of two subjects alone, or fewer than {1 + GALLERY} images of both"
    away = {images[i]["background"] for i in alone}
    asks = [i for i in together if images[i]["background"] not in away and "name" not in images[i]["caption_says"]]
    asks = [i for i in asks if "place" in images[i]["caption_says"]] or asks
    if not asks:
        return "no image of both has another background than the references and a prompt without names"
    target = asks[keyed_seed(0, "target", record["subject"]["id"]) % len(asks)]
    others = [i for i in together if i != target][:GALLERY]
    return PairCase(
        id="-and-".join(names),
        subjects=(names[0], names[1]),
        index=index,
        target=target,
        references=tuple(alone),
        gallery=tuple(tuple((i, box_of(images[i], j)) for i in others) for j in (0, 1)),
        prompt=captions[target],
        background=images[target]["background"],
        boxes=tuple(box_of(images[target], j) for j in (0, 1)),
        says_place="place" in images[target]["caption_says"],
    )


def box_of(image: dict[str, Any], subject: int) -> Box:
    """Where a subject is in an image of several, from the image's attributes."""
    return tuple(image["standing"][image["subjects"].index(subject)]["box"])


def _different(cases: Sequence[ToyCase], count: int) -> list[ToyCase]:
    """``count`` cases of different subjects, in their order; of one drawing another recolouring only where there are
    too few drawings."""
    taken: dict[str, ToyCase] = {}
    drawings: Counter[str] = Counter()
    most = 1
    while len(taken) < count and most <= len(cases):
        for case in cases:
            if case.id not in taken and drawings[case.drawing] < most and len(taken) < count:
                taken[case.id] = case
                drawings[case.drawing] += 1
        most += 1
    return sorted(taken.values(), key=lambda case: case.index)


def _disjoint(cases: Sequence[PairCase], count: int) -> list[PairCase]:
    taken: list[PairCase] = []
    seen: set[str] = set()
    for case in cases:
        if len(taken) < count and not seen & set(case.subjects) and len(set(case.subjects)) == 2:
            taken.append(case)
            seen |= set(case.subjects)
    return taken
