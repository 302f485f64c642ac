"""Named parts: what an extension module adds by name, and what a configuration picks by name."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from jedi.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary of named parts of one kind (``"loss weighting"``, ``"guidance"``, ...).

    ``register`` refuses a name that is taken by something else, ``get`` answers an unknown name with the nearest one.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: ``@WEIGHTINGS.register("min_snr")``."""

        def add(part: T) -> T:
            known = self._parts.get(name)
            # A module imported twice (once by path, once by name) registers equal parts: that is not a clash.
            if known is not None and _origin(known) != _origin(part):
                raise ValueError(f"{self.kind} {name!r} is registered already, as {known!r}")
            self._parts[name] = part
            return part

        return add

    def get(self, name: str) -> T:
        """The part of that name. Raises ``InputError`` naming the nearest known name."""
        if name not in self._parts:
            near = difflib.get_close_matches(name, self._parts, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"unknown {self.kind} {name!r}: {hint}known are {', '.join(sorted(self._parts))}")
        return self._parts[name]

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))


def _origin(part: Any) -> Any:
    """Where a function is written; of a tuple or a dataclass (a guidance rule, an attention mode) where its members
    are; of all else, itself."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        part = tuple(getattr(part, field.name) for field in dataclasses.fields(part))
    if isinstance(part, tuple):
        return tuple(_origin(member) for member in part)
    code = getattr(inspect.unwrap(part), "__code__", None)
    return part if code is None else (code.co_filename, code.co_firstlineno)
