"""Captions: the prompt's or a captioner's, in varied words; where a captioner fails the prompt stays."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
)

from data_gen.stages import STAGES
from data_gen.stages.caption import CAPTIONERS, BlipCaptioner, Caption, CaptionSettings
from jedi.io.config import ConfigError
from tests.data_gen.conftest import section
from tests.data_gen.made_sets import context, copied, make_set, make_unit, same
from tests.encoders import CAPTION_WORDS, save_captioner


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return save_captioner(tmp_path_factory.mktemp("blip"))


def caption(seed: int = 0, **changes) -> Caption:
    return Caption(section("caption", **changes), context(seed=seed))


class Says:
    """A captioner that says what it was told to, in order."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.calls = texts, []

    def describe(self, images, beginnings):
        self.calls.append((list(images), list(beginnings)))
        return [self.texts[i % len(self.texts)] for i in range(len(images))]


def saying(*texts: str, **changes) -> Caption:
    stage = caption(**{"method": "captioner", "captioner": "blip:x", "openings": [""], **changes})
    stage.captioner = Says(*texts)
    return stage


# --- keep


def test_prompts_stay_behind_varied_openings():
    unit = [make_set(i, "cup", "thing", (1, 2, 200)) for i in range(40)]
    untouched = [copied(one) for one in unit]
    openings = Counter()
    for one, before in zip(caption().process(unit), unit, strict=True):
        for text, prompt, described in zip(one.captions, before.captions, one.attributes, strict=True):
            assert text.endswith(prompt) and described["caption_from"] == "prompt"
            openings[text.removesuffix(prompt)] += 1
        assert one.provenance == {"prompt": "a prompt", "caption": {"method": "keep"}}
        assert all(image is own for image, own in zip(one.images, before.images, strict=True))
    assert set(openings) == {"", "a photo of ", "an image of "}
    assert openings[""] == pytest.approx(80, abs=25)  # it is there twice in four
    assert all(same(a, b) for a, b in zip(unit, untouched, strict=True))


def test_an_opening_takes_the_place_of_another_and_stands_before_subjects_only():
    one = make_set(0, "cup", "thing", (1, 2, 200), n=6)
    texts = [
        "This is a photo of a cup", "there is a cup on the beach.", "in the snow, a cup", "a drawing of a cup",
        "grapes on a table", "the close-up of a cup",
    ]  # fmt: skip
    one = replace(one, captions=texts)
    assert caption(openings=["an image of"]).process([one])[0].captions == [
        "an image of a cup", "an image of a cup on the beach", "in the snow, a cup", "a drawing of a cup",
        "grapes on a table", "the close-up of a cup",
    ]  # fmt: skip
    assert caption(openings=[""]).process([one])[0].captions[:2] == ["a cup", "a cup on the beach"]


def test_the_seed_and_the_key_decide():
    unit = make_unit()
    once = caption().process(unit)
    assert all(same(a, b) for a, b in zip(once, caption().process(make_unit()), strict=True))
    assert all(same(a, caption().process([one])[0]) for a, one in zip(once, unit, strict=True))
    assert [one.captions for one in once] != [one.captions for one in caption(seed=1).process(unit)]


def test_length_case_and_white_space():
    one = make_set(0, "Eiffel Tower", "building", (1, 2, 200), n=2)
    one = replace(one, captions=["  The Eiffel Tower\n in the evening near the old bridge of the  city ", "Grapes!"])
    short = caption(openings=[""], max_words=6).process([one])[0]
    assert short.captions[0] == "The Eiffel Tower in the evening"
    assert caption(openings=[""], max_words=7).process([one])[0].captions[0] == "The Eiffel Tower in the evening"
    assert (
        caption(openings=["A Photo of"], lowercase=True).process([one])[0].captions[0].startswith("a photo of the eif")
    )


