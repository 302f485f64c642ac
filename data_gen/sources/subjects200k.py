"""Importer of Subjects200K (OminiControl, arXiv 2411.15098): some 206,000 pairs of images of one subject.

Read from local parquet files, with pyarrow; no code that comes with a data set is ever run. To get them:
`hf download Yuanshi/Subjects200K --repo-type dataset --local-dir DIR`. The columns, as its page and the readers of
its authors have them (github.com/Yuanshi9815/Subjects200K, README.md; OminiControl, omini/train_flux/train_subject.py):

    image               {"bytes", "path"}: both images side by side
    collection          "collection_1", ...
    quality_assessment  {"compositeStructure", "objectConsistency", "imageQuality"}: 0 to 5 by GPT-4o, or null
    description         {"item", "description_0" (left), "description_1" (right), "category", "description_valid"}

Its composites have 1056 x 528 pixels, the page says "512 x 512 resolution, with 16-pixel padding". FLUX made each
composite in one go, so there is no drawn border: the padding is slack around the divide in the middle. So each half
is cut out and trimmed by 8 pixels on every side. (The authors' reader takes the right image from the divide on,
untrimmed; the data could not be had here to settle it.) Not verified either: collection 3, a data set of its own with
images of 1024 pixels, whose descriptions, the page says, may differ: other columns than these are refused by name.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image

from data_gen.context import Context
from data_gen.packages import need
from data_gen.samples import Dropped, SubjectSet
from data_gen.sources import SOURCES
from data_gen.sources.importer import Importer
from data_gen.sources.subjects import PLAIN, same_name, slug
from jedi.io.config import ConfigError
from jedi.io.images import ImageError, load_image
from jedi.io.ranges import Range, Share

QUALITIES = ("compositeStructure", "objectConsistency", "imageQuality")
_COLUMNS = {"image": ("bytes",), "description": ("item", "description_0", "description_1"), "quality_assessment": ()}
_LIGHT = ["quality_assessment", "description.item"]  # what the division into sets needs; no image


@dataclass
class Subjects200kSettings:
    """The `subjects200k` importer."""

    path: str = ""
    """The folder with the parquet files, at any depth."""
    min_quality: Annotated[int, Range(0, 5)] | None = 5
    """Of each quality, as its authors recommend; pairs without are dropped; null: all pairs."""
    trim: Annotated[int, Range(0, 256)] = 8
    """Pixels cut off on every side of both halves."""
    licence: str = "Apache-2.0"
    """As its page on the hub says; of the images, made with FLUX.1."""
    heldout_fraction: Share = 0.1
    """Of the items, by the sha256 of their names."""


@dataclass(frozen=True)
class Row:
    """Where a pair stands."""

    file: Path
    group: int
    index: int
    """In the group."""
    number: int
    """In all files."""
    scores: dict[str, Any]


@SOURCES.register("subjects200k")
class Subjects200k(Importer):
    """Its pairs, in the order of the files; all pairs of an item (by name) are in one split."""

    Settings, name, decides = Subjects200kSettings, "subjects200k", f"its item's name{PLAIN}"
    thresholds = tuple((f"subjects200k_{name}", "min_quality") for name in QUALITIES)

    def __init__(self, settings: Subjects200kSettings, context: Context) -> None:
        super().__init__(settings, context)
        if context.images_per_set < 2:
            raise ConfigError("images_per_set=1, and each set of Subjects200K is a pair: set images_per_set=2 or more")
        self._last: tuple[Any, list[dict[str, Any]]] = (None, [])  # the row group that was read last

    @functools.cached_property
    def files(self) -> list[Path]:
        return self.usable(sorted(self.root.rglob("*.parquet")), "no .parquet file there")

    def found(self) -> Iterator[tuple[str, Row]]:
        number = 0
        for path in self.files:
            file = _open(path)
            for group in range(file.num_row_groups):
                for index, row in enumerate(file.read_row_group(group, columns=_LIGHT).to_pylist()):
                    scores = {f"subjects200k_{k}": v for k, v in (row["quality_assessment"] or {}).items()}
                    item = (row["description"] or {}).get("item") or ""
                    yield same_name(item), Row(path, group, index, number, scores)
                    number += 1

    def inputs(self) -> dict[str, str]:
        """Digests of the files' footers, which hold the sizes, places and ranges of all columns: whole files are too
        large to be read at each launch."""
        return {file.relative_to(self.root).as_posix(): _footer_sha256(file) for file in self.files}

    def make_set(self, key: str, row: Row) -> SubjectSet | Dropped:
        found = [row.scores.get(f"subjects200k_{name}") for name in QUALITIES]
        if self.settings.min_quality is not None and not all(
            isinstance(score, int | float) and score >= self.settings.min_quality for score in found
        ):
            return Dropped(key, "subjects200k quality", row.scores)
        record = self._record(row)
        said = record["description"] or {}
        captions = [said.get(name) or "" for name in ("description_0", "description_1")]
        if not said.get("item") or not all(captions) or said.get("description_valid") is False:
            return Dropped(key, "no valid description", row.scores)
        halves = self._halves(row, record["image"])
        if halves is None:
            return Dropped(key, "not two squares side by side", row.scores)
        name = said["item"].strip().rstrip(".")
        return SubjectSet(
            key=key,
            subject={"id": f"{slug(name)}-{row.number}", "name": name, "class": said.get("category") or name},
            captions=captions,
            images=halves,
            masks=[None, None],
            attributes=[{}, {}],
            licence=self.settings.licence,
            provenance={
                "data_set": "Subjects200K",
                "collection": record.get("collection"),
                "file": row.file.relative_to(self.root).as_posix(),
                "row": row.number,
            },
            scores=row.scores,
        )

    def _record(self, row: Row) -> dict[str, Any]:
        """The whole row. Row groups are read one at a time; sets that follow one another are of one."""
        if self._last[0] != (row.file, row.group):
            self._last = (row.file, row.group), _open(row.file).read_row_group(row.group).to_pylist()
        return self._last[1][row.index]

    def _halves(self, row: Row, stored: dict[str, Any] | None) -> list[Image.Image] | None:
        """Left and right image; None where it is no composite of two squares."""
        where = f"{row.file}, row {row.number}"
        if not stored or not stored.get("bytes"):
            raise ConfigError(f"{where}: no image; expected parquet files that hold the images themselves")
        try:
            whole = load_image(stored["bytes"], where)
        except ImageError as error:
            raise ConfigError(str(error)) from error
        width, height, trim = whole.width // 2, whole.height, self.settings.trim
        if abs(width - height) > 0.1 * height or min(width, height) <= 2 * trim:
            return None
        return [
            whole.crop((left + trim, trim, left + width - trim, height - trim)) for left in (0, whole.width - width)
        ]


def _open(path: Path) -> Any:
    """The parquet file. Raises ConfigError where it is none, or lacks a column."""
    need("pyarrow", "source subjects200k")
    import pyarrow.lib
    import pyarrow.parquet
    import pyarrow.types

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.lib.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    schema = file.schema_arrow
    for column, parts in _COLUMNS.items():
        kind = schema.field(column).type if column in schema.names else None
        if kind is None or not pyarrow.types.is_struct(kind) or any(kind.get_field_index(x) < 0 for x in parts):
            wanted_parts = f" with {', '.join(parts)}" if parts else ""
            raise ConfigError(
                f"{path}: no column {column!r} (a struct{wanted_parts}) among {', '.join(schema.names)}; "
                "is this Subjects200K?"
            )
    return file


def _footer_sha256(path: Path) -> str:
    """sha256 of a parquet file's footer and size."""
    with path.open("rb") as file:
        size = file.seek(-8, 2) + 8
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return hashlib.sha256(file.read() + str(size).encode()).hexdigest()
