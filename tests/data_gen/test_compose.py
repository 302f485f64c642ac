"""Two subjects in one image: both whole, side by side, with references of their own that training takes first."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_gen.samples import Dropped
from data_gen.stages import STAGES
from data_gen.stages.backgrounds import BackgroundSettings
from data_gen.stages.compose import Compose, ComposeSettings, pairs
from data_gen.stages.compositing import EdgesSettings
from jedi.data import Draw, SetDataset, SetIndex
from jedi.io.config import ConfigError
from tests.conftest import _add
from tests.data_gen.conftest import section
from tests.data_gen.made_sets import SIDE, context, copied, make_set, make_unit, pixels, same

PAINTED = BackgroundSettings(painted=True, count=40)


def compose(images_per_set: int = 5, seed: int = 0, resolution: int = SIDE, **changes) -> Compose:
    settings = ComposeSettings(**{"share": 1.0, "backgrounds": PAINTED, **changes})
    return Compose(settings, context(images_per_set=images_per_set, seed=seed, resolution=resolution))


def new_sets(sets, **changes):
    return compose(**changes).process(sets)[len(sets) :]


def test_neighbours_of_different_classes_pair_up_within_a_split():
    unit = make_unit()
    assert [(a.key, b.key) for a, b in pairs(unit)] == [
        ("train-00000000", "train-00000001"),
        ("train-00000002", "train-00000003"),
    ]
    foxes = [make_set(i, "red fox", "animal", (200, 40, 40)) for i in range(3)]
    assert list(pairs(foxes)) == []
    late = [*foxes, make_set(3, "cup", "thing", (1, 2, 200)), make_set(4, "cup", "thing", (1, 2, 200), split="heldout")]
    assert [(a.key, b.key) for a, b in pairs(late)] == [("train-00000000", "train-00000003")]
    both = replace(unit[1], subject={**unit[1].subject, "subjects": [{}, {}]})
    assert [(a.key, b.key) for a, b in pairs([unit[0], both, unit[2]])] == [("train-00000000", "train-00000002")]


def test_the_new_set_has_the_form_of_the_emoji_sources():
    unit = make_unit()
    untouched = [copied(one) for one in unit]
    made = compose().process(unit)
    assert all(x is y for x, y in zip(made, unit, strict=False)) and len(made) == 6
    assert all(same(a, b) for a, b in zip(unit, untouched, strict=True))
    for one, (a, b) in zip(made[4:], pairs(unit), strict=True):
        assert one.key == f"{a.key}-with-{b.key.removeprefix('train-')}" and one.split == "train" and "." not in one.key
        assert one.subject == {
            "id": f"{a.subject['id']}+{b.subject['id']}",
            "name": f"{a.subject['name']} and {b.subject['name']}",
            "class": f"{a.subject['class']} and {b.subject['class']}",
            "subjects": [a.subject, b.subject],
        }
        assert one.references == [0, 1] and one.licence == "CC0-1.0"
        assert [described["subjects"] for described in one.attributes] == [[0], [1], [0, 1], [0, 1], [0, 1]]
        assert len(one.captions) == len(one.images) == len(one.masks) == 5
        record = one.provenance["compose"]
        assert record["sets"] == [a.key, b.key]
        for j, source in enumerate((a, b)):
            (i,) = record["references"][j]
            assert one.images[j] is source.images[i] and one.captions[j] == source.captions[i]
            assert one.masks[j] is source.masks[i] and one.attributes[j]["member"] == i
            # What stands in the images of both is cut from other images than the reference.
            assert all(photo["images"][j] != i for photo in record["together"])
        assert json.loads(json.dumps([one.subject, one.attributes, one.provenance]))


def test_both_subjects_are_whole_and_stand_apart():
    unit = make_unit()
    for one, (a, b) in zip(new_sets(unit, resolution=96), pairs(unit), strict=True):
        for i in (2, 3, 4):
            image, mask = pixels(one.images[i]), np.asarray(one.masks[i]) == 255
            assert one.images[i].size == (96, 96) and set(np.unique(one.masks[i])) == {0, 255}
            seen = np.zeros_like(mask)
            for standing, source in zip(one.attributes[i]["standing"], (a, b), strict=True):
                x0, y0, x1, y1 = standing["box"]
                left = standing["place"] == "left"
                assert (x0 > 0 and x1 <= 48) if left else (x0 >= 48 and x1 < 96)
                assert 0 < y0 < y1 <= 96 and standing["visible"] == 1.0
                assert (standing["centre"][0] < 0.5) == left
                part = np.zeros_like(mask)
                part[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
                colours = pixels(source.images[0])[np.asarray(source.masks[0]) == 255]
                assert np.abs(image[part].mean(0) - colours.mean(0)).max() < 15
                assert part.mean() >= 0.01
                seen |= part
            assert (seen == mask).all()
            assert {standing["place"] for standing in one.attributes[i]["standing"]} == {"left", "right"}


def test_a_subject_that_keeps_its_size_keeps_its_pixels():
    """Where nothing is enlarged or shrunk, the pasted pixels are those of the set's own image."""
    unit = make_unit()[:2]  # ellipses of 19 x 29 pixels; half of 96 has room for them
    (one,) = new_sets(unit, resolution=96, size=[0.9, 0.9], enlarge=1.0)
    for i, made in zip((2, 3, 4), one.provenance["compose"]["together"], strict=True):
        for j, number in enumerate(made["images"]):
            alpha = EdgesSettings().alpha(unit[j].masks[number])
            x0, y0, x1, y1 = alpha.getbbox()
            solid = np.asarray(alpha)[y0:y1, x0:x1] == 255
            x, y = one.attributes[i]["standing"][j]["box"][:2]
            found = [
                (pixels(one.images[i])[top : top + y1 - y0, left : left + x1 - x0][solid]
                 == pixels(unit[j].images[number])[y0:y1, x0:x1][solid]).all()
                for top in range(max(y - 2, 0), y + 1)
                for left in range(max(x - 2, 0), x + 1)
                if top + y1 - y0 <= 96 and left + x1 - x0 <= 96
            ]  # fmt: skip
            assert any(found)


