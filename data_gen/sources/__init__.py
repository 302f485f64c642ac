"""Where same-subject images come from. A source is chosen by name (`source: emoji`) and registers itself
here.

To add one: write a class like `Source`, decorate it with `@SOURCES.register("name")`, and name its module
under `extensions:` in the configuration (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from data_gen.samples import Dropped, Item, SubjectSet
from jedi.io.registry import Registry


class Source(Protocol):
    """Made once in each process, as `factory(config)` with the whole `DataConfig`. Models are loaded at the
    first `make`, not before: `plan` makes sources too.

    It may also say: `left_out()` (files among what it reads that it does not use: their number by reason, which plan,
    `status` and report tell), `reads_prompts = True` (the prompt book is written before the plan), `uses_model = False`
    (no device is of use, so there is one process a core) and `packages` (what must stay at one version for equal
    bytes; if it is not said, torch, diffusers and transformers where a model is used)."""

    gives: frozenset[str]
    """What its sets hold, of "collage" (one image, still to be split), "images" and "masks"."""

    def sizes(self) -> dict[str, int]:
        """Number of sets for each of `SPLITS`. A held-out subject (and any variant of it) is in "heldout" only."""
        ...

    def inputs(self) -> dict[str, str]:
        """sha256 of what outside the configuration decides the sets, by name: the prompts, the photos of a folder.
        Frozen in the plan; a run that finds others is refused. Models are known by their names alone."""
        ...

    def make(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        """One answer for each item, in order, each a pure function of the configuration, the inputs and the item:
        how items are grouped must not matter but where a model's batch makes bits differ. Items of one call are
        one unit; a source with a model batches over them."""
        ...


SOURCES: Registry[Callable[[Any], Source]] = Registry("source")
