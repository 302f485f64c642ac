"""The emoji source: exact captions, masks and attributes, and what its settings do."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_gen.drawn_backgrounds import BACKGROUNDS, background
from data_gen.english import with_article
from data_gen.samples import Dropped, Item, SubjectSet
from jedi.io.config import ConfigError
from jedi_toy.drawings import catalogue, drawing_is_held_out, sprite
from jedi_toy.emoji import EmojiSource
from jedi_toy.scenes import Scene, compose
from jedi_toy.wording import NOUNS
from tests.data_gen.conftest import read_sets, section, small_config

# Written out here on purpose: a word that slips out of the module's own list must not slip past the test.
_COLOURS = """
red green blue yellow orange purple violet pink brown black white grey gray gold golden silver dark light
coloured colourful cyan teal turquoise beige rose olive peach lime coral tangerine chestnut cream pale
"""
COLOURS = set(_COLOURS.split())


def scene(**changes) -> Scene:
    plain = Scene("studio", 0, "upright", 0.0, "large", 0.7, "middle", (0.0, 0.0), None, "left", 0.3, None)
    return replace(plain, **changes)


def paint(scene: Scene, figure, size: int):
    """An image of one subject: the figure in it, with the image's own `image` at hand."""
    image = compose([scene], [figure], size)
    return image, image.figures[0]


def source(**changes) -> EmojiSource:
    return EmojiSource(section("emoji", "jedi_toy.emoji", **changes), small_config("unused").context)


def make(source: EmojiSource, split: str, index: int) -> SubjectSet | Dropped:
    return next(source.make([Item(split, index)]))


def test_no_caption_says_a_colour_and_half_say_only_the_class(small):
    names = {drawing.name for drawing in catalogue()} - {None}
    samples = [sample for split in ("train", "heldout") for sample in read_sets(Path(small.out) / split)]
    coarse = total = 0
    for sample in samples:
        named = 0
        for text, image in zip(sample["captions"], sample["images"], strict=True):
            words = text.replace(",", "").split()
            assert text == text.lower() and 3 <= len(words) <= 30
            assert not set(words) & COLOURS, text
            assert any(phrase in text for phrase in BACKGROUNDS.get(image["background"]).phrases), text
            if "name" in image["caption_says"]:
                named += 1
                assert sample["subject"]["name"] in names and sample["subject"]["name"] in text
            for key in ("companion", "accessory"):
                if image[key] and key in image["caption_says"]:
                    assert with_article(image[key]) in text
        assert named <= len(sample["captions"]) // 2
        coarse, total = coarse + len(sample["captions"]) - named, total + len(sample["captions"])
    assert total == 480 and coarse / total >= 0.5


@pytest.mark.slow
def test_captions_stay_coarse_and_true_whatever_is_asked_for():
    samples = [make(source(name_prob=1.0, mention_prob=1.0), "train", i) for i in range(30)]
    named = ["name" in image["caption_says"] for sample in samples for image in sample.attributes]
    assert 0.3 < np.mean(named) <= 0.5
    for sample in samples:
        for text, image in zip(sample.captions, sample.attributes, strict=True):
            if "place" in image["caption_says"]:
                x, y = image["centre"]
                where = {"left": 0.5 - x, "right": x - 0.5, "top": 0.5 - y, "bottom": y - 0.5}
                assert where.get(image["place"], 0.1) >= 0.1 and image["place"] in text
            said_small = bool({"small", "little"} & set(text.replace(",", "").split()))
            assert said_small == (image["size"] == "small")


def test_the_mask_is_the_visible_subject():
    figure = sprite("1F98A")
    with_subject, stands = paint(scene(), figure, 96)
    empty = background("studio", 0, 96)
    changed = np.abs(np.asarray(with_subject.image).astype(int) - np.asarray(empty)).max(-1) > 0
    mask = np.asarray(with_subject.mask) == 255
    assert set(np.unique(with_subject.mask)) == {0, 255}
    assert changed[mask].mean() > 0.98  # inside, the subject is seen
    rim = changed & ~mask
    assert rim.sum() < 0.2 * mask.sum()  # outside, only its soft edge
    assert stands.visible == 1.0
    box = with_subject.mask.getbbox()
    assert abs(max(box[2] - box[0], box[3] - box[1]) - 0.7 * 96) <= 2


def test_what_stands_in_front_is_not_in_the_mask():
    figure = sprite("1F98A")
    alone = np.asarray(paint(scene(fraction=0.9), figure, 96)[1].mask) == 255
    _, image = paint(scene(fraction=0.9, companion="gift"), figure, 96)
    hidden = alone & ~(np.asarray(image.mask) == 255)
    assert hidden.sum() > 20 and not ((np.asarray(image.mask) == 255) & ~alone).any()
    assert image.visible == pytest.approx(1 - hidden.sum() / alone.sum(), abs=1e-3)
    assert hidden[:, 48:].sum() == 0 and hidden[:48].sum() == 0  # the gift stands at the lower left
    bare, dressed = (paint(scene(accessory=name), figure, 96)[1] for name in (None, "sunglasses"))
    assert dressed.visible < 0.97 < bare.visible


