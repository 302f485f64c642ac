"""The images of the report: sets with their captions, and examples from both sides of each threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from data_gen.finish import EXAMPLES, PAIRS, is_packed
from data_gen.report.stored import Stored, read_manifest, read_rejected, read_set
from data_gen.report.survey import Place, Survey
from data_gen.samples import SPLITS
from jedi.io import contact_sheet as sheets
from jedi.report.document import Gallery, GalleryImage

TITLES = {"train": "Training sets", "heldout": "Held-out sets"}
_SMALL = 128  # data sets of images up to this many pixels are shown pixel by pixel (jedi.report.page)
_SHOWN = 192  # pixels to which the small copies of dropped images are enlarged, where others are photographs


def rows_of(stored: Stored, count: int) -> dict[str, int]:
    """How many sets of each split are shown: `count` in all, a third of them held out where there are so many."""
    sets = {split: sum(unit.count for unit in stored.plan.units if unit.split == split) for split in SPLITS}
    heldout = min(count // 3, sets["heldout"])
    return {"train": count - heldout, "heldout": heldout}


def contact_sheet(stored: Stored, count: int) -> Image.Image:
    """Sets as rows, with captions; they lie evenly over the data set."""
    rows = []
    for split, wanted in rows_of(stored, count).items():
        for path, key in stored.spread(split, wanted):
            sample, members = read_set(path, key)
            rows.append([(None, f"{label(sample)} / {split}"), *zip(members, sample["captions"], strict=True)])
    return sheets.contact_sheet(rows or [[(None, "no sets")]], tile=128)


def sets(stored: Stored, split: str, count: int) -> list[Gallery]:
    """The same rows as the contact sheet's; no gallery where there is no set."""
    rows, labels = [], []
    for path, key in stored.spread(split, count):
        sample, members = read_set(path, key)
        given = sample.get("references", [])
        pairs = enumerate(zip(members, sample["captions"], strict=True))
        rows.append([GalleryImage(image, caption, reference=i in given) for i, (image, caption) in pairs])
        labels.append(label(sample))
    if not rows:
        return []
    note = "Sets that lie evenly over the data set, each with its subject's name, class and id, and its captions."
    return [Gallery(TITLES[split], rows, labels, note=note)]


def label(sample: dict[str, Any]) -> str:
    subject = sample["subject"]
    return " / ".join(dict.fromkeys(str(subject[name]) for name in ("name", "class", "id")))


def find_examples(stored: Stored, found: Survey) -> dict[str, Path]:
    """The tars of all kept sets that `examples` and `duplicates` show, in one pass over the manifests."""
    keys = {place.key for (_, _, dropped), nearest in found.nearest.items() if not dropped for _, place in nearest}
    return stored.find(keys | {row["of"] for row in stored.duplicates[:PAIRS]})


def examples(stored: Stored, found: Survey, where: Mapping[str, Path], name: str, resolution: int) -> list[Gallery]:
    """What lies nearest to each threshold of a score, on both sides. No gallery where no image can be read."""
    galleries = []
    for limit in found.limits.get(name, ()):
        rows: list[list[GalleryImage | None]] = []
        labels: list[str] = []
        empty = []
        for dropped, word in ((False, "Kept"), (True, "Dropped")):
            nearest = list(found.nearest.get((name, limit, dropped), ()))
            shown = _dropped(stored, nearest, resolution) if dropped else _kept(where, nearest)
            for row, said in _arranged(shown, found.spreads[name].of_images, name):
                rows.append(row)
                labels.append(f"{word}{said}")
            empty += [] if shown else [word.lower()]
        if rows:
            note = f"Of what was {empty[0]} there is no image." if empty else ""
            galleries.append(Gallery(f"Score {name}: both sides of {limit.words}", rows, labels, note=note))
    return galleries


Shown = list[tuple[float, str, list[tuple[Image.Image, str]]]]
"""For each example its score, its set's key, and its images with captions."""


def _kept(where: Mapping[str, Path], nearest: Sequence[tuple[float, Place]]) -> Shown:
    shown = []
    for score, place in nearest:
        if place.key in where:
            sample, members = read_set(where[place.key], place.key)
            shown.append((score, place.key, _of(place, list(zip(members, sample["captions"], strict=True)))))
    return shown


def _dropped(stored: Stored, nearest: Sequence[tuple[float, Place]], resolution: int) -> Shown:
    shown = []
    for score, place in nearest:
        tar = stored.plan.out / "units" / f"{place.unit}.dropped.tar"
        members = read_rejected(tar, place.key, place.n)
        shown.append((score, place.key, _of(place, [(_enlarged(image, resolution), "") for image in members])))
    return shown


def duplicates(stored: Stored, where: Mapping[str, Path], resolution: int) -> list[Gallery]:
    """Some of the sets that `finish` dropped, each with the set that it is like."""
    tar = stored.plan.out / EXAMPLES
    if not is_packed(tar, stored.plan):
        return []
    shown = {row["key"]: row["n"] for row in read_manifest(tar)["sets"]}
    pairs = [(row["key"], row["of"]) for row in stored.duplicates if row["key"] in shown]
    rows, labels = [], []
    for key, of in pairs:
        dropped = read_rejected(tar, key, shown[key])
        kept = [(image, "kept") for image in read_set(where[of], of)[1]] if of in where else []
        both = [*((_enlarged(image, resolution), "dropped") for image in dropped), *kept]
        rows.append([GalleryImage(image, word) for image, word in both])
        labels.append(f"{key} is nearly {of}")
    return [Gallery("Near-duplicates across sets: images", rows, labels)] if rows else []


def _of(place: Place, members: list[tuple[Image.Image, str]]) -> list[tuple[Image.Image, str]]:
    return members if place.image is None else [members[place.image]]


def _enlarged(image: Image.Image, resolution: int) -> Image.Image:
    """The small copy of a photograph smoothly enlarged, so that it can be compared with those that were kept."""
    if resolution <= _SMALL or max(image.size) >= _SHOWN:
        return image
    scale = _SHOWN / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)


def _arranged(shown: Shown, of_images: bool, name: str) -> list[tuple[list[GalleryImage | None], str]]:
    """Rows, with what their labels say of the scores: single images side by side, or each set in a row of its own."""
    if not shown:
        return []
    if of_images:
        scored = [(image, caption or key, score) for score, key, [(image, caption)] in shown]
        return [([GalleryImage(image, caption, {name: score}) for image, caption, score in scored], "")]
    return [
        ([GalleryImage(image, caption) for image, caption in members], f", {score:.4g} ({key})")
        for score, key, members in shown
    ]
