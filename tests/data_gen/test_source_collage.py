"""The collage source: what it records, one seed a collage, and what it refuses."""

import json

import numpy as np
import pytest

from data_gen.samples import Dropped, Item
from data_gen.sources import SOURCES
from data_gen.sources.collage import Collage, CollageSettings
from data_gen.sources.subjects import split_of
from jedi.io.config import ConfigError
from jedi.rng import keyed_seed
from tests.data_gen.conftest import section
from tests.data_gen.pipelines import context, save_flux, write_book


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return save_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("book"))


def source(book, model, changes=None, **section) -> Collage:
    section = {"width": 32, "height": 32, "num_inference_steps": 2, "batch_size": 2, **section}
    return Collage(CollageSettings(model=str(model), **section), context(book, **(changes or {})))


def pixels(sets) -> np.ndarray:
    return np.stack([np.asarray(one.images[0], dtype=int) for one in sets])


ITEMS = [Item("train", index) for index in range(3)]


def test_a_collage_and_all_that_made_it(book, tiny_base):
    one = source(
        book, tiny_base, prompt="{collage}, {panels} photos of {a_name}", negative_prompt="text", guidance_scale=3.0
    )
    (made,) = one.make([Item("train", 1)])
    subject = one.subject(Item("train", 1))
    assert made.key == "train-00000001" and made.subject["id"] == subject.id
    assert made.captions == [f"{subject.collage}, 2 photos of a {subject.name}"]
    assert [image.size for image in made.images] == [(32, 32)] and made.masks == [None]
    assert made.provenance == {
        "model": str(tiny_base),
        "pipeline": "StableDiffusionPipeline",
        "width": 32,
        "height": 32,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "negative_prompt": "text",
        "prompt": made.captions[0],
        "seed": keyed_seed(0, "train-00000001", "collage"),
        "panels": 2,
        "panel_caption": f"a photo of a {subject.name}",
        "panel_captions": list(subject.scenes),
    }
    json.dumps([made.subject, made.attributes, made.provenance])
    assert made.licence == f"that of the model {tiny_base}"
    assert SOURCES.get("collage") is Collage and Collage.gives == {"collage"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "flux"])
def test_equal_seeds_equal_bytes_whatever_the_grouping(book, tiny_base, flux, family):
    model = tiny_base if family == "sd" else flux
    extra = {"call": {"max_sequence_length": 16}} if family == "flux" else {}
    together = pixels(source(book, model, **extra).make(ITEMS))
    again = pixels(source(book, model, **extra).make(ITEMS))
    assert np.array_equal(together, again)
    alone = pixels([one for item in ITEMS for one in source(book, model, **extra).make([item])])
    assert np.abs(together - alone).max() <= 1  # a batch of another size may round otherwise
    assert np.abs(together[0] - together[1]).max() > 20
    other = pixels(source(book, model, {"seed": 1}, **extra).make(ITEMS))
    assert np.abs(together - other).max() > 20


def test_subjects_go_round_and_stay_in_their_split(book, tiny_base):
    one = source(book, tiny_base)
    assert one.sizes() == {"train": 6, "heldout": 2}
    for split in ("train", "heldout"):
        known = [subject.id for subject in one.subjects[split]]
        assert known and all(split_of(name) == split for name in known)
        ids = [one.subject(Item(split, index)).id for index in range(2 * len(known))]
        assert ids == 2 * known
    first, second = one.make([Item("heldout", 0), Item("heldout", len(one.subjects["heldout"]))])
    assert first.subject == second.subject
    assert np.abs(pixels([first]) - pixels([second])).max() > 20


def test_the_split_of_subjects_is_for_ever():
    assert [split_of(name) for name in ("red-fox", "robot", "dog")] == ["train", "heldout", "train"]
    assert sum(split_of(f"subject-{i}") == "heldout" for i in range(10_000)) == pytest.approx(1000, abs=100)
    few = {i for i in range(1000) if split_of(f"subject-{i}", 0.05) == "heldout"}
    many = {i for i in range(1000) if split_of(f"subject-{i}", 0.3) == "heldout"}
    assert few < many


def test_inputs_change_with_the_prompts(tmp_path, tiny_base):
    first = source(write_book(tmp_path / "a"), tiny_base).inputs()
    assert first == source(write_book(tmp_path / "b"), tiny_base).inputs()
    assert first != source(write_book(tmp_path / "c", ["red fox"]), tiny_base).inputs()


def test_no_subject_for_a_split(tmp_path, tiny_base):
    book = write_book(tmp_path, ["dog"])  # a subject of the training split
    with pytest.raises(ConfigError, match="none of the 1 subjects .* is a heldout subject.*heldout_sets=0"):
        source(book, tiny_base).sizes()
    assert source(book, tiny_base, {"heldout_sets": 0}).sizes() == {"train": 6, "heldout": 0}


def test_no_prompts(tmp_path, tiny_base):
    with pytest.raises(ConfigError, match="prompts"):
        source(tmp_path, tiny_base).sizes()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"call": {"true_cfg_scale": 4.0}}, "collage.call: StableDiffusionPipeline takes no 'true_cfg_scale'"),
        ({"width": 30}, "collage: StableDiffusionPipeline refuses .*30"),
    ],
)
def test_arguments_that_a_pipeline_does_not_take(book, tiny_base, section, said):
    with pytest.raises(ConfigError, match=said):
        list(source(book, tiny_base, **section).make(ITEMS[:1]))


def test_a_pipeline_without_negative_prompts(book, flux, monkeypatch):
    from diffusers import FluxPipeline

    def call(self, prompt=None, width=None, height=None, num_inference_steps=28, generator=None, **kwargs):
        raise AssertionError("it is refused before")

    monkeypatch.setattr(FluxPipeline, "__call__", call)
    with pytest.raises(ConfigError, match="collage.negative_prompt: FluxPipeline takes no 'negative_prompt'"):
        list(source(book, flux, negative_prompt="text").make(ITEMS[:1]))


def test_what_the_safety_checker_blackens_is_dropped(book, tiny_base, monkeypatch):
    from diffusers import StableDiffusionPipeline

    def check(self, image, device, dtype):
        return image, [False, True]

    monkeypatch.setattr(StableDiffusionPipeline, "run_safety_checker", check)
    first, second = source(book, tiny_base).make(ITEMS[:2])
    assert first.images
    assert second == Dropped("train-00000001", "unsafe")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": ""}, "collage.model is empty"),
        ({"prompt": "{collge}"}, "'collge' is not a placeholder"),
        ({"prompt": "{"}, "collage.prompt"),
        ({"panels": 1}, "collage.panels is 1"),
        ({"batch_size": 0}, "collage.batch_size"),
        ({"call": {"generator": 1}}, "'generator' is not for this key"),
    ],
)
def test_impossible_settings(settings, said):
    with pytest.raises(ConfigError, match=said):
        section("collage", **settings)
