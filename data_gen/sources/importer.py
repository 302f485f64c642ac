"""What the importers share, the sources of sets that lie in a folder already."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_gen.context import Context
from data_gen.samples import Dropped, Item, SubjectSet
from data_gen.sources import Source
from data_gen.sources.subjects import given_folder, heldout_rule, inside, shown, split_of, unusable
from jedi.io.config import ConfigError


class Importer(Source):
    """Sets of files of the folder ``path``, which is read when it is first needed. All mistakes are ConfigErrors.

    Its settings have ``path`` and ``heldout_fraction``, and are those of the section ``name``.
    """

    name: ClassVar[str]
    decides: ClassVar[str]
    """For the report: by what it is decided whether a subject is held out ("its object's name")."""
    uses_model = False
    limits = ("The images were taken as they were found: nobody checked who made them or what they show.",)

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        self.root = given_folder(context, f"{self.name}.path", settings.path)

    @classmethod
    def heldout_rule(cls, settings: Any) -> str:
        return heldout_rule(cls.decides, settings.heldout_fraction)

    @abstractmethod
    def found(self) -> Iterator[tuple[str, Any]]:
        """All sets that are there, in order, each after the identity that decides its split."""

    @abstractmethod
    def make_set(self, key: str, found: Any) -> SubjectSet | Dropped:
        """The set of that key, from what `found` gave."""

    @functools.cached_property
    def sets(self) -> dict[str, list[Any]]:
        """What was found, by split."""
        sets: dict[str, list[Any]] = {"train": [], "heldout": []}
        for identity, one in self.found():
            sets[split_of(identity, self.settings.heldout_fraction)].append(one)
        return sets

    def sizes(self) -> dict[str, int]:
        """As many sets as there are, `sets` and `heldout_sets` at most."""
        most = {"train": self.context.sets, "heldout": self.context.heldout_sets}
        return {split: min(most[split], len(sets)) for split, sets in self.sets.items()}

    def make(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        """Raises ConfigError for an image that is missing or broken."""
        for item in items:
            yield self.make_set(item.key, self.sets[item.split][item.index])

    def usable(self, files: Sequence[Path], remedy: str) -> list[Path]:
        """The files, if all of them can be read. Raises ConfigError where there are none."""
        if not files:
            raise ConfigError(f"{self.name}.path={self.root}: {remedy}")
        for file in files:
            if reason := unusable(file):
                raise ConfigError(f"{shown(file)}: {reason}")
        return [inside(self.root, file) for file in files]