def test_the_noun_is_said():
    one = make_set(0, "red fox", "animal", (1, 2, 200), n=4)
    texts = ["a red fox in the snow", "two red foxes in the snow", "a dog in the snow", "foxtrot, animalistic"]
    one = replace(one, captions=texts)
    stage = caption(openings=[""], noun="name")
    assert stage.process([one])[0].captions == [
        "a red fox in the snow", "two red foxes in the snow", "a red fox, a dog in the snow",
        "a red fox, foxtrot, animalistic",
    ]  # fmt: skip
    assert caption(openings=[""], noun="class").process([one])[0].captions[3] == "an animal, foxtrot, animalistic"
    both = {"id": "a+b", "name": "fox and cup", "class": "x", "subjects": [
        {"id": "a", "name": "fox", "class": "animal"}, {"id": "b", "name": "cup", "class": "thing"},
    ]}  # fmt: skip
    shown = [{"subjects": [0]}, {"subjects": [1]}, {"subjects": [0, 1]}, {"subjects": [0, 1]}]
    together = replace(one, subject=both, attributes=shown, captions=["at home", "at home", "a fox at home", "at home"])
    assert stage.process([together])[0].captions == [
        "a fox, at home", "a cup, at home", "a cup, a fox at home", "a fox and a cup, at home",
    ]  # fmt: skip


def test_a_caption_is_never_empty():
    one = replace(make_set(0, "red fox", "animal", (1, 2, 200), n=2), captions=["", " a photo of . "])
    made = caption(openings=["a photo of"]).process([one])[0]
    assert made.captions == ["a photo of a red fox"] * 2
    assert [described["caption_from"] for described in made.attributes] == ["name", "name"]
    made = saying("", "").process([one])[0]
    assert made.captions == ["a red fox"] * 2


# --- captioner


def test_what_the_captioner_fails_at_is_counted_and_the_prompt_stays():
    one = make_set(0, "red fox", "animal", (1, 2, 200), n=6)
    texts = [
        "a photo of an animal",
        "",
        "A dog on a dog on a dog on a hill.",
        "a fox by a lake",
        "A FOX by a lake",
        "x",
    ]
    stage = saying(*texts)
    made = stage.process([one])[0]
    assert made.captions == [
        one.captions[0], one.captions[1], "A dog on a hill", "a fox by a lake", one.captions[4], "x",
    ]  # fmt: skip
    sources = [described["caption_from"] for described in made.attributes]
    assert sources == ["prompt", "prompt", "captioner", "captioner", "prompt", "captioner"]
    assert made.provenance["caption"] == {
        "method": "captioner",
        "captioner": "blip:x",
        "said": texts,
        "prompts_kept": {"says no more than its beginning": 1, "empty": 1, "repeated": 1},
    }


def test_the_captioner_sees_the_unit_at_once_with_each_beginning():
    unit = make_unit()
    stage = saying("a thing")
    stage.process(unit)
    ((images, beginnings),) = stage.captioner.calls
    assert len(images) == 16 and images[5] is unit[1].images[1]
    assert beginnings == [
        f"a photo of {kind}" for kind in ("an animal", "a thing", "a food", "an animal") for _ in range(4)
    ]
    assert saying("x").process([]) == []


@pytest.mark.slow
def test_blip_says_the_same_alone_and_in_company(blip):
    unit = make_unit()
    images = [image for one in unit for image in one.images]
    beginnings = ["a photo of a dog", "", "a photo of the red cat", "a"] * 4
    settings = CaptionSettings(method="captioner", captioner=f"blip:{blip}", max_new_tokens=8, batch_size=3)
    captioner = BlipCaptioner(str(blip), settings, context())
    together = captioner.describe(images, beginnings)
    assert captioner.describe(images, beginnings) == together
    alone = [captioner.describe([image], [text])[0] for image, text in zip(images, beginnings, strict=True)]
    assert alone == together and len(set(together)) > 4
    for text, beginning in zip(together, beginnings, strict=True):
        assert text.startswith(beginning) and len(text.split()) <= len(beginning.split()) + 8
        assert set(text.split()) <= set(CAPTION_WORDS)


