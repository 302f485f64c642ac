"""The wider world of the emoji source: made-up subjects, styles, light, weather, actions, words, backgrounds."""

import random
import re

import numpy as np
import pytest
from PIL import Image

from data_gen.drawn_backgrounds import BACKGROUNDS, background, usual_backgrounds
from data_gen.samples import Item, SubjectSet
from jedi.io.config import ConfigError
from jedi_toy import made_up
from jedi_toy.drawings import drawing_is_held_out, sprite
from jedi_toy.effects import ACTIONS, WEATHER, add_action, add_weather
from jedi_toy.emoji import EmojiSource
from jedi_toy.emoji_config import EmojiSettings
from jedi_toy.solids import draw_solid, solid
from jedi_toy.styles import OUTLINES, PLAIN, TEXTURES, Style, as_photo, cast_shadow, draw_style, lit, styled
from jedi_toy.wording import NOUNS, VOCABULARIES, WIDE
from jedi_toy.wording import PLAIN as PLAIN_WORDS
from tests.data_gen.conftest import section, small_config
from tests.jedi_toy.test_emoji import COLOURS

EVERYTHING = {
    "backgrounds": ["all"],
    "made_up_prob": 0.5,
    "style_prob": 0.7,
    "shadow_prob": 0.5,
    "references": 1,
    "photo_prob": 0.5,
    "weather_prob": 0.5,
    "action_prob": 0.5,
    "wording": "wide",
    "companion_prob": 0.0,
    "accessory_prob": 0.0,
    "vary": ["background", "pose", "size", "place", "light", "weather", "action"],
}