def test_poses_sizes_and_places_move_the_subject():
    figure = sprite("1F40A")  # a crocodile: longer than high, and not symmetric
    upright, lying = (paint(scene(angle=angle), figure, 64)[1].mask.getbbox() for angle in (0.0, 90.0))
    assert upright[2] - upright[0] > upright[3] - upright[1] and lying[2] - lying[0] < lying[3] - lying[1]
    masks = [np.asarray(paint(scene(pose=pose), figure, 64)[1].mask) == 255 for pose in ("upright", "mirrored")]
    flipped = masks[1][:, ::-1]
    assert (masks[0] != masks[1]).sum() > 5 * (masks[0] != flipped).sum()
    small, large = (paint(scene(fraction=f), figure, 64)[1].mask.getbbox() for f in (0.4, 0.8))
    assert (large[2] - large[0]) > 1.8 * (small[2] - small[0])
    for place, axis, sign in (("left", 0, -1), ("right", 0, 1), ("top", 1, -1), ("bottom", 1, 1)):
        centre = paint(scene(fraction=0.4, place=place), figure, 64)[1].centre
        assert sign * (centre[axis] - 0.5) > 0.2 and abs(centre[1 - axis] - 0.5) < 0.05


def test_backgrounds_are_many_and_distinct():
    names = list(BACKGROUNDS)
    assert len(names) >= 12
    means = {name: np.mean([np.asarray(background(name, v, 64), float) for v in range(4)], 0) for name in names}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert np.abs(means[first] - means[second]).mean() > 10, (first, second)
        assert background(first, 0, 64).tobytes() != background(first, 1, 64).tobytes()


def test_references_stand_first_in_poses_of_their_own():
    split = source(references=2, reference_poses=["lying"], poses=["upright", "upside down"], mention_prob=1.0)
    for index in range(10):
        made = make(split, "train", index)
        poses = [image["pose"] for image in made.attributes]
        assert made.references == [0, 1] and poses[:2] == ["lying"] * 2
        assert set(poses[2:]) <= {"upright", "upside down"}
    with pytest.raises(ConfigError, match=r"emoji\.references=4 leaves no target"):
        source(references=4)
    with pytest.raises(ConfigError, match=r"emoji\.reference_poses\[0\] is 'flying'"):
        source(reference_poses=["flying"])


@pytest.mark.slow
def test_poses_may_be_said_more_often_than_the_rest():
    rest = {"poses": ["lying"], "sizes": ["large"], "mention_prob": 0.0}
    for of_pose, said in ((1.0, {"pose"}), (None, set())):
        for index in range(5):
            made = make(source(**rest, pose_mention_prob=of_pose), "train", index)
            assert all(set(x["caption_says"]) & {"pose", "size", "place"} == said for x in made.attributes)
    with pytest.raises(ConfigError, match="emoji.pose_mention_prob"):
        source(pose_mention_prob=1.5)


@pytest.mark.slow
def test_companions_cover_references_only():
    half = source(references=2, covered_reference_prob=0.5, cover=[0.5, 0.5], companion_prob=0.0, accessory_prob=0.0)
    bare = source(references=2, companion_prob=0.0, accessory_prob=0.0)
    covered, whole = [], []
    for index in range(40):
        made = make(half, "train", index)
        if not hasattr(made, "attributes"):
            continue  # the companion hid too much of the subject
        assert all(image["companion"] is None for image in made.attributes[2:])
        for image in made.attributes[:2]:
            (covered if image["companion"] else whole).append(image["visible"])
        assert all(image["companion"] is None for image in make(bare, "train", index).attributes)
    assert len(covered) > 20 and len(whole) > 20 and set(whole) == {1.0}
    assert sum(covered) / len(covered) < 0.93
    for wrong in ({"references": 0}, {"references": 1, "vary": ["background"]}):
        with pytest.raises(ConfigError, match="covered_reference_prob needs emoji.references above 0, and companion"):
            source(covered_reference_prob=0.5, **wrong)
    with pytest.raises(ConfigError, match="there is no companion to choose from.*covered_reference_prob=0"):
        source(references=1, covered_reference_prob=0.5, companion_prob=0.0, companions=[])


def test_only_what_varies_differs_within_a_set():
    fixed = source(vary=["background"], jitter=0.03)
    for index in range(10):
        images = make(fixed, "train", index).attributes
        same = ("pose", "angle", "size_fraction", "centre", "companion", "accessory")
        assert len({str([image[key] for key in same]) for image in images}) == 1
        assert len({image["background"] for image in images}) == 4