def test_blip_is_the_models_own_generate(blip):
    """The same as the model's documented call, with its processor's parts by hand."""
    (image, *_), text = make_unit()[0].images, "a photo of"
    settings = CaptionSettings(method="captioner", captioner=f"blip:{blip}", max_new_tokens=6, beams=2)
    said = BlipCaptioner(str(blip), settings, context()).describe([image, image], [text, ""])
    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    tokenizer = BertTokenizer.from_pretrained(blip)
    seen = BlipImageProcessor.from_pretrained(blip)(image, return_tensors="pt")["pixel_values"]
    words = tokenizer(text, return_tensors="pt")["input_ids"]
    arguments = {"num_beams": 2, "do_sample": False, "max_new_tokens": 6}
    with torch.no_grad():
        guided = model.generate(pixel_values=seen, input_ids=words, **arguments)
        free = model.generate(pixel_values=seen, **arguments)
    assert said == tokenizer.batch_decode(guided, skip_special_tokens=True) + tokenizer.batch_decode(
        free, skip_special_tokens=True
    )


def test_the_stage_with_blip(blip):
    unit = make_unit()
    settings = {"method": "captioner", "captioner": f"blip:{blip}", "noun": "class", "begin": "", "max_new_tokens": 8}
    once, again = (caption(**settings).process(unit) for _ in range(2))
    assert all(same(a, b) for a, b in zip(once, again, strict=True))
    for one in once:
        assert all(one.subject["class"] in text for text in one.captions)
        assert set(one.provenance["caption"]["said"]) and one.images[0] is not None
    assert "captioner" in {described["caption_from"] for one in once for described in one.attributes}
    assert caption(**settings).uses_model and not caption().uses_model


def test_an_extension_brings_its_own_captioner():
    @CAPTIONERS.register("test-size")
    class Sizes:
        def __init__(self, source, settings, context):
            self.source = source

        def describe(self, images, beginnings):
            return [f"{beginning} {self.source} {image.width} {i}" for i, (image, beginning) in enumerate(
                zip(images, beginnings, strict=True)
            )]  # fmt: skip

    stage = caption(method="captioner", captioner="test-size:of", begin="a {name}", openings=[""])
    made = stage.process([make_set(0, "cup", "thing", (1, 2, 200), n=2)])[0]
    assert made.captions == ["a cup of 48 0", "a cup of 48 1"]


# --- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "invent"}, r"caption\.method is 'invent'.*keep, captioner"),
        ({"method": "captioner"}, r"caption\.captioner is empty.*method=keep"),
        ({"method": "captioner", "captioner": "blop:x"}, r"caption\.captioner=blop:x: .*did you mean 'blip'"),
        ({"noun": "verb"}, r"caption\.noun is 'verb'.*'', class, name"),
        ({"begin": "a {thing}"}, r"caption\.begin.*thing.*known are \{name\}"),
        ({"max_words": 1}, r"caption\.max_words is 1"),
        ({"openings": []}, r"caption\.openings is empty"),
        ({"beams": 0}, r"caption\.beams is 0"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        caption(**changes)


def test_models_that_cannot_be_had(blip, tmp_path):
    def process(source):
        return caption(method="captioner", captioner=f"blip:{source}").process(make_unit()[:1])

    with pytest.raises(ConfigError, match=r"caption\.captioner=blip:.*nowhere"):
        process(tmp_path / "nowhere")
    # A model of the same family without the decoder's weights: random ones would caption, too.
    settings = BlipConfig.from_pretrained(blip)
    other = tmp_path / "retrieval"
    BlipForImageTextRetrieval(settings).save_pretrained(other)
    with pytest.raises(ConfigError, match=r"caption\.captioner=.*missing"):
        process(other)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    settings.save_pretrained(pickled)
    torch.save(BlipForConditionalGeneration(settings).state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"caption\.captioner=.*safetensors"):
        process(pickled)


def test_registered():
    assert STAGES.get("caption") is Caption and Caption.needs == {"images"} and not Caption.gives
    assert "blip" in CAPTIONERS
