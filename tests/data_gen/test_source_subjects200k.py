"""The importer of Subjects200K, on parquet files with the columns that its page and its readers have."""

import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from data_gen.samples import Dropped, Item
from data_gen.sources import SOURCES
from data_gen.sources.subjects200k import Subjects200k, Subjects200kSettings
from jedi.io.config import ConfigError
from tests.data_gen.conftest import section
from tests.data_gen.pipelines import context

QUALITY = {"compositeStructure": 5, "objectConsistency": 5, "imageQuality": 5}


def composite(number: int, size=(1056, 528)) -> bytes:
    """Left red, right blue, as far as each image goes; white slack around both."""
    image = Image.new("RGB", size, "white")
    width, height = size[0] // 2, size[1]
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, width - 9, height - 9), fill=(200 + number, 0, 0))
    draw.rectangle((width + 8, 8, size[0] - 9, height - 9), fill=(0, 0, 200 + number))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def row(number: int, item: str = "Eames Lounge Chair", **changes) -> dict:
    return {
        "image": {"bytes": composite(number), "path": None},
        "collection": "collection_1",
        "quality_assessment": dict(QUALITY),
        "description": {
            "item": item,
            "description_0": f"The {item} in a living room, {number}.",
            "description_1": f"The {item} in a cabin, {number}.",
            "category": "Furniture",
            "description_valid": True,
        },
        **changes,
    }


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    rows = [row(0), row(1, "Teapot."), row(2)]
    rows[1]["quality_assessment"] = None
    write(tmp_path / "data" / "data" / "train-00000-of-00002.parquet", rows)
    write(tmp_path / "data" / "data" / "train-00001-of-00002.parquet", [row(3, "Globe."), row(4)])
    return tmp_path / "data"


def source(folder: Path, changes=None, **section) -> Subjects200k:
    section = {"heldout_fraction": 0.0, **section}
    common = {"images_per_set": 4, "sets": 100, "heldout_sets": 100, **(changes or {})}
    return Subjects200k(Subjects200kSettings(path=str(folder), **section), context(**common))


def made(one: Subjects200k, split: str = "train") -> list:
    return list(one.make([Item(split, index) for index in range(one.sizes()[split])]))


def test_pairs_as_they_are(folder):
    one = source(folder)
    assert one.sizes() == {"train": 5, "heldout": 0}
    first, second, _, fourth, _ = made(one)
    assert [image.size for image in first.images] == [(512, 512)] * 2
    assert [image.getcolors() for image in first.images] == [[(512 * 512, (200, 0, 0))], [(512 * 512, (0, 0, 200))]]
    assert first.captions == ["The Eames Lounge Chair in a living room, 0.", "The Eames Lounge Chair in a cabin, 0."]
    assert first.subject == {"id": "eames-lounge-chair-0", "name": "Eames Lounge Chair", "class": "Furniture"}
    assert first.scores == {f"subjects200k_{name}": 5 for name in QUALITY} and first.masks == [None, None]
    assert second == Dropped("train-00000001", "subjects200k quality", {})
    assert fourth.subject["name"] == "Globe"
    assert fourth.images[0].getpixel((0, 0)) == (203, 0, 0)
    assert fourth.provenance == {
        "data_set": "Subjects200K",
        "collection": "collection_1",
        "file": "data/train-00001-of-00002.parquet",
        "row": 3,
    }
    json.dumps([first.subject, first.attributes, first.provenance, first.scores])
    assert SOURCES.get("subjects200k") is Subjects200k and Subjects200k.gives == {"images"}


def test_the_order_of_asking_does_not_matter(folder):
    backwards = source(folder)
    items = [Item("train", index) for index in (4, 0, 3, 1, 2)]
    found = {item.index: next(backwards.make([item])) for item in items}
    for index, one in enumerate(made(source(folder))):
        if isinstance(one, Dropped):
            assert found[index] == one
        else:
            assert [x.tobytes() for x in one.images] == [x.tobytes() for x in found[index].images]
            assert (one.captions, one.subject) == (found[index].captions, found[index].subject)


