"""The stage `filter`: each filter's numbers against the library's own, and what becomes of sets that fail."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from safetensors.torch import save_file

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES
from data_gen.stages.filter import ORDER, FilterSets
from data_gen.stages.filters import FILTERS, Filter, Verdict, rounded
from data_gen.stages.filters.content import NsfwSettings, PeopleSettings
from data_gen.stages.filters.likeness import DuplicatesSettings, IdentitySettings
from data_gen.stages.filters.quality import AestheticSettings, SharpnessSettings, TextSettings, sharpness
from jedi import encoders
from jedi.encoders import load_encoder
from jedi.io.config import ConfigError, load
from jedi.metrics import copy_score, cut_subject
from tests.data_gen.made_sets import make_set, make_unit
from tests.encoders import LAYERS, fill, save_clip, save_dinov2

OFF = {
    "identity": IdentitySettings(min_mean=None),
    "sharpness": SharpnessSettings(min_score=None),
    "duplicates": DuplicatesSettings(max_copy=None),
}


def configured(resolution=48, **settings):
    """Settings with these filters only, and a context."""
    return FilterSets.section()(**{**OFF, **settings}), Context("data", resolution=resolution, device="cpu")


def judged(sets, **settings):
    return FilterSets(*configured(**settings)).process(sets)


def reasons(sets):
    return [one.reason if isinstance(one, Dropped) else None for one in sets]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return f"clip:{save_clip(tmp_path_factory.mktemp('clip'))}"


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> str:
    return f"dinov2:{save_dinov2(tmp_path_factory.mktemp('dinov2'))}"


@pytest.fixture(scope="module")
def unit():
    return make_unit()


# identity


@pytest.mark.parametrize("masked", [True, False])
def test_identity_is_the_cosine_of_all_pairs(unit, dinov2, masked):
    sets = judged(unit, identity=IdentitySettings(min_mean=-1, encoder=dinov2, masked=masked))
    encoder = load_encoder(dinov2)
    for one, before in zip(sets, unit, strict=True):
        images = before.images
        if masked:
            images = [cut_subject(*pair, crop=True) for pair in zip(images, before.masks, strict=True)]
        rows = encoder.embed_images(images)
        pairs = [float(rows[i] @ rows[j]) for i in range(4) for j in range(i)]
        assert one.scores["identity"] == {
            "mean": pytest.approx(np.mean(pairs), abs=1e-4),
            "min": pytest.approx(min(pairs), abs=1e-4),
        }
        assert one.images == before.images
    assert before.scores == {}


def test_a_stranger_is_seen_by_the_pair_sooner_than_by_the_mean(unit, dinov2):
    fox, cup = unit[:2]
    stranger = replace(fox, images=[*fox.images[:3], cup.images[3]], masks=[*fox.masks[:3], cup.masks[3]])
    settings = IdentitySettings(min_mean=-1, encoder=dinov2)
    good, bad = (one.scores["identity"] for one in judged([fox, stranger], identity=settings))
    assert bad["mean"] < good["mean"]
    assert good["min"] - bad["min"] > good["mean"] - bad["mean"]
    mean, least = ((good[x] + bad[x]) / 2 for x in ("mean", "min"))
    by_mean = judged([fox, stranger], identity=replace(settings, min_mean=mean))
    assert reasons(by_mean) == [None, f"identity below {mean:g}"]
    by_pair = judged([fox, stranger], identity=replace(settings, min_mean=None, min_pair=least))
    assert reasons(by_pair) == [None, f"identity of a pair below {least:g}"]
    assert by_pair[1].scores["identity"] == bad
    assert by_pair[1].rejected.scores["identity"] == bad


def test_identity_of_one_image_is_not_judged(dinov2):
    settings = IdentitySettings(min_mean=1, encoder=dinov2)
    (one,) = judged([make_set(0, "cup", "thing", (40, 40, 220), n=1)], identity=settings)
    assert one.scores["identity"] is None


def test_identity_needs_masks_and_one_subject(unit, dinov2):
    stage = FilterSets(*configured(identity=IdentitySettings(encoder=dinov2)))
    assert stage.needs == {"images", "masks"}
    bare = replace(unit[1], masks=[*unit[1].masks[:2], None, unit[1].masks[3]])
    with pytest.raises(ConfigError, match=r"image 2 of set train-00000001 has no mask; .*identity.masked=false"):
        stage.process([unit[0], bare])
    whole = FilterSets(*configured(identity=IdentitySettings(min_mean=-1, encoder=dinov2, masked=False)))
    assert whole.needs == {"images"}
    assert whole.process([bare])[0].scores["identity"]["min"] <= 1
    several = replace(unit[0], subject={**unit[0].subject, "subjects": [{"name": "fox"}, {"name": "cup"}]})
    with pytest.raises(ConfigError, match="shows several subjects"):
        stage.process([several])


# text and aesthetic


def test_text_is_the_cosine_with_the_own_caption(unit, clip):
    sets = judged(unit, text=TextSettings(min_score=-1, encoder=clip))
    encoder = load_encoder(clip)
    for one in sets:
        rows = encoder.embed_images(one.images) * encoder.embed_texts(one.captions)
        assert one.scores["text"] == pytest.approx(rows.sum(-1).tolist(), abs=1e-4)
    least = sorted(sets[0].scores["text"])[1] - 1e-3
    settings = {"text": TextSettings(min_score=least, encoder=clip)}
    assert reasons(judged(unit[:1], **settings)) == [f"text below {least:g}"]
    (kept,) = judged(unit[:1], drop_images=True, **settings)
    assert len(kept.images) == 3
    assert kept.scores["text"] == [x for x in sets[0].scores["text"] if x >= least]


def test_the_aesthetic_head_is_put_on_clip(unit, clip, tmp_path):
    weight, bias = torch.randn(1, 16), torch.tensor([5.0])
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    settings = AestheticSettings(min_mean=-100, encoder=clip, head=str(tmp_path / "head.safetensors"))
    sets = judged(unit, aesthetic=settings)
    for one in sets:
        theirs = load_encoder(clip).embed_images(one.images) @ weight[0] + bias
        assert one.scores["aesthetic"] == pytest.approx(theirs.tolist(), abs=1e-4)
    means = [np.mean(one.scores["aesthetic"]) for one in sets]
    least = sum(sorted(means)[1:3]) / 2
    found = reasons(judged(unit, aesthetic=replace(settings, min_mean=least)))
    assert found == [f"aesthetic below {least:g}" if mean < least else None for mean in means]
    for head in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ConfigError, match=r"filter\.aesthetic\.head"):
            judged(unit, aesthetic=replace(settings, head=str(head)))


def test_an_encoder_is_loaded_once_and_asked_once(unit, clip, dinov2, tmp_path, monkeypatch):
    save_file({"weight": torch.randn(1, 16), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    loaded, asked = [], []

    def counting(spec, device):
        loaded.append(spec)
        encoder = load_encoder(spec, device)
        embed = encoder.embed_images
        encoder.embed_images = lambda images: asked.append((spec, len(images))) or embed(images)
        return encoder

    monkeypatch.setattr(encoders, "load_encoder", counting)
    settings = configured(
        identity=IdentitySettings(min_mean=-1, encoder=dinov2),
        text=TextSettings(min_score=-1, encoder=clip),
        aesthetic=AestheticSettings(min_mean=-100, encoder=clip, head=str(tmp_path / "head.safetensors")),
        duplicates=DuplicatesSettings(max_copy=None, max_cosine=1, encoder=dinov2),
    )
    stage = FilterSets(*settings)
    assert loaded == []
    stage.process(unit)
    # DINOv2 sees cut-outs for identity and whole images for duplicates, CLIP whole images once for both.
    assert sorted(asked) == sorted([(dinov2, 16), (dinov2, 16), (clip, 16)])
    stage.process(unit[:2])
    assert sorted(loaded) == sorted([clip, dinov2])


# sharpness


def test_sharpness_is_the_variance_of_the_laplacian():
    from scipy import ndimage

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    theirs = ndimage.laplace(np.asarray(image.convert("L"), dtype=np.float64))[1:-1, 1:-1].var()
    assert sharpness(image, 40) == pytest.approx(theirs)
    assert sharpness(Image.new("RGB", (40, 40), "red"), 64) == 0


def test_blurred_and_enlarged_images_are_not_sharp():
    image = make_set(0, "cup", "thing", (40, 40, 220), size=(96, 128)).images[0]
    sharp = sharpness(image, 96)
    assert sharpness(image.filter(ImageFilter.GaussianBlur(2)), 96) < 0.05 * sharp
    assert sharpness(image.resize((24, 32)), 96) < 0.05 * sharp


def test_sharpness_hardly_depends_on_the_size_where_amplitudes_fall_as_in_nature():
    """1 / frequency, as in photographs: sides from 64 to 512 give values within a factor of 1.6, for an image that was
    resized lacks the corners of the spectrum. Plain noise does not."""
    noise = np.random.default_rng(0).normal(size=(512, 512))
    rise = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512))).clip(1 / 512)
    field = np.fft.ifft2(np.fft.fft2(noise) / rise).real
    photo, plain = (
        Image.fromarray((128 + 40 * x / x.std()).clip(0, 255).astype(np.uint8)).convert("RGB") for x in (field, noise)
    )
    values = [sharpness(photo, side) for side in (64, 128, 256, 512)]
    assert max(values) < 1.6 * min(values)
    assert sharpness(plain, 512) > 10 * sharpness(plain, 64)


def test_a_blurred_image_can_go_alone(unit):
    one = unit[0]
    blurred = replace(one, images=[*one.images[:2], one.images[2].filter(ImageFilter.GaussianBlur(3)), one.images[3]])
    settings = {"sharpness": SharpnessSettings(min_score=200)}
    dropped, good = judged([blurred, one], **settings)
    assert (dropped.reason, dropped.scores["sharpness"][2] < 200) == ("sharpness below 200", True)
    assert min(good.scores["sharpness"]) > 200
    (kept,) = judged([blurred], drop_images=True, **settings)
    assert kept.captions == [one.captions[i] for i in (0, 1, 3)]
    assert kept.provenance == {
        "prompt": "a prompt",
        "left_out": {"filter": {"sharpness below 200": 1}},
        "kept": {"filter": [0, 1, 3]},
    }
    assert kept.scores["left_out"]["sharpness"] == [dropped.scores["sharpness"][2]]
    assert isinstance(judged([blurred], drop_images=True, min_images=4, **settings)[0], Dropped)
    assert isinstance(judged([replace(blurred, references=[2])], drop_images=True, **settings)[0], Dropped)
    (kept,) = judged([replace(blurred, references=[3])], drop_images=True, **settings)
    assert kept.references == [2]


# duplicates


def test_copies_within_a_set_are_found(dinov2):
    one = make_set(0, "red fox", "animal", (200, 40, 40), size=(64, 64))
    copies = [one.images[0], one.images[1], ImageOps.mirror(one.images[0]), one.images[3]]
    copied = replace(one, images=copies)
    settings = {"duplicates": DuplicatesSettings(max_cosine=0.9999, encoder=dinov2)}
    good, bad = judged([one, copied], **settings)
    assert bad.reason == "duplicates (copy) above 0.75"
    assert bad.scores["duplicates"]["copy"] == pytest.approx(1, abs=1e-3)
    pairs = [copy_score(one.images[i : i + 1], one.images[:i]).item() for i in (1, 2, 3)]
    assert good.scores["duplicates"]["copy"] == pytest.approx(max(pairs), abs=1e-4)
    rows = load_encoder(dinov2).embed_images(one.images)
    highest = max(float(rows[i] @ rows[j]) for i in range(4) for j in range(i))
    assert good.scores["duplicates"]["cosine"] == pytest.approx(highest, abs=1e-4)
    (kept,) = judged([copied], drop_images=True, **settings)
    assert kept.images == [copies[0], copies[1], copies[3]]
    by_cosine = DuplicatesSettings(max_copy=None, max_cosine=highest - 1e-3, encoder=dinov2)
    assert reasons(judged([one], duplicates=by_cosine)) == [f"duplicates (cosine) above {highest - 1e-3:g}"]
    single = make_set(0, "cup", "thing", (40, 40, 220), n=1)
    assert judged([single], **settings)[0].scores["duplicates"] == {"copy": None, "cosine": None}


# people and nsfw


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    folder = tmp_path_factory.mktemp("yolos")
    names = {0: "chair", 1: "person", 2: "cup"}
    config = YolosConfig(
        **LAYERS, image_size=[32, 32], patch_size=8, num_detection_tokens=5, id2label=names,
        label2id={name: i for i, name in names.items()},
    )  # fmt: skip
    fill(YolosForObjectDetection(config)).save_pretrained(folder)
    YolosImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_people_are_the_detector_s(unit, detector):
    from transformers import AutoImageProcessor, YolosForObjectDetection

    model, processor = YolosForObjectDetection.from_pretrained(detector), AutoImageProcessor.from_pretrained(detector)
    sets = judged(unit, people=PeopleSettings(max_score=1, model=str(detector)))
    for one in sets:
        with torch.no_grad():
            chances = model(**processor(images=one.images, return_tensors="pt")).logits.softmax(-1)[..., :-1]
        best = chances.where(chances.argmax(-1, keepdim=True) == torch.arange(3), 0)[..., 1].amax(1)
        assert one.scores["people"] == pytest.approx(best.tolist(), abs=1e-3)
    found = [x for one in sets for x in one.scores["people"]]
    assert len(set(found)) > 2
    most = sorted(x for x in found)[8]
    expected = [any(x > most for x in one.scores["people"]) for one in sets]
    assert any(expected)
    got = reasons(judged(unit, people=PeopleSettings(max_score=most, model=str(detector))))
    assert got == [f"people above {most:g}" if bad else None for bad in expected]
    with pytest.raises(ConfigError, match=r"filter\.people\.label is 'dog'.*chair, person, cup"):
        judged(unit, people=PeopleSettings(max_score=1, model=str(detector), label="dog"))


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    folder = tmp_path_factory.mktemp("checker")
    config = CLIPConfig(vision_config={**LAYERS, "image_size": 32, "patch_size": 8}, projection_dim=16)
    model = fill(StableDiffusionSafetyChecker(config))
    model.concept_embeds_weights.data += 0.62
    model.special_care_embeds_weights.data += 0.3
    model.save_pretrained(folder)
    return folder


def test_nsfw_is_what_the_safety_checker_would_blacken(checker):
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessorPil

    sets = [
        make_set(i, "cup", "thing", colour) for i, colour in enumerate([(220, 30, 30), (20, 20, 20), (90, 90, 250)])
    ]
    images = [Image.new("RGB", (40, 40), colour) for colour in ("red", "white", "black", "blue", "lime", "gray")]
    sets.append(replace(make_set(3, "cup", "thing", (1, 1, 1), n=6), images=images))
    model = StableDiffusionSafetyChecker.from_pretrained(checker)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    flags = []
    for one in sets:
        pixels = CLIPImageProcessorPil(**size)(one.images, return_tensors="pt").pixel_values
        flags += model(clip_input=pixels, images=[np.ones((2, 2, 3)) for _ in one.images])[1]
    assert 3 < sum(flags) < len(flags) - 3
    done = judged(sets, nsfw=NsfwSettings(max_score=0, model=str(checker)))
    scores = [x for one in done for x in one.scores["nsfw"]]
    assert [x > 0 for x in scores] == flags
    assert {one.reason for one in done if isinstance(one, Dropped)} == {"nsfw above 0"}


@pytest.mark.parametrize("name", ["people", "nsfw"])
def test_a_model_that_cannot_be_had_is_named(unit, tmp_path, name):
    settings = {"people": PeopleSettings, "nsfw": NsfwSettings}[name](max_score=1, model=str(tmp_path))
    with pytest.raises(ConfigError, match=rf"filter\.{name}\.model"):
        judged(unit, **{name: settings})


def test_an_encoder_that_cannot_be_had_is_named(unit, tmp_path, dinov2):
    with pytest.raises(ConfigError, match=r"filter\.identity\.encoder"):
        judged(unit, identity=IdentitySettings(encoder=f"dinov2:{tmp_path}"))
    with pytest.raises(ConfigError, match=r"filter\.text\.encoder=dinov2.*clip:X"):
        judged(unit, text=TextSettings(min_score=0, encoder=dinov2))


# the stage


@pytest.fixture
def told(monkeypatch):
    """A filter of an extension that answers what it is told."""

    def telling(name, *answers):
        class Told(Filter):
            uses_model = False

            def judge(self, images):
                return answers

        monkeypatch.setitem(FILTERS._parts, name, Told)

    return telling


def test_the_first_filter_that_fails_is_the_reason_and_all_scores_are_there(unit, dinov2, told):
    told("mine", *(Verdict({"x": float(i)}, "mine failed") for i in range(4)))
    sets = judged(
        unit,
        identity=IdentitySettings(min_mean=-1, encoder=dinov2),
        sharpness=SharpnessSettings(min_score=1e5),
    )
    assert reasons(sets) == ["sharpness below 100000"] * 4
    for i, one in enumerate(sets):
        assert list(one.scores) == ["identity", "sharpness", "mine"]
        assert one.scores["mine"] == {"x": i}
        assert json.loads(json.dumps(one.scores)) == one.scores
    assert reasons(judged(unit)) == ["mine failed"] * 4


def test_left_out_images_and_failing_sets_together(unit, told):
    """Where the bad images can go, only what is wrong with the whole set drops it."""
    good, some, whole = Verdict(1.0), Verdict([1.0] * 4, images={1: "some", 2: "some"}), Verdict(0.5, "whole")
    told("a", good, some, some, some)
    told("b", good, good, whole, Verdict(0.0, images={3: "more"}))
    assert reasons(judged(unit)) == [None, "some", "some", "some"]
    sets = judged(unit, drop_images=True)
    assert reasons(sets) == [None, None, "whole", "some"]
    assert len(sets[1].images) == 2
    assert sets[1].provenance["left_out"] == {"filter": {"some": 2}}
    assert [len(one.rejected.images) for one in sets[2:]] == [4, 4]


def test_earlier_scores_stay(unit):
    (one,) = judged([replace(unit[0], scores={"panels": 4})], sharpness=SharpnessSettings(min_score=0))
    assert one.scores["panels"] == 4
    assert len(one.scores["sharpness"]) == 4


def test_a_score_that_is_no_number_stops_the_run(unit, told):
    told("mine", *[Verdict({"x": [0.5, float("nan")]})] * 4)
    with pytest.raises(ValueError, match=r"filter\.mine: the score is nan for set train-00000000"):
        judged(unit)
    assert rounded({"a": [0.123456, None], "b": 2}) == {"a": [0.1235, None], "b": 2}


def test_what_the_stage_says_of_itself(clip):
    light = STAGES.get("filter")(*configured(sharpness=SharpnessSettings()))
    assert (light.needs, light.gives, light.uses_model, light.packages) == ({"images"}, set(), False, ())
    copies = FilterSets(*configured(duplicates=DuplicatesSettings()))
    assert (copies.uses_model, copies.packages) == (False, ("torch",))
    heavy = FilterSets(*configured(text=TextSettings(min_score=0, encoder=clip)))
    assert heavy.uses_model
    assert heavy.packages == ("timm", "torch", "transformers")
    assert heavy.process([]) == []
    assert set(ORDER) <= set(FILTERS)


def test_how_units_are_cut_does_not_matter(unit, dinov2, clip):
    settings = configured(identity=IdentitySettings(encoder=dinov2), text=TextSettings(min_score=-1, encoder=clip))
    stage = FilterSets(*settings)
    together, alone = stage.process(unit), [stage.process([one])[0] for one in unit]
    for a, b in zip(together, alone, strict=True):
        assert type(a) is type(b)
        assert a.scores["text"] == pytest.approx(b.scores["text"], abs=2e-4)


def test_a_stage_without_a_filter_and_unknown_filters_are_refused():
    with pytest.raises(ConfigError, match="all thresholds are null"):
        FilterSets(*configured())
    with pytest.raises(ConfigError, match=r"unknown key 'sharpnes'; did you mean 'sharpness'"):
        load(FilterSets.section(), {"sharpnes": {"min_score": 1.0}})
    with pytest.raises(ValueError, match="'text' is registered already"):
        FILTERS.register("text")(Filter)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("identity.min_mean=1.5", "identity.min_mean"),
        ("identity.min_pair=-2", "identity.min_pair"),
        ("text.min_score=20", "text.min_score"),
        ("sharpness.min_score=-1", "sharpness.min_score"),
        ("duplicates.max_copy=2", "duplicates.max_copy"),
        ("duplicates.max_cosine=2", "duplicates.max_cosine"),
        ("people.max_score=50", "people.max_score"),
        ("nsfw.max_score=9", "nsfw.max_score"),
        ("aesthetic.min_mean=6", "filter.aesthetic.head is empty"),
        ("min_images=0", "min_images"),
        ("identity.min_men=0", "min_mean"),
    ],
)
def test_wrong_settings_are_refused(override, words):
    with pytest.raises(ConfigError) as caught:
        load(FilterSets.section(), None, [override])
    assert words in str(caught.value)


def test_the_settings_can_be_switched_off():
    settings = load(FilterSets.section(), None, ["identity.min_mean=null", "duplicates.max_copy=null"])
    stage = FilterSets(settings, Context("data"))
    assert list(stage.filters) == ["sharpness"]
    assert isinstance(make_unit()[0], SubjectSet)
