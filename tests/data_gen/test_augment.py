"""New backgrounds: the subject stays to the pixel, the rest changes, and the seed alone decides how."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from data_gen.sources.prompted import GenerationSettings
from data_gen.stages import STAGES
from data_gen.stages.augment import Augment, AugmentSettings, InpaintSettings
from data_gen.stages.backgrounds import Background, Backgrounds, BackgroundSettings
from data_gen.stages.compositing import EdgesSettings, _depth, cut, cut_sides, grown, paste
from data_gen.stages.phrases import PLACES, fill, place_of
from jedi.io.config import ConfigError, load
from jedi.rng import seeded_generator
from tests.data_gen.conftest import section
from tests.data_gen.made_sets import SIDE, context, copied, make_set, make_unit, photo, pixels, same
from tests.data_gen.pipelines import save_inpainting

PAINTED = {"method": "composite", "backgrounds": BackgroundSettings(painted=True, count=40)}


def augment(**changes) -> Augment:
    return Augment(AugmentSettings(**{**PAINTED, **changes}), context())


def changed(one) -> list[int]:
    return [i for i, described in enumerate(one.attributes) if "augmented" in described]


@pytest.fixture(scope="module")
def inpainting_base(tmp_path_factory):
    return save_inpainting(tmp_path_factory.mktemp("inpainting"))


def inpaint(base, **changes) -> Augment:
    settings = {"model": str(base), "num_inference_steps": 2, "batch_size": 3, **changes}
    return Augment(AugmentSettings(share=0.75, inpaint=InpaintSettings(**settings)), context())


# --- edges


def test_alpha_is_whole_inside_nothing_outside_and_rises_between():
    mask = Image.new("L", (512, 512))
    mask.paste(255, (100, 100, 400, 400))
    alpha = np.asarray(EdgesSettings(erode=2.0, feather=4.0).alpha(mask)).astype(int)
    row = alpha[250, 98:110]  # depths of pixel centres from the outline at 100: 0.5, 1.5, ...
    assert row.tolist() == [0, 0, 0, 0, 32, 96, 159, 223, 255, 255, 255, 255]
    assert (alpha[106:394, 106:394] == 255).all()
    assert alpha[np.asarray(mask) == 0].max() == 0
    assert (alpha == alpha.T).all()


def test_depth_is_the_distance_to_the_nearest_pixel_outside():
    """Against the plain definition, on random masks."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(4, 24, 2)
        inside = rng.random((height, width)) < rng.choice([0.6, 0.9, 0.98])
        far = np.pad(inside, 14, mode="edge")
        outside = np.argwhere(~far) - 14
        limit = float(rng.uniform(0.3, 9))
        expected = np.full(inside.shape, limit)
        for y, x in np.ndindex(*inside.shape):
            if len(outside):
                expected[y, x] = np.clip(np.hypot(*(outside - (y, x)).T).min() - 0.5, 0, limit)
        assert np.allclose(_depth(inside, limit), expected, atol=1e-5)


