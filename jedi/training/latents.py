"""Latents computed once and kept on disk: on a CPU the VAE costs as much as the UNet.

    python -m jedi.training.latents --config configs/train/tiny.yaml [key=value ...]

encodes what a training run with ``data.cache_latents=true`` reads, with ``data.cache_text=true`` the captions too. Any
number of processes may run it at once, before the training or beside it; the training encodes what is still missing, on
all its processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jedi.data import DataError, SetDataset, SetIndex, SetRecord
from jedi.errors import out_of_memory
from jedi.io import config as configs
from jedi.io.base import Base, load_base
from jedi.io.command_line import Parser, add_settings, exit_code
from jedi.io.devices import find_device
from jedi.io.images import to_tensor
from jedi.training.config import TrainConfig
from jedi.training.part_cache import CachePart, PartCache, cut, damaged, read_bytes
from jedi.training.sources import training_index
from jedi.training.text_cache import TextCache, encode_all_text
from jedi.vae import encode_batch_size, encode_pixels

log = logging.getLogger(__name__)

PART_PIXELS = 2**25
"""Pixels of a part: 128 images of 512 px, 8,192 of 64 px (4 MiB of latents). Seconds on a GPU, minutes on a CPU: what
an interruption costs at most."""
_CHECKSUMS = "crc32"
_DECODERS = 8  # threads that read PNGs, which Pillow does beside Python


class _Rows(NamedTuple):
    """Where the latents of one image size lie in a file: ``[count c h w]`` from byte ``start`` on."""

    start: int
    shape: tuple[int, int, int, int]


class LatentCache(PartCache):
    """Latents of all images of a split, in files of part of a shard each.

    They lie in a folder named after the data and the VAE: when either changes, another is made. A part is a
    safetensors file with a float16 tensor ``[count c h w]`` for each image size and the checksum of each set, which is
    compared whenever the set is read.
    """

    what = "latents"

    def __init__(self, index: SetIndex, folder: str | Path, vae_fingerprint: str) -> None:
        super().__init__(index, folder, vae_fingerprint)
        self._place: list[tuple[int, int]] = []  # of each set: its part, its first row among those of its size
        for number, part in enumerate(self.parts):
            rows: Counter[str] = Counter()
            for record in self._records(part):
                self._place.append((number, rows[_size(record)]))
                rows[_size(record)] += record.n
        self._layouts: dict[CachePart, tuple[dict[str, _Rows], np.ndarray]] = {}
        self._batch_size: dict[tuple[int, int], int] = {}

    @classmethod
    def of_run(cls, config: TrainConfig, index: SetIndex, base: Base) -> LatentCache:
        """The cache that a training run with this configuration reads."""
        folder = config.data.latents_folder or Path(config.data.folder) / "latents"
        return cls(index, folder, base.fingerprint("vae"))

    def read(self, index: int) -> Tensor:
        """Latents of a set, ``[n c h w]`` in float32, in the order of the shard.

        Raises:
            DataError: they are not there, or not as they were written.
        """
        record, (number, row) = self.index.sets[index], self._place[index]
        part = self.parts[number]
        rows, checksums = self._layout(part)
        start, (_, *shape) = rows[_size(record)]
        bytes_per_image = 2 * math.prod(shape)
        data = read_bytes(part.path, start + row * bytes_per_image, record.n * bytes_per_image)
        if _checksum(record, shape, data) != checksums[index - part.sets.start]:
            raise damaged(part, f"the latents of set {record.key} are not those that were written")
        return torch.from_numpy(np.frombuffer(data, "<f2").reshape(record.n, *shape).astype(np.float32))

    def _cut(self) -> Iterator[CachePart]:
        for sets, piece in cut(self.index, lambda x: x.n * x.width * x.height, PART_PIXELS):
            yield self._part(sets, piece)

    def _encoded(
        self, part: CachePart, encode: Callable[[Tensor], Tensor], report: Callable[[int], None]
    ) -> dict[str, np.ndarray]:
        """The tensors of a part's file. ``report`` is called with the number of its images done."""
        dataset, done = SetDataset(self.index), 0
        members: dict[tuple[int, int], list[tuple[int, int]]] = {}
        latents: dict[str, np.ndarray] = {}
        for i in part.sets:
            record = self.index.sets[i]
            members.setdefault((record.width, record.height), []).extend((i, member) for member in range(record.n))
        pool = ThreadPoolExecutor(_DECODERS)
        try:
            for size, of_size in members.items():
                batches = []
                for batch in self._encoded_batches(pool.map(lambda x: dataset.image(*x), of_size), encode, size):
                    if not np.isfinite(batch).all():
                        raise DataError(f"{part.path.stem}: the VAE gives latents that are not finite")
                    batches.append(batch)
                    done += len(batch)
                    report(done)
                # safetensors writes the memory as it lies: in the order of the axes, whatever order the VAE left
                latents["x".join(map(str, size))] = np.ascontiguousarray(np.concatenate(batches))
        finally:
            pool.shutdown(cancel_futures=True)
        checksums, rows = [], {size: iter(of_size) for size, of_size in latents.items()}
        for record in self._records(part):
            of_set = np.stack([next(rows[_size(record)]) for _ in range(record.n)])
            checksums.append(_checksum(record, of_set.shape[1:], of_set.tobytes()))
        return {**latents, _CHECKSUMS: np.array(checksums, np.uint32)}

    def _encoded_batches(
        self, images: Iterator[Image.Image], encode: Callable[[Tensor], Tensor], size: tuple[int, int]
    ) -> Iterator[np.ndarray]:
        """Latents of images of one size, float16, in batches that fit into memory."""
        waiting: list[Image.Image] = []
        self._batch_size.setdefault(size, encode_batch_size(*size))
        while waiting := waiting + list(itertools.islice(images, max(0, self._batch_size[size] - len(waiting)))):
            batch = waiting[: self._batch_size[size]]
            try:
                latents = encode(to_tensor(batch)).to("cpu", torch.float16).numpy()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                what = f"out of memory when encoding {len(batch)} images of {size[0]} x {size[1]} pixels at once"
                if len(batch) == 1:
                    raise DataError(what) from error
                self._batch_size[size] = len(batch) // 2
                log.warning("%s: continuing with %d", what, self._batch_size[size])
                continue
            yield latents
            waiting = waiting[len(batch) :]

    def _layout(self, part: CachePart) -> tuple[dict[str, _Rows], np.ndarray]:
        """Where the latents of each size lie, and the sets' checksums. `DataError` unless the file is as it ought to
        be, but for the latents themselves."""
        if part not in self._layouts:
            wanted: Counter[str] = Counter()
            for record in self._records(part):
                wanted[_size(record)] += record.n
            try:
                self._layouts[part] = _read_layout(part, wanted)
            except FileNotFoundError:
                raise DataError(f"{part.path}: not there any more; the same command makes it again") from None
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise damaged(part, str(error)) from None
        return self._layouts[part]


