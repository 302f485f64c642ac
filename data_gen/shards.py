"""Shards: plain webdataset tars of sets, each with a manifest beside it that is written last, by rename.

A shard counts when its manifest stands there. Tars hold no times, so the same sets give the same bytes.
"""

from __future__ import annotations

import errno
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_gen.samples import SubjectSet
from jedi.io.files import atomic, file_sha256, write_json
from jedi.io.images import load_image

FORMAT = 1
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)  # what a full disk and a spent quota say


@dataclass(frozen=True)
class Record:
    """One set as it lies in a tar: the manifest's row (key, n, width, height, ...) and the members by ending."""

    row: Mapping[str, Any]
    members: Mapping[str, bytes]


def encode(sample: SubjectSet, source: str, seed: int) -> Record:
    """A set as bytes: KEY.json, KEY.0.png, KEY.0.mask.png, ..."""
    if "." in sample.key:
        raise ValueError(f"set key {sample.key!r} has a dot; readers of webdataset would cut it there")
    description = {
        "key": sample.key,
        "subject": sample.subject,
        "captions": sample.captions,
        "images": sample.attributes,
        "source": source,
        "seed": seed,
        "licence": sample.licence,
        **({"references": sample.references} if sample.references else {}),
        **({"provenance": sample.provenance} if sample.provenance else {}),
        **({"scores": sample.scores} if sample.scores else {}),
    }
    members = {"json": json.dumps(description, ensure_ascii=False).encode()}
    for i, (image, mask) in enumerate(zip(sample.images, sample.masks, strict=True)):
        members[f"{i}.png"] = png(image)
        if mask is not None:
            members[f"{i}.mask.png"] = png(mask)
    width, height = sample.images[0].size
    return Record({"key": sample.key, "n": len(sample.images), "width": width, "height": height}, members)


def write_shard(path: Path, records: Iterable[Record], header: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `path` (X.tar) and its manifest (X.json: `header`, counts, sha256, the records' rows), and
    returns the manifest.

    A killed writer leaves at most a hidden partial file, or a whole tar without its manifest. A manifest that
    stands there is removed first: it must never describe another tar. Then the old tar, which counts for nothing:
    its space may be what a full disk lacks.
    """
    rows = []
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    with atomic(path) as temporary:
        with tarfile.open(temporary, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for record in records:
                places = []
                for ending, data in record.members.items():
                    member = tarfile.TarInfo(f"{record.row['key']}.{ending}")  # no time, no owner: equal bytes
                    member.size = len(data)
                    places.append(f"{ending}:{tar.offset + tarfile.BLOCKSIZE}:{len(data)}")
                    tar.addfile(member, io.BytesIO(data))
                rows.append({**record.row, "members": " ".join(places)})
        size, digest = temporary.stat().st_size, file_sha256(temporary)
    manifest = {
        "format": FORMAT,
        "shard": path.name,
        "bytes": size,
        "sha256": digest,
        **header,
        "counts": {"sets": len(rows), "images": sum(row["n"] for row in rows)},
        "sets": rows,
    }
    write_json(path.with_suffix(".json"), manifest)
    return manifest


def read_images(tar: tarfile.TarFile, key: str, n: int) -> list[Image.Image]:
    """The images of a set in an open tar. Raises ImageError for a broken one."""
    names = [f"{key}.{i}.png" for i in range(n)]
    return [load_image(tar.extractfile(name).read(), f"{tar.name}: {name}") for name in names]


def thumbnail(image: Image.Image, side: int = 96) -> bytes:
    """A small copy (PNG, RGB, at most `side` pixels) of an image that is not kept, for the report."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    return png(small)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
