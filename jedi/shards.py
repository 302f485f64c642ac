"""Shards: what their manifests say, and the bytes of a set's members, read by offset from plain tars.

A shard is ``X.tar`` with its manifest ``X.json`` beside it. Everything in both may be damaged or hostile: what does not
fit is a `DataError` that names the shard.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jedi.errors import InputError
from jedi.io.images import MAX_PIXELS


class DataError(InputError):
    """Data that cannot be used; the message names the shard and, where there is one, the set."""


class SetRecord(NamedTuple):
    """What a manifest says of one set."""

    shard: int
    key: str
    n: int
    width: int
    height: int
    members: str = ""
    """Where its files lie in the tar, ``ENDING:OFFSET:SIZE`` with spaces between; empty in shards of older versions,
    whose tars are listed."""


class ShardReader:
    """Reads members of sets out of plain tars, in one read a set where they lie together.

    Nothing is kept open: no limit of open files, nothing to share with forked or spawned workers.
    """

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, tuple[int, int]]] = {}

    def read(self, shard: Path, record: SetRecord, endings: Sequence[str]) -> dict[str, bytes]:
        """The members of a set with these endings.

        Raises:
            DataError: one is missing, lies outside of the file, or the file cannot be read.
        """
        places = _places(shard, record) if record.members else self._listed_places(shard, record, endings)
        if missing := next((ending for ending in endings if ending not in places), None):
            raise DataError(f"{shard}: no member {record.key}.{missing}, which its manifest has; {_AGAIN}")
        wanted = sorted((*places[ending], ending) for ending in set(endings))
        found: dict[str, bytes] = {}
        try:
            file = os.open(shard, os.O_RDONLY)
            try:
                length = os.fstat(file).st_size
                for offset, size, ending in wanted:
                    if offset + size > length:
                        where = f"bytes {offset:,} to {offset + size:,} of {length:,}"
                        raise DataError(f"{shard}: {record.key}.{ending} is cut short ({where}); copy the shard again")
                for run in _runs(wanted):
                    start = run[0][0]
                    data = os.pread(file, max(offset + size for offset, size, _ in run) - start, start)
                    found |= {ending: data[offset - start : offset - start + size] for offset, size, ending in run}
            finally:
                os.close(file)
        except OSError as error:
            raise DataError(f"{shard}: cannot be read ({error.strerror}); copy or make it again") from None
        return found

    def _listed_places(self, shard: Path, record: SetRecord, endings: Sequence[str]) -> dict[str, tuple[int, int]]:
        if shard not in self._listed:
            self._listed[shard] = list_members(shard)
        listed, names = self._listed[shard], {ending: f"{record.key}.{ending}" for ending in endings}
        return {ending: listed[name] for ending, name in names.items() if name in listed}


def _places(shard: Path, record: SetRecord) -> dict[str, tuple[int, int]]:
    """Offset and size of each member, by ending, as the manifest says them."""
    places = {}
    for member in record.members.split(" "):
        found = re.fullmatch(r"([!-9;-~]{1,100}):([0-9]{1,18}):([0-9]{1,18})", member)
        if found is None or found[1] in places:
            text = ascii(member)[:60]
            raise DataError(f"{shard}: set {record.key} has a member {text}, expected ENDING:OFFSET:SIZE; {_AGAIN}")
        places[found[1]] = int(found[2]), int(found[3])
    return places


def _runs(places: Sequence[tuple[int, int, str]]) -> list[list[tuple[int, int, str]]]:
    """Sorted places, cut where what lies between two is longer than a read of its own is worth."""
    runs: list[list[tuple[int, int, str]]] = []
    for place in places:
        if not runs or place[0] > sum(runs[-1][-1][:2]) + _GAP:
            runs.append([])
        runs[-1].append(place)
    return runs


IMAGES = ("jpg", "jpeg", "png", "webp")
"""Endings of plain single images."""
TEXTS = ("txt", "json")
"""Endings of their captions; of two the first."""
_AGAIN = "make the shard again"
_GAP = 1 << 20
"""Bytes between two members that are read along."""
_UNFIT = (ValueError, KeyError, TypeError, RecursionError)
"""What reading JSON and looking into it raises where it is not what it should be."""
_MOST_IMAGES = 4096
"""Of a set: more is a damaged number."""


def _said(error: Exception) -> str:
    """What an error says, without the file's content, which some carry."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)[:200] or type(error).__name__


def _expect(fits: bool, name: str, found: object, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name} is {ascii(found)[:60]}, expected {expected}")


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def parse_record(data: bytes, of: SetRecord, shard: Path | str) -> dict:
    """KEY.json; `DataError` unless it is the record of the set that the manifest names."""
    try:
        record = json.loads(data)
        _check_record(record, of)
    except _UNFIT as error:
        where = f"{shard}: {of.key}.json"
        raise DataError(f"{where}: not the record of a set ({_said(error)}); {_AGAIN}") from None
    return record