def _size(record: SetRecord) -> str:
    """The name of the tensor that has images of this size."""
    return f"{record.width}x{record.height}"


def _checksum(record: SetRecord, shape: Sequence[int], data: bytes) -> int:
    """Of a set's latents, and of what they are taken for."""
    return zlib.crc32(data, zlib.crc32(f"{record.key} {list(shape)}".encode()))


def _read_layout(part: CachePart, wanted: dict[str, int]) -> tuple[dict[str, _Rows], np.ndarray]:
    """Reads the head of a file; `ValueError` where it has not ``wanted`` images of each size."""
    length = int.from_bytes(read_bytes(part.path, 0, 8), "little")
    size = part.path.stat().st_size
    if length > size - 8:
        raise ValueError(f"{size} bytes")
    head = json.loads(read_bytes(part.path, 8, length))
    if head.keys() != {*wanted, _CHECKSUMS}:
        raise ValueError(f"it holds {sorted(head)}, not {sorted({*wanted, _CHECKSUMS})}")
    rows, end = {}, 0
    for name, (kind, width) in {**dict.fromkeys(wanted, ("F16", 2)), _CHECKSUMS: ("U32", 4)}.items():
        shape, (start, stop) = head[name]["shape"], head[name]["data_offsets"]
        count = wanted.get(name, len(part.sets))
        if head[name]["dtype"] != kind or shape[0] != count or len(shape) != (1 if name == _CHECKSUMS else 4):
            raise ValueError(f"{name} is {head[name]['dtype']} {shape}, not {kind} of {count}")
        numbers = (start, stop, *shape)
        if not all(type(x) is int for x in numbers) or min(numbers) < 0 or stop - start != width * math.prod(shape):
            raise ValueError(f"{name} of {shape} is at {start} to {stop}")
        rows[name], end = _Rows(8 + length + start, tuple(shape)), max(end, stop)
    if size != 8 + length + end:
        raise ValueError(f"{size} bytes, not {8 + length + end}")
    place = rows.pop(_CHECKSUMS)
    return rows, np.frombuffer(read_bytes(part.path, place.start, 4 * len(part.sets)), "<u4")


def encode_all(cache: LatentCache, vae: torch.nn.Module, show: bool = True) -> None:
    """Fills the cache, the VAE on the device where it is; with a progress bar on stderr."""
    from tqdm.auto import tqdm

    bar = tqdm(total=cache.count, desc="encoding images", unit="image", disable=not show)
    with bar, torch.no_grad():
        cache.fill(lambda images: encode_pixels(vae, images), lambda done: bar.update(done - bar.n))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 2 and one line on stderr when something is wrong with the arguments or the data."""
    name = "python -m jedi.training.latents"
    parser = Parser(prog=name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser, "configs/train/tiny.yaml", "data.path=data/mine")

    def work() -> None:
        if (config := configs.of_command(TrainConfig, parser.parse_args(argv))) is None:
            return
        if config.data.stream.urls:
            raise DataError("data.stream: what is streamed has no index, and its latents are not kept")
        index = training_index(config.data)
        base = load_base(config.base, config.base_revision, config.base_variant, config.base_config)
        cache = LatentCache.of_run(config, index, base)
        device = find_device("cpu" if config.hardware.accelerator == "cpu" else None)
        encode_all(cache, base.vae.to(device))
        print(f"{cache.folder}: the latents of {cache.count} images in {len(cache.parts)} parts")
        if config.data.cache_text:
            text = TextCache.of_run(config, index, base)
            for encoder in base.text_encoders:
                encoder.to(device)
            encode_all_text(text, base)
            print(f"{text.folder}: their captions in {len(text.parts)} parts")

    kept = "; finished parts are kept, the same command resumes"
    return exit_code("jedi.training.latents", work, kept, "smaller images need less")


if __name__ == "__main__":
    sys.exit(main())
