"""Typed configuration: a dataclass schema, a YAML file, `key=value` overrides.

Every mistake (an unknown key, a wrong type, a missing value, a number out of range) is a `ConfigError` that
names the key and what would be right. This is the only module that knows OmegaConf; it does not load torch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import importlib
import io
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from jedi.errors import InputError, given
from jedi.io.files import write_text
from jedi.io.ranges import Interval, OneOf, Range
from jedi.io.texts import read_text

T = TypeVar("T")


class ConfigError(InputError):
    """A configuration that cannot be used; the message names the key and says what would be right."""


def of_command(schema: type[T], arguments: argparse.Namespace) -> T | None:
    """The settings that a command was given (`command_line.add_settings`); None if they were only to be printed."""
    if arguments.print_config:
        print(printed(schema, arguments.config, arguments.overrides), end="")
        return None
    return load(schema, arguments.config, arguments.overrides)


def printed(schema: type, path: str | Path | None, overrides: Sequence[str] = ()) -> str:
    """All settings as YAML, merged as :func:`load` does it; what must be given and is not, is `???`."""
    config = _merged(schema, path, overrides)
    for name, kind in _fields(schema).items():
        if dataclasses.is_dataclass(kind) and OmegaConf.is_missing(config, name):
            config[name] = OmegaConf.structured(kind)
    return OmegaConf.to_yaml(config)


def load(schema: type[T], path: str | Path | Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> T:
    """Builds a `schema`, a dataclass: its defaults, then the YAML file at `path` (or these values), then the overrides.

    An override is `key=value` or `section.key=value`. Fields without a default must be given. A field's type says its
    range (`jedi.io.ranges`); without one, numbers are finite and whole numbers of 64 bits. What concerns several
    fields a schema checks in its `__post_init__`, raising `InputError`.
    """
    config = _merged(schema, path, overrides)
    try:
        _check_values(schema, OmegaConf.to_container(config, resolve=True, throw_on_missing=True), "")
        return cast(T, OmegaConf.to_object(config))
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or "a value"
        raise ConfigError(f"{key} is required: put it into the YAML file or pass {key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(_describe(error)) from None
    except InputError as error:  # a check of several fields, in some __post_init__
        raise ConfigError(str(error)) from None


def given_values(path: str | Path | Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a YAML file (or these values) and the overrides set, by top-level key, before any schema has looked at it.

    Of a section that several of them set, the last one's part.
    """
    return {str(key): value for _, values in _layers(path, overrides) for key, value in values.items()}


def _layers(path: str | Path | Mapping[str, Any] | None, overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Where values come from, and the values; later ones win."""
    if path is not None:
        yield ("settings", path) if isinstance(path, Mapping) else (str(path), _read_yaml(Path(path)))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not all(part.strip() and not set("[]") & set(part) for part in key.split(".")):
            raise ConfigError(f"override {override!r}: expected key=value, for instance seed=1")
        origin = f"override {_short(override)}"
        with _readable(origin):
            values = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        yield origin, values


def _merged(schema: type, path: str | Path | Mapping[str, Any] | None, overrides: Sequence[str]) -> Any:
    config = OmegaConf.structured(schema)
    for origin, values in _layers(path, overrides):
        _check_keys(schema, values, origin)
        try:
            config = OmegaConf.unsafe_merge(config, values)  # in place: `merge` copies the whole schema each time
        except (OmegaConfBaseException, OverflowError) as error:  # the latter of a whole number that is to be a float
            raise ConfigError(f"{origin}: {_describe(error)}") from None
    return config


def build(schema: type[T], values: Mapping[str, Any], origin: str) -> T:
    """A flat `schema` from values that a program recorded, texts as they are. Raises ConfigError as `load`."""
    _check_keys(schema, values, origin)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), dict(values))
        checked: Any = OmegaConf.to_container(merged, resolve=False)
    except (OmegaConfBaseException, OverflowError) as error:
        raise ConfigError(f"{origin}: {_describe(error)}") from None
    try:
        _check_values(schema, checked, "")
        return schema(**checked)
    except InputError as error:
        raise ConfigError(f"{origin}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dicts, lists and scalars, in the order of its fields."""
    return dataclasses.asdict(config)


def save(config: Any, path: str | Path) -> None:
    """Writes the resolved configuration as YAML; the file appears whole or not at all."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def import_extensions(names: Sequence[str]) -> list[types.ModuleType]:
    """Imports the modules of these names; what they register can then be chosen by name."""
    return [_import(name) for name in names]


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the extension exists, something that it imports does not
        where = ", ".join(sys.path[:2])
        raise ConfigError(f"extensions: no module {name!r} on the Python path ({where}, ...)") from None


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        raise ConfigError(f"no configuration file {path}")
    with given(str(path)):
        text = io.StringIO(read_text(path))
    text.name = str(path)  # which errors name
    with _readable(str(path)):
        values = OmegaConf.to_container(OmegaConf.load(text))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return values


@contextlib.contextmanager
def _readable(origin: str) -> Iterator[None]:
    """ConfigError for what the readers of YAML and of OmegaConf's grammar cannot read; they raise almost anything."""
    try:
        yield
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError, RecursionError, AttributeError) as error:
        raise ConfigError(f"{origin}: not readable as YAML: {' '.join(str(error).split())}") from None


