"""The plan of a data set: `plan.json` freezes the settings, the inputs and the division into units.

A unit is the smallest piece of work that is done or not done. It is done when its manifest stands in
`units/` and names this plan.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_gen.config import GENERATION, DataConfig, config_hash, content
from data_gen.parts import Part
from data_gen.samples import SPLITS, Item
from data_gen.shards import NO_SPACE
from data_gen.sources import SOURCES, Source
from data_gen.stages import STAGES, Stage
from jedi.errors import InputError
from jedi.io.config import ConfigError
from jedi.io.files import write_json
from jedi.io.frozen import differences
from jedi.io.registry import Registry

FORMAT = 2
_ALWAYS = ("numpy", "pillow")  # they decide bytes, whatever the source


@dataclass(frozen=True)
class Unit:
    """Sets `start` to `start + count` of a split."""

    name: str
    split: str
    start: int
    count: int

    def items(self) -> list[Item]:
        return [Item(self.split, index) for index in range(self.start, self.start + self.count)]


@dataclass(frozen=True)
class Plan:
    """What `plan.json` says. `hash` (sha256) names the settings, the inputs and the units: what is made of
    one plan is never mixed with what is made of another."""

    out: Path
    hash: str
    units: tuple[Unit, ...]
    versions: Mapping[str, str]
    left_out: Mapping[str, int]
    """Files among the inputs that are not used, by reason."""

    def tar(self, unit: Unit) -> Path:
        return self.out / "units" / f"{unit.name}.tar"

    def log(self, unit: Unit) -> dict[str, Any] | None:
        """What the unit cost: `seconds` of each step, `items`, `images`; None without a log, which is no part of the
        work."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            log = json.loads((self.out / "logs" / f"{unit.name}.json").read_text(encoding="utf-8"))
            seconds = {name: float(value) for name, value in log["seconds"].items()}
            return {"items": 0, "images": 0, **log, "seconds": seconds}
        return None

    def manifest(self, unit: Unit) -> dict[str, Any] | None:
        """The unit's manifest if the unit is done, else None."""
        try:
            manifest = json.loads(self.tar(unit).with_suffix(".json").read_text(encoding="utf-8"))
            return manifest if manifest["plan"] == self.hash else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def check_unchanged(self) -> None:
        """Raises ConfigError where another plan has come into the folder since this one was read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads((self.out / "plan.json").read_text(encoding="utf-8"))["hash"] == self.hash:
                return
        raise ConfigError(
            f"{self.out / 'plan.json'} is not the plan that this run began with; its units are not written. "
            "Run the command again with the plan's own settings, or choose another out="
        )


@dataclass(frozen=True)
class Parts:
    """The source and the stages, as one process uses them."""

    source: Source
    stages: tuple[tuple[str, Stage], ...]

    @property
    def all(self) -> tuple[Part, ...]:
        return (self.source, *(stage for _, stage in self.stages))

    def inputs(self) -> dict[str, str]:
        """sha256 of everything outside of the configuration that decides the sets, by name."""
        return {name: digest for part in self.all for name, digest in part.inputs().items()}

    def left_out(self) -> dict[str, int]:
        """Files among what is read that are not used, by reason."""
        return dict(sum((Counter(part.left_out()) for part in self.all), Counter()))

    @property
    def use_models(self) -> bool:
        """Whether a device is of use."""
        return any(part.uses_model for part in self.all)


def source_class(config: DataConfig) -> type[Source]:
    """The configured source's class. Raises ConfigError for an unknown name."""
    return _find(SOURCES, config.source, "source")


def make_parts(config: DataConfig) -> Parts:
    """The source and the stages. Raises ConfigError for an unknown name and for stages that do not fit."""
    source = source_class(config)(config.section(config.source), config.context)
    kinds = [(name, _find(STAGES, name, "stages")) for name in config.stages]
    stages = tuple((name, kind(config.section(name), config.context)) for name, kind in kinds)
    _check_fit(config.source, source, stages)
    return Parts(source, stages)


def _find(registry: Registry[type[Part]], name: str, key: str) -> Any:
    try:
        return registry.get(name)
    except InputError as error:
        raise ConfigError(f"{key}: {error}") from None


def _check_fit(name: str, source: Source, stages: Sequence[tuple[str, Stage]]) -> None:
    """Each stage must be given what it needs, and images must come out at the end."""
    holds, behind = set(source.gives), f"source {name!r}"
    for name, stage in stages:
        if missing := sorted(stage.needs - holds):
            held = ", ".join(sorted(holds))
            raise ConfigError(f"stages: {name!r} needs {', '.join(missing)}, but {behind} leaves only {held}")
        holds |= stage.gives
        if "images" in stage.gives:
            holds.discard("collage")
        behind = f"stage {name!r}"
    if "images" not in holds:
        raise ConfigError(f"stages: after {behind} there are collages only; add the stage 'split'")


