"""What happens to sets between their source and their shard. The configuration names the stages in order
(`stages: [split, segment, filter]`); each registers itself here.

To add one: write a subclass of `Stage`, decorate it with `@STAGES.register("name")`, and name its module under
`extensions:` in the configuration (docs/extending.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from data_gen.parts import Part
from data_gen.samples import Dropped, SubjectSet
from jedi.io.registry import Registry


class Stage(Part, ABC):
    """Changes or drops sets, or adds some. `plan` makes stages too, to refuse those that do not fit."""

    needs: frozenset[str] = frozenset({"images"})
    """What sets must hold when they come here, of "collage", "images" and "masks"."""
    gives: frozenset[str] = frozenset()
    """What they hold afterwards, besides what they held. "images" replaces "collage"."""

    @abstractmethod
    def process(self, sets: Sequence[SubjectSet]) -> Sequence[SubjectSet | Dropped]:
        """The sets of one unit that are still there -> each again, changed or dropped, in order; sets that are
        new (of two subjects, say) come last. A pure function of the settings, the context and the sets."""


STAGES: Registry[type[Stage]] = Registry("stage")
