"""Encoded captions computed once and kept on disk: the text encoders then need no room beside the UNet."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jedi.captions import encode_captions
from jedi.data import DataError, SetDataset, SetIndex
from jedi.io.base import XL_PARTS, Base
from jedi.text import EncodedText
from jedi.training.config import TrainConfig
from jedi.training.part_cache import CachePart, PartCache, cut, damaged, read_bytes

PART_CAPTIONS = 4096
"""Captions of a part: 0.5 GB with Stable Diffusion 1.x, 1.3 GB with SD-XL, in float16."""
BATCH = 64
"""Captions encoded at once."""
_DIGEST, _TYPES = 16, {"F16": 2, "U8": 1, "U32": 4}


class TextCache(PartCache):
    """The captions of a split, each once a part, in float16.

    A part is a safetensors file: ``embeds [m l d]``, of SD-XL ``pooled [m p]`` too, and of each caption a digest, by
    which it is found, and a checksum of its numbers, which is compared whenever it is read.
    """

    what = "captions"

    def __init__(self, index: SetIndex, folder: str | Path, fingerprint: str) -> None:
        super().__init__(index, folder, f"text/{fingerprint}")
        self._rows: dict[bytes, tuple[CachePart, int]] | None = None
        self._layouts: dict[CachePart, dict[str, tuple[int, list[int]]]] = {}

    @classmethod
    def of_run(cls, config: TrainConfig, index: SetIndex, base: Base) -> TextCache:
        """The cache that a training run with this configuration reads."""
        folder = config.data.latents_folder or Path(config.data.folder) / "latents"
        return cls(index, folder, base.fingerprint("text_encoder", "tokenizer", *XL_PARTS))

    def read(self, captions: Sequence[str]) -> dict[str, EncodedText]:
        """Those of the captions that are there, each ``[l d]`` and ``[p]``, in float32 on the CPU.

        Raises:
            DataError: a file of the cache is damaged.
        """
        if self._rows is None:
            self._rows = {}
            for part in self.parts:
                digests = self._numbers(part, "digest", 0, None).reshape(-1, _DIGEST)
                for i, row in enumerate(digests):
                    self._rows.setdefault(row.tobytes(), (part, i))
        found = {caption: self._rows.get(_digest(caption)) for caption in captions}
        return {caption: self._row(*place) for caption, place in found.items() if place is not None}

    def _row(self, part: CachePart, row: int) -> EncodedText:
        names = [name for name in ("embeds", "pooled") if name in self._layout(part)]
        values = {name: self._numbers(part, name, row, row + 1)[0] for name in names}
        if _checksum(values.values()) != self._numbers(part, "crc32", row, row + 1)[0]:
            raise damaged(part, f"caption {row} is not as it was written")
        return EncodedText(**{name: torch.from_numpy(x.astype(np.float32)) for name, x in values.items()})

    def _numbers(self, part: CachePart, name: str, start: int, stop: int | None) -> np.ndarray:
        """Rows of a tensor."""
        begin, (count, *shape) = self._layout(part)[name]
        stop = count if stop is None else stop
        kind = {"digest": "u1", "crc32": "<u4"}.get(name, "<f2")
        width = np.dtype(kind).itemsize * math.prod(shape)
        data = read_bytes(part.path, begin + start * width, (stop - start) * width)
        if len(data) != (stop - start) * width:
            raise damaged(part, "it was cut short")
        return np.frombuffer(data, kind).reshape(stop - start, *shape)

    def _cut(self) -> Iterator[CachePart]:
        for sets, piece in cut(self.index, lambda record: record.n, PART_CAPTIONS):
            part = self._part(sets, piece)
            yield CachePart(part.path.with_name(f"text-{part.path.name}"), sets)

    def _encoded(
        self, part: CachePart, encode: Callable[[Any], Any], report: Callable[[int], None]
    ) -> dict[str, np.ndarray]:
        """``encode``: captions -> :class:`EncodedText` ``[n ...]``."""
        dataset, images = SetDataset(self.index), sum(record.n for record in self._records(part))
        captions = list(dict.fromkeys(caption for i in part.sets for caption in dataset.record(i)["captions"]))
        batches = []
        for start in range(0, len(captions), BATCH):
            batches.append(encode(captions[start : start + BATCH]).map(lambda x: x.to("cpu", torch.float16)))
            report(images * min(start + BATCH, len(captions)) // len(captions))
        text = EncodedText.cat(batches)
        if not text.embeds.isfinite().all():
            raise DataError(f"{part.path.stem}: the text encoder gives numbers that are not finite in float16")
        tensors = {"embeds": text.embeds.numpy()}
        if text.pooled is not None:
            tensors["pooled"] = text.pooled.numpy()
        rows = range(len(captions))
        checksums = [_checksum([tensor[i] for tensor in tensors.values()]) for i in rows]
        tensors["digest"] = np.stack([np.frombuffer(_digest(caption), np.uint8) for caption in captions])
        tensors["crc32"] = np.array(checksums, np.uint32)
        return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}

    def _layout(self, part: CachePart) -> dict[str, tuple[int, list[int]]]:
        """Where each tensor begins, and its shape."""
        if part not in self._layouts:
            try:
                length = int.from_bytes(read_bytes(part.path, 0, 8), "little")
                if length > part.path.stat().st_size:
                    raise ValueError("no head")
                head = json.loads(read_bytes(part.path, 8, length))
                found, end = {}, 0
                for name, about in head.items():
                    shape, (start, stop) = about["shape"], about["data_offsets"]
                    if (
                        stop - start != _TYPES[about["dtype"]] * math.prod(shape)
                        or shape[0] != head["crc32"]["shape"][0]
                    ):
                        raise ValueError(f"{name} of {shape} is at {start} to {stop}")
                    found[name], end = (8 + length + start, shape), max(end, stop)
                if not {"embeds", "digest", "crc32"} <= found.keys() or part.path.stat().st_size != 8 + length + end:
                    raise ValueError(f"{part.path.stat().st_size} bytes, {sorted(found)}")
            except FileNotFoundError:
                raise DataError(f"{part.path}: not there any more; the same command makes it again") from None
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise damaged(part, str(error)) from None
            self._layouts[part] = found
        return self._layouts[part]


def encode_all_text(cache: TextCache, base: Base, show: bool = True) -> None:
    """Fills the cache, the text encoders on the device where they are; with a progress bar on stderr."""
    from tqdm.auto import tqdm

    bar = tqdm(total=cache.count, desc="encoding captions", unit="image", disable=not show)
    with bar, torch.no_grad():
        cache.fill(lambda captions: encode_captions(base, captions), lambda done: bar.update(done - bar.n))


def _digest(caption: str) -> bytes:
    return hashlib.sha256(caption.encode()).digest()[:_DIGEST]


def _checksum(values: Any) -> int:
    total = 0
    for value in values:
        total = zlib.crc32(np.ascontiguousarray(value).tobytes(), total)
    return total