def test_sets_of_several_subjects_show_each_alone_and_then_all_together():
    both = source(subjects=[2, 3], vary=["background"], mention_prob=1.0, name_prob=0.0)
    counts = set()
    for index in range(20):
        made = make(both, "heldout", index)
        each = made.subject["subjects"]
        counts.add(len(each))
        assert made.references == list(range(len(each))) and len({subject["class"] for subject in each}) == len(each)
        assert all(drawing_is_held_out(subject["code_point"]) for subject in each)
        assert made.subject["id"] == "+".join(subject["id"] for subject in each)
        for i, (image, text) in enumerate(zip(made.attributes, made.captions, strict=True)):
            nouns = [next((n for n in NOUNS[subject["class"]] if n in text), None) for subject in each]
            if i < len(each):
                assert image["subjects"] == [i] and "standing" not in image and nouns[i]
                continue
            assert image["subjects"] == list(range(len(each))) and all(nouns)
            boxes = [figure["box"] for figure in image["standing"]]
            order = sorted(range(len(each)), key=lambda j: boxes[j][0])
            row = ["left", "middle", "right"] if len(each) == 3 else ["left", "right"]
            assert [image["standing"][j]["place"] for j in order] == row
            assert all(boxes[a][2] <= boxes[b][0] + 1 for a, b in itertools.pairwise(order))  # side by side
            words = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
            for noun, figure in zip(nouns, image["standing"], strict=True):
                assert f"{noun} {words[figure['place']]}" in text
            assert all(np.asarray(made.masks[i].crop(box)).any() for box in boxes)
    assert counts == {2, 3}


def test_subjects_in_slots_are_alone_where_they_stand_together():
    both = source(subjects=[2, 3], slots=True, vary=["background"], sizes=["large"], places=["middle"], jitter=0.05)
    for index in range(6):
        made = make(both, "train", index)
        count = len(made.subject["subjects"])
        for j in range(count):
            alone = np.array(made.attributes[j]["box"])
            for image in made.attributes[count:]:
                assert np.abs(np.array(image["standing"][j]["box"]) - alone).max() <= 2
            left = j * 64 // count
            assert alone[0] >= left - 1 and alone[2] <= left + 64 // count + 1
            assert np.asarray(made.images[j]).std((0, 1)).max() > 5
            assert not {"size", "place"} & set(made.attributes[j]["caption_says"])
        places = [figure["place"] for figure in made.attributes[-1]["standing"]]
        assert places == (["left", "right"] if count == 2 else ["left", "middle", "right"])


@pytest.mark.slow
def test_a_mixture_has_each_kind_of_set_by_its_share():
    kinds = [{"share": 3, "vary": ["background"]}, {"subjects": [2]}]
    mixed = source(mixture=kinds, vary=["pose"])
    made = [make(mixed, "train", index) for index in range(120)]
    several = [len(one.subject.get("subjects", [one])) == 2 for one in made]
    assert 0.15 < np.mean(several) < 0.35
    for one, is_several in zip(made, several, strict=True):
        backgrounds = {image["background"] for image in one.attributes}
        assert len(backgrounds) == (1 if is_several else 4)  # the second kind keeps `vary` of the whole section


def test_subjects_are_kept_apart_and_recoloured():
    both = source(recolourings=3)
    for split in ("train", "heldout"):
        subjects = [make(both, split, index).subject for index in range(40)]
        assert all(drawing_is_held_out(subject["code_point"]) == (split == "heldout") for subject in subjects)
        assert {subject["recolouring"] for subject in subjects} == {0, 1, 2}
        assert len({subject["id"] for subject in subjects}) == 40


def test_a_hidden_subject_drops_the_set():
    strict = source(min_visible=1.0, accessory_prob=1.0, accessories=["goggles"])
    assert make(strict, "train", 0) == Dropped("train-00000000", "subject hidden")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"poses": ["standing"]}, "emoji.poses[0] is 'standing'; it must be one of upright"),
        ({"classes": []}, "emoji.classes is empty"),
        ({"large": [0.9, 0.2]}, "emoji.large is [0.9, 0.2]; it must be [least, most]"),
        ({"companions": []}, "set emoji.companion_prob=0"),
        ({"name_prob": 1.5}, "emoji.name_prob is 1.5; it must be 0 to 1"),
        ({"backgrounds": ["beech"]}, "did you mean 'beach'?"),
        ({"subjects": [4]}, "emoji.subjects[0] is 4; it must be 1 to 3"),
        ({"subjects": [2], "classes": ["animal"]}, "needs as many classes"),
        ({"mixture": [{"subject": [2]}]}, "emoji.mixture: unknown key 'subject'"),
        ({"mixture": [{"share": 0}]}, "share is a number above 0, got 0"),
        ({"mixture": [{"poses": ["flying"]}]}, "emoji.mixture: poses[0] is 'flying'"),
    ],
)
def test_senseless_settings_are_refused(changes, part):
    with pytest.raises(ConfigError) as error:
        source(**changes)
    assert part in str(error.value)
