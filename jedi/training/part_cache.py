"""What is computed once from a data set and kept on disk, in parts: each whole or not there, made by any process."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from jedi.data import DataError, SetIndex, SetRecord
from jedi.io.files import FolderInUse, atomic, locked

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class CachePart:
    """A piece of one shard and its file: whole or not there."""

    path: Path
    sets: range
    """Positions in ``index.sets``."""


class PartCache(ABC):
    """Files of part of a shard each, in a folder named after the data and what they are computed with."""

    what = "parts"
    """What is kept, for messages."""

    def __init__(self, index: SetIndex, folder: str | Path, key: str) -> None:
        name = hashlib.sha256(f"parts/{index.fingerprint}/{key}".encode()).hexdigest()[:16]
        self.index, self.folder = index, Path(folder) / name
        self.parts = list(self._cut())
        self._before: int | None = None  # finished parts when `fill` began
        self._held_by = ""  # what was said of a part that another process has

    @property
    def count(self) -> int:
        """Images in all."""
        return sum(record.n for record in self.index.sets)

    @property
    def complete(self) -> bool:
        """Whether all parts are there, from whatever process."""
        return self._finished() == len(self.parts)

    @property
    def stalled(self) -> bool:
        """Whether :meth:`fill` is at work and no part, of whatever process, was finished since it began."""
        return self._before is not None and self._finished() <= self._before

    def fill(self, encode: Callable[[Any], Any], report: Callable[[int], None] = lambda done: None) -> None:
        """Makes the parts that are missing; returns when all are there.

        Any number of processes may do so at once, on any number of machines: each part is made by one of them. What
        is finished stays, whatever happens later.

        Args:
            encode: what a batch becomes; of what, each kind of cache says.
            report: called with the number of images done, by all processes together.

        Raises:
            DataError: the data cannot be read, or a file of the cache is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._before = self._finished()
        try:
            done, missing, waiting = 0, self.parts, False
            while missing:
                busy = []
                for part in missing:

                    def progress(images: int, before: int = done) -> None:
                        report(before + images)

                    if not self._make(part, encode, progress):
                        busy.append(part)
                        continue
                    self._layout(part)
                    done += sum(record.n for record in self._records(part))
                    report(done)
                if busy == missing:  # others are at work on all that is left; should one be killed, its part is ours
                    if not waiting:
                        log.warning("waiting for %d parts of the %s: %s", len(busy), self.what, self._held_by)
                    waiting = True
                    time.sleep(_POLL_SECONDS)
                missing = busy
        finally:
            self._before = None

    def _finished(self) -> int:
        return sum(part.path.exists() for part in self.parts)

    def _records(self, part: CachePart) -> tuple[SetRecord, ...]:
        return self.index.sets[part.sets.start : part.sets.stop]

    def _make(self, part: CachePart, encode: Callable[[Any], Any], report: Callable[[int], None]) -> bool:
        """Makes a part that is missing. False where another process is at work on it."""
        if part.path.exists():
            return True
        lock = f".{part.path.name}.lock"
        try:
            with locked(self.folder, lock):
                if not part.path.exists():
                    tensors = self._encoded(part, encode, report)
                    with atomic(part.path) as temporary:
                        temporary.write_bytes(save(tensors))
        except FolderInUse as error:
            self._held_by = str(error)
            return False
        return True

    @abstractmethod
    def _cut(self) -> Iterator[CachePart]:
        """The parts, each of sets that follow one another in one shard."""

    @abstractmethod
    def _encoded(
        self, part: CachePart, encode: Callable[[Any], Any], report: Callable[[int], None]
    ) -> dict[str, np.ndarray]:
        """The tensors of a part's file. ``report`` is called with the number of its images done."""

    @abstractmethod
    def _layout(self, part: CachePart) -> Any:
        """Looks at a file; `DataError` unless it is as it ought to be."""

    def _part(self, sets: range, piece: int) -> CachePart:
        number = self.index.sets[sets.start].shard
        shard = self.index.shards[number].stem
        if self.index.sources:  # whose shards may have the same names
            shard = f"{number:05d}-{shard}"
        return CachePart(self.folder / f"{shard}-{piece:04d}.safetensors", sets)


def cut(index: SetIndex, weight: Callable[[SetRecord], int], most: int) -> Iterator[tuple[range, int]]:
    """Each shard in pieces of up to ``most`` by weight, one set at least, with their numbers within the shard."""
    start, total, piece = 0, 0, 0
    for i, record in enumerate(index.sets):
        new_shard = i > 0 and record.shard != index.sets[i - 1].shard
        if i > start and (new_shard or total + weight(record) > most):
            yield range(start, i), piece
            start, total, piece = i, 0, 0 if new_shard else piece + 1
        total += weight(record)
    yield range(start, len(index.sets)), piece


def damaged(part: CachePart, what: str) -> DataError:
    """The error for a file that is not as it was written."""
    return DataError(
        f"{part.path}: damaged ({what}); delete it, or the whole folder, and the same command makes it again"
    )


def read_bytes(path: Path, start: int, count: int) -> bytes:
    """By offset, with nothing kept open: no limit of open files, nothing to share with forked or spawned workers, and
    a file that was cut short is an error, where a memory map would end the process."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, count, start)
    finally:
        os.close(file)
