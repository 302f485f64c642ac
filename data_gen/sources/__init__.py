"""Where same-subject images come from. A source is chosen by name (`source: collage`) and registers itself here.

To add one: write a subclass of `Source`, decorate it with `@SOURCES.register("name")`, and name its module
under `extensions:` in the configuration (docs/extending.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from data_gen.parts import Part
from data_gen.samples import Dropped, Item, SubjectSet
from jedi.io.registry import Registry


class Source(Part, ABC):
    """Makes or finds sets. What is said for the report stands in the class: a report needs no source at work."""

    gives: frozenset[str] = frozenset({"images"})
    """What its sets hold, of "collage" (one image, still to be split), "images" and "masks"."""
    reads_prompts: ClassVar[bool] = False
    """Whether `prompts.json` is written before the plan; a caption is then the prompt of its image."""
    exact: ClassVar[bool] = False
    """Whether subjects, masks and captions are right by construction, so that nothing has to judge them."""
    limits: ClassVar[Sequence[str]] = ()
    """For the report: what nobody should expect of its images."""
    attribution: ClassVar[str] = ""
    """For the data card: what the licence of its images wants to be said."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Number of sets for each of `SPLITS`. A held-out subject (and any variant of it) is in "heldout" only."""

    @abstractmethod
    def make(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        """One answer for each item, in order, each a pure function of the configuration, the inputs and the item:
        how items are grouped must not matter but where a model's batch makes bits differ. Items of one call are
        one unit; a source with a model batches over them."""

    @classmethod
    def heldout_rule(cls, settings: Any) -> str:
        """For the report: how it is decided which subjects are held out, under these settings of its section."""
        return f"The source decides which subjects are held out ({cls.__module__}.{cls.__qualname__})."


SOURCES: Registry[type[Source]] = Registry("source")
