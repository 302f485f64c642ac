"""For configurations: checks of numbers, which raise ConfigError that names the key, the value and the range; settings
that came later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from jedi.io.config import ConfigError


def check_number(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} is {value}; it must lie between {low} and {high}")


def check_range(key: str, value: Sequence[float], low: float, high: float) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ConfigError(f"{key} is {list(value)}; expected [least, most] between {low} and {high}")


LATER = {"later": True}
"""Metadata of a dataclass field that an earlier version did not have. Its default gives the bytes of that version, so a
folder that was begun then can be gone on with: the setting counts only where it differs."""


def without_later(section: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a section (a dataclass) but for those `LATER` ones that stand at their default."""
    default = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for one in fields(section)
        if one.metadata.get("later")
    }
    return {key: value for key, value in values.items() if key not in default or value != default[key]}
