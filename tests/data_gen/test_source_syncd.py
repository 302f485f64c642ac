"""The importer of SynCD, on files in the layout that the authors' code writes."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from data_gen.samples import Dropped, Item
from data_gen.sources import SOURCES
from data_gen.sources.syncd import Syncd, SyncdSettings
from jedi.errors import InputError
from jedi.io.config import ConfigError
from tests.data_gen.conftest import section
from tests.data_gen.pipelines import context

RIGID = "000074a334c541878360457c672b6c2e"


def entry(stem: str, count: int = 3, **changes) -> dict:
    return {
        "filenames": [f"{stem}_{i}.jpg" for i in range(count)],
        "prompts": [f"prompt {i} of {stem}" for i in range(count)],
        "objaverse_id": "",
        "category": "deformable",
        **changes,
    }


def write(folder: Path, name: str, entries: list[dict]) -> None:
    """Images of 64 pixels, masks of 16 (as gen_deformable.py has them: JPEG, a pixel for each token)."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for one in entries:
        for i, file in enumerate(one["filenames"]):
            Image.new("RGB", (64, 64), (40 * i, 90, 30)).save(folder / file)
            mask = Image.new("L", (16, 16))
            mask.paste(255, (0, 8, 8, 16))
            mask.save(folder / "masks" / f"{Path(file).stem}.jpg")
    (folder / name).write_text(json.dumps(entries))


def scores(one: dict, pairs: float, aesthetic: float) -> dict:
    n = len(one["filenames"])
    triangle = [[pairs if j > i else 0.0 for j in range(n)] for i in range(n)]
    stems = [Path(name).stem for name in one["filenames"]]
    return {"dino_scores": triangle, "aesthetics_scores": {stem: aesthetic + i for i, stem in enumerate(stems)}}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "syncd"
    rigid = entry("17_0", 2, objaverse_id=RIGID, category="rigid", original_filenames=["a/0.png", "a/1.png"])
    write(folder, "metadata_0.json", [entry("snow leopard_0_4_0"), entry("snow leopard_1_4_0"), rigid])
    return folder


def source(folder: Path, changes=None, **section) -> Syncd:
    section = {"heldout_fraction": 0.0, **section}
    common = {"images_per_set": 4, "sets": 100, "heldout_sets": 100, **(changes or {})}
    return Syncd(SyncdSettings(path=str(folder), **section), context(**common))


def made(one: Syncd, split: str = "train") -> list:
    return list(one.make([Item(split, index) for index in range(one.sizes()[split])]))


def test_sets_as_they_are(folder):
    one = source(folder)
    assert one.sizes() == {"train": 3, "heldout": 0} and one.gives == {"images", "masks"}
    first, second, third = made(one)
    assert first.subject == {"id": "snow-leopard-0", "name": "snow leopard", "class": "snow leopard"}
    assert second.subject["id"] == "snow-leopard-1"
    assert third.subject == {"id": RIGID, "name": "object", "class": "object"}
    assert first.captions == [f"prompt {i} of snow leopard_0_4_0" for i in range(3)]
    assert [image.size for image in first.images] == [(64, 64)] * 3
    assert [round(image.getpixel((5, 5))[0] / 40) for image in first.images] == [0, 1, 2]
    assert first.masks[0].size == (64, 64) and first.masks[0].getbbox() == (0, 32, 32, 64)
    assert {value for _, value in first.masks[0].getcolors()} == {0, 255}
    assert first.provenance == {"data_set": "SynCD", "entry": "metadata_0.json[0]", "category": "deformable"}
    assert first.scores == {} and "FLUX.1-dev" in first.licence
    json.dumps([first.subject, first.attributes, first.provenance])
    assert SOURCES.get("syncd") is Syncd and not Syncd.uses_model
    assert [x.images for x in source(folder).make([Item("train", 2)])] == [third.images]


def test_scores_and_thresholds(folder):
    entries = json.loads((folder / "metadata_0.json").read_text())
    for one, (pairs, aesthetic) in zip(entries, [(0.8, 5.0), (0.6, 6.0), (0.9, 6.5)], strict=True):
        one.update(scores(one, pairs, aesthetic))
    (folder / "metadata_0_with_scores.json").write_text(json.dumps(entries))
    first, second, third = made(source(folder))
    assert first.scores == {"syncd_identity": 0.8, "syncd_aesthetic": [5.0, 6.0, 7.0]}
    first, second, third = made(source(folder, min_identity=0.7, min_aesthetic=6.0))
    assert first == Dropped(
        "train-00000000", "syncd aesthetic", {"syncd_identity": 0.8, "syncd_aesthetic": [5.0, 6.0, 7.0]}
    )
    assert second.reason == "syncd identity"
    assert len(third.images) == 2
    (folder / "metadata_0_with_scores.json").unlink()
    with pytest.raises(ConfigError, match=r"metadata_0.json\[0\] has no scores, and syncd.min_identity=0.7"):
        made(source(folder, min_identity=0.7))


