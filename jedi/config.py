"""Typed configuration: a dataclass schema, a YAML file, `key=value` overrides.

Every mistake (an unknown key, a wrong type, a missing value, a number out of range) is a `ConfigError` that
names the key and what would be right. This is the only module that knows OmegaConf; it does not load torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import io
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from jedi.errors import InputError, given
from jedi.folders import atomic
from jedi.texts import read_text

T = TypeVar("T")


class ConfigError(InputError):
    """A configuration that cannot be used; the message names the key and says what would be right."""


def load(schema: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Builds a `schema`, a dataclass: its defaults, then the YAML file at `path`, then the overrides.

    An override is `key=value` or `section.key=value`. Fields without a default must be given. A schema checks
    ranges in its `__post_init__`, raising `InputError`.
    """
    layers = [] if path is None else [(str(path), _read_yaml(Path(path)))]
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {override!r}: expected key=value, for instance seed=1")
        try:
            values = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
            layers.append((f"override {override!r}", values))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"override {override!r}: {_first_line(error)}") from None
    config = OmegaConf.structured(schema)
    for origin, values in layers:
        _check_keys(schema, values, origin)
        try:
            config = OmegaConf.merge(config, values)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{origin}: {_describe(error)}") from None
    try:
        return OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or "a value"
        raise ConfigError(f"{key} is required: put it into the YAML file or pass {key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(_describe(error)) from None
    except InputError as error:  # a check of several fields, in some __post_init__
        raise ConfigError(str(error)) from None


def build(schema: type[T], values: Mapping[str, Any], origin: str) -> T:
    """A flat `schema` from values that a program recorded, texts as they are. Raises ConfigError as `load`."""
    _check_keys(schema, values, origin)
    try:
        checked = OmegaConf.merge(OmegaConf.structured(schema), dict(values))
        return schema(**OmegaConf.to_container(checked, resolve=False))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{origin}: {_describe(error)}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dicts, lists and scalars, in the order of its fields."""
    return dataclasses.asdict(config)


def save(config: Any, path: str | Path) -> None:
    """Writes the resolved configuration as YAML; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def import_extensions(config: Any) -> list[types.ModuleType]:
    """Imports the modules named in `config.extensions`; what they register can then be chosen by name."""
    return [_import(name) for name in config.extensions]


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
    try:
        values = OmegaConf.to_container(OmegaConf.load(text))
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return values


def _fields(schema: type) -> dict[str, type]:
    hints = typing.get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def _paths(schema: type, prefix: str = "") -> Iterator[str]:
    for name, kind in _fields(schema).items():
        yield prefix + name
        if dataclasses.is_dataclass(kind):
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
                    raise ConfigError(f"{origin}: {prefix}{key} is a section ({inner}=...), found {value!r}")
                check(fields[key], value, f"{prefix}{key}.")
            elif typing.get_origin(fields[key]) is list and not isinstance(value, list):
                raise ConfigError(f"{origin}: {prefix}{key} is a list, found {value!r}; write [{value}]")

    def nearest(prefix: str, key: str, fields: Mapping) -> str:
        close = [prefix + name for name in difflib.get_close_matches(key, fields, n=1)]
        elsewhere = [path for path in _paths(schema) if path.rpartition(".")[2] == key]
        close = elsewhere[:1] or close or difflib.get_close_matches(prefix + key, list(_paths(schema)), n=1)
        return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(fields)}"

    check(schema, values, "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _describe(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None)
    return f"{key}: {_first_line(error)}" if key else _first_line(error)
