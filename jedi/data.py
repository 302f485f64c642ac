"""Shards -> an index -> a batch plan -> batches of sets.

The one rule for order and chance: what a batch holds is a pure function of (index, seed, step). `SetIndex`
reads manifests; `BatchPlan` says which sets make up a global step; `StepSampler` deals a step's sets to ranks
and accumulated micro batches; `SetDataset` reads one set from a tar by offset. Resuming is to start at a
step, there is no state to save; nothing depends on the number of ranks or workers.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jedi.io.files import file_sha256
from jedi.io.images import ImageError, load_image, open_image, to_tensor
from jedi.io.sizes import cropped
from jedi.rng import keyed_generator
from jedi.shards import DataError, SetRecord, ShardReader, caption_of, origins_of, parse_record, read_manifest

log = logging.getLogger(__name__)


class Bucket(NamedTuple):
    """Sets that can stand in one batch: ``n`` images each, all of one size in pixels."""

    n: int
    width: int
    height: int


@dataclass(frozen=True)
class SetIndex:
    """All sets of one split, in the order of the shards' names and of the tars."""

    shards: tuple[Path, ...]
    sets: tuple[SetRecord, ...]
    fingerprint: str
    """sha256 over the shards' sha256: equal when the data are equal, wherever the folder lies."""
    sources: tuple[range, ...] = ()
    """Of several sources, which of the ``sets`` each has."""
    plain: frozenset[int] = frozenset()
    """The shards that hold plain single images (`jedi.single_images`), not sets of ours."""

    @classmethod
    def join(cls, indexes: Sequence[SetIndex]) -> SetIndex:
        """One index of several sources, in this order."""
        shards: list[Path] = []
        sets: list[SetRecord] = []
        sources, plain = [], set()
        for index in indexes:
            first, start = len(shards), len(sets)
            shards += index.shards
            sets += [record._replace(shard=first + record.shard) for record in index.sets]
            sources.append(range(start, len(sets)))
            plain |= {first + shard for shard in index.plain}
        digest = hashlib.sha256("\n".join(index.fingerprint for index in indexes).encode()).hexdigest()
        return cls(tuple(shards), tuple(sets), digest, tuple(sources), frozenset(plain))

    @classmethod
    def read(cls, folder: str | Path, split: str = "train", verify: bool = False) -> SetIndex:
        """Reads the manifests in ``folder/split``; a tar counts when its manifest stands beside it.

        The size of each tar is compared with its manifest, with ``verify`` its sha256 too (reads every byte).

        Raises:
            DataError: nothing there, a manifest without its tar, or a tar that differs from its manifest.
        """
        folder = Path(folder) / split
        if not folder.is_dir():
            raise DataError(f"no data folder {folder}; `python -m data_gen run --config ...` makes one")
        tars, manifests = sorted(folder.glob("*.tar")), sorted(folder.glob("*.json"))
        unfinished = [tar.name for tar in tars if not tar.with_suffix(".json").exists()]
        if not manifests:
            found = f"{len(tars)} tars without a manifest (run the generation again)" if tars else "no shards"
            raise DataError(f"{folder}: {found} (a shard is X.tar with X.json beside it)")
        if unfinished:
            names = ", ".join(unfinished[:5])
            log.warning("%s: %d tars without a manifest are not read: %s", folder, len(unfinished), names)
        shards: list[Path] = []
        sets: list[SetRecord] = []
        digest = hashlib.sha256()
        for path in manifests:
            tar, manifest = path.with_suffix(".tar"), read_manifest(path)
            if not tar.is_file():
                raise DataError(f"{path}: {tar.name} is missing; remove the manifest or make the shard again")
            size = tar.stat().st_size
            if size != manifest["bytes"]:
                raise DataError(f"{tar}: {size} bytes, its manifest says {manifest['bytes']}; copy it again")
            if verify and (found := file_sha256(tar)) != manifest["sha256"]:
                expected = manifest["sha256"]
                raise DataError(f"{tar}: sha256 {found}, its manifest says {expected}; copy it again")
            digest.update(manifest["sha256"].encode())
            number = len(shards)
            sets += [SetRecord(number, *entry) for entry in manifest["sets"]]
            shards.append(tar)
        if not sets:
            raise DataError(f"{folder}: {len(shards)} shards hold no sets")
        return cls(tuple(shards), tuple(sets), digest.hexdigest())

    def buckets(self, set_size: int | None = None, source: range | None = None) -> dict[Bucket, list[int]]:
        """Positions in ``sets`` by bucket, of all or of one of the ``sources``; a set of more than ``set_size`` images
        counts as that many."""
        buckets: dict[Bucket, list[int]] = {}
        for position in range(len(self.sets)) if source is None else source:
            record = self.sets[position]
            n = record.n if set_size is None else min(record.n, set_size)
            buckets.setdefault(Bucket(n, record.width, record.height), []).append(position)
        return dict(sorted(buckets.items()))