def test_more_images_than_a_set_has(folder):
    one = source(folder, {"images_per_set": 2})
    assert one.sizes()["train"] == 5
    first, second, *_ = made(one)
    assert first.captions == ["prompt 0 of snow leopard_0_4_0", "prompt 2 of snow leopard_0_4_0"]
    assert second == Dropped("train-00000001", "too few images", {})


def test_masks_that_are_missing(folder):
    (folder / "masks" / "17_0_1.jpg").unlink()
    assert made(source(folder))[2] == Dropped("train-00000002", "no mask", {})
    one = source(folder, masks=False)
    assert one.gives == {"images"} and made(one)[2].masks == [None, None]


def test_the_split_is_by_object(tmp_path):
    rigid = [entry(f"{i}_0", 2, objaverse_id=f"asset{i % 20}", category="rigid") for i in range(40)]
    write(tmp_path, "metadata.json", rigid)
    one = source(tmp_path, heldout_fraction=0.3)
    ids = {split: {x.subject["id"] for x in made(one, split)} for split in ("train", "heldout")}
    assert len(ids["train"] | ids["heldout"]) == 20 and not ids["train"] & ids["heldout"] and ids["heldout"]
    assert all(size % 2 == 0 for size in one.sizes().values())


def test_inputs_are_the_metadata(folder):
    before = source(folder).inputs()
    assert list(before) == ["metadata_0.json"] and before == source(folder).inputs()
    write(folder, "metadata_1.json", [entry("otter_0_0_1")])
    assert source(folder).inputs() == before | {"metadata_1.json": source(folder).inputs()["metadata_1.json"]}
    assert source(folder).sizes()["train"] == 4


def test_broken_images(folder):
    (folder / "17_0_1.jpg").unlink()
    with pytest.raises(ConfigError, match=r"metadata_0.json\[2\]: .*17_0_1.jpg: no such file"):
        made(source(folder))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("{}", "expected a list of sets, found a dict"),
        ([3], r"metadata_0.json\[0\]: expected 'filenames' as a list of texts"),
        ([{"prompts": ["x"]}], "expected 'filenames' as a list of texts"),
        ([{"filenames": ["a.jpg"], "prompts": ["x", "y"]}], "1 filenames and 2 prompts"),
        ([{"filenames": ["../../etc/passwd"], "prompts": ["x"]}], "leads out of"),
        ([{"filenames": ["/etc/passwd"], "prompts": ["x"]}], "leads out of"),
        ([entry("a_0_0_0") | {"dino_scores": [[0.0]]}], "its scores do not fit its 3 images"),
    ],
)
def test_other_layouts(folder, content, said):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "metadata_0.json").write_text(text)
    with pytest.raises(InputError, match=said):
        source(folder).sizes()


def test_no_such_folder(tmp_path):
    with pytest.raises(ConfigError, match="syncd.path is empty"):
        Syncd(SyncdSettings(), context())
    with pytest.raises(ConfigError, match="no \\*metadata\\*.json there"):
        source(tmp_path).sizes()


@pytest.mark.parametrize("settings", [{"min_identity": 2.0}, {"min_aesthetic": -1.0}, {"heldout_fraction": 1.5}])
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match=f"syncd.{next(iter(settings))}"):
        section("syncd", **settings)


def test_a_mask_that_may_mean_this_or_that_drops_its_set(folder):
    """One of some 90,000 may not end the run."""
    Image.new("RGB", (16, 16), (255, 255, 0)).save(folder / "masks" / "17_0_1.jpg")
    assert made(source(folder))[2] == Dropped("train-00000002", "unclear mask", {})
    assert len(made(source(folder, masks=False))[2].images) == 2


def test_pipes_are_refused_not_waited_for(folder):
    os.mkfifo(folder / "metadata_1.json")
    with pytest.raises(ConfigError, match="metadata_1.json: no regular file"):
        source(folder).sizes()
