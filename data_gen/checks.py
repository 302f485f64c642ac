"""Checks of numbers in configurations: each raises ConfigError that names the key, the value and the range."""

from __future__ import annotations

from collections.abc import Sequence

from jedi.config import ConfigError


def check_number(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} is {value}; it must lie between {low} and {high}")


def check_range(key: str, value: Sequence[float], low: float, high: float) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ConfigError(f"{key} is {list(value)}; expected [least, most] between {low} and {high}")
