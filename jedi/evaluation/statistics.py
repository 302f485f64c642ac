"""How sure a mean is: bootstrap intervals that resample subjects, not images.

Images of one subject are alike in how hard they are; intervals over single images would be far too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConfidenceInterval:
    """A mean, or a ratio of means, with its bootstrap interval."""

    mean: float
    low: float | None
    """None where it cannot be said: fewer than two groups, or a ratio without a bound."""
    high: float | None
    n: int
    """Values."""
    groups: int
    """Independent groups of values: what the interval's width depends on."""


def bootstrap(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """The mean of ``values`` with a percentile interval over resampled groups.

    In each of ``samples`` draws as many groups as there are (subjects) are drawn with replacement, each with all its
    values, and their values averaged (*Efron & Tibshirani 1993*, the cluster bootstrap). ``groups`` names each value's
    group; without it each value is its own. The same arguments give the same interval.

    Raises:
        ValueError: no values, values that are not finite, another number of groups, a level outside 0 to 1.
    """
    sums, counts = _by_group(values, groups, "values")
    total = sums.sum() / counts.sum()
    draws = _draws(len(sums), samples, level, seed)
    if draws is None:
        return ConfidenceInterval(float(total), None, None, len(values), len(sums))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), _tails(level))
    return ConfidenceInterval(float(total), float(low), float(high), len(values), len(sums))


def ratio_interval(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    groups_b: Sequence[Hashable] | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """``mean(a) / mean(b)`` with an interval for which each draw takes the same groups (subjects) in both.

    Paired, for a hard subject is hard in both rows: the interval is narrower than from two separate ones. Without
    ``groups`` the values are paired by position. ``groups_b`` is ``groups`` unless given; both must name the same
    groups. A draw in which ``b`` averages 0 has no ratio: it stands beyond both ends, and a bound that falls on it is
    None.

    Raises:
        ValueError: as :func:`bootstrap`; other groups in ``a`` than in ``b``; ``b`` averages 0.
    """
    if groups is None and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values without groups: they are paired by position")
    groups = list(range(len(a))) if groups is None else groups
    groups_b = groups if groups_b is None else groups_b
    if (left := set(groups)) != (right := set(groups_b)):
        raise ValueError(f"groups of one side only: {sorted(map(str, left ^ right))[:5]}; a ratio is paired by group")
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    sums_a, counts_a = _by_group(a, groups, "a", order)
    sums_b, counts_b = _by_group(b, groups_b, "b", order)
    if sums_b.sum() == 0:
        raise ValueError("the second values average 0: there is no ratio to them")
    ratio = (sums_a.sum() / counts_a.sum()) / (sums_b.sum() / counts_b.sum())
    draws = _draws(len(order), samples, level, seed)
    if draws is None:
        return ConfidenceInterval(float(ratio), None, None, len(a), len(order))
    top = sums_a[draws].sum(1) / counts_a[draws].sum(1)
    bottom = sums_b[draws].sum(1) / counts_b[draws].sum(1)
    lost = bottom == 0
    ratios = top / np.where(lost, 1, bottom)
    ends = []
    for tail, beyond in zip(_tails(level), (-np.inf, np.inf), strict=True):
        end = np.quantile(np.where(lost, beyond, ratios), tail, method="inverted_cdf")
        ends.append(float(end) if np.isfinite(end) else None)
    return ConfidenceInterval(float(ratio), ends[0], ends[1], len(a), len(order))


def difference_interval(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """``mean(a) - mean(b)`` of values paired by position, with an interval over resampled groups.

    An interval that leaves out 0 is a difference that counts. Paired, since a hard subject is hard in both.

    Raises:
        ValueError: as :func:`bootstrap`; another number of values in ``a`` than in ``b``.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values: a difference is paired by position")
    return bootstrap([x - y for x, y in zip(a, b, strict=True)], groups, samples, level, seed)


def _by_group(
    values: Sequence[float], groups: Sequence[Hashable] | None, name: str, order: dict[Hashable, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name}: expected a list of numbers, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} are not finite numbers")
    if groups is None:
        return array, np.ones_like(array)
    if len(groups) != array.size:
        raise ValueError(f"{name}: {array.size} values and {len(groups)} groups; each value needs its group")
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))} if order is None else order
    index = np.array([order[group] for group in groups])
    return np.bincount(index, array, len(order)), np.bincount(index, minlength=len(order)).astype(float)


def _draws(groups: int, samples: int, level: float, seed: int) -> np.ndarray | None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: a share between 0 and 1, as 0.95")
    if groups < 2:
        return None
    return np.random.default_rng(seed).integers(groups, size=(samples, groups))


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2
