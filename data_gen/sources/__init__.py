"""Where same-subject pictures come from. A source is chosen by name (`source: emoji`) and registers itself
here.

To add one: write `make_source(config) -> Source`, decorate it with `@SOURCES.register("name")`, and name
its module under `extensions:` in the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from jedi.registry import Registry

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class SubjectSet:
    """n pictures of one subject: `images` RGB, `masks` L of the same sizes (255 = visible subject) or None,
    with one caption and one dict of attributes each. `subject` holds at least id, name and class.

    In a set of several subjects (`subject["subjects"]`: each of them) `references` names the members that are
    to be the first references: they show one subject each, the others show several together."""

    subject: dict[str, Any]
    captions: list[str]
    images: list[Image.Image]
    masks: list[Image.Image | None]
    attributes: list[dict[str, Any]]
    licence: str
    references: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Dropped:
    """A set that was not good enough; `reason` is counted in the shard's manifest."""

    reason: str


class Source(Protocol):
    def make(self, split: str, index: int) -> SubjectSet | Dropped:
        """Set number `index` of a split: a pure function of the configuration and the two arguments. A
        held-out subject (and any variant of it) appears in "heldout" only."""
        ...


SOURCES: Registry[Callable[[Any], Source]] = Registry("source")
