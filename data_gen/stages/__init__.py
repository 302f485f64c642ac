"""What happens to sets between their source and their shard. The configuration names the stages in order
(`stages: [split, segment, filter]`); each registers itself here.

To add one: write a subclass of `Stage`, decorate it with `@STAGES.register("name")`, and name its module under
`extensions:` in the configuration (docs/extending.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from random import Random
from typing import TypeVar

from data_gen.parts import Part
from data_gen.samples import Dropped, SubjectSet
from jedi.io.ranges import batches
from jedi.io.registry import Registry
from jedi.io.sizes import Size

T, R = TypeVar("T"), TypeVar("R")


class Stage(Part, ABC):
    """Changes or drops sets, or adds some. `plan` makes stages too, to refuse those that do not fit."""

    needs: frozenset[str] = frozenset({"images"})
    """What sets must hold when they come here, of "collage", "images" and "masks"."""
    gives: frozenset[str] = frozenset()
    """What they hold afterwards, besides what they held. "images" replaces "collage"."""
    sizes: Sequence[Size] = ()
    """Widths and heights that its images have; empty: they are as they came."""

    @abstractmethod
    def process(self, sets: Sequence[SubjectSet]) -> Sequence[SubjectSet | Dropped]:
        """The sets of one unit that are still there -> each again, changed or dropped, in order; sets that are
        new (of two subjects, say) come last. A pure function of the settings, the context and the sets."""


STAGES: Registry[type[Stage]] = Registry("stage")


def in_batches(
    items: Sequence[T], size: int, work: Callable[[Sequence[T]], Sequence[R]], like: Callable[[T], Hashable] = type
) -> list[R]:
    """What `work` makes of each item, in their order. It gets at most `size` at once, for which `like` is equal."""
    alike: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        alike.setdefault(like(item), []).append(number)
    made: dict[int, R] = {}
    for numbers in (batch for group in alike.values() for batch in batches(group, size)):
        made.update(zip(numbers, work([items[number] for number in numbers]), strict=True))
    return [made[number] for number in range(len(items))]


def dealt(rng: Random, items: Sequence[T], n: int) -> list[T]:
    """`n` of the items by chance; none comes again before all have come."""
    return [item for _ in range(-(-n // len(items))) for item in rng.sample(items, len(items))][:n]
