"""The configuration of `python -m data_gen`: every field can be set in the YAML file or as `key=value`.

What concerns all parts is declared here. Each registered source and stage adds the section of its name: `schema` puts
them together, `load_config` imports the extensions that the settings name first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import data_gen.sources
import data_gen.stages
from data_gen.context import Context
from data_gen.parts import Part, import_modules
from data_gen.prompts.config import PromptsSettings
from data_gen.sources import SOURCES
from data_gen.stages import STAGES
from jedi.io.config import ConfigError, given_values, import_extensions, load, to_dict
from jedi.io.ranges import DTYPES, OneOf, Range

# The settings that change no byte of the data: the same folder may be continued with another value.
# (With models, the device changes bits, and on a CPU the number of threads: `workers` shares the cores out.)
FREE_KEYS = ("out", "workers", "device", "keep_units", "contact_sheet_rows")
GENERATION = 6  # raised whenever the same settings begin to give other bytes, so that no folder mixes both


@dataclass
class FinishSettings:
    """The pass at the end."""

    duplicate_distance: Annotated[int, Range(0, 16)] | None = None
    """Bits (of 64, data_gen.hashes) by which an image may differ from one of an earlier set to count as the same, so
    that the later set is dropped; null: sets are not compared."""


@dataclass
class DataConfig:
    """One data set: sets of `images_per_set` square images of `resolution` pixels, made by a source, passed
    through stages, packed in shards. The sections of sources and stages that are not named are not looked at."""

    out: str
    source: str
    stages: list[str] = field(default_factory=list)
    """In this order."""
    extensions: list[str] = field(default_factory=list)
    """Modules that register more sources, stages, filters, ...; imported before all else is looked at."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    sets: Annotated[int, Range(1, 10**9)] = 12_000
    """To be made for training; fewer arrive where stages drop some. Of sources that make sets."""
    heldout_sets: Annotated[int, Range(0, 10**9)] = 400
    images_per_set: Annotated[int, Range(1, 64)] = 4
    resolution: Annotated[int, Range(16, 2048)] = 64
    sets_per_unit: Annotated[int, Range(1, 10**6)] = 100
    """Work that is done or not done; a unit's images are in memory together."""
    sets_per_shard: Annotated[int, Range(1, 10**6)] = 500
    workers: Annotated[int, Range(0, 1024)] = 0
    """Processes; 0: one a core, with models one a GPU (or one with all cores)."""
    device: str = "auto"
    """Of models: auto, cpu, cuda, cuda:1."""
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    """Of models: float32, bfloat16, float16."""
    keep_units: bool = False
    """Keep the units' tars when they are packed, for looking into."""
    contact_sheet_rows: Annotated[int, Range(1, 200)] = 12
    prompts: PromptsSettings = field(default_factory=PromptsSettings)
    """Read by sources that draw what prompts say."""
    finish: FinishSettings = field(default_factory=FinishSettings)

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is empty; give the folder to write to, for instance out=data/mine")

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process makes the schema again, of its own registries."""
        # Only sections that are used: another process may know fewer parts than this one has imported by now.
        named = named_sections(self)
        used = {n: v for n, v in to_dict(self).items() if n in named or not is_dataclass(getattr(self, n))}
        return load_config, (used,)

    @property
    def context(self) -> Context:
        return Context(**{entry.name: getattr(self, entry.name) for entry in fields(Context)})

    def section(self, name: str) -> Any:
        """The settings of a source or a stage; None of one that has none."""
        return getattr(self, name, None)


def schema() -> type[DataConfig]:
    """`DataConfig` with a section for each source and stage that is registered now, in alphabetical order."""
    import_modules(data_gen.sources)
    import_modules(data_gen.stages)
    taken = {entry.name for entry in fields(DataConfig)}
    sections = []
    for registry in (SOURCES, STAGES):
        for name in registry:
            if name in taken:
                raise ValueError(f"{registry.kind} {name!r}: the configuration has a key of that name already")
            taken.add(name)
            part: type[Part] = registry.get(name)
            if (kind := part.section()) is not None:
                sections.append((name, kind, field(default_factory=kind)))
    return make_dataclass("DataConfig", sections, bases=(DataConfig,))


def schema_of(settings: str | Path | Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> type[DataConfig]:
    """The schema that these settings are written for: their extensions are imported first."""
    names = given_values(settings, overrides).get("extensions")
    if isinstance(names, list):  # all else the schema refuses
        import_extensions([name for name in names if isinstance(name, str)])
    return schema()


def load_config(settings: str | Path | Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> DataConfig:
    """The configuration of a YAML file (or of these values) and overrides. Raises ConfigError as `jedi.io.config.load`
    does, and where an extension is not there."""
    return load(schema_of(settings, overrides), settings, overrides)


def named_sections(config: DataConfig) -> set[str]:
    """The sections that count: of the source and the stages that are named, and those of all."""
    reads_prompts = config.source in SOURCES and SOURCES.get(config.source).reads_prompts
    return {config.source, *config.stages, "finish", *(("prompts",) if reads_prompts else ())}


def content(config: DataConfig) -> dict[str, Any]:
    """The settings that decide the data's bytes: a section counts when its source or stage is named."""
    named = named_sections(config)
    settings = {
        name: value
        for name, value in to_dict(config).items()
        if (name in named if is_dataclass(getattr(config, name)) else name not in FREE_KEYS)
    }
    return {"generation": GENERATION, **settings}


def config_hash(config: DataConfig) -> str:
    """sha256 (hexadecimal) over the settings that decide the data's bytes."""
    return hashlib.sha256(json.dumps(content(config), sort_keys=True).encode()).hexdigest()