def make(count: int, split: str = "train", **changes) -> list[SubjectSet]:
    source = EmojiSource(section("emoji", "jedi_toy.emoji", **changes), small_config("unused").context)
    made = source.make([Item(split, index) for index in range(count)])
    return [one for one in made if isinstance(one, SubjectSet)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_nothing_of_it_is_drawn_by_default():
    for one in make(20):
        assert "style" not in one.subject and not one.subject["code_point"].startswith("M")
        for image in one.attributes:
            assert not {"light", "shadow", "weather", "action", "photo"} & set(image)
            assert image["background"] in usual_backgrounds()
    assert EmojiSettings().weather is not EmojiSettings().weather


def test_with_all_of_it_captions_and_masks_stay_exact():
    sets = make(40, **EVERYTHING, name_prob=0.0)  # "person running" is a name
    known, seen = set(usual_backgrounds()), {"weather": set(), "action": set(), "background": set()}
    for one in sets:
        for i, (text, image, mask) in enumerate(zip(one.captions, one.attributes, one.masks, strict=True)):
            words = set(re.sub("[,:]", "", text).split())
            assert text == text.lower() and not words & COLOURS, text
            assert any(phrase in text for phrase in BACKGROUNDS.get(image["background"]).phrases), text
            for key, effects in (("weather", WEATHER), ("action", ACTIONS)):
                said = [name for name, effect in effects.items() if any(phrase in text for phrase in effect.phrases)]
                assert said == ([image[key]] if key in image["caption_says"] else []), text
                seen[key].add(image.get(key))
            assert "photo" not in image or i == 0  # references only
            assert set(np.unique(mask)) <= {0, 255} and image["visible"] == 1.0
            seen["background"].add(image["background"])
    assert seen["weather"] - {None} and seen["action"] - {None} and seen["background"] - known
    made_up_ones = [one.subject["code_point"].startswith("M") for one in sets]
    assert 0.25 < np.mean(made_up_ones) < 0.75 and 0.4 < np.mean(["style" in one.subject for one in sets]) < 0.95


def test_a_set_is_a_function_of_its_number():
    first, second = make(3, **EVERYTHING), make(3, **EVERYTHING)
    for a, b in zip(first, second, strict=True):
        assert (a.captions, a.attributes, a.subject) == (b.captions, b.attributes, b.subject)
        assert [image.tobytes() for image in a.images] == [image.tobytes() for image in b.images]


def test_several_subjects_in_the_wider_world():
    several = {**EVERYTHING, "subjects": [2], "slots": True, "references": 0, "photo_prob": 0.0, "vary": ["background"]}
    for one in make(6, **{**several, "made_up_prob": 1.0, "style_prob": 1.0}):
        kinds = [subject["class"] for subject in one.subject["subjects"]]
        assert len(set(kinds)) == 2 and all("style" in subject for subject in one.subject["subjects"])
        assert "action" not in one.attributes[-1] and any(noun in one.captions[-1] for noun in NOUNS[kinds[0]])


def test_made_up_subjects_are_many_and_none_is_in_both_splits():
    rng = random.Random(0)
    for split in ("train", "heldout"):
        subjects = [made_up.draw_subject(rng, split) for _ in range(30)]
        assert all(drawing_is_held_out(one.code_point) == (split == "heldout") for one in subjects)
        assert all(one.kind in NOUNS and one.name is None for one in subjects)
        assert len({made_up.drawing(one.code_point) for one in subjects}) == 30
        for one in subjects[:10]:
            alpha = np.asarray(styled(one.code_point, 64, PLAIN, 0.0).getchannel("A"))
            assert min(alpha.shape) > 8 and (alpha > 127).mean() > 0.15
    assert len({one.kind for one in subjects}) >= 4


def test_solids_are_lit_bodies_for_measuring():
    rng = random.Random(0)
    subjects = [draw_solid(rng, "heldout") for _ in range(12)]
    assert all(drawing_is_held_out(one.code_point) and one.kind in NOUNS and one.name is None for one in subjects)
    shown = [solid(one.code_point, 48) for one in subjects]
    assert len({image.tobytes() for image in shown}) == 12
    for one, image in zip(subjects, shown, strict=True):
        alpha = np.asarray(image.getchannel("A"))
        assert 0.03 < (alpha == 255).mean() < 0.9 and not alpha[[0, -1]].any() and not alpha[:, [0, -1]].any()
        colours = pixels(image)[alpha == 255][:, :3]
        assert len(np.unique(colours, axis=0)) > 0.3 * len(colours)  # shaded, not flat
        assert styled(one.code_point, 48, PLAIN, 0.0).tobytes() == image.crop(image.getchannel("A").getbbox()).tobytes()
    for one in make(4, "heldout", solid_prob=1.0, name_prob=1.0):
        assert one.subject["code_point"].startswith("S") and "name" not in one.attributes[0]["caption_says"]


def test_a_plain_style_is_the_drawing():
    assert styled("1F98A", 128, PLAIN, 0.0).tobytes() == sprite("1F98A", 128).tobytes()


@pytest.mark.parametrize("code_point", ["1F98A", "M000000007"])
def test_outlines_come_in_five_kinds(code_point):
    def dark(outline: str) -> int:
        image = pixels(styled(code_point, 128, Style(outline=outline, tint=(110, 60, 90)), 0.0))
        return int(((image[..., 3] > 200) & (image[..., :3].max(-1) < 40)).sum())

    counts = {outline: dark(outline) for outline in OUTLINES}
    assert counts["thick"] > 1.2 * counts["kept"] > 1.2 * 1.2 * counts["thin"]
    assert max(counts["tinted"], counts["none"]) < 0.5 * counts["kept"]


def test_lines_stay_where_a_drawing_is_little_else():
    shown = [np.asarray(styled("1F600", 128, Style(outline=o), 0.0).getchannel("A")) for o in ("kept", "none")]
    assert (shown[1] > 127).sum() > 0.8 * (shown[0] > 127).sum()


@pytest.mark.parametrize("change", [{"texture": name} for name in TEXTURES[1:]] + [{"saturation": 0.4}, {"value": 0.8}])
def test_textures_and_tones_change_colours_not_shapes(change):
    plain, other = (pixels(styled("1F98A", 128, style, 0.0)) for style in (PLAIN, Style(**change, seed=3)))
    assert plain.shape == other.shape and (plain[..., 3] == other[..., 3]).all()
    assert np.abs(plain - other)[plain[..., 3] > 200].mean() > 3


def test_bending_changes_the_shape_a_little():
    plain, bent = (styled("1F98A", 128, Style(bend=bend, seed=3), 0.0).getchannel("A") for bend in (0.0, 0.05))
    bent = bent.resize(plain.size)
    changed = (np.abs(pixels(plain) - pixels(bent)) > 127).mean()
    assert 0.01 < changed < 0.25


def test_styles_by_chance_differ_and_each_draws_something():
    styles = [draw_style(random.Random(i)) for i in range(40)]
    assert {style.outline for style in styles} == set(OUTLINES) and len(set(styles)) == 40
    for style in styles[:10]:
        assert styled("1F680", 64, style, 0.3).getchannel("A").getextrema()[1] == 255


@pytest.mark.parametrize("surface", ["soft", "glossy"])
def test_light_falls_from_where_it_comes(surface):
    disc = Image.new("RGBA", (64, 64))
    y, x = np.mgrid[:64, :64] - 31.5
    disc.putalpha(Image.fromarray((255 * (x**2 + y**2 < 900)).astype(np.uint8)))
    disc.paste((150, 150, 150), (0, 0, 64, 64), disc.getchannel("A"))
    assert lit(disc, "flat", (0.7, 0.0)) is disc
    shaded = lit(disc, surface, (0.7, 0.0))
    grey = pixels(shaded)[..., 0]
    assert shaded.getchannel("A").tobytes() == disc.getchannel("A").tobytes()
    assert grey[24:40, 46:56].mean() > grey[24:40, 8:18].mean() + 30  # it comes from the right
    above = pixels(lit(disc, surface, (0.0, -0.7)))[..., 0]
    assert above[8:18, 24:40].mean() > above[46:56, 24:40].mean() + 30


def test_shadows_weather_and_actions_change_the_scene():
    shadowed = (empty := background("studio", 0, 64)).copy()
    cast_shadow(shadowed, sprite("1F98A").resize((30, 30)), (17, 17), (0.5, -0.5))
    assert (pixels(shadowed).mean(-1) <= pixels(empty).mean(-1)).all()
    assert (pixels(empty) - pixels(shadowed)).max() > 30
    images, empty = [], background("brick wall", 0, 64)
    for name in WEATHER:
        images.append(empty.copy())
        add_weather(images[-1], name, 5)
    for name in ACTIONS:
        images.append(empty.copy())
        add_action(images[-1], name, 5, (0.3, 0.3, 0.7, 0.7))
    assert all(np.abs(pixels(image) - pixels(empty)).max() > 40 for image in images)
    assert len({image.tobytes() for image in images}) == len(images)


def test_a_camera_changes_pixels_a_little_and_repeats_itself():
    image = background("meadow", 0, 64)
    taken = as_photo(image, 3)
    assert taken.tobytes() == as_photo(image, 3).tobytes() != as_photo(image, 4).tobytes()
    assert 1 < np.abs(pixels(taken) - pixels(image)).mean() < 70


def test_there_are_thirty_backgrounds_and_more():
    assert len(list(BACKGROUNDS)) >= 30 and len(usual_backgrounds()) == 18
    for name in set(BACKGROUNDS) - set(usual_backgrounds()):
        assert background(name, 0, 64).tobytes() != background(name, 1, 64).tobytes()
        assert not {word for phrase in BACKGROUNDS.get(name).phrases for word in phrase.split()} & COLOURS


def test_no_phrase_means_two_things():
    """A caption's phrases tell backgrounds, weathers and actions apart."""
    meanings: dict[str, set[str]] = {}
    for kind, entries in (("", {n: BACKGROUNDS.get(n) for n in BACKGROUNDS}), ("w/", WEATHER), ("a/", ACTIONS)):
        for name, entry in entries.items():
            for phrase in entry.phrases:
                meanings.setdefault(phrase, set()).add(kind + name)
    assert all(len(means) == 1 for means in meanings.values())


def test_wide_words_hold_the_plain_ones():
    for part in ("poses", "places", "sizes"):
        plain, wide = getattr(PLAIN_WORDS, part), getattr(WIDE, part)
        assert all(set(plain[key]) <= set(wide[key]) for key in plain)
    assert set(VOCABULARIES) == {"plain", "wide"} and not {w for v in WIDE.sizes.values() for w in v} & COLOURS


def test_corners_are_places():
    for one in make(6, places=["top left"], sizes=["small"], mention_prob=1.0, wording="wide", jitter=0.0):
        for image, text in zip(one.attributes, one.captions, strict=True):
            assert image["centre"][0] < 0.4 and image["centre"][1] < 0.4
            assert ("place" in image["caption_says"]) == any(phrase in text for phrase in WIDE.places["top left"])
            assert "place" in image["caption_says"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"made_up_prob": 1.5}, "emoji.made_up_prob is 1.5; it must be 0 to 1"),
        ({"style_prob": -1}, "emoji.style_prob is -1"),
        ({"wording": "rich"}, "emoji.wording is 'rich'; it must be one of plain, wide"),
        ({"weather": ["hail"]}, "emoji.weather[0] is 'hail'; it must be one of rain"),
        ({"actions": [], "action_prob": 0.5}, "set emoji.action_prob=0"),
        ({"vary": ["lights"]}, "emoji.vary[0] is 'lights'"),
    ],
)
def test_senseless_settings_are_refused(changes, part):
    with pytest.raises(ConfigError) as error:
        EmojiSource(section("emoji", "jedi_toy.emoji", **changes), small_config("unused").context)
    assert part in str(error.value)
