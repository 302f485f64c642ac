"""How far a data set is, from its manifests alone: whoever makes it, on whatever machine."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from data_gen.config import DataConfig
from data_gen.finish import is_packed
from data_gen.plan import Plan

_PAUSE = 3  # where nothing came for this many times as long as the slowest unit took, nobody was at work


@dataclass(frozen=True)
class Status:
    """`rate` is in images a second over all processes, `seconds_left` until the last unit; None: not to be told."""

    units: int
    done: int
    shards: int
    sets: int
    images: int
    heldout: int
    """Of the sets."""
    dropped: Counter = field(default_factory=Counter)
    left_out: Mapping[str, int] = field(default_factory=dict)
    rate: float | None = None
    seconds_left: float | None = None

    def lines(self) -> Iterator[str]:
        """As people read it."""
        left = self.units - self.done
        yield f"{self.done} of {self.units} units, {self.shards} shards, {self.sets} sets, {self.images} images"
        if left and self.rate is not None:
            hours, seconds = divmod(round(self.seconds_left), 3600)
            yield f"{self.rate:.1f} images/s, about {hours}:{seconds // 60:02d}:{seconds % 60:02d} left"
        for reason, count in self.dropped.most_common():
            yield f"dropped {count}: {reason}"
        for why, count in self.left_out.items():
            yield f"left out {count} {'file' if count == 1 else 'files'}: {why}"


def status(config: DataConfig, plan: Plan) -> Status:
    """Counts units, packed shards, and the sets and images of the units that are done."""
    sets, images, heldout, dropped, times, slowest = 0, 0, 0, Counter(), [], 0.0
    for unit in plan.units:
        if (manifest := plan.manifest(unit)) is not None:
            sets += manifest["counts"]["sets"]
            images += manifest["counts"]["images"]
            heldout += manifest["counts"]["sets"] if unit.split == "heldout" else 0
            dropped.update(row["reason"] for row in manifest["dropped"])
            times.append(plan.tar(unit).with_suffix(".json").stat().st_mtime)
            log = plan.log(unit)
            slowest = max(slowest, sum(log["seconds"].values()) if log else 0.0)
    tars = (tar for split in {unit.split for unit in plan.units} for tar in (plan.out / split).glob("*.tar"))
    rate = left = None
    if pace := _seconds_a_unit(sorted(times), slowest):
        rate, left = images / len(times) / pace, (len(plan.units) - len(times)) * pace
    shards = sum(is_packed(tar, plan) for tar in tars)
    return Status(len(plan.units), len(times), shards, sets, images, heldout, dropped, plan.left_out, rate, left)


def _seconds_a_unit(times: list[float], slowest: float) -> float | None:
    """From when the manifests were written: the mean gap, pauses left out. Short gaps say nothing of what a pause is:
    processes that began together end their units together."""
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    if not gaps:
        return None
    return statistics.mean([gap for gap in gaps if gap <= _PAUSE * slowest] or gaps) or None
