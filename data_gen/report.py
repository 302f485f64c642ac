"""What a data set holds, read back from its shards: `statistics.json` and a contact sheet."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from data_gen.config import DataConfig
from data_gen.shards import whole_file, write_json
from data_gen.sources import SPLITS
from data_gen.stage import manifest_of, shard_path, units
from jedi import images

CONTACT_SHEET = "report/contact_sheet.png"


def write_report(config: DataConfig) -> None:
    """Writes DIR/statistics.json and, last, DIR/report/contact_sheet.png from the shards that are done."""
    out = Path(config.out)
    write_json(out / "statistics.json", statistics(config))
    (out / CONTACT_SHEET).parent.mkdir(exist_ok=True)
    with whole_file(out / CONTACT_SHEET) as partial:
        contact_sheet(config).save(partial, "PNG")


def statistics(config: DataConfig) -> dict[str, Any]:
    """Counts of subjects, classes, attributes, words and drops, by split; a pure function of the shards."""
    result: dict[str, Any] = {"splits": {}}
    vocabulary: set[str] = set()
    licences: set[str] = set()
    for split in SPLITS:
        manifests = [m for unit in units(config) if unit.split == split and (m := manifest_of(config, unit))]
        dropped, attributes, classes, subjects, coarse, longest = Counter(), {}, Counter(), set(), 0, 0
        for manifest in manifests:
            dropped.update(manifest["counts"]["dropped"])
        for sample in read_descriptions(config, split):
            licences.add(sample["licence"])
            subjects.add(sample["subject"]["id"])
            classes[sample["subject"]["class"]] += 1
            for text in sample["captions"]:
                words = text.replace(",", "").split()
                vocabulary.update(words)
                longest = max(longest, len(words))
            for image in sample["images"]:
                coarse += "name" not in image.get("caption_says", ())
                for key, value in image.items():
                    if isinstance(value, str) or value is None:
                        attributes.setdefault(key, Counter())[value or "none"] += 1
        images = sum(manifest["counts"]["images"] for manifest in manifests)
        result["splits"][split] = {
            "shards": len(manifests),
            "bytes": sum(manifest["bytes"] for manifest in manifests),
            "sets": sum(manifest["counts"]["sets"] for manifest in manifests),
            "images": images,
            "dropped": dict(sorted(dropped.items())),
            "subjects": len(subjects),
            "coarse_captions": round(coarse / images, 4) if images else None,
            "longest_caption_words": longest,
            "classes": dict(sorted(classes.items())),
            "attributes": {key: dict(sorted(counts.items())) for key, counts in sorted(attributes.items())},
        }
    result["licences"] = sorted(licences)
    result["vocabulary_size"] = len(vocabulary)
    result["vocabulary"] = sorted(vocabulary)
    return result


def read_descriptions(config: DataConfig, split: str) -> Iterator[dict[str, Any]]:
    """The JSON of every set of a split, in order."""
    for _, tar, member in _members(config, split, ".json"):
        yield json.load(tar.extractfile(member))


def contact_sheet(config: DataConfig) -> Image.Image:
    """Sets as rows, with captions: `contact_sheet_rows` rows, a third of them held-out subjects."""
    heldout_rows = min(config.contact_sheet_rows // 3, config.heldout_sets)
    rows = []
    for split, count in (("train", config.contact_sheet_rows - heldout_rows), ("heldout", heldout_rows)):
        for _, (key, tar, member) in zip(range(count), _members(config, split, ".json"), strict=False):
            sample = json.load(tar.extractfile(member))
            subject = sample["subject"]
            label = " / ".join([subject["name"], subject["class"], subject["id"], sample["key"].split("-")[0]])
            pictures = [tar.extractfile(f"{key}.{i}.png").read() for i in range(len(sample["captions"]))]
            opened = [Image.open(io.BytesIO(picture)) for picture in pictures]
            rows.append([(None, label), *zip(opened, sample["captions"], strict=True)])
    return images.contact_sheet(rows or [[(None, "no sets")]], tile=128)


def _members(
    config: DataConfig, split: str, ending: str
) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    for unit in units(config):
        if unit.split == split and manifest_of(config, unit):
            with tarfile.open(shard_path(config, unit)) as tar:
                for member in tar.getmembers():
                    if member.name.endswith(ending):
                        yield member.name.removesuffix(ending), tar, member