def units(sizes: Mapping[str, int], sets_per_unit: int) -> tuple[Unit, ...]:
    """The division of the work, in order."""
    return tuple(
        Unit(f"{split}-{number:06d}", split, start, min(sets_per_unit, sizes.get(split, 0) - start))
        for split in SPLITS
        for number, start in enumerate(range(0, sizes.get(split, 0), sets_per_unit))
    )


def read_plan(config: DataConfig) -> Plan | None:
    """The plan in the output folder, None if there is none. ConfigError where it is another configuration's."""
    path = Path(config.out) / "plan.json"
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        found, frozen = plan["config_hash"], plan["config"]
        frozen_units = tuple(Unit(**unit) for unit in plan["units"])
        left_out = plan.get("left_out", {})
        result = Plan(Path(config.out), plan["hash"], frozen_units, plan["versions"], left_out)
    except (ValueError, KeyError, TypeError):
        raise _no_plan(path) from None
    if found != config_hash(config):
        found = differences(frozen, content(config))
        changed = ", ".join(f"{key} was {old!r}, is {new!r}" for key, old, new in found) or "the format"
        raise ConfigError(f"{config.out} holds other data ({changed}); choose another out=, or remove it")
    return result


def frozen_settings(out: str | Path) -> dict[str, Any] | None:
    """What the plan in the output folder was made with, as the settings that a file has; None if there is no plan."""
    path = Path(out) / "plan.json"
    if not path.is_file():
        return None
    try:
        frozen = json.loads(path.read_text(encoding="utf-8"))["config"]
        if frozen.pop("generation") == GENERATION:
            return frozen
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise _no_plan(path)


def _no_plan(path: Path) -> ConfigError:
    return ConfigError(f"{path} is not a plan of this version of data_gen; choose another out=")


def freeze(config: DataConfig) -> Plan:
    """Writes the plan, or checks the one that is there. Raises ConfigError where the folder holds other data,
    or where what the sets are made from (prompts, photos) is no longer what the plan was made for; OSError."""
    parts = make_parts(config)  # an impossible configuration is refused before anything is written
    sizes, inputs, out = parts.source.sizes(), parts.inputs(), Path(config.out)
    if (plan := read_plan(config)) is not None:
        frozen = json.loads((out / "plan.json").read_text(encoding="utf-8"))["inputs"]
        for name, *_ in differences(frozen, inputs):
            raise ConfigError(f"{out}: {name} changed since the plan was made; bring it back, or choose another out=")
        return plan
    if not any(sizes.values()):
        raise ConfigError(f"source {config.source!r} has no set to make")
    for split in (*SPLITS, "units"):
        if (out / split).is_dir() and any((out / split).iterdir()):
            raise ConfigError(f"{out} holds shards but no plan.json; choose another out=")
    division = units(sizes, config.sets_per_unit)
    work = {"config_hash": config_hash(config), "inputs": inputs, "units": [asdict(unit) for unit in division]}
    digest = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
    versions, left_out = _versions(parts), parts.left_out()
    with first_writes(config):
        for split in (*SPLITS, "units"):
            (out / split).mkdir(parents=True, exist_ok=True)
        frozen = {"format": FORMAT, "hash": digest, "config": content(config), **work, "versions": versions}
        write_json(out / "plan.json", {**frozen, "left_out": left_out})
    return Plan(out, digest, division, versions, left_out)


@contextlib.contextmanager
def first_writes(config: DataConfig) -> Iterator[None]:
    """ConfigError where `out` is no place to write to; OSError where it only lacks space."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigError(f"out={config.out}: cannot write there: {error.strerror}") from None


def check_versions(plan: Plan, parts: Parts) -> None:
    """ConfigError where another version than the plan's would make the units that are missing."""
    installed = _versions(parts)
    for name, old in plan.versions.items():
        if old != (new := installed.get(name, "none")):
            raise ConfigError(
                f"{plan.out} was started with {name} {old}, installed is {new}, which may draw other bytes: "
                f"pip install {name}=={old}, or choose another out="
            )


def _versions(parts: Parts) -> dict[str, str]:
    """Of the packages that decide bytes, those that are installed."""
    names = set(_ALWAYS)
    for part in parts.all:
        names.update(part.needed_packages)
    found = {}
    for name in sorted(names):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
