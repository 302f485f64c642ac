"""The stage split: panels of drawn collages (always) and of real photos (slow), what it refuses, captions, choice."""

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.split import all_right, make_collage, overlap, read_photos
from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES
from data_gen.stages.collage_split import _reading_order, find_panels
from data_gen.stages.split import Split, SplitSettings
from jedi.io.config import ConfigError
from tests.data_gen.conftest import section

WHITE, BLUE = (255, 255, 255), (40, 70, 150)


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """Something like a photo: a soft background, blurred shapes before it, and grain."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    soft = Image.fromarray(numbers.integers(20, 236, (3, 3, 3), dtype=np.uint8))
    image = soft.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.uniform(-0.1, 0.9) * size[0], rng.uniform(-0.1, 0.9) * size[1]
        corners = (x, y, x + rng.uniform(0.05, 0.4) * size[0], y + rng.uniform(0.05, 0.4) * size[1])
        draw.ellipse(corners, fill=tuple(rng.randrange(256) for _ in range(3)))
    image = image.filter(ImageFilter.GaussianBlur(1.5))
    grain = numbers.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def paste(size, boxes, colour=WHITE, seed=0) -> Image.Image:
    """A scene in each box, on a sheet of one colour."""
    sheet = Image.new("RGB", size, colour)
    for number, (left, top, right, bottom) in enumerate(boxes):
        sheet.paste(scene(100 * seed + number, (right - left, bottom - top)), (left, top))
    return sheet


def grid(columns: int, rows: int, side: int = 150, gutter: int = 10, border: int = 10):
    """The size of a sheet and its panels, row by row."""
    places = [(border + x * (side + gutter), border + y * (side + gutter)) for y in range(rows) for x in range(columns)]
    size = (2 * border + columns * (side + gutter) - gutter, 2 * border + rows * (side + gutter) - gutter)
    return size, [(x, y, x + side, y + side) for x, y in places]


def collage(image, captions=None, caption="a photo of a red fox", key="train-00000007") -> SubjectSet:
    provenance = {"prompt": "a collage", "seed": 5, "panel_captions": captions or []}
    return SubjectSet(
        key=key,
        subject={"id": "red-fox", "name": "red fox", "class": "animal"},
        captions=["a collage of a red fox"],
        images=[image],
        masks=[None],
        attributes=[{"style": "photo"}],
        licence="CC0-1.0",
        provenance=provenance | ({"panel_caption": caption} if caption else {}),
    )


def stage(images_per_set=4, seed=0, **settings) -> Split:
    return Split(SplitSettings(**settings), Context("data", images_per_set=images_per_set, seed=seed))


def split(image_or_set, **settings) -> SubjectSet | Dropped:
    one = image_or_set if isinstance(image_or_set, SubjectSet) else collage(image_or_set)
    (result,) = stage(**settings).process([one])
    return result


@pytest.fixture(scope="module")
def six() -> Image.Image:
    """Three columns, two rows."""
    return paste(*grid(3, 2))


@pytest.mark.parametrize("gutter", [0, 3, 12])
@pytest.mark.parametrize("colour", [WHITE, (0, 0, 0), BLUE], ids=["white", "black", "blue"])
def test_grids(gutter, colour):
    size, boxes = grid(3, 2, gutter=gutter, border=gutter)
    found = find_panels(paste(size, boxes, colour), SplitSettings())
    assert found is not None and len(found) == 6
    assert all(overlap(a, b) > 0.97 for a, b in zip(found, boxes, strict=True))  # in reading order, too


def test_unequal_rows_jpeg_and_panels_out_of_place():
    boxes = [(10, 12, 300, 190), (312, 10, 592, 188), (11, 202, 190, 390), (204, 200, 400, 392), (412, 202, 590, 390)]
    packed = io.BytesIO()
    paste((600, 400), boxes).save(packed, "JPEG", quality=60)
    found = find_panels(Image.open(packed), SplitSettings())
    assert found is not None and len(found) == 5
    assert all(overlap(a, b) > 0.95 for a, b in zip(found, boxes, strict=True))


def shares(photos: dict[str, list[Image.Image]], name: str, count: int) -> tuple[float, float]:
    """Of `count` collages of the benchmark: how many with gutters, and without, have all panels right."""
    right = {True: [], False: []}
    for number in range(count):
        made = make_collage(photos, f"{name}/{number}")
        right[made.gutter > 0].append(all_right(find_panels(made.image, SplitSettings()), made.panels))
    for gutters, good in right.items():
        print(f"{'with' if gutters else 'without'} gutters: {sum(good)} of {len(good)}")
    return sum(right[True]) / len(right[True]), sum(right[False]) / len(right[False])


@pytest.mark.slow
def test_collages_of_drawn_scenes():
    """As the benchmark makes them: any number, gutter, border and layout. 26 of 26 and 14 of 14 were right."""
    photos = {str(i): [scene(10 * i + j, (320, 320)) for j in range(5)] for i in range(4)}
    gutters, seams = shares(photos, "drawn", 40)
    assert gutters >= 0.97
    assert seams >= 0.85


@pytest.mark.slow
def test_collages_of_real_photos(root):
    """The benchmark at an eighth of its size, on the subjects that no threshold was found with, without the drawings on
    white. Of the benchmark's 500 collages 97.0 % were right with gutters and 85.8 % without
    (benchmarks/README.md)."""
    folder = root.parent / "shared" / "dreambooth"
    if not folder.is_dir():
        pytest.skip("../shared/dreambooth is not there")
    gutters, seams = shares(read_photos(folder, "report", without=["red_cartoon"]), "test", 60)
    singles = [x for images in read_photos(folder).values() for x in images[::2]]
    refused = sum(find_panels(photo, SplitSettings()) is None for photo in singles)
    print(f"refused {refused} of {len(singles)} single photos")
    assert gutters >= 0.97
    assert seams >= 0.85
    assert refused / len(singles) >= 0.97


def test_large_collages_are_searched_small():
    size, boxes = grid(2, 2, side=700, gutter=20, border=20)
    found = find_panels(paste(size, boxes), SplitSettings())
    assert found is not None and all(overlap(a, b) > 0.97 for a, b in zip(found, boxes, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_one_scene_is_no_collage(seed):
    assert find_panels(scene(seed, (400, 300)), SplitSettings()) is None


@pytest.mark.parametrize("colour", [WHITE, (0, 0, 0), BLUE])
def test_a_framed_photo_is_no_collage(colour):
    assert find_panels(paste((420, 320), [(15, 15, 405, 305)], colour), SplitSettings()) is None


def test_objects_on_white_are_no_collage():
    image = Image.new("RGB", (500, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 80, 220, 330), fill=(200, 60, 40))
    draw.ellipse((280, 60, 460, 340), fill=(40, 60, 200))
    assert find_panels(image, SplitSettings()) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (23, 23), (5000, 4), (40, 40), (64, 30)])
@pytest.mark.parametrize("colour", [WHITE, None])
def test_tiny_and_plain_images(size, colour):
    image = Image.new("RGB", size, colour) if colour else Image.effect_noise(size, 90).convert("RGB")
    assert find_panels(image, SplitSettings()) is None


def test_frames_within_frames():
    """Borders of several colours leave hardly anything: no collage, and no error."""
    for side in (24, 40, 64, 90):
        image = Image.new("RGB", (side, side), "red")
        for width, colour in ((0.1, "blue"), (0.2, "white"), (0.3, "black"), (0.4, "green")):
            edge = round(width * side)
            image.paste(Image.new("RGB", (side - 2 * edge,) * 2, colour), (edge, edge))
        assert find_panels(image, SplitSettings()) is None
        find_panels(image, SplitSettings(widest_gutter=0.2))  # whatever it says: frames may pass for gutters this wide


def test_places_left_empty_are_no_panels():
    size, boxes = grid(2, 2)
    found = find_panels(paste(size, boxes[:3]), SplitSettings())
    assert found is not None and len(found) == 3


def test_reading_order():
    boxes = [(0, 3, 10, 20), (12, 0, 30, 20), (0, 22, 30, 40), (0, 42, 14, 60), (16, 43, 30, 58)]
    assert _reading_order([boxes[i] for i in (4, 1, 3, 0, 2)]) == boxes
    # A tall panel at the left, beside two: the upper one is read before the lower.
    assert _reading_order([(12, 22, 30, 40), (0, 0, 10, 40), (12, 0, 30, 20)]) == [
        (0, 0, 10, 40),
        (12, 0, 30, 20),
        (12, 22, 30, 40),
    ]


def test_a_set_of_panels(six):
    one = collage(six)
    made = split(one, trim=3)
    assert (made.key, made.subject, made.licence) == (one.key, one.subject, one.licence)
    assert made.captions == ["a photo of a red fox"] * 4 and made.masks == [None] * 4
    assert made.provenance == {**one.provenance, "panels_found": 6}
    for image, described, place in zip(made.images, made.attributes, grid(3, 2)[1], strict=False):
        left, top, right, bottom = described["panel"]
        assert described["style"] == "photo"
        assert np.abs(np.array(described["panel"]) - np.array(place) - (3, 3, -3, -3)).max() <= 1
        assert image.mode == "RGB" and image.size == (right - left, bottom - top)
        assert image.tobytes() == six.crop((left, top, right, bottom)).tobytes()
    assert one.images == [six] and one.attributes == [{"style": "photo"}]  # the collage's set did not change


def test_captions(six):
    scenes = [f"scene {i}" for i in range(8)]
    said = "a photo of a red fox"
    assert split(collage(six, scenes)).captions == [said] * 4
    assert split(collage(six, scenes), panel_captions=True).captions == scenes[:4]
    assert split(collage(six, scenes[:5]), panel_captions=True).captions == [said] * 4  # six panels, five captions
    assert split(collage(six, caption=None)).captions == ["a collage of a red fox"] * 4
    drawn = split(collage(six, scenes), panel_captions=True, choose="random", seed=3)
    places = [tuple(described["panel"]) for described in drawn.attributes]
    all_places = [tuple(x["panel"]) for x in split(six, images_per_set=6).attributes]
    assert drawn.captions == [scenes[all_places.index(place)] for place in places]


@pytest.mark.slow
def test_random_panels_depend_on_the_seed_and_the_key_alone(six):
    def drawn(seed, key):
        made = split(collage(six, key=key), images_per_set=3, choose="random", seed=seed)
        return [described["panel"] for described in made.attributes]

    every = [x["panel"] for x in split(six, images_per_set=6).attributes]
    keys = [f"train-{i:08d}" for i in range(6)]
    for key in keys:
        assert drawn(0, key) == drawn(0, key)
        assert drawn(0, key) == [place for place in every if place in drawn(0, key)]  # in reading order
    assert len({str(drawn(0, key)) for key in keys}) > 1
    assert [drawn(0, key) for key in keys] != [drawn(1, key) for key in keys]
    alone = [one.attributes for one in stage(3, choose="random").process([collage(six, key=key) for key in keys])]
    assert [[x["panel"] for x in attributes] for attributes in alone] == [drawn(0, key) for key in keys]


def test_drops(six):
    one = collage(scene(0, (300, 300)))
    assert split(one) == Dropped(one.key, "no collage", {}, one)
    one = collage(six)
    assert split(one, images_per_set=8, min_panels=7) == Dropped(one.key, "too few panels", {}, one)
    assert split(one, min_side=147) == Dropped(one.key, "panels too small", {}, one)
    assert len(split(one, min_panels=6, images_per_set=6).images) == 6


def test_small_panels_are_left_out():
    boxes = [(0, 0, 300, 200), (310, 0, 380, 200), (0, 210, 380, 400)]
    made = split(collage(paste((380, 400), boxes), ["a", "b", "c"]), min_side=100, panel_captions=True)
    assert made.captions == ["a", "c"] and made.provenance["panels_found"] == 3
    assert made.attributes[0]["panel"][2] <= 300 and made.attributes[1]["panel"][1] >= 210


def test_the_stage_is_registered():
    one = STAGES.get("split")(SplitSettings(), Context("data"))
    assert (one.needs, one.gives, one.uses_model) == ({"collage"}, {"images"}, False)
    assert one.process([]) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"choose": "best"}, "split.choose is 'best'; it must be one of first, random"),
        ({"min_panels": 0}, "split.min_panels is 0"),
        ({"trim": -1}, "split.trim is -1"),
        ({"min_side": 4}, "split.min_side is 4"),
        ({"least": 0.6}, "split.least is 0.6"),
        ({"widest_gutter": 0.3}, "split.widest_gutter is 0.3"),
        ({"gutter_evidence": 11}, "split.gutter_evidence is 11"),
        ({"search_size": 100}, "split.search_size is 100"),
    ],
)
def test_impossible_settings(settings, said):
    with pytest.raises(ConfigError, match=said):
        section("split", **settings)


def test_sets_that_cannot_hold_the_panels_wanted():
    with pytest.raises(ConfigError, match="split.min_panels is 5, but sets hold images_per_set=4"):
        stage(4, min_panels=5)
