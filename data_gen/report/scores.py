"""Scores of sets and images, kept and dropped: how they are spread, and what lies nearest to each threshold."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data_gen.sources import SOURCES
from data_gen.stages import STAGES
from data_gen.stages.filters import FILTERS
from jedi.io.config import to_dict

if TYPE_CHECKING:
    from data_gen.config import DataConfig

BINS = 40
_DIGITS = 4  # by which values are told apart: memory is bounded, and the filters' cosines lose nothing
_FAR = 3  # a threshold this many spans away from all values is told in words, not drawn


@dataclass(frozen=True)
class Threshold:
    """A value of the configuration's key `key`, under which (`least`) or over which a score will not do."""

    key: str
    value: float
    least: bool

    @property
    def words(self) -> str:
        return f"{self.key.rpartition('.')[2]} {self.value:g}"

    def fails(self, score: float) -> bool:
        return score < self.value if self.least else score > self.value


def thresholds(config: DataConfig) -> dict[str, tuple[Threshold, ...]]:
    """The thresholds of each score, as the source, the stages and the filters tell them (`thresholds`). Those that the
    configuration leaves out (null) are left out."""
    from data_gen.stages.filter import filter_names

    settings = to_dict(config)
    parts = {config.source: SOURCES.get(config.source)}
    for name in config.stages:
        parts[name] = STAGES.get(name)
        if name == "filter":
            parts |= {f"filter.{one}": FILTERS.get(one) for one in filter_names()}
    found: dict[str, tuple[Threshold, ...]] = {}
    for section, part in parts.items():
        for score, last in part.thresholds:
            key = f"{section}.{last}"
            found[score] = found.get(score, ()) + tuple(_thresholds(key, _setting(settings, key)))
    return {score: those for score, those in found.items() if those}


def _setting(settings: Mapping[str, Any], key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _thresholds(key: str, value: Any) -> Iterator[Threshold]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        yield from (Threshold(key, float(one), least) for one, least in zip(value, (True, False), strict=True))
    elif value is not None:
        yield Threshold(key, float(value), key.rpartition(".")[2].startswith("min"))


def numbers(scores: Mapping[str, Any], means: frozenset[str] = frozenset()) -> Iterator[tuple[str, float, int | None]]:
    """A set's scores one by one: name ("identity.mean" of a dict), value, and the image's place or None for the set.

    Of a list whose "NAME.mean" is in `means` the mean is given, else each image's.
    """
    for name, score in scores.items():
        if isinstance(score, Mapping):
            yield from numbers({f"{name}.{part}": value for part, value in score.items()}, means)
        elif isinstance(score, list | tuple):
            if f"{name}.mean" in means and score:
                yield f"{name}.mean", sum(score) / len(score), None
            else:
                yield from ((name, float(value), i) for i, value in enumerate(score) if value is not None)
        elif score is not None and not isinstance(score, bool | str):
            yield name, float(score), None


@dataclass
class Nearest:
    """The `limit` places whose scores came nearest to a threshold, the first comers where scores are equal."""

    limit: int
    _found: list[tuple[float, int, float, Any]] = field(default_factory=list)
    _count: int = 0

    def add(self, distance: float, score: float, place: Any) -> None:
        if len(self._found) == self.limit and distance >= self._found[-1][0]:
            return
        self._count += 1
        bisect.insort(self._found, (distance, self._count, score, place))
        del self._found[self.limit :]

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """Score and place, the nearest first."""
        return iter([(score, place) for _, _, score, place in self._found])


@dataclass
class Spread:
    """How a score is spread. `of_images`: it is one of each image, not of the set."""

    of_images: bool
    kept: Counter[float] = field(default_factory=Counter)
    dropped: Counter[float] = field(default_factory=Counter)
    failing: Counter[Threshold] = field(default_factory=Counter)

    def add(self, value: float, dropped: bool, limits: Sequence[Threshold]) -> None:
        (self.dropped if dropped else self.kept)[float(f"{value:.{_DIGITS}g}")] += 1
        self.failing.update(limit for limit in limits if limit.fails(value))

    @property
    def count(self) -> int:
        return self.kept.total() + self.dropped.total()

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The values that these shares of all, in [0, 1], do not exceed."""
        return quantiles(self.kept + self.dropped, shares)

    def bins(self, limits: Sequence[Threshold] = ()) -> tuple[list[float], list[int], list[int], int]:
        """Edges, counts of kept and of dropped, and how many of them lie beyond the edges and are counted in the
        outermost bins. A threshold is one of the edges, where it is near the values at all."""
        both = self.kept + self.dropped
        low, high = quantiles(both, [0.005, 0.995])
        span = high - low or abs(low) or 1.0
        near = [x.value for x in limits if low - _FAR * span <= x.value <= high + _FAR * span]
        edges = even_edges(min(low, *near, high), max(high, *near, low), near[0] if near else None, both)
        counts = [[0] * (len(edges) - 1) for _ in range(2)]
        outside = 0
        for counter, into in zip((self.kept, self.dropped), counts, strict=True):
            for value, n in counter.items():
                outside += n * (not edges[0] <= value <= edges[-1])
                into[min(max(bisect.bisect_right(edges, value) - 1, 0), len(into) - 1)] += n
        return edges, counts[0], counts[1], outside


def even_edges(low: float, high: float, anchor: float | None, values: Mapping[float, int]) -> list[float]:
    """The edges of at most about `BINS` bins over [low, high]; `anchor` is one of them. A few whole numbers get a bin
    each, with the number in its middle."""
    if all(value == round(value) for value in values) and high - low <= BINS:
        return [i - 0.5 for i in range(math.floor(low), math.ceil(high) + 2)]
    width = (high - low or abs(low) or 1.0) / BINS
    anchor = low if anchor is None else anchor
    first, last = math.floor((low - anchor) / width + 1e-9), math.ceil((high - anchor) / width - 1e-9)
    return [round(anchor + i * width, 10) for i in range(first, max(last, first + 1) + 1)]


def quantiles(counter: Mapping[float, int], shares: Sequence[float]) -> list[float]:
    """The smallest values that at least these shares of all do not exceed; of no values, nothing is known: nan."""
    if not counter:
        return [math.nan] * len(shares)
    values = sorted(counter)
    total, sums = 0, []
    for value in values:
        total += counter[value]
        sums.append(total)
    return [values[min(bisect.bisect_left(sums, share * total), len(values) - 1)] for share in shares]
