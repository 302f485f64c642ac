"""Training data that are read from the beginning of each tar, over the network, for what fits on no disk.

Sets of ours and plain single images alike, through the webdataset library. The order of the shards is a pure function
of (urls, seed), and where a run begins in it is one of the step. That is all that resuming restores: it starts at the
beginning of a shard, with an empty shuffle buffer, so that some samples come twice and others not at all. Whoever has
room for the data should rather index them (`jedi.data`), which resumes exactly.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from jedi.data import Bucket, JointBatch, JointSet, collate, first_members
from jedi.io.images import ImageError, load_image, to_tensor
from jedi.io.sizes import Size, best_size, cropped
from jedi.rng import keyed_generator, keyed_seed
from jedi.shards import IMAGES, TEXTS, DataError, SetRecord, caption_of, parse_record

log = logging.getLogger(__name__)

SCHEMES = ("http", "https", "gs", "hf")
"""Addresses that webdataset opens, by curl, gsutil and the hub's; besides files. None goes through a shell."""


def expand(patterns: Sequence[str], allow_pipe: bool = False) -> tuple[str, ...]:
    """The tars that these name: ``https://host/{000..999}.tar``, ``data/*.tar``; in this order.

    Raises:
        DataError: a pattern that no file fits, an unknown scheme, or ``pipe:``, which runs a shell command, where it is
            not allowed.
    """
    from webdataset.shardlists import expand_urls

    urls: list[str] = []
    for pattern in patterns:
        scheme = pattern.partition(":")[0] if "://" in pattern or pattern.startswith("pipe:") else ""
        if scheme == "pipe" and not allow_pipe:
            raise DataError(f"{pattern}: this would run a shell command; data.stream.allow_pipe=true allows it")
        if scheme not in ("", "pipe", *SCHEMES):
            raise DataError(f"{pattern}: {scheme}:// is not streamed; known are files, {', '.join(SCHEMES)}, pipe:")
        found = [pattern] if scheme == "pipe" else expand_urls(pattern)
        if not scheme:
            found = [file for name in found for file in sorted(glob.glob(name))]  # noqa: PTH207
            if not found:
                raise DataError(f"{pattern}: no such tar")
        urls += found
    return tuple(urls)


@dataclass(frozen=True)
class StreamPlan:
    """What is streamed, and in which order."""

    urls: tuple[str, ...]
    sizes: tuple[Size, ...]
    """Widths and heights that images are cropped to, all of a set to the one that leaves most of them."""
    batch_size: int
    """Sets per step, over all processes."""
    seed: int
    set_size: int
    """At most so many images of a set are used."""
    samples_per_shard: int
    """About; says where in the shards a step is."""
    shuffle: int = 0
    """Samples that each reader holds to draw from."""

    @property
    def fingerprint(self) -> str:
        """Equal when the same shards are read alike, wherever they lie."""
        names = [url.rpartition("/")[2] for url in self.urls]
        text = repr((names, self.sizes, self.set_size, self.samples_per_shard, self.shuffle))
        return hashlib.sha256(text.encode()).hexdigest()

    def shard(self, position: int) -> str:
        """The tar at a place in the endless order of shards: each epoch has all, shuffled anew."""
        epoch, place = divmod(position, len(self.urls))
        generator = keyed_generator(self.seed, "shards", epoch)
        return self.urls[int(torch.randperm(len(self.urls), generator=generator)[place])]

    def first_shard(self, step: int) -> int:
        """The place in that order at which a run that begins with this step begins."""
        return step * self.batch_size // self.samples_per_shard