class BatchPlan:
    """Which sets make up a global step: a pure function of (index, seed, step).

    Each epoch shuffles every bucket and cuts it into batches of ``batch_size`` sets; what remains of a bucket
    (less than one batch) is left out, another remainder each epoch; the batches of all buckets are shuffled
    together. Buckets smaller than a batch are never used: ``used`` has the others. With ``merge_small`` they join,
    where there is one, the bucket of the same size and the next smaller n: ``merged`` sets train with fewer images than
    they have, others each time.
    """

    def __init__(
        self,
        index: SetIndex,
        batch_size: int,
        seed: int,
        set_size: int | None = None,
        merge_small: bool = False,
        source: range | None = None,
    ) -> None:
        self.index, self.batch_size, self.seed = index, batch_size, seed
        self.buckets, self.merged = index.buckets(set_size, source), 0
        if merge_small:
            self._merge_small()
        sizes = {bucket: len(sets) for bucket, sets in self.buckets.items()}
        self.used = [bucket for bucket, size in sizes.items() if size >= batch_size]
        self.never_used = sum(size for size in sizes.values() if size < batch_size)
        self.steps_per_epoch = sum(sizes[bucket] // batch_size for bucket in self.used)
        self.dropped_per_epoch = sum(sizes[bucket] % batch_size for bucket in self.used)
        small = [
            f"{size} sets of {bucket.n} images, {bucket.width} x {bucket.height}"
            for bucket, size in sizes.items()
            if size < batch_size
        ]
        if not self.steps_per_epoch:
            raise DataError(
                f"batch_size={batch_size} is larger than every bucket ({'; '.join(small)}): "
                "lower batch_size, make more sets, or set data.set_size so that buckets join"
            )
        if small:
            remedy = "" if merge_small else " (data.merge_small_buckets=true lets them join others of their size)"
            log.warning("never used, being fewer than batch_size=%d: %s%s", batch_size, "; ".join(small), remedy)
        self._epoch: tuple[int, list[tuple[Bucket, list[int]]]] = (-1, [])

    def step(self, step: int) -> tuple[Bucket, list[int]]:
        """The bucket of a global step and its ``batch_size`` sets, as positions in ``index.sets``."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][position]

    def _merge_small(self) -> None:
        moved: set[int] = set()
        for bucket in sorted(self.buckets, reverse=True):  # the largest n first: what is still too few goes on
            sets = self.buckets[bucket]
            smaller = [other for other in self.buckets if other[1:] == bucket[1:] and other.n < bucket.n]
            if len(sets) < self.batch_size and smaller:
                self.buckets[max(smaller)] = sorted(self.buckets[max(smaller)] + self.buckets.pop(bucket))
                moved.update(sets)
        self.merged = len(moved)

    def _shuffled(self, epoch: int) -> list[tuple[Bucket, list[int]]]:
        batches = []
        for bucket, sets in self.buckets.items():
            generator = keyed_generator(self.seed, "sets", epoch, *bucket)
            order = torch.randperm(len(sets), generator=generator).tolist()
            for start in range(0, len(sets) - self.batch_size + 1, self.batch_size):
                batches += [(bucket, [sets[i] for i in order[start : start + self.batch_size]])]
        order = torch.randperm(len(batches), generator=keyed_generator(self.seed, "batches", epoch)).tolist()
        return [batches[i] for i in order]


class SetPlan(Protocol):
    """A `BatchPlan`, or several (`jedi.mixture.MixedPlan`)."""

    @property
    def batch_size(self) -> int:
        """Sets per step."""
        ...

    def step(self, step: int) -> tuple[Bucket, list[int]]:
        """See `BatchPlan.step`."""
        ...


class Draw(NamedTuple):
    """One set, asked for: which, of how many images, and its place in the whole run."""

    step: int
    position: int
    """Global sample position, ``step * batch_size + place in the batch``: the key of all its chances."""
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody asks of a Draw
    n: int


class StepSampler:
    """A batch sampler: micro batches of `Draw` for one rank, from step ``start`` to before ``stop`` (or on).

    A step's batch is cut into ``world_size`` slices, each slice into ``accumulate`` micro batches.
    """

    def __init__(
        self,
        plan: SetPlan,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        if plan.batch_size % (world_size * accumulate):
            raise DataError(
                f"batch_size={plan.batch_size} sets cannot be dealt to {world_size} processes x {accumulate} "
                f"accumulated micro batches: make it a multiple of {world_size * accumulate}"
            )
        self.plan, self.rank, self.world_size, self.accumulate = plan, rank, world_size, accumulate
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[list[Draw]]:
        size, step = self.plan.batch_size, self.start
        micro = size // (self.world_size * self.accumulate)
        while self.stop is None or step < self.stop:
            bucket, sets = self.plan.step(step)
            draws = [Draw(step, step * size + i, index, bucket.n) for i, index in enumerate(sets)]
            first = self.rank * size // self.world_size
            for part in range(self.accumulate):
                yield draws[first + part * micro : first + (part + 1) * micro]
            step += 1


@dataclass
class JointBatch:
    """``b`` sets of ``n`` images. Either ``images`` or ``latents`` is there."""

    images: Tensor | None
    """``[b n 3 H W]`` in -1 to 1."""
    latents: Tensor | None
    """``[b n c h w]``, scaled as the UNet wants them; where latents are cached."""
    captions: list[list[str]]
    subject_ids: list[str]
    positions: Tensor
    """int64 ``[b]``, global sample positions."""
    step: int
    """The global step that all these sets belong to."""
    origins: Tensor | None = None
    """int64 ``[b n 4]`` (:func:`jedi.shards.origins_of`); None where they are not known."""

    @property
    def n(self) -> int:
        """Images per set."""
        return len(self.captions[0])

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, *args, **kwargs) -> JointBatch:
        """The batch with its tensors moved, as ``Tensor.to`` does."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> JointBatch:
        """The batch in pinned memory (a DataLoader calls this)."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> JointBatch:
        images = None if self.images is None else function(self.images)
        latents = None if self.latents is None else function(self.latents)
        return replace(self, images=images, latents=latents)


class JointSet(NamedTuple):
    """One set as it is trained on: ``n`` images in an order drawn anew each time."""

    images: Tensor | None
    latents: Tensor | None
    captions: list[str]
    subject_id: str
    position: int
    step: int
    origins: list[list[int]] | None = None


class LatentStore(Protocol):
    """Where a set's latents can be read (`jedi.training.latents.LatentCache`)."""

    def read(self, index: int) -> Tensor:
        """``[n c h w]`` of the set at that position of the index."""
        ...


class SetDataset(Dataset):
    """Reads sets by offset from plain tars: ``dataset[draw]``, or ``dataset[i]``: set ``i`` as it lies."""

    def __init__(self, index: SetIndex, seed: int = 0, latents: LatentStore | None = None) -> None:
        self.index, self.seed, self.latents = index, seed, latents
        self._reader = ShardReader()

    def __len__(self) -> int:
        return len(self.index.sets)

    def __getitem__(self, draw: Draw | int) -> JointSet:
        """The set; for a `Draw`, ``draw.n`` of its images in an order keyed by (seed, position)."""
        if isinstance(draw, int):
            order = list(range(self.index.sets[draw].n))
            draw = Draw(0, draw, draw, len(order))
        else:
            generator = keyed_generator(self.seed, "members", draw.position)
            order = torch.randperm(self.index.sets[draw.index].n, generator=generator).tolist()
        text, *images_of = self._endings(draw.index)
        members = self._members(draw.index, text, *(images_of if self.latents is None else ()))  # one read
        record = self.record(draw.index, members)
        order = first_members(order, record, draw.n)
        captions = [record["captions"][i] for i in order]
        latents = images = None
        if self.latents is not None:
            latents = self.latents.read(draw.index)[list(order)]
        else:
            images = to_tensor([self.image(draw.index, member, members) for member in order])
        of = self.index.sets[draw.index]
        origins = origins_of(record, order, of.height, of.width)
        return JointSet(images, latents, captions, record["subject"]["id"], draw.position, draw.step, origins)

    def record(self, index: int, members: Mapping[str, bytes] | None = None) -> dict:
        """KEY.json of a set, or what stands for it of a single image; ``members``: what has been read of the set."""
        text, *_ = self._endings(index)
        data, of = (members or self._members(index, text))[text], self.index.sets[index]
        if of.shard in self.index.plain:
            return {"captions": [caption_of(data, text, self._name(index, text))], "subject": {"id": of.key}}
        return parse_record(data, of, self.index.shards[of.shard])

    def images(self, index: int, members: Sequence[int]) -> Tensor:
        """``[len(members) 3 H W]`` in -1 to 1."""
        endings = self._endings(index)
        read = self._members(index, *(endings[1 + member] for member in members))
        return to_tensor([self.image(index, member, read) for member in members])

    def image(self, index: int, member: int, members: Mapping[str, bytes] | None = None) -> Image.Image:
        """One image of a set, RGB; ``members``: what has been read of the set."""
        record, ending = self.index.sets[index], self._endings(index)[1 + member]
        data, name = (members or self._members(index, ending))[ending], self._name(index, ending)
        size, plain = (record.width, record.height), record.shard in self.index.plain
        try:
            return cropped(load_image(data, name), size) if plain else load_image(data, name, size)
        except ImageError as error:
            raise DataError(f"{error}; {'mend or remove it' if plain else 'make the shard again'}") from None

    def mask(self, index: int, member: int) -> Image.Image:
        """The mask of one image's subject, mode "L", 255 = subject. Raises `DataError` where the set has none."""
        record = self.index.sets[index]
        ending = f"{member}.mask.png"
        data, where = self._members(index, ending)[ending], self._name(index, ending)
        try:
            mask = open_image(data, where, (record.width, record.height))
        except ImageError as error:
            raise DataError(f"{error}; make the shard again") from None
        if mask.mode != "L":
            raise DataError(f"{where}: an image with colours, no mask; make the shard again")
        return mask

    def _endings(self, index: int) -> list[str]:
        """Of a set's text, then of its images."""
        record = self.index.sets[index]
        if record.shard not in self.index.plain:
            return ["json", *(f"{i}.png" for i in range(record.n))]
        return [member.partition(":")[0] for member in reversed(record.members.split(" "))]

    def _members(self, index: int, *endings: str) -> dict[str, bytes]:
        record = self.index.sets[index]
        return self._reader.read(self.index.shards[record.shard], record, endings)

    def _name(self, index: int, ending: str) -> str:
        record = self.index.sets[index]
        return f"{self.index.shards[record.shard]}: {record.key}.{ending}"


def first_members(order: Sequence[int], record: Mapping, n: int) -> list[int]:
    """``n`` of a set's images, of all of them in some order."""
    # A set of several subjects names the members that show one each: these are references before any other, but leave
    # room for a member that shows them all.
    named = [i for i in order if i in record.get("references", ())]
    others = [i for i in order if i not in named]
    return (named[: n - bool(others)] + others)[:n]


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([x for x in tensors if x is not None])


def collate(sets: Sequence[JointSet]) -> JointBatch:
    """Sets of one bucket -> a batch."""
    return JointBatch(
        images=None if sets[0].images is None else _stacked([s.images for s in sets]),
        latents=None if sets[0].latents is None else _stacked([s.latents for s in sets]),
        captions=[s.captions for s in sets],
        subject_ids=[s.subject_id for s in sets],
        positions=torch.tensor([s.position for s in sets]),
        step=sets[0].step,
        origins=torch.tensor([s.origins for s in sets]) if all(s.origins for s in sets) else None,
    )
