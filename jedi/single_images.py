"""Plain single images in webdataset tars, as LAION and img2dataset have them: an index of where each lies.

A sample is ``KEY.jpg`` (or .jpeg, .png, .webp) with its caption in ``KEY.txt``, or in ``KEY.json`` under "caption".
Such tars have no manifests: each is listed once, and the heads of its images are read for their sizes. What was found
is kept in a file of its own for each tar, so an interruption costs one tar at most. Images are cut to one of the sizes
of the training when they are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from jedi.data import SetIndex
from jedi.io.files import FolderInUse, locked, write_text
from jedi.io.images import ImageError, image_size
from jedi.io.sizes import Size, best_size
from jedi.shards import IMAGES, TEXTS, DataError, SetRecord, caption_of, list_members

log = logging.getLogger(__name__)

_FORMAT = 1
_PLACES = re.compile(rf"({'|'.join(IMAGES)}):[0-9]+:[0-9]+ ({'|'.join(TEXTS)}):[0-9]+:[0-9]+")
_HEAD = 1 << 16
"""Bytes of an image that say its size, nearly always."""
_POLL_SECONDS = 1.0

Row = tuple[str, int, int, str]
"""Key, width, height, and where image and caption lie, as in `SetRecord.members`."""


def read_single_images(folder: str | Path, sizes: Sequence[Size], index_folder: str | Path | None = None) -> SetIndex:
    """The images of the tars in ``folder``, as sets of one image that has the one of ``sizes`` that crops it least.

    What is missing of the index is made first, in ``index_folder`` (``folder/index`` if not given), by one of the
    processes that want it. Samples without a caption, or whose image cannot be read, are left out; their number is
    logged.

    Raises:
        DataError: no tars, no images in them, or a tar that cannot be read.
    """
    folder = Path(folder)
    kept = Path(index_folder or folder / "index")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder}: no tars of images; expected X.tar with KEY.jpg and KEY.txt in it")
    found = {tar: _kept(tar, kept) for tar in tars}
    while missing := [tar for tar in tars if found[tar] is None]:
        try:
            kept.mkdir(parents=True, exist_ok=True)
            with locked(kept):
                for tar in tqdm(missing, desc="indexing images", unit="tar"):
                    if _kept(tar, kept) is None:
                        write_text(_file(tar, kept), json.dumps(_list(tar), ensure_ascii=True))
        except FolderInUse:
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            raise DataError(f"{kept}: the index cannot be kept there ({error.strerror}); set index_folder") from None
        found |= {tar: _kept(tar, kept) for tar in missing}
    return _index(folder, tars, found, sizes)


def _index(folder: Path, tars: Sequence[Path], found: dict[Path, Any], sizes: Sequence[Size]) -> SetIndex:
    fit = lru_cache(None)(lambda size: best_size([size], sizes))
    digest, left_out = hashlib.sha256(repr(sorted(sizes)).encode()), Counter[str]()
    sets: list[SetRecord] = []
    for number, tar in enumerate(tars):
        rows, reasons = found[tar]
        left_out.update(reasons)
        digest.update(f"{tar.name}\0{json.dumps(rows)}".encode())
        sets += [SetRecord(number, key, 1, *fit((width, height)), members) for key, width, height, members in rows]
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    if not sets:
        raise DataError(
            f"{folder}: {len(tars)} tars hold no image with a caption" + (f" ({reasons})" if reasons else "")
        )
    if reasons:
        log.warning("%s: not used: %s", folder, reasons)
    return SetIndex(tuple(tars), tuple(sets), digest.hexdigest(), plain=frozenset(range(len(tars))))


def _file(tar: Path, kept: Path) -> Path:
    return kept / f"{tar.name}.json"


def _kept(tar: Path, kept: Path) -> tuple[list[Row], dict[str, int]] | None:
    """What the index says of a tar: its rows, and how many samples are left out by reason; None where there is nothing
    of this tar as it is now."""
    try:
        told, state = json.loads(_file(tar, kept).read_text(encoding="utf-8")), tar.stat()
        if [told["format"], told["bytes"], told["modified"]] != [_FORMAT, state.st_size, state.st_mtime_ns]:
            return None
        rows = [(str(key), int(width), int(height), str(members)) for key, width, height, members in told["images"]]
        if not all(width > 0 < height and _PLACES.fullmatch(members) for _, width, height, members in rows):
            return None
        return rows, {str(reason): int(count) for reason, count in told["left_out"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _list(tar: Path) -> dict[str, Any]:
    """The index of a tar."""
    state, samples = tar.stat(), dict[str, dict[str, tuple[int, int]]]()
    for name, place in list_members(tar).items():
        folder, slash, base = name.rpartition("/")
        key, _, ending = base.partition(".")
        samples.setdefault(folder + slash + key, {})[ending.lower()] = place
    rows, left_out = list[Row](), Counter[str]()
    with tar.open("rb") as file:
        for key, members in samples.items():
            row = _row(tar, file, key, members)
            if isinstance(row, str):
                left_out[row] += 1
            else:
                rows.append(row)
    return {
        "format": _FORMAT,
        "bytes": state.st_size,
        "modified": state.st_mtime_ns,
        "images": rows,
        "left_out": dict(left_out),
    }


def _row(tar: Path, file: Any, key: str, members: dict[str, tuple[int, int]]) -> Row | str:
    """The row of a sample, or why there is none."""

    def read(ending: str, most: int | None = None) -> bytes:
        offset, size = members[ending]
        file.seek(offset)
        return file.read(size if most is None else min(size, most))

    image = next((ending for ending in IMAGES if ending in members), None)
    text = next((ending for ending in TEXTS if ending in members), None)
    if image is None:
        return "without an image"
    if text is None:
        return "without a caption"
    if not key.isprintable() or len(key) > 200:
        return "with a name that cannot be printed"
    try:
        caption_of(read(text), text, "")
    except DataError:
        return "with a caption that cannot be read"
    try:
        try:
            size = image_size(read(image, _HEAD))
        except ImageError:  # some say their size farther behind
            size = image_size(read(image))
    except ImageError:
        return "with an image that cannot be read"
    places = " ".join(f"{ending}:{members[ending][0]}:{members[ending][1]}" for ending in (image, text))
    return key, *size, places