def origins_of(record: Mapping[str, Any], members: Sequence[int], height: int, width: int) -> list[list[int]]:
    """What SD-XL is told of each image besides its size: height and width that it was made at, and how far down and to
    the right it was cropped once it had been resized. An image of which the record says nothing was made as it is."""
    images = record.get("images", [])
    described = [images[i] if images else {} for i in members]
    return [[*x.get("original_size", (height, width)), *x.get("crop_top_left", (0, 0))] for x in described]


def caption_of(data: bytes, ending: str, name: str) -> str:
    """The caption of a single image, from its .txt, or its .json under "caption"; `DataError` where there is none."""
    try:
        text = json.loads(data)["caption"] if ending == "json" else data.decode("utf-8")
        _expect(isinstance(text, str) and bool(text.split()), "its caption", text, "a text")
        text.encode()
    except _UNFIT as error:
        raise DataError(f"{name}: no caption ({_said(error)}); mend or remove it") from None
    return " ".join(text.split())


def _check_record(record: dict, of: SetRecord) -> None:
    _expect(isinstance(record, dict), "it", record, "an object")
    _expect(record["key"] == of.key, "key", record["key"], f"{of.key!a}, as its manifest says")
    captions, subject, references = record["captions"], record["subject"], record.get("references", [])
    _expect(isinstance(captions, list), "captions", captions, "a list")
    _expect(len(captions) == of.n, "captions", captions, f"as many as images, {of.n}")
    for caption in captions:
        _expect(isinstance(caption, str), "a caption", caption, "a text")
        caption.encode()  # half a surrogate pair is JSON, but no text: a UnicodeEncodeError is a ValueError
    _expect(isinstance(subject, dict), "subject", subject, "an object")
    _expect(isinstance(subject["id"], str) and bool(subject["id"]), "subject.id", subject["id"], "a text")
    subject["id"].encode()
    images = record.get("images", [])
    _expect(isinstance(images, list) and len(images) in (0, of.n), "images", images, f"a list of {of.n} or none")
    for image in images:
        _expect(isinstance(image, dict), "what it says of an image", image, "an object")
        for name, least in (("original_size", 1), ("crop_top_left", 0)):
            pair = image.get(name, [1, 1])
            fits = isinstance(pair, list) and len(pair) == 2 and all(_is_number(x, least, 10**6) for x in pair)
            _expect(fits, f"{name} of an image", pair, f"two whole numbers from {least}")
    whole = isinstance(references, list) and all(_is_number(i, 0, of.n - 1) for i in references)
    _expect(whole and len(set(references)) == len(references), "references", references, "numbers of images, each once")


def read_manifest(path: Path) -> dict:
    """The manifest, its sets as the fields of `SetRecord` after the shard. `DataError` where it is none."""
    if not path.is_file():  # to open a pipe would wait for ever
        raise DataError(f"{path}: not a regular file, and so no manifest; remove it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _expect(isinstance(manifest, dict), "it", manifest, "an object")
        if manifest["format"] != 1:
            raise DataError(f"{path}: format {ascii(manifest['format'])[:40]}, this version reads format 1")
        _expect(_is_number(manifest["bytes"], 0, 1 << 60), "bytes", manifest["bytes"], "a whole number")
        digest = manifest["sha256"]
        _expect(isinstance(digest, str) and bool(re.fullmatch("[0-9a-f]{64}", digest)), "sha256", digest, "64 digits")
        _expect(isinstance(manifest["sets"], list), "sets", manifest["sets"], "a list")
        manifest["sets"] = [_entry(entry) for entry in manifest["sets"]]
        keys = [key for key, *_ in manifest["sets"]]
        _expect(len(set(keys)) == len(keys), "sets", keys, "each key once")
    except DataError:
        raise
    except _UNFIT as error:
        raise DataError(f"{path}: not the manifest of a shard ({_said(error)}); make the shard again") from None
    return manifest


def _entry(entry: dict) -> tuple[str, int, int, int, str]:
    _expect(isinstance(entry, dict), "a set", entry, "an object")
    key, n, width, height = (entry[name] for name in ("key", "n", "width", "height"))
    _expect(isinstance(key, str) and key.isprintable() and 0 < len(key) <= 200, "key", key, "a name")
    _expect(_is_number(n, 1, _MOST_IMAGES), "n", n, f"a whole number from 1 to {_MOST_IMAGES}")
    for name, value in (("width", width), ("height", height)):
        _expect(_is_number(value, 1, MAX_PIXELS), name, value, "a whole number above 0")
    _expect(width * height <= MAX_PIXELS, "width x height", width * height, f"at most {MAX_PIXELS:,}")
    members = entry.get("members", "")
    _expect(isinstance(members, str), "members", members, "a text")
    return key, n, width, height, members


def list_members(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each member of a tar, by name; `DataError` where it cannot be read."""
    members = {}
    try:
        end = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0 or member.offset_data + member.size > end:  # tarfile would go back, for ever
                    raise tarfile.ReadError("a member is outside the file")
                if member.isfile():
                    members[member.name] = member.offset_data, member.size
    except Exception as error:  # tarfile raises almost anything: TarError, ValueError, IndexError, OverflowError
        raise DataError(f"{path}: not a readable tar ({_said(error)}); copy or make it again") from None
    return members
