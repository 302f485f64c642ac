"""Ranges of settings, written beside their types: ``lr: Annotated[float, Range(0)]``. `jedi.io.config` checks them.
And choices that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

T = TypeVar("T")
DTYPES = ("float32", "float16", "bfloat16")
"""Of models, by their names in torch."""


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, both included but for those that are named as open; None: as far as numbers go."""

    low: float | None = None
    high: float | None = None
    above: bool = False
    """``low`` itself is out."""
    below: bool = False
    """``high`` itself is out."""

    def __contains__(self, value: float) -> bool:
        low = self.low is None or (value > self.low if self.above else value >= self.low)
        return low and (self.high is None or (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        if self.low is None:
            return "any number" if self.high is None else f"{'below' if self.below else 'at most'} {self.high}"
        if self.high is None:
            return f"above {self.low}" if self.above else f"{self.low} or more"
        return f"{'above ' if self.above else ''}{self.low} to {'below ' if self.below else ''}{self.high}"


@dataclass(frozen=True)
class Interval:
    """Of a list: two numbers, the least and the most, between ``low`` and ``high``."""

    low: float
    high: float

    def __contains__(self, value: list[float]) -> bool:
        return len(value) == 2 and self.low <= value[0] <= value[1] <= self.high

    def __str__(self) -> str:
        return f"[least, most] between {self.low} and {self.high}"


@dataclass(frozen=True)
class OneOf:
    """Of a text: one of these."""

    choices: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(choice or repr(choice) for choice in self.choices)}"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Decay = Annotated[float, Range(0, 1, below=True)]


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """``count`` of the items at even distances, the first among them; all where there are no more."""
    return list(items) if len(items) <= count else [items[i * len(items) // count] for i in range(count)]


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in their order, ``size`` at a time; the last batch may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
