"""What differs between a plan that was frozen in a folder and the one that is wanted now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each key (``"settings.steps"``) whose value differs, with the old and the new one; None where there is none."""
    for key in {**old, **new}:
        first, second = old.get(key), new.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from differences(first, second, f"{prefix}{key}.")
        elif first != second:
            yield f"{prefix}{key}", first, second
