"""The ordered pass at the end: near-duplicates across sets go, and what is left is packed in shards.

Which set comes into which shard follows from the units' manifests alone, so the pass can be interrupted anywhere
and goes on.
"""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen.config import DataConfig, config_hash
from data_gen.plan import Plan, Unit
from data_gen.samples import SPLITS
from data_gen.shards import Record, read_images, thumbnail, write_shard
from jedi.io.config import ConfigError
from jedi.io.files import file_sha256, write_json

RESULT = "finish.json"
EXAMPLES = "finish.dropped.tar"
PAIRS = 8  # near-duplicates whose images are kept for the report
_ROW = ("key", "n", "width", "height")  # what readers of a shard want of the units' rows


@dataclass(frozen=True)
class Shard:
    """What a shard is to hold: for each unit, in order, the rows of its sets."""

    path: Path
    split: str
    parts: tuple[tuple[Unit, tuple[dict[str, Any], ...]], ...]


def layout(config: DataConfig, plan: Plan) -> tuple[list[Shard], list[dict[str, Any]]]:
    """The shards, and the sets dropped as near-duplicates: key, reason, and of which set. A pure function of
    the units' manifests. Raises ConfigError where units are not done."""
    manifests = [(unit, plan.manifest(unit)) for unit in plan.units]
    if missing := [unit.name for unit, manifest in manifests if manifest is None]:
        raise ConfigError(
            f"{plan.out}: {len(missing)} of {len(manifests)} units are not done ({missing[0]}, ...); "
            "run `python -m data_gen run` until they are"
        )
    distance, seen = config.finish.duplicate_distance, None
    if distance is not None:
        from data_gen.hashes import DuplicateIndex

        seen = DuplicateIndex(distance)
    kept: dict[str, list[tuple[Unit, dict]]] = {split: [] for split in SPLITS}
    duplicates = []
    for unit, manifest in manifests:
        for row in manifest["sets"]:
            if seen is not None:
                hashes, own = [int(text, 16) for text in row["hashes"]], row.get("made_from", ())
                if earlier := next((key for value in hashes for key in seen.find(value) if key not in own), None):
                    duplicates.append({"key": row["key"], "reason": "near-duplicate of another set", "of": earlier})
                    continue
                seen.add(hashes, row["key"])
            kept[unit.split].append((unit, row))
    shards = []
    for split in SPLITS:
        for number, start in enumerate(range(0, len(kept[split]), config.sets_per_shard)):
            parts: dict[Unit, list[dict]] = {}
            for unit, row in kept[split][start : start + config.sets_per_shard]:
                parts.setdefault(unit, []).append(row)
            path = plan.out / split / f"{split}-{number:06d}.tar"
            shards.append(Shard(path, split, tuple((unit, tuple(rows)) for unit, rows in parts.items())))
    return shards, duplicates


def missing_shards(plan: Plan, shards: Sequence[Shard]) -> list[Shard]:
    """Those that are still to be packed."""
    return [shard for shard in shards if not is_packed(shard.path, plan)]


def units_of(plan: Plan, shards: Sequence[Shard]) -> list[Unit]:
    """The units that these shards are packed from, in the plan's order."""
    wanted = {unit.name for shard in shards for unit, _ in shard.parts}
    return [unit for unit in plan.units if unit.name in wanted]


def is_packed(path: Path, plan: Plan) -> bool:
    """Whether the shard stands there whole, of this plan."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return manifest["plan"] == plan.hash and manifest["bytes"] == path.stat().st_size
    return False


def pack(config: DataConfig, plan: Plan, shards: Sequence[Shard], duplicates: Sequence[dict[str, Any]]) -> None:
    """Packs what is missing of the `layout`, then writes `finish.json`. Raises ConfigError where a unit's tar is gone
    or damaged."""
    missing = missing_shards(plan, shards)
    _check_whole(plan, units_of(plan, missing))
    for shard in missing:
        header = {"split": shard.split, "config_hash": config_hash(config), "plan": plan.hash}
        write_shard(shard.path, _records(plan, shard), header)
    _write_examples(plan, duplicates)
    write_json(plan.out / RESULT, {"plan": plan.hash, "shards": len(shards), "duplicates": duplicates})


def _write_examples(plan: Plan, duplicates: Sequence[dict[str, Any]]) -> None:
    """Small images of the first near-duplicates, before their units' tars are cleared away."""
    path, keys = plan.out / EXAMPLES, [row["key"] for row in duplicates[:PAIRS]]
    if not keys or is_packed(path, plan):
        return
    records = []
    for unit in plan.units:
        rows = [row for row in plan.manifest(unit)["sets"] if row["key"] in keys]
        if rows and plan.tar(unit).is_file():
            with tarfile.open(plan.tar(unit)) as tar:
                for row in rows:
                    images = read_images(tar, row["key"], row["n"])
                    small = {f"{i}.png": thumbnail(image) for i, image in enumerate(images)}
                    records.append(Record({"key": row["key"], "n": row["n"]}, small))
    if records:
        write_shard(path, records, {"plan": plan.hash})


def _check_whole(plan: Plan, units: Sequence[Unit]) -> None:
    """Raises ConfigError where a unit's tar is gone or damaged; such units no longer count as done."""
    bad = []
    for unit in units:
        tar = plan.tar(unit)
        if not tar.is_file() or file_sha256(tar) != plan.manifest(unit)["sha256"]:
            tar.with_suffix(".json").unlink(missing_ok=True)
            bad.append(tar)
    if bad:
        raise ConfigError(
            f"{bad[0]} is not what its manifest says: {len(bad)} such units no longer count as done; "
            "`python -m data_gen run` makes them again"
        )


def _records(plan: Plan, shard: Shard) -> Iterator[Record]:
    """The shard's sets as they lie in the units' tars, in order."""
    for unit, rows in shard.parts:
        members: dict[str, dict[str, bytes]] = {row["key"]: {} for row in rows}
        with tarfile.open(plan.tar(unit)) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if key in members:
                    members[key][ending] = tar.extractfile(member).read()
        for row in rows:
            yield Record({name: row[name] for name in _ROW}, members[row["key"]])