def test_edges_scale_with_the_image_and_never_get_hard():
    small, large = (Image.new("L", (side, side)) for side in (64, 1024))
    for mask in (small, large):
        mask.paste(255, (mask.width // 4,) * 2 + (3 * mask.width // 4,) * 2)
    edges = EdgesSettings(erode=1.0, feather=2.5)
    partly = [(np.asarray(edges.alpha(mask))[mask.width // 2, : mask.width // 2]) for mask in (small, large)]
    counts = [int(((row > 0) & (row < 255)).sum()) for row in partly]
    assert counts[0] == 1 and counts[1] == 5


def test_the_middle_of_thin_parts_stays():
    mask = Image.new("L", (512, 512))
    mask.paste(255, (100, 100, 400, 300))
    mask.paste(255, (200, 300, 204, 450))  # a leg of 4 pixels
    mask.paste(255, (300, 300, 301, 450))  # a sliver of 1
    alpha = np.asarray(EdgesSettings(erode=1.0, feather=2.5).alpha(mask))
    assert alpha[400, 201:203].tolist() == [255, 255] and alpha[400, 200] < 40
    assert alpha[400, 300] < 60
    assert alpha[200, 100:104].tolist() == [0, 51, 153, 255]  # the body's edge is as wide as it was
    small = Image.new("L", (64, 64))
    small.paste(255, (20, 10, 22, 50))
    assert np.asarray(EdgesSettings().alpha(small))[30, 20:22].min() == 255


def test_a_border_that_cuts_the_subject_is_no_outline():
    mask = Image.new("L", (512, 512))
    mask.paste(255, (100, 300, 400, 512))
    alpha = np.asarray(EdgesSettings(erode=2.0, feather=4.0).alpha(mask))
    assert alpha[511, 250] == 255 and alpha[511, 101] == 0
    assert cut_sides(mask) == {"bottom"}
    assert cut_sides(Image.new("L", (8, 8), 255)) == {"left", "top", "right", "bottom"}
    mask = Image.new("L", (64, 64))
    mask.paste(255, (1, 10, 40, 50))
    mask.putpixel((0, 30), 255)  # touches the border, is not cut by it
    assert cut_sides(mask) == set()


def test_grown_reaches_so_many_pixels():
    mask = Image.new("L", (64, 64))
    mask.putpixel((32, 32), 255)
    y, x = np.mgrid[0:64, 0:64]
    for pixels_more in (0, 1, 3, 5):
        found = np.asarray(grown(mask, pixels_more)) == 255
        assert (found == (np.hypot(x - 32, y - 32) <= pixels_more + 0.5)).all()


def test_pasting_keeps_opaque_pixels_and_the_image_behind():
    image, mask = photo((200, 40, 40), 1, size=(96, 96))
    behind = Image.new("RGB", (96, 96), (10, 20, 30))
    cutout = cut(image, mask, EdgesSettings())
    box = EdgesSettings().alpha(mask).getbbox()
    result, (placed,) = paste(behind, [cutout], [box[:2]])
    alpha = np.asarray(EdgesSettings().alpha(mask))
    assert (pixels(result)[alpha == 255] == pixels(image)[alpha == 255]).all()
    assert (pixels(result)[alpha == 0] == (10, 20, 30)).all()
    assert (pixels(behind) == (10, 20, 30)).all() and set(np.unique(placed)) == {0, 255}
    assert cut(image, Image.new("L", (96, 96)), EdgesSettings()) is None


# --- composite


def test_the_subject_stays_to_the_pixel_and_the_rest_is_new():
    given = make_unit()
    untouched = [copied(one) for one in given]
    made = augment(share=0.75).process(given)
    assert all(same(one, before) for one, before in zip(given, untouched, strict=True))
    assert [len(changed(one)) for one in made] == [3, 3, 3, 3]
    for one, before in zip(made, given, strict=True):
        for i in changed(one):
            alpha = np.asarray(EdgesSettings().alpha(before.masks[i]))
            assert (alpha == 255).sum() > 0.7 * (np.asarray(before.masks[i]) == 255).sum()
            new, old = pixels(one.images[i]), pixels(before.images[i])
            assert (new[alpha == 255] == old[alpha == 255]).all()
            outside = np.asarray(before.masks[i]) == 0
            assert (new[outside] != old[outside]).any(-1).mean() > 0.95
            assert one.masks[i] is before.masks[i]
        (left,) = set(range(4)) - set(changed(one))
        assert one.images[left] is before.images[left] and one.captions[left] == before.captions[left]
        assert one.attributes[left] == before.attributes[left]


def test_nothing_of_the_old_background_shines_at_the_edge():
    """The old background is pure green, the new ones hold little of it: no pixel may come out green."""
    image, mask = photo((200, 40, 40), 5, size=(128, 128))
    green = Image.new("RGB", image.size, (0, 255, 0))
    soft = mask.resize((512, 512)).resize((128, 128), Image.Resampling.BOX)  # a rim that mixes both, as a camera's
    one = make_set(0, "fox", "animal", (200, 40, 40), n=2, size=(128, 128))
    one = replace(one, images=[Image.composite(image, green, soft)] * 2, masks=[mask] * 2)
    stage = augment(share=0.5)
    stage.backgrounds.get = lambda number, size: Background(Image.new("RGB", size, (128, 0, 128)), "in violet", {})
    made = stage.process([one])[0]
    (i,) = changed(made)
    new = pixels(made.images[i])
    greenness = new[..., 1] - np.maximum(new[..., 0], new[..., 2])
    assert greenness.max() < 30


def test_captions_attributes_and_provenance_say_what_was_done():
    made = augment(share=0.75, caption="{a_class} called {name}, {background}").process(make_unit())
    phrases = set()
    for one in made:
        assert one.provenance["prompt"] == "a prompt"
        record = one.provenance["augment"]
        assert record["method"] == "composite" and list(map(int, record["images"])) == changed(one)
        for i in changed(one):
            described = one.attributes[i]
            said = f"{'an' if one.subject['class'] == 'animal' else 'a'} {one.subject['class']}"
            assert one.captions[i] == f"{said} called {one.subject['name']}, {described['background']}"
            assert described["augmented"] == "composite" and described["member"] == i
            assert set(record["images"][str(i)]) == {"backdrop", "painted", "variant"}
            phrases.add(described["background"])
        backgrounds = [record["images"][str(i)]["backdrop"] for i in changed(one)]
        assert len(set(backgrounds)) == len(backgrounds)
    assert len(phrases) > 4
    assert made[0].licence == "CC0-1.0"  # painted here


def test_the_seed_decides_and_the_grouping_does_not():
    once, again = augment().process(make_unit()), augment().process(make_unit())
    assert all(same(a, b) for a, b in zip(once, again, strict=True))
    alone = [augment().process([one])[0] for one in make_unit()]
    assert all(same(a, b) for a, b in zip(once, alone, strict=True))
    other = Augment(AugmentSettings(**PAINTED), context(seed=1)).process(make_unit())
    assert not any(same(a, b) for a, b in zip(once, other, strict=True))


def test_the_share_is_kept_on_average_and_one_image_is_always_left():
    units = [make_set(index, "cup", "thing", (1, 2, 200)) for index in range(60)]
    assert np.mean([len(changed(one)) for one in augment(share=0.4).process(units)]) == pytest.approx(1.6, abs=0.2)
    assert {len(changed(one)) for one in augment(share=1.0).process(units[:5])} == {3}
    assert {len(changed(one)) for one in augment(share=0.0).process(units[:5])} == {0}


def test_images_that_cannot_be_changed_say_why():
    one = make_set(0, "cup", "thing", (1, 2, 200))
    masks = [None, Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE), 255), one.masks[3]]
    one = replace(one, masks=masks)
    made = augment(share=1.0).process([one])[0]
    reasons = [described.get("not_augmented") for described in made.attributes]
    assert reasons == ["no mask", "mask too small or too large", "mask too small or too large", None]
    assert changed(made) == [3]
    covered = [{**described, "visible": 0.9} for described in one.attributes]
    made = augment(share=1.0).process([replace(one, attributes=covered)])[0]
    assert made.attributes[3]["not_augmented"] == "something stands before the subject" and not changed(made)


def test_a_moved_subject_takes_its_mask_along():
    one = make_set(0, "cup", "thing", (30, 30, 230), box=(0.35, 0.3, 0.65, 0.7))
    made = augment(share=0.75, scale=[0.7, 0.9], shift=0.15).process([one])[0]
    for i in changed(made):
        (x0, y0, x1, y1), old = made.masks[i].getbbox(), one.masks[i].getbbox()
        assert 0.6 < (x1 - x0) / (old[2] - old[0]) < 0.95 and made.attributes[i]["box"] == [x0, y0, x1, y1]
        inside = np.asarray(made.masks[i]) == 255
        blue = pixels(made.images[i])[inside]
        assert np.abs(blue.mean(0) - (30, 30, 230)).max() < 40
    still = augment(share=0.75).process([one])[0]
    assert all("box" not in described for described in still.attributes)


def test_a_subject_cut_by_the_border_stays_at_it():
    one = make_set(0, "cup", "thing", (30, 30, 230), box=(0.3, 0.5, 0.7, 1.4))
    made = augment(share=0.75, scale=[0.6, 0.8], shift=0.2).process([one])[0]
    for i in changed(made):
        assert made.masks[i].getbbox()[3] == SIDE and "bottom" in cut_sides(made.masks[i])


def test_subjects_that_stand_together_are_not_moved():
    one = make_set(0, "fox and cup", "animal and thing", (30, 30, 230))
    subject = {"id": "a+b", "name": "fox and cup", "class": "animal and thing", "subjects": [
        {"id": "a", "name": "fox", "class": "animal"}, {"id": "b", "name": "cup", "class": "thing"},
    ]}  # fmt: skip
    shown = [{"subjects": [0]}, {"subjects": [1]}, {"subjects": [0, 1]}, {"subjects": [0, 1]}]
    one = replace(one, subject=subject, attributes=shown, references=[0, 1])
    made = augment(share=1.0, shift=0.2, scale=[0.7, 0.8]).process([one])[0]
    assert made.references == [0, 1]
    for i in changed(made):
        says = {0: "a fox, ", 1: "a cup, "}.get(i, "a fox and a cup, ")
        assert made.captions[i].startswith(says)
        assert (made.masks[i] is one.masks[i]) == (i > 1)


# --- backgrounds


def test_given_images_with_their_words(tmp_path):
    for name, colour in (("a.png", (250, 0, 250)), ("b.png", (0, 250, 250))):
        Image.new("RGB", (100, 60), colour).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("in a pink\n room \n")
    given = BackgroundSettings(folder=str(tmp_path), licence="CC-BY-4.0")
    stage = augment(backgrounds=given, share=0.75)
    before = stage.inputs()
    made = stage.process(make_unit())
    captions = {one.captions[i] for one in made for i in changed(one)}
    assert "a red fox, in a pink room" in captions and "a red fox" in captions  # nothing is said of the other
    assert made[0].licence == "CC0-1.0; backgrounds: CC-BY-4.0"
    assert {record["file"] for one in made for record in one.provenance["augment"]["images"].values()} == {
        "a.png", "b.png",
    }  # fmt: skip
    assert list(before) == ["augment.backgrounds.folder"] and augment(backgrounds=given).inputs() == before
    (tmp_path / "a.txt").write_text("in a red room")
    assert augment(backgrounds=given).inputs() != before
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"augment\.backgrounds\.folder.*b\.png.*remove or replace"):
        augment(backgrounds=given, share=0.75).process(make_unit())


@pytest.mark.slow
def test_a_generated_background_depends_on_its_number_alone(tiny_base):
    generate = GenerationSettings(model=str(tiny_base), num_inference_steps=2)
    settings = BackgroundSettings(generate=generate, count=5, batch_size=2, prompts=["on the grass", "on a beach"])

    def backgrounds():
        return Backgrounds("augment", settings, context(resolution=32))

    forwards, backwards = backgrounds(), backgrounds()
    first = [forwards.get(j, (32, 32)) for j in range(5)]
    last = [backwards.get(j, (32, 32)) for j in reversed(range(5))][::-1]
    assert all(a.image.tobytes() == b.image.tobytes() and a[1:] == b[1:] for a, b in zip(first, last, strict=True))
    assert len({one.image.tobytes() for one in first}) == 5
    assert [one.phrase for one in first] == ["on the grass", "on a beach"] * 2 + ["on the grass"]
    # The same as a bare call of the pipeline with the recorded prompt and seed.
    pipe = forwards._generator.pipe
    origins = [one.origin for one in first[2:4]]
    bare = pipe(
        prompt=[origin["prompt"] for origin in origins],
        generator=[seeded_generator(origin["seed"]) for origin in origins],
        num_inference_steps=2,
    ).images
    assert [image.tobytes() for image in bare] == [one.image.tobytes() for one in first[2:4]]
    made = augment(backgrounds=settings, share=0.5).process(make_unit()[:1])[0]
    assert made.licence.endswith(f"backgrounds: that of the model {tiny_base}")


# --- inpaint


@pytest.mark.slow
def test_inpainting_keeps_the_subject_and_repaints_the_rest(inpainting_base):
    given = make_unit()
    untouched = [copied(one) for one in given]
    made = inpaint(inpainting_base).process(given)
    assert all(same(one, before) for one, before in zip(given, untouched, strict=True))
    for one, before in zip(made, given, strict=True):
        assert len(changed(one)) == 3
        for i in changed(one):
            alpha = np.asarray(EdgesSettings().alpha(before.masks[i]))
            new, old = pixels(one.images[i]), pixels(before.images[i])
            assert (new[alpha == 255] == old[alpha == 255]).all() and (alpha == 255).sum() > 200
            assert (new[alpha == 0] != old[alpha == 0]).any(-1).mean() > 0.95
            record = one.provenance["augment"]["images"][str(i)]
            assert record["prompt"] in PLACES and record["model"] == str(inpainting_base)
            assert one.captions[i].endswith(f", {record['prompt']}")
        seeds = [record["seed"] for record in one.provenance["augment"]["images"].values()]
        assert len(set(seeds)) == 3


def test_inpainting_is_the_pipelines_own(inpainting_base):
    """The image beside the subject is what the bare pipeline paints from the recorded prompt and seed."""
    stage = inpaint(inpainting_base, batch_size=1)
    given = make_set(0, "cup", "thing", (1, 2, 200))
    made = stage.process([given])[0]
    i = changed(made)[0]
    record = made.provenance["augment"]["images"][str(i)]
    alpha = EdgesSettings().alpha(given.masks[i])
    hole = stage._hole(alpha)
    bare = stage.generator.pipe(
        prompt=[record["prompt"]], image=[given.images[i]], mask_image=[hole], width=SIDE, height=SIDE,
        num_inference_steps=2, generator=[seeded_generator(record["seed"])],
    ).images[0]  # fmt: skip
    outside = np.asarray(alpha) == 0
    assert (pixels(made.images[i])[outside] == pixels(bare)[outside]).all()
    # What is repainted holds all that does not stay wholly, and more.
    assert (np.asarray(hole)[np.asarray(alpha) < 255] == 255).all()
    assert (np.asarray(hole)[np.asarray(given.masks[i]) == 0] == 255).all() and (np.asarray(hole) == 0).sum() > 100


@pytest.mark.slow
def test_a_unit_is_inpainted_in_common_batches_of_equal_sizes(inpainting_base, monkeypatch):
    sets = [make_set(index, "cup", "thing", (1, 2, 200)) for index in range(3)]
    sets.append(make_set(3, "cup", "thing", (1, 2, 200), size=(80, 50)))
    stage = inpaint(inpainting_base)
    calls, call = [], stage.generator.__call__

    def recorded(prompts, generators, **arguments):
        calls.append((len(prompts), arguments["width"], arguments["height"]))
        assert all(image.size == (arguments["width"], arguments["height"]) for image in arguments["image"])
        return call(prompts, generators, **arguments)

    stage.generator = recorded
    made = stage.process(sets)
    assert calls == [(3, 48, 48)] * 3 + [(3, 80, 48)]
    assert made[3].images[0].size == (80, 50) and len(changed(made[3])) == 3
    again = inpaint(inpainting_base).process(sets)
    assert all(same(a, b) for a, b in zip(made, again, strict=True))


def test_a_plain_text_to_image_model_inpaints_too(tiny_base):
    given = make_set(0, "cup", "thing", (1, 2, 200))
    made = inpaint(tiny_base).process([given])[0]
    for i in changed(made):
        alpha = np.asarray(EdgesSettings().alpha(given.masks[i]))
        new, old = pixels(made.images[i]), pixels(given.images[i])
        assert (new[alpha == 255] == old[alpha == 255]).all()
        assert (new[alpha == 0] != old[alpha == 0]).any(-1).mean() > 0.95


def test_what_the_pipeline_does_not_take_is_named(inpainting_base):
    with pytest.raises(ConfigError, match=r"augment\.inpaint\.call: .*takes no 'sharpness'"):
        inpaint(inpainting_base, call={"sharpness": 1}).process(make_unit())
    with pytest.raises(ConfigError, match=r"augment\.inpaint: .*strength"):
        inpaint(inpainting_base, call={"strength": 3.0}).process(make_unit())


def test_the_side_at_which_the_model_works(inpainting_base):
    stage = inpaint(inpainting_base, side=32)
    assert stage._working_size((48, 48)) == (32, 32) and stage._working_size((96, 48)) == (64, 32)
    given = make_set(0, "cup", "thing", (1, 2, 200))
    made = stage.process([given])[0]
    for i in changed(made):
        alpha = np.asarray(EdgesSettings().alpha(given.masks[i]))
        assert made.images[i].size == (SIDE, SIDE)
        assert (pixels(made.images[i])[alpha == 255] == pixels(given.images[i])[alpha == 255]).all()


def test_what_the_safety_checker_refuses_stays(inpainting_base):
    stage = inpaint(inpainting_base)
    call = stage.generator.__call__

    def refusing(prompts, generators, **arguments):
        images, _ = call(prompts, generators, **arguments)
        return images, [True, *[False] * (len(prompts) - 1)]

    stage.generator = refusing
    given = make_set(0, "cup", "thing", (1, 2, 200))
    made = stage.process([given])[0]
    refused = [i for i, one in enumerate(made.attributes) if one.get("not_augmented")]
    assert len(refused) == 1 and len(changed(made)) == 2
    assert (
        made.images[refused[0]] is given.images[refused[0]] and made.captions[refused[0]] == given.captions[refused[0]]
    )


def test_places_from_the_sets_own_captions():
    assert place_of("a red fox sleeping under an old tree.") == "under an old tree"
    assert place_of("A cup On the table, next to a book") == "On the table, next to a book"
    assert place_of("a red fox") == "" and place_of("an engine") == ""
    one = make_set(0, "cup", "thing", (1, 2, 200))
    captions = ["a cup on a beach", "a cup in a tent", "a running cup", "a cup in a tent"]
    one = replace(one, captions=captions)
    stage = Augment(AugmentSettings(inpaint=InpaintSettings(model="x/y", scenes=True, prompts=["at home"])), context())
    for trial in range(5):
        phrases = stage._phrases(one, [0, 1, 2], random.Random(trial))
        assert phrases[0] == "in a tent" and phrases[1] == "on a beach" and phrases[2] in ("on a beach", "in a tent")


def test_templates_are_tidied():
    assert fill("{a_name}, {background}", a_name="a fox", background="") == "a fox"
    assert fill("{background}, {a_name}", a_name="a fox", background="") == "a fox"
    assert fill("{a_name},  {x}, {background} .", a_name="a fox", x="", background="at home") == "a fox, at home."


# --- mistakes


def test_registered_and_light():
    assert STAGES.get("augment") is Augment
    assert Augment.needs == {"images", "masks"} and not Augment.gives
    assert not augment().uses_model and augment().process([]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": "{subject}"}, r"augment\.caption.*subject.*known are \{name\}"),
        ({"method": "inpaint", "shift": 0.1}, r"augment\.shift.*composite"),
        (
            {"backgrounds": BackgroundSettings()},
            r"augment\.backgrounds: none is set.*folder=DIR.*generate\.model.*painted",
        ),
        (
            {"backgrounds": BackgroundSettings(painted=True, folder="x")},
            r"folder and augment\.backgrounds\.painted are set",
        ),
        ({"backgrounds": BackgroundSettings(folder="/nowhere")}, r"augment\.backgrounds\.folder: /nowhere: no such"),
        ({"backgrounds": BackgroundSettings(prompts=[""])}, r"augment\.backgrounds\.prompts is \[''\]"),
        ({"method": "inpaint"}, r"augment\.inpaint\.model is empty.*method=composite"),
        ({"method": "inpaint", "inpaint": InpaintSettings(model="a/b", width=64)}, r"inpaint\.width.*inpaint\.side"),
        ({"method": "inpaint", "inpaint": InpaintSettings(model="a/b", prompt="{x}")}, r"augment\.inpaint\.prompt"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        augment(**changes)


def test_an_unknown_method_is_refused():
    with pytest.raises(ConfigError, match=r"augment\.method is 'blur'.*inpaint, composite"):
        section("augment", method="blur")


@dataclass
class Sections:
    augment: AugmentSettings = field(default_factory=AugmentSettings)


def test_the_section_is_set_from_the_command_line(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("augment:\n  method: composite\n  backgrounds: {painted: true}\n  edges: {feather: 3}\n")
    loaded = load(Sections, file, ["augment.share=0.25", "augment.inpaint.side=512", "augment.inpaint.call={eta: 0}"])
    assert loaded.augment == AugmentSettings(
        method="composite",
        share=0.25,
        edges=EdgesSettings(feather=3.0),
        inpaint=InpaintSettings(side=512, call={"eta": 0}),
        backgrounds=BackgroundSettings(painted=True),
    )
    with pytest.raises(ConfigError, match=r"augment\.backgrounds\.count is 0"):
        load(Sections, file, ["augment.backgrounds.count=0"])


def test_a_model_that_cannot_be_had(tmp_path):
    with pytest.raises(ConfigError, match=r"augment\.inpaint\.model"):
        inpaint(tmp_path / "nowhere").process(make_unit())
    stage = augment(backgrounds=BackgroundSettings(generate=GenerationSettings(model=str(tmp_path / "nowhere"))))
    with pytest.raises(ConfigError, match=r"augment\.backgrounds\.generate\.model"):
        stage.process(make_unit())
