"""What happens to sets between their source and their shard. The configuration names the stages in order
(`stages: [split, segment, filter]`); each registers itself here.

To add one: write a class like `Stage`, decorate it with `@STAGES.register("name")`, and name its module under
`extensions:` in the configuration (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from data_gen.samples import Dropped, SubjectSet
from jedi.io.registry import Registry


class Stage(Protocol):
    """Made once in each process, as `factory(config)` with the whole `DataConfig`. Models are loaded at the
    first `process`, not before: `plan` makes stages too, to refuse those that do not fit.

    It may also say `uses_model`, `packages`, `inputs()` and `left_out()`, as a source does."""

    needs: frozenset[str]
    """What sets must hold when they come here, of "collage", "images" and "masks"."""
    gives: frozenset[str]
    """What they hold afterwards, besides what they held. "images" replaces "collage"."""

    def process(self, sets: Sequence[SubjectSet]) -> Sequence[SubjectSet | Dropped]:
        """The sets of one unit that are still there -> each again, changed or dropped, in order; sets that are
        new (of two subjects, say) come last. A pure function of the configuration and the sets."""
        ...


STAGES: Registry[Callable[[Any], Stage]] = Registry("stage")