@dataclass
class StreamDataset(IterableDataset):
    """Micro batches of one rank: `JointBatch`es from step ``start`` to before ``stop``.

    Shards are dealt in turn to all data workers of all ranks. A batch holds sets of one number of images and one size;
    at the same step other ranks may have another. Broken single images are left out and counted; broken sets and tars
    end the run.
    """

    plan: StreamPlan
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    start: int = 0
    stop: int | None = None
    _left_out: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.plan.batch_size % (self.world_size * self.accumulate):
            raise DataError(
                f"batch_size={self.plan.batch_size} sets cannot be dealt to {self.world_size} processes x "
                f"{self.accumulate} accumulated micro batches"
            )

    def __iter__(self) -> Iterator[JointBatch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        share = self.plan.batch_size // self.world_size
        micro = share // self.accumulate
        number = worker  # of a micro batch among those of this rank: the loader takes from its workers in turn
        waiting: dict[Bucket, list[JointSet]] = {}
        sets = self._sets(self.rank * workers + worker, self.world_size * workers)
        while self.stop is None or self.start + number // self.accumulate < self.stop:
            one = next(sets)
            n, _, height, width = one.images.shape  # type: ignore[union-attr] # no latents are streamed
            bucket = waiting.setdefault(Bucket(n, width, height), [])
            bucket.append(one)
            if len(bucket) == micro:
                step, part = self.start + number // self.accumulate, number % self.accumulate
                first = step * self.plan.batch_size + self.rank * share + part * micro
                yield collate([x._replace(position=first + i, step=step) for i, x in enumerate(bucket)])
                bucket.clear()
                number += workers

    def _sets(self, reader: int, readers: int) -> Iterator[JointSet]:
        """The sets of one reader of so many, without end, decoded."""
        from webdataset.filters import shuffle

        seed = keyed_seed(self.plan.seed, "stream", self.start, reader)
        generator, samples = keyed_generator(seed, "members"), self._samples(reader, readers)
        if self.plan.shuffle:
            samples = shuffle(self.plan.shuffle, initial=self.plan.shuffle, rng=random.Random(seed))(samples)
        for sample in samples:
            one = self._decoded(sample, generator)
            if one is not None:
                yield one

    def _samples(self, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        """Samples as they lie in the tars. `DataError` for what cannot be read, or where nothing is found at all."""
        from webdataset.tariterators import tarfile_samples

        place, empty = self.plan.first_shard(self.start) + reader, 0
        while True:
            url, found = self.plan.shard(place), False
            try:
                for sample in tarfile_samples(iter([{"url": url}])):
                    if "0.png" in sample or any(ending in sample for ending in IMAGES):
                        found = True
                        yield sample
            except Exception as error:  # of curl, of tarfile, of the file system
                said = " ".join(str(error.args[0] if error.args else error).split())[:200] or type(error).__name__
                raise DataError(f"{url}: cannot be streamed ({said})") from None
            empty = 0 if found else empty + 1
            if empty > len(self.plan.urls):
                raise DataError(f"{url}: no images in {empty} tars one after another; expected KEY.jpg and KEY.txt")
            place += readers

    def _decoded(self, sample: dict[str, Any], generator: torch.Generator) -> JointSet | None:
        """None of a single image that is left out."""
        key, url = sample["__key__"], sample["__url__"]
        if "0.png" in sample:
            endings = [f"{i}.png" for i in range(sum(name.removesuffix(".png").isdigit() for name in sample))]
            record = parse_record(sample.get("json", b""), SetRecord(0, key, len(endings), 0, 0), url)
        else:
            endings = [next(ending for ending in IMAGES if ending in sample)]
            text = next((ending for ending in TEXTS if ending in sample), "txt")
            try:
                caption = caption_of(sample.get(text, b""), text, f"{url}: {key}.{text}")
                image = load_image(sample[endings[0]], f"{url}: {key}.{endings[0]}")
            except (DataError, ImageError) as error:
                self._left_out += 1
                if self._left_out in (1, 10, 100) or self._left_out % 1000 == 0:
                    log.warning("%s: left out, the %d. sample of this reader", error, self._left_out)
                return None
            fitted = to_tensor([cropped(image, best_size([image.size], self.plan.sizes))])
            return JointSet(fitted, None, [caption], key, 0, 0)
        order = torch.randperm(len(endings), generator=generator).tolist()
        order = first_members(order, record, min(len(order), self.plan.set_size))
        try:
            images = [load_image(sample[endings[i]], f"{url}: {key}.{endings[i]}") for i in order]
        except ImageError as error:
            raise DataError(f"{error}; make the shard again") from None
        size = best_size([image.size for image in images], self.plan.sizes)
        pixels = to_tensor([cropped(image, size) for image in images])
        return JointSet(pixels, None, [record["captions"][i] for i in order], record["subject"]["id"], 0, 0)
