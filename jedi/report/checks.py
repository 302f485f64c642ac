"""What a report may be made of: words that are not empty, numbers that are finite, intervals that hold their value."""

from __future__ import annotations

import math
from typing import Any

from jedi.errors import InputError


class ReportError(InputError):
    """A report that makes no sense; the message names the place and what would be right."""


def check_word(text: Any, what: str) -> None:
    """Raises ReportError, which says `what` it is, unless `text` is a text with something in it."""
    if not isinstance(text, str) or not text.strip():
        raise ReportError(f"{what} must be a text that is not empty, got {text!r}")


def check_number(value: Any, what: str) -> None:
    """Raises ReportError unless `value` is a finite number of Python."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ReportError(f"{what} must be a number of Python, got {value!r} ({type(value).__name__})")
    if not math.isfinite(value):
        raise ReportError(f"{what} is {value}; what was not measured is None")


def check_interval(value: Any, low: Any, high: Any, what: str) -> None:
    """Raises ReportError unless `low` <= `value` <= `high` are numbers."""
    if low is None or high is None:
        raise ReportError(f"{what} needs both ends of its interval, got [{low}, {high}]")
    for x in (value, low, high):
        check_number(x, f"{what} with an interval")
    slack = 1e-6 * max(1.0, abs(value))  # the mean of equal values may differ from them in the last digits
    if not low - slack <= value <= high + slack:
        raise ReportError(f"{what}: the value {value} lies outside of its interval [{low}, {high}]")
