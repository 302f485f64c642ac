"""A data set to the hub: its shards as they are, with a card whose settings let the hub's viewer read them."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import yaml

from data_gen.samples import SPLITS
from jedi.data import SetIndex
from jedi.errors import InputError
from jedi.io.files import atomic, read_own_json
from jedi.io.push import check_name, push

FILES = (
    "README.md",
    "DATA_CARD.md",
    "statistics.json",
    *(f"{split}/*.{end}" for split in SPLITS for end in ("tar", "json")),
)
"""What is uploaded: neither prompts, units and logs, nor the report's pages."""
_LICENCES = {"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "apache-2.0", "mit", "openrail", "unknown"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))


def push_data(folder: Path, name: str, private: bool = False) -> str:
    """Writes README.md into the folder of a finished data set and uploads it; returns its address on the hub.

    Raises:
        InputError: not a finished data set, or the hub does not take it.
    """
    check_name(name, "push")
    if not (folder / "DATA_CARD.md").is_file():
        raise InputError(f"{folder} holds no finished data set: it has no DATA_CARD.md")
    statistics = read_own_json(folder / "statistics.json", "make it again with the verb report", licences=list)
    indexes = {split: SetIndex.read(folder, split) for split in SPLITS if any((folder / split).glob("*.tar"))}
    if not indexes:
        raise InputError(f"{folder} holds no shard")
    with atomic(folder / "README.md") as temporary:
        head = yaml.safe_dump(settings(indexes, statistics["licences"]), sort_keys=False)
        card = (folder / "DATA_CARD.md").read_text(encoding="utf-8")
        temporary.write_text(f"---\n{head}---\n\n{card}", encoding="utf-8")
    return push(folder, name, "dataset", private, FILES)


def settings(indexes: dict[str, SetIndex], licences: list[str]) -> dict[str, Any]:
    """The head of the card, as the hub reads it.

    Its viewer would take the fields of all sets to be those of the first: they are named, so that sets of several
    sizes can be read.
    """
    count = sum(len(index.sets) for index in indexes.values())
    most = max(record.n for index in indexes.values() for record in index.sets)
    with tarfile.open(next(iter(indexes.values())).shards[0]) as tar:
        names = {re.sub(r"^\d+", "{}", member.name.partition(".")[2]) for member in tar}
    images = [name.format(i) for i in range(most) for name in sorted(names, reverse=True) if name.startswith("{}")]
    known = [name.lower().replace(" ", "-") for name in licences]
    licence = known[0] if len(known) == 1 and known[0] in _LICENCES else "other"
    return {
        "license": licence,
        **({"license_name": "; ".join(licences)[:200] or "unknown"} if licence == "other" else {}),
        "task_categories": ["text-to-image"],
        "tags": ["jedi-diffusion", "webdataset", "subject-driven"],
        "size_categories": [next((text for most, text in _SIZES if count < most), "n>10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}/*.tar"} for split in indexes],
            }
        ],
        "dataset_info": {
            "features": [
                {"name": "__key__", "dtype": "string"},
                {
                    "name": "json",
                    "struct": [{"name": "captions", "list": "string"}, {"name": "licence", "dtype": "string"}],
                },
                *({"name": name, "dtype": "image"} for name in images),
            ]
        },
    }