def test_captions_tell_who_stands_where():
    texts, said, unsaid, reversed_order = set(), 0, 0, 0
    units = [
        make_set(i, *(("red fox", "animal", (200, 40, 40)), ("cup", "thing", (1, 2, 200)))[i % 2]) for i in range(60)
    ]
    for one in new_sets(units, images_per_set=6):
        for i in range(2, 6):
            text, standing = one.captions[i], one.attributes[i]["standing"]
            assert "a red fox" in text and "a cup" in text and one.attributes[i]["background"] in text
            if "on the left" in text:
                said += 1
                words = {"left": "on the left", "right": "on the right"}
                for noun, stands in zip(("a red fox", "a cup"), standing, strict=True):
                    assert f"{noun} {words[stands['place']]}" in text
                reversed_order += text.index("on the left") > text.index("on the right")
            else:
                unsaid += 1
                assert "on the right" not in text
            texts.add(
                text.replace("a red fox", "X").replace("a cup", "X").replace(one.attributes[i]["background"], "B")
            )
    assert 0.55 < said / (said + unsaid) < 0.85 and reversed_order > 5
    assert len(texts) > 15
    classes = [text for one in new_sets(units[:8], name_prob=0.0) for text in one.captions[2:]]
    assert all("an animal" in text and "a thing" in text and "fox" not in text for text in classes)


def test_the_seed_decides_and_the_rest_of_the_unit_does_not():
    unit = make_unit()
    once, again, other = new_sets(unit), new_sets(make_unit()), new_sets(unit, seed=1)
    assert all(same(a, b) for a, b in zip(once, again, strict=True))
    assert not any(same(a, b) for a, b in zip(once, other, strict=True))
    assert same(once[1], new_sets(unit[2:])[0])  # a pair's set depends on the pair alone


def test_the_share_of_pairs():
    unit = [make_set(i, "cup" if i % 2 else "red fox", "thing" if i % 2 else "animal", (1, 2, 200)) for i in range(120)]
    assert 15 <= len(new_sets(unit, share=0.4)) <= 33
    assert new_sets(unit, share=0.0) == [] and len(new_sets(unit)) == 60


def test_what_cannot_be_composed_is_counted():
    fox, cup = make_unit()[:2]
    wide = make_set(5, "cup", "thing", (1, 2, 200), box=(-0.2, 0.3, 0.5, 0.7))  # cut by the left border
    (dropped,) = new_sets([fox, wide])
    assert isinstance(dropped, Dropped) and dropped.key == "train-00000000-with-00000005"
    assert dropped.reason == "compose: no image of a subject is whole and large enough"
    no_masks = replace(cup, masks=[None] * 4)
    assert isinstance(new_sets([fox, no_masks])[0], Dropped)
    small = make_set(5, "cup", "thing", (1, 2, 200), size=(200, 200), box=(0.4, 0.4, 0.6, 0.6))
    assert not isinstance(new_sets([fox, small])[0], Dropped)
    assert isinstance(new_sets([fox, small], resolution=512, enlarge=1.0, min_area=0.02)[0], Dropped)
    hidden = replace(cup, attributes=[{**described, "visible": 0.8} for described in cup.attributes])
    assert isinstance(new_sets([fox, hidden])[0], Dropped)
    single = replace(cup, **{name: getattr(cup, name)[:1] for name in ("images", "masks", "captions", "attributes")})
    assert new_sets([fox, single])[0].reason == "compose: too few images of a subject"
    # One good image is enough: it is cut out, and the others are references.
    one_mask = replace(cup, masks=[None, None, cup.masks[2], None])
    (one,) = new_sets([fox, one_mask])
    assert {photo["images"][1] for photo in one.provenance["compose"]["together"]} == {2}


