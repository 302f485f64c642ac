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
from data_gen.finish import RESULT, is_packed
from data_gen.plan import Plan
from data_gen.sets import SPLITS
from data_gen.shards import whole_file, write_json
from jedi import images

CONTACT_SHEET = "report/contact_sheet.png"


def is_reported(config: DataConfig) -> bool:
    """Whether the report on all shards stands there whole."""
    return (Path(config.out) / CONTACT_SHEET).is_file()


def write_report(config: DataConfig, plan: Plan) -> None:
    """Writes DIR/statistics.json and, last, DIR/report/contact_sheet.png from the shards that are packed."""
    out = Path(config.out)
    (out / CONTACT_SHEET).unlink(missing_ok=True)
    write_json(out / "statistics.json", statistics(plan))
    (out / CONTACT_SHEET).parent.mkdir(exist_ok=True)
    with whole_file(out / CONTACT_SHEET) as partial:
        contact_sheet(plan, config.contact_sheet_rows).save(partial, "PNG")


def statistics(plan: Plan) -> dict[str, Any]:
    """Counts of subjects, classes, attributes, words and drops, by split; a pure function of the manifests and
    the shards."""
    result: dict[str, Any] = {"splits": {}}
    vocabulary: set[str] = set()
    licences: set[str] = set()
    for split in SPLITS:
        manifests = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in _shards(plan, split)]
        dropped, attributes, classes, subjects, coarse, longest = drops(plan, split), {}, Counter(), set(), 0, 0
        for sample in read_descriptions(plan, split):
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


def drops(plan: Plan, split: str) -> Counter:
    """Dropped sets by reason, near-duplicates that `finish` found among them."""
    counted = Counter()
    for unit in plan.units:
        if unit.split == split and (manifest := plan.manifest(unit)) is not None:
            counted.update(row["reason"] for row in manifest["dropped"])
    if (result := plan.out / RESULT).is_file():
        rows = json.loads(result.read_text(encoding="utf-8"))["duplicates"]
        counted.update(row["reason"] for row in rows if row["key"].startswith(f"{split}-"))
    return counted


def read_descriptions(plan: Plan, split: str) -> Iterator[dict[str, Any]]:
    """The JSON of every set of a split, in order."""
    for _, tar, member in _members(plan, split, ".json"):
        yield json.load(tar.extractfile(member))


def contact_sheet(plan: Plan, count: int) -> Image.Image:
    """Sets as rows, with captions: `count` rows, a third of them held-out subjects."""
    heldout_rows = min(count // 3, sum(unit.count for unit in plan.units if unit.split == "heldout"))
    rows = []
    for split, wanted in (("train", count - heldout_rows), ("heldout", heldout_rows)):
        for _, (key, tar, member) in zip(range(wanted), _members(plan, split, ".json"), strict=False):
            sample = json.load(tar.extractfile(member))
            subject = sample["subject"]
            label = " / ".join([subject["name"], subject["class"], subject["id"], sample["key"].split("-")[0]])
            pictures = [tar.extractfile(f"{key}.{i}.png").read() for i in range(len(sample["captions"]))]
            opened = [Image.open(io.BytesIO(picture)) for picture in pictures]
            rows.append([(None, label), *zip(opened, sample["captions"], strict=True)])
    return images.contact_sheet(rows or [[(None, "no sets")]], tile=128)


def _shards(plan: Plan, split: str) -> list[Path]:
    return [path for path in sorted((plan.out / split).glob("*.tar")) if is_packed(path, plan)]


def _members(plan: Plan, split: str, ending: str) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    for path in _shards(plan, split):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(ending):
                    yield member.name.removesuffix(ending), tar, member
