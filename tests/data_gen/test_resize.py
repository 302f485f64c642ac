"""The stage `resize`: squares, aspect-ratio buckets, one size a set; and a data set of several sizes."""

import json

import numpy as np
import pytest
from PIL import Image

from data_gen.__main__ import main
from data_gen.config import load_config
from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages.resize import Resize, ResizeSettings
from jedi.data import BatchPlan, Bucket, SetDataset, SetIndex
from jedi.io.config import ConfigError


def stage(resolution=128, **settings):
    return Resize(ResizeSettings(**settings), Context("data", resolution=resolution))


def photos(*sizes, mask=None):
    """A set of grey images; the subject is white, in `mask` (left, top, right, bottom)."""
    images, masks = [], []
    for size in sizes:
        image, shape = Image.new("RGB", size, "grey"), Image.new("L", size)
        if mask:
            image.paste("white", mask)
            shape.paste(255, mask)
        images.append(image)
        masks.append(shape if mask else None)
    about = {"id": "x", "name": "cup", "class": "cup"}
    return SubjectSet(
        "train-0", about, ["a cup"] * len(sizes), images, masks, [{"box": [0, 0, 0, 0]}] * len(sizes), "x"
    )


def test_squares_of_the_resolution():
    (made,) = stage().process([photos((300, 200), (100, 400))])
    assert [image.size for image in made.images] == [(128, 128)] * 2
    told = [(image["original_size"], image["crop_top_left"]) for image in made.attributes]  # of 192 x 128, of 128 x 512
    assert told == [([200, 300], [0, 32]), ([400, 100], [192, 0])]


@pytest.mark.parametrize(
    ("sizes", "size"),
    [([(300, 200), (310, 200)], (152, 104)), ([(200, 400)] * 2 + [(400, 200)], (96, 168)), ([(90, 90)], (128, 128))],
)
def test_a_set_gets_the_bucket_that_leaves_most_of_it(sizes, size):
    bucketed = stage(shape="keep_aspect", multiple_of=8)
    (made,) = bucketed.process([photos(*sizes)])
    assert {image.size for image in made.images} == {size} and size in bucketed.sizes


def test_the_crop_keeps_the_subject_and_its_box():
    """At the far end of a long image."""
    (made,) = stage(64, shape="keep_aspect").process([photos((400, 100), mask=(350, 20, 390, 80))])
    box = made.attributes[0]["box"]
    assert made.images[0].size == (64, 64) == made.masks[0].size
    assert box == list(made.masks[0].getbbox()) and box[2] - box[0] == pytest.approx(26, abs=2)
    assert np.asarray(made.images[0])[32, (box[0] + box[2]) // 2].min() > 250
    (middle,) = stage(64, centre="image").process([photos((400, 100), mask=(350, 20, 390, 80))])
    assert middle.masks[0].getbbox() is None


def test_padding_keeps_all_of_an_image_and_the_subject_in_its_place():
    (made,) = stage(64, fit="pad").process(
        [
            photos((400, 200), mask=(300, 0, 400, 200)),
        ]
    )
    image, mask = made.images[0], made.masks[0]
    assert image.size == mask.size == (64, 64) and mask.getbbox() == (48, 16, 64, 48)
    assert made.attributes[0]["box"] == [48, 16, 64, 48]
    pixels = np.asarray(image).astype(int)
    assert (pixels[30, :40] == 128).all() and pixels[30, 52:].min() > 250  # nothing is cropped
    assert (pixels[:15] == pixels[0, 0]).all() and 128 < pixels[0, 0, 0] < 255  # margins of the edges' mean colour
    (upright,) = stage(128, shape="keep_aspect", multiple_of=8, fit="pad").process([photos((200, 400), (300, 300))])
    assert len({image.size for image in upright.images}) == 1


def test_small_images_and_settings_that_make_no_sense():
    (dropped,) = stage().process([photos((300, 63))])
    assert isinstance(dropped, Dropped) and dropped.reason == "image too small"
    with pytest.raises(ConfigError, match="resize.shape is 'round'; it must be one of square, keep_aspect"):
        load_config({"out": "data", "source": "folder", "stages": ["resize"]}, ["resize.shape=round"])
    with pytest.raises(ConfigError, match="resolution=32 is less than resize.multiple_of=64"):
        stage(32, shape="keep_aspect")


def test_a_folder_of_photos_becomes_a_data_set_of_several_sizes(tmp_path):
    """Upright, lying and square photos; training batches each size by itself."""
    for i, size in enumerate([(60, 100), (100, 60), (64, 64)] * 4):
        folder = tmp_path / "photos" / f"subject{i:02d}"
        folder.mkdir(parents=True)
        for number in range(2):
            colour = (20 * i, 100 * number, 90)
            Image.new("RGB", size, colour).save(folder / f"{number}.png")
    out = tmp_path / "out"
    command = ["run", f"out={out}", "source=folder", f"folder.path={tmp_path / 'photos'}", "resolution=32", "workers=1"]
    keep = ["stages=[resize]", "resize.shape=keep_aspect", "resize.multiple_of=8", "folder.heldout_fraction=0"]
    assert main([*command, *keep]) == 0
    index = SetIndex.read(out)
    assert {bucket: len(sets) for bucket, sets in index.buckets().items()} == {
        Bucket(2, 24, 40): 4,
        Bucket(2, 32, 32): 4,
        Bucket(2, 40, 24): 4,
    }
    sizes = {
        tuple(SetDataset(index)[i].images.shape) for _, sets in map(BatchPlan(index, 4, 0).step, range(3)) for i in sets
    }
    assert sizes == {(2, 3, 40, 24), (2, 3, 32, 32), (2, 3, 24, 40)}
    found = json.loads((out / "statistics.json").read_text())["splits"]["train"]
    assert found["sets_by_pixels"] == {"24 x 40": 4, "32 x 32": 4, "40 x 24": 4}
    assert "one size a set, of at most 1,024 pixels" in (out / "DATA_CARD.md").read_text()
    page = (out / "report" / "report.html").read_text()
    assert "sets of 24 x 40 pixels" in page
