"""Shards: plain webdataset tars of sets, each with a manifest beside it that is written last, by rename.

A shard counts when its manifest stands there. Tars hold no times, so the same sets give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from data_gen.sources import Dropped, SubjectSet
from jedi.folders import file_sha256

FORMAT = 1
PARTIAL = ".partial"  # ending of files that are being written


def write_shard(
    path: Path,
    sets: Iterable[tuple[str, SubjectSet | Dropped]],
    *,
    split: str,
    config_hash: str,
    source: str,
    seed: int,
) -> dict[str, Any]:
    """Writes `path` (X.tar) and its manifest (X.json), and returns the manifest.

    `sets` yields (key, set); keys have no dots. A killed writer leaves at most a hidden partial file, or a
    whole tar without its manifest. A manifest that stands there is removed first: it must never describe
    another tar.
    """
    rows, dropped = [], Counter()
    path.with_suffix(".json").unlink(missing_ok=True)
    with whole_file(path) as partial:
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for key, subject_set in sets:
                    if isinstance(subject_set, Dropped):
                        dropped[subject_set.reason] += 1
                        continue
                    for ending, data in _members(key, subject_set, source, seed):
                        member = tarfile.TarInfo(f"{key}.{ending}")  # no time, no owner: equal bytes
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
                    width, height = subject_set.images[0].size
                    rows.append({"key": key, "n": len(subject_set.images), "width": width, "height": height})
            file.flush()
            os.fsync(file.fileno())
        manifest = {
            "format": FORMAT,
            "shard": path.name,
            "bytes": partial.stat().st_size,
            "sha256": file_sha256(partial),
            "split": split,
            "config_hash": config_hash,
            "counts": {
                "sets": len(rows),
                "images": sum(row["n"] for row in rows),
                "dropped": dict(sorted(dropped.items())),
            },
            "sets": rows,
        }
    write_json(path.with_suffix(".json"), manifest)
    return manifest


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden path to write to, renamed to `path` when the block ends well, removed when it fails.

    Its name holds the process id, so that a writer that is about to die never mixes with the one that
    replaces it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON; the file appears whole or not at all."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _members(key: str, subject_set: SubjectSet, source: str, seed: int) -> Iterator[tuple[str, bytes]]:
    if "." in key:
        raise ValueError(f"set key {key!r} has a dot; readers of webdataset would cut it there")
    description = {
        "key": key,
        "subject": subject_set.subject,
        "captions": subject_set.captions,
        "images": subject_set.attributes,
        "source": source,
        "seed": seed,
        "licence": subject_set.licence,
        **({"references": subject_set.references} if subject_set.references else {}),
    }
    yield "json", json.dumps(description, ensure_ascii=False).encode()
    for i, (image, mask) in enumerate(zip(subject_set.images, subject_set.masks, strict=True)):
        yield f"{i}.png", png(image)
        if mask is not None:
            yield f"{i}.mask.png", png(mask)