def _check_values(kind: Any, value: Any, key: str) -> None:
    """Raises ConfigError for a value out of the range that its type says; see :func:`load`."""
    within = Range()
    if typing.get_origin(kind) is Annotated:
        kind, *notes = typing.get_args(kind)
        within = next((note for note in notes if isinstance(note, Range)), within)
        other = next((note for note in notes if isinstance(note, Interval | OneOf)), None)
        if other is not None:
            _check_values(kind, value, key)
            if value not in other:
                raise ConfigError(f"{key} is {_short(value)}; it must be {other}")
            return
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        for name, of_field in _fields(kind, ranges=True).items():
            _check_values(of_field, value[name], f"{key}.{name}" if key else name)
    elif typing.get_origin(kind) in (types.UnionType, typing.Union):
        for choice in typing.get_args(kind):
            _check_values(choice, value, key)
    elif kind in (int, float, str, bool) and isinstance(value, dict | list):  # OmegaConf lets it pass inside of a list
        raise ConfigError(f"{key} is {_short(value)}; it must be a single value")
    elif isinstance(value, dict):
        inner = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else Any
        for name, part in value.items():
            _check_values(inner, part, f"{key}.{name}")
    elif isinstance(value, list):
        inner = typing.get_args(kind)[0] if typing.get_origin(kind) is list else Any
        for i, part in enumerate(value):
            _check_values(inner, part, f"{key}[{i}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**64:  # not a number either
            expected = within if within != Range() else "a finite number of at most 64 bits"
            raise ConfigError(f"{key} is {_short(value)}; it must be {expected}")
        if value not in within:
            raise ConfigError(f"{key} is {_short(value)}; it must be {within}")


def _short(value: Any) -> str:
    """The value for a message. (Python refuses to write whole numbers of more than 4,300 digits.)"""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a whole number of more than 20 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


@functools.lru_cache(256)
def _fields(schema: type, ranges: bool = False) -> Mapping[str, Any]:
    hints = typing.get_type_hints(schema, include_extras=ranges)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def _paths(schema: type, prefix: str = "") -> Iterator[str]:
    for name, kind in _fields(schema).items():
        yield prefix + name
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _paths(kind, f"{prefix}{name}.")


def _check_keys(schema: type, values: Mapping, origin: str) -> None:
    def check(part: type, values: Mapping, prefix: str) -> None:
        fields = _fields(part)
        for key, value in values.items():
            if key not in fields:
                hint = nearest(prefix, str(key), fields)
                raise ConfigError(f"{origin}: unknown key {prefix + str(key)!r}; {hint}")
            if dataclasses.is_dataclass(fields[key]):
                if not isinstance(value, Mapping):
                    inner = f"{prefix}{key}.{next(iter(_fields(fields[key])))}"
                    raise ConfigError(f"{origin}: {prefix}{key} is a section ({inner}=...), found {_short(value)}")
                check(fields[key], value, f"{prefix}{key}.")
            elif typing.get_origin(fields[key]) is list and not isinstance(value, list):
                raise ConfigError(f"{origin}: {prefix}{key} is a list, found {_short(value)}; write it in [ ]")

    def nearest(prefix: str, key: str, fields: Mapping) -> str:
        close = [prefix + name for name in difflib.get_close_matches(key, fields, n=1)]
        elsewhere = [path for path in _paths(schema) if path.rpartition(".")[2] == key]
        close = elsewhere[:1] or close or difflib.get_close_matches(prefix + key, list(_paths(schema)), n=1)
        return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(fields)}"

    check(schema, values, "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _describe(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    return f"{key}: {_first_line(error)}" if key else _first_line(error)
