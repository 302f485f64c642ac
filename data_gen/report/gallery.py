"""The images of the report: sets with their captions, and examples from both sides of each threshold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from data_gen.finish import EXAMPLES, PAIRS, is_packed
from data_gen.report.collect import Place, Stored, Survey, read_manifest, read_rejected, read_set
from data_gen.samples import SPLITS
from jedi.io import contact_sheet as sheets
from jedi.report.document import Gallery, GalleryImage

TITLES = {"train": "Training sets", "heldout": "Held-out sets"}
_SMALL = 128  # data sets of images up to this many pixels are shown pixel by pixel (jedi.report.page)
_SHOWN = 192  # pixels to which the small copies of dropped images are enlarged, where others are photographs

Shown = dict[str, list[tuple[dict[str, Any], list[Image.Image]]]]
"""Sets of each split: their JSON and their images."""


def choose_sets(stored: Stored, count: int) -> Shown:
    """`count` sets in all, a third of them held out where there are so many; they lie evenly over the data set."""
    sets = {split: sum(unit.count for unit in stored.plan.units if unit.split == split) for split in SPLITS}
    heldout = min(count // 3, sets["heldout"])
    wanted = {"train": count - heldout, "heldout": heldout}
    return {split: [read_set(*found) for found in stored.spread(split, wanted[split])] for split in SPLITS}


def contact_sheet(shown: Shown) -> Image.Image:
    """Sets as rows, with captions."""
    rows = [
        [(None, f"{_label(sample)} / {split}"), *zip(members, sample["captions"], strict=True)]
        for split, sets in shown.items()
        for sample, members in sets
    ]
    return sheets.contact_sheet(rows or [[(None, "no sets")]], tile=128)


def sets(shown: Shown) -> list[Gallery]:
    """The same rows, a gallery for each split that has sets."""
    note = "Sets at even distances in the data set, each with its subject's name, class and id, and its captions."
    galleries = []
    for split, found in shown.items():
        rows = []
        for sample, members in found:
            given, pairs = sample.get("references", []), zip(members, sample["captions"], strict=True)
            rows.append([GalleryImage(x, caption, reference=i in given) for i, (x, caption) in enumerate(pairs)])
        if rows:
            galleries.append(Gallery(TITLES[split], rows, [_label(sample) for sample, _ in found], note=note))
    return galleries


def _label(sample: dict[str, Any]) -> str:
    subject = sample["subject"]
    return " / ".join(dict.fromkeys(str(subject[name]) for name in ("name", "class", "id")))


def find_examples(stored: Stored, survey: Survey) -> dict[str, Path]:
    """The tars of all kept sets that `examples` and `duplicates` show, in one pass over the manifests."""
    keys = {place.key for (_, _, dropped), nearest in survey.nearest.items() if not dropped for _, place in nearest}
    return stored.find(keys | {row["of"] for row in stored.duplicates[:PAIRS]})


def examples(stored: Stored, survey: Survey, where: Mapping[str, Path], name: str, resolution: int) -> list[Gallery]:
    """What lies nearest to each threshold of a score, on both sides. No gallery where no image can be read."""
    galleries = []
    for limit in survey.limits.get(name, ()):
        rows: list[list[GalleryImage | None]] = []
        labels, empty = [], []
        for dropped, word in ((False, "Kept"), (True, "Dropped")):
            shown = []
            for score, place in survey.nearest.get((name, limit, dropped), ()):
                if members := _members(stored, where, place, dropped, resolution):
                    shown.append((score, place.key, members))
            if not shown:
                empty.append(word.lower())
            elif survey.spreads[name].of_images:  # single images side by side
                rows.append([GalleryImage(x, text or key, {name: score}) for score, key, [(x, text)] in shown])
                labels.append(word)
            else:
                rows += [[GalleryImage(x, text) for x, text in members] for _, _, members in shown]
                labels += [f"{word}, {score:.4g} ({key})" for score, key, _ in shown]
        if rows:
            note = f"There is no image of what was {empty[0]}." if empty else ""
            galleries.append(Gallery(f"Score {name}: both sides of {limit.words}", rows, labels, note=note))
    return galleries


def _members(
    stored: Stored, where: Mapping[str, Path], place: Place, dropped: bool, resolution: int
) -> list[tuple[Image.Image, str]]:
    """The images of an example with their captions; none where it cannot be read."""
    if dropped:
        tar = stored.plan.out / "units" / f"{place.unit}.dropped.tar"
        found = [(_enlarged(image, resolution), "") for image in read_rejected(tar, place.key, place.n)]
    elif place.key in where:
        sample, members = read_set(where[place.key], place.key)
        found = list(zip(members, sample["captions"], strict=True))
    else:
        return []
    return found if place.image is None else [found[place.image]]


def duplicates(stored: Stored, where: Mapping[str, Path], resolution: int) -> list[Gallery]:
    """Some of the sets that `finish` dropped, each with the set that it is like."""
    tar = stored.plan.out / EXAMPLES
    if not is_packed(tar, stored.plan):
        return []
    shown = {row["key"]: row["n"] for row in read_manifest(tar)["sets"]}
    rows, labels = [], []
    for key, of in ((row["key"], row["of"]) for row in stored.duplicates if row["key"] in shown):
        dropped = [GalleryImage(_enlarged(x, resolution), "dropped") for x in read_rejected(tar, key, shown[key])]
        kept = read_set(where[of], of)[1] if of in where else []
        rows.append([*dropped, *(GalleryImage(x, "kept") for x in kept)])
        labels.append(f"{key} is nearly {of}")
    return [Gallery("Near-duplicates across sets: images", rows, labels)] if rows else []


def _enlarged(image: Image.Image, resolution: int) -> Image.Image:
    """The small copy of a photograph smoothly enlarged, so that it can be compared with those that were kept."""
    if resolution <= _SMALL or max(image.size) >= _SHOWN:
        return image
    scale = _SHOWN / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
