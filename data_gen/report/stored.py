"""What a data set holds so far, read back: its shards or, before any is packed, the tars of the units that are done."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from data_gen.finish import RESULT, is_packed
from data_gen.plan import Plan, Unit
from data_gen.samples import SPLITS
from jedi.io.images import load_image


@dataclass(frozen=True)
class Stored:
    """The sets of a plan's data set that can be read now."""

    plan: Plan

    @cached_property
    def shards(self) -> dict[str, list[Path]]:
        """The packed shards of each split, in order."""
        found = {split: sorted((self.plan.out / split).glob("*.tar")) for split in SPLITS}
        return {split: [path for path in paths if is_packed(path, self.plan)] for split, paths in found.items()}

    @property
    def is_packed(self) -> bool:
        """Whether it is read from shards. A finished data set may have none: then every set was dropped."""
        return self._result is not None or any(self.shards.values())

    @property
    def is_complete(self) -> bool:
        """Whether `finish` has packed all shards, and they are there."""
        return self._result is not None and self._result["shards"] == sum(map(len, self.shards.values()))

    @cached_property
    def tars(self) -> dict[str, list[Path]]:
        """What the sets of each split are read from."""
        if self.is_packed:
            return self.shards
        made = {split: [self.plan.tar(unit) for unit, _ in self.units(split)] for split in SPLITS}
        return {split: [path for path in paths if path.is_file()] for split, paths in made.items()}

    def units(self, split: str | None = None) -> Iterator[tuple[Unit, dict[str, Any]]]:
        """The units that are done, each with its manifest."""
        for unit in self.plan.units:
            if split in (None, unit.split) and (manifest := self.plan.manifest(unit)) is not None:
                yield unit, manifest

    @property
    def duplicates(self) -> list[dict[str, Any]]:
        """The sets that `finish` dropped: key, reason, and of which set."""
        return self._result["duplicates"] if self._result else []

    @cached_property
    def _result(self) -> dict[str, Any] | None:
        """What `finish` wrote of this plan."""
        path = self.plan.out / RESULT
        if not path.is_file():
            return None
        result = json.loads(path.read_text(encoding="utf-8"))
        return result if result["plan"] == self.plan.hash else None

    def descriptions(self, split: str) -> Iterator[dict[str, Any]]:
        """The JSON of every set of a split, in order."""
        for path in self.tars[split]:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        yield json.load(tar.extractfile(member))

    def spread(self, split: str, count: int) -> list[tuple[Path, str]]:
        """Tar and key of `count` sets that lie evenly over the split, of all where there are no more."""
        manifests = [(path, read_manifest(path)) for path in self.tars[split]]
        total = sum(manifest["counts"]["sets"] for _, manifest in manifests)
        wanted = {i * total // count for i in range(count)} if total > count else set(range(total))
        chosen, start = [], 0
        for path, manifest in manifests:
            keys = [row["key"] for row in manifest["sets"]]
            chosen += [(path, key) for i, key in enumerate(keys, start) if i in wanted]
            start += len(keys)
        return chosen

    def find(self, keys: set[str]) -> dict[str, Path]:
        """The tars that hold these sets, as far as they can be read."""
        return {
            row["key"]: path
            for split in SPLITS
            for path in self.tars[split]
            for row in read_manifest(path)["sets"]
            if row["key"] in keys
        }


def read_manifest(tar: Path) -> dict[str, Any]:
    return json.loads(tar.with_suffix(".json").read_text(encoding="utf-8"))


def read_set(path: Path, key: str) -> tuple[dict[str, Any], list[Image.Image]]:
    """The JSON of a set in a tar, and its images."""
    with tarfile.open(path) as tar:
        description = json.load(tar.extractfile(f"{key}.json"))
        return description, _images(tar, key, len(description["captions"]))


def read_rejected(path: Path, key: str, n: int) -> list[Image.Image]:
    """The small images of a dropped set, of a unit's `X.dropped.tar`."""
    with tarfile.open(path) as tar:
        return _images(tar, key, n)


def _images(tar: tarfile.TarFile, key: str, n: int) -> list[Image.Image]:
    names = [f"{key}.{i}.png" for i in range(n)]
    return [load_image(tar.extractfile(name).read(), f"{tar.name}: {name}") for name in names]
