"""Latents computed once and kept on disk: on a CPU the VAE costs as much as the UNet."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jedi.data import SetDataset, SetIndex


class LatentCache:
    """Latents of all images of a split, memory-mapped.

    One ``.npy`` file (float16) for each image size, named after the data and the VAE: when either changes,
    another file is made. Files appear whole, by rename.
    """

    def __init__(self, index: SetIndex, folder: str | Path, vae_fingerprint: str) -> None:
        self.index, self.folder = index, Path(folder)
        self.name = hashlib.sha256(f"{index.fingerprint}/{vae_fingerprint}".encode()).hexdigest()[:16]
        self._start: list[int] = []
        self._count: dict[tuple[int, int], int] = {}
        for record in index.sets:
            size = (record.width, record.height)
            self._start.append(self._count.get(size, 0))
            self._count[size] = self._start[-1] + record.n
        self._arrays: dict[tuple[int, int], np.ndarray] = {}

    @property
    def count(self) -> int:
        """Images in all."""
        return sum(self._count.values())

    @property
    def complete(self) -> bool:
        """Whether everything has been computed, by this run or an earlier one."""
        return all(self.path(*size).exists() for size in self._count)

    def path(self, width: int, height: int) -> Path:
        """The file for images of that size."""
        return self.folder / f"latents-{self.name}-{width}x{height}.npy"

    def fill(
        self,
        encode: Callable[[Tensor], Tensor],
        batch_size: int = 64,
        report: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Computes what is missing. ``encode``: ``[b 3 H W]`` in -1 to 1 -> ``[b c h w]``.

        ``report`` is called with the number of images done.
        """
        dataset, done = SetDataset(self.index), 0
        for (width, height), count in self._count.items():
            path = self.path(width, height)
            if path.exists():
                done += count
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary, array, row = _temporary(path), None, 0
            members = [
                (index, member)
                for index, record in enumerate(self.index.sets)
                if (record.width, record.height) == (width, height)
                for member in range(record.n)
            ]
            try:
                for start in range(0, count, batch_size):
                    some = members[start : start + batch_size]
                    images = torch.cat([dataset.images(index, [member]) for index, member in some])
                    latents = encode(images).to("cpu", torch.float16).numpy()
                    if array is None:
                        shape = (count, *latents.shape[1:])
                        array = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
                    array[row : row + len(latents)] = latents
                    row += len(latents)
                    report(done + row)
                array.flush()
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            done += count

    def read(self, index: int) -> Tensor:
        """Latents of a set, ``[n c h w]`` in float32, in the order of the shard."""
        record = self.index.sets[index]
        size = (record.width, record.height)
        if size not in self._arrays:
            self._arrays[size] = np.load(self.path(*size), mmap_mode="r")
        start = self._start[index]
        return torch.from_numpy(self._arrays[size][start : start + record.n].astype(np.float32))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_arrays": {}}  # a memory map would travel to spawned workers as a copy


def _temporary(path: Path) -> Path:
    """A name for the unfinished file, this process's own; removes what killed processes of this host left."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for old in path.parent.glob(f"{prefix}*"):
        try:
            os.kill(int(old.name.removeprefix(prefix)), 0)  # asks only
        except ProcessLookupError:
            old.unlink(missing_ok=True)
        except PermissionError:  # somebody else's, at work
            continue
    return path.with_name(f"{prefix}{os.getpid()}")
