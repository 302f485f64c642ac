"""What travels through data generation: a set of images of one subject, or the note that it was dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

SPLITS = ("train", "heldout")
Member = tuple[str, Image.Image, Image.Image | None, dict[str, Any]]


@dataclass(frozen=True)
class Item:
    """Set number `index` of a split, still to be made."""

    split: str
    index: int

    @property
    def key(self) -> str:
        """The set's name in its shard, the same in every run."""
        return f"{self.split}-{self.index:08d}"


@dataclass(frozen=True)
class SubjectSet:
    """n images of one subject: `images` RGB, `masks` L of the same sizes (255 = visible subject) or None,
    with one caption and one dict of attributes each. `subject` holds at least id, name and class.

    Between a source of collages and the stage `split`, `images` holds the collage alone.

    In a set of several subjects (`subject["subjects"]`: each of them) `references` names the members that are
    to be the first references: they show one subject each, the others show several together.

    Stages return changed copies (`dataclasses.replace`); none changes a set that it was given. All but the
    images must be JSON."""

    key: str
    """Of the Item it was made for; no dots."""
    subject: dict[str, Any]
    captions: list[str]
    images: list[Image.Image]
    masks: list[Image.Image | None]
    attributes: list[dict[str, Any]]
    licence: str
    references: list[int] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    """Prompts, seeds and models that made it."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Of the filters: a number, or one for each image."""
    made_from: list[str] = field(default_factory=list)
    """Keys of sets whose images it shows again, on purpose."""

    @property
    def split(self) -> str:
        return self.key.split("-")[0]

    @property
    def members(self) -> list[Member]:
        """Caption, image, mask and attributes of each."""
        return list(zip(self.captions, self.images, self.masks, self.attributes, strict=True))

    def with_members(self, members: Iterable[Member], **changes: Any) -> SubjectSet:
        """A copy that holds these, one or more, and has the other `changes`."""
        captions, images, masks, attributes = map(list, zip(*members, strict=True))
        return replace(self, captions=captions, images=images, masks=masks, attributes=attributes, **changes)


@dataclass(frozen=True)
class Dropped:
    """A set that was not good enough. `reason` is counted in the manifests; `scores` and the images of
    `rejected` are kept for the report, so that a threshold can be judged by what it costs."""

    key: str
    reason: str
    scores: dict[str, Any] = field(default_factory=dict)
    rejected: SubjectSet | None = None
