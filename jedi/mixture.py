"""Several sources of training data: which one a step is drawn from."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from jedi.data import BatchPlan, Bucket, SetIndex


class MixedPlan:
    """Batches of several sources, each step of one of them: a pure function of (index, weights, seed, step).

    After any number of steps each source has had its share of them, but for less than one step; each source goes
    through its own epochs, as in a run of its own.
    """

    def __init__(self, plans: Sequence[BatchPlan], weights: Sequence[float]) -> None:
        self.plans = list(plans)
        self.shares = [weight / sum(weights) for weight in weights]
        self._sources, self._steps = array("H"), array("Q")  # of each step so far: its source, its number there
        self._counts = [0] * len(self.plans)

    @property
    def index(self) -> SetIndex:
        """Of all sources."""
        return self.plans[0].index

    @property
    def batch_size(self) -> int:
        """Sets per step."""
        return self.plans[0].batch_size

    def step(self, step: int) -> tuple[Bucket, list[int]]:
        """The bucket of a global step and its ``batch_size`` sets, as positions in ``index.sets``."""
        source, of_source = self.place(step)
        return self.plans[source].step(of_source)

    def place(self, step: int) -> tuple[int, int]:
        """The source of a global step, and the number of that step among the source's own."""
        for done in range(len(self._sources), step + 1):
            behind = [share * (done + 1) - count for share, count in zip(self.shares, self._counts, strict=True)]
            source = behind.index(max(behind))
            self._sources.append(source)
            self._steps.append(self._counts[source])
            self._counts[source] += 1
        return self._sources[step], self._steps[step]