def test_a_subject_cut_below_stands_on_the_lower_border():
    fox = make_unit()[0]
    bust = make_set(5, "doll", "toy", (1, 2, 200), box=(0.3, 0.4, 0.7, 1.5))
    (one,) = new_sets([fox, bust])
    for described in one.attributes[2:]:
        assert described["standing"][1]["box"][3] == SIDE > described["standing"][0]["box"][3]


def test_more_references(tmp_path):
    (one, _) = new_sets(make_unit(), images_per_set=6, references=2)
    assert one.references == [0, 1, 2, 3]
    assert [described["subjects"] for described in one.attributes] == [[0], [0], [1], [1], [0, 1], [0, 1]]
    chosen = one.provenance["compose"]["references"]
    assert all(len(set(numbers)) == 2 for numbers in chosen)


def write(folder, sets):
    """A shard in the public format, without data_gen's own writer."""
    import hashlib
    import tarfile

    (folder / "train").mkdir(parents=True)
    with tarfile.open(folder / "train" / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for one in sets:
            record = {"key": one.key, "subject": one.subject, "captions": one.captions, "images": one.attributes}
            record |= {"references": one.references} if one.references else {}
            _add(tar, f"{one.key}.json", json.dumps(record).encode())
            for i, (image, mask) in enumerate(zip(one.images, one.masks, strict=True)):
                for name, photo in ((f"{i}.png", image), (f"{i}.mask.png", mask)):
                    buffer = io.BytesIO()
                    photo.save(buffer, "PNG")
                    _add(tar, f"{one.key}.{name}", buffer.getvalue())
    data = (folder / "train" / "00000.tar").read_bytes()
    rows = [{"key": one.key, "n": len(one.images), "width": SIDE, "height": SIDE} for one in sets]
    manifest = {"format": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "sets": rows}
    (folder / "train" / "00000.json").write_text(json.dumps(manifest))


def test_training_reads_references_first(tmp_path):
    unit = make_unit()
    made = compose().process(unit)
    write(tmp_path, made)
    index = SetIndex.read(tmp_path)
    data = SetDataset(index)
    assert [record.key for record in index.sets] == [one.key for one in made]
    orders = set()
    for position in range(12):
        drawn = data[Draw(0, position, 4, 4)]
        one = made[4]
        numbers = [one.captions.index(caption) for caption in drawn.captions]
        assert set(numbers[:2]) == {0, 1} and set(numbers[2:]) < {2, 3, 4}
        expected = np.stack([pixels(one.images[i]) for i in numbers])
        found = ((drawn.images.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round()
        assert (found == expected).all() and drawn.subject_id == "red fox-0+cup-1"
        orders.add(tuple(numbers))
    assert len(orders) > 3
    assert np.array_equal(np.asarray(data.mask(4, 2)), np.asarray(made[4].masks[2]))


def test_registered_and_light():
    assert STAGES.get("compose") is Compose and Compose.needs == {"images", "masks"} and not Compose.gives
    assert compose().process([]) == [] and not compose().uses_model and compose().inputs() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images_per_set": 4, "references": 2}, r"images_per_set=4.*set images_per_set=5 or more"),
        ({"openings": []}, r"compose\.openings is empty"),
        ({"backgrounds": BackgroundSettings()}, r"compose\.backgrounds: none is set"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        compose(**changes)


def test_sizes_are_least_and_most():
    with pytest.raises(ConfigError, match=r"compose\.size is \[0\.5, 0\.2\]"):
        section("compose", size=[0.5, 0.2])


def test_images_of_any_size_come_together():
    fox = make_set(0, "red fox", "animal", (200, 40, 40), size=(130, 90))
    cup = make_set(1, "cup", "thing", (1, 2, 200), size=(40, 70))
    (one,) = new_sets([fox, cup])
    assert [image.size for image in one.images] == [(130, 90), (40, 70), *[(SIDE, SIDE)] * 3]
    assert all(isinstance(mask, Image.Image) for mask in one.masks)