def test_quality(folder):
    low = row(5)
    low["quality_assessment"]["objectConsistency"] = 4
    write(folder / "data" / "train-00002.parquet", [low])
    assert [type(one) is Dropped for one in made(source(folder))] == [False, True, False, False, False, True]
    assert made(source(folder))[5].scores["subjects200k_objectConsistency"] == 4
    assert [type(one) is Dropped for one in made(source(folder, min_quality=4))][5] is False
    assert not any(isinstance(one, Dropped) for one in made(source(folder, min_quality=None)))


def test_what_is_no_pair_is_dropped(folder):
    rows = [row(0), row(1), row(2), row(3)]
    rows[0]["image"]["bytes"] = composite(0, (700, 528))
    rows[1]["description"]["description_1"] = None
    rows[2]["description"]["description_valid"] = False
    rows[3]["description"]["category"] = None
    write(folder / "data" / "train-00002.parquet", rows)
    reasons = [getattr(one, "reason", None) for one in made(source(folder))[5:]]
    assert reasons == ["not two squares side by side", "no valid description", "no valid description", None]
    assert made(source(folder))[8].subject["class"] == "Eames Lounge Chair"


@pytest.mark.slow
def test_the_split_is_by_item(tmp_path):
    small = composite(0, (64, 32))
    rows = [row(0, f"thing {i % 30}", image={"bytes": small, "path": None}) for i in range(90)]
    write(tmp_path / "x.parquet", rows)
    one = source(tmp_path, heldout_fraction=0.3, trim=1)
    names = {split: {x.subject["name"] for x in made(one, split)} for split in ("train", "heldout")}
    assert len(names["train"] | names["heldout"]) == 30 and not names["train"] & names["heldout"] and names["heldout"]
    ids = [x.subject["id"] for split in names for x in made(one, split)]
    assert len(set(ids)) == 90  # pairs of one item were made apart, and may show different ones
    assert source(tmp_path, {"sets": 7, "heldout_sets": 1}).sizes() == {"train": 7, "heldout": 0}


def test_inputs(folder):
    before = source(folder).inputs()
    assert list(before) == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert before == source(folder).inputs()
    write(folder / "data" / "train-00001-of-00002.parquet", [row(3, "Globe"), row(4)])
    after = source(folder).inputs()
    assert after["data/train-00000-of-00002.parquet"] == before["data/train-00000-of-00002.parquet"]
    assert after["data/train-00001-of-00002.parquet"] != before["data/train-00001-of-00002.parquet"]


@pytest.mark.parametrize("stored", [{"bytes": b"no image", "path": None}, {"bytes": None, "path": "0.png"}])
def test_broken_images(folder, stored):
    write(folder / "data" / "train-00002.parquet", [row(0, image=stored), row(1)])
    with pytest.raises(ConfigError, match="train-00002.parquet, row 5: (not an image|no image)"):
        made(source(folder))


def test_other_files(folder, tmp_path):
    write(folder / "other.parquet", [{"image": "a", "text": "b"}])
    with pytest.raises(ConfigError, match="other.parquet: no column 'image' .* among image, text"):
        source(folder).sizes()
    (folder / "other.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ConfigError, match="other.parquet: not a parquet file"):
        source(folder).sizes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no .parquet file there"):
        source(tmp_path / "empty").sizes()
    with pytest.raises(ConfigError, match="subjects200k.path is empty"):
        Subjects200k(Subjects200kSettings(), context())
    with pytest.raises(ConfigError, match="each set of Subjects200K is a pair"):
        source(folder, {"images_per_set": 1})


@pytest.mark.parametrize("settings", [{"min_quality": 6}, {"trim": -1}, {"heldout_fraction": 1.5}])
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match=f"subjects200k.{next(iter(settings))}"):
        section("subjects200k", **settings)


def test_pipes_are_refused_not_waited_for(folder):
    os.mkfifo(folder / "data" / "train-00009.parquet")
    with pytest.raises(ConfigError, match="train-00009.parquet: no regular file"):
        source(folder).sizes()
