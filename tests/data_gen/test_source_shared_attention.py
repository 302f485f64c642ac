"""Attention shared over a set: what the coupling does, in layers and in images, and what is refused."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection

from data_gen import masked_shared_attention as shared
from data_gen.masked_shared_attention import (
    SharedContext,
    above_otsu,
    attend_within,
    grid_of,
    grow,
    install_masked_shared_attention,
)
from data_gen.samples import Dropped, Item
from data_gen.sources import SOURCES
from data_gen.sources.shared_attention import SharedAttention, SharedAttentionSettings, find_words
from jedi.attention import JointContext, install_joint_attention, sdpa
from jedi.io.config import ConfigError
from jedi.rng import keyed_seed, seeded_generator
from tests import tiny
from tests.data_gen.conftest import section
from tests.data_gen.pipelines import context, save_flux, save_plain_jedi, write_book

ITEMS = [Item("train", index) for index in range(3)]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("book"))


def source(book, model, changes=None, **section) -> SharedAttention:
    section = {"num_inference_steps": 3, **section}
    return SharedAttention(SharedAttentionSettings(model=str(model), **section), context(book, **(changes or {})))


def pixels(sets) -> np.ndarray:
    """[sets n H W 3]"""
    return np.stack([[np.asarray(image, dtype=int) for image in one.images] for one in sets])


def spread(images: np.ndarray) -> float:
    """Mean distance of the images of a set from one another, over sets: [sets n H W 3] -> grey levels."""
    n = images.shape[1]
    return float(np.mean([np.abs(images[:, a] - images[:, b]).mean() for a in range(n) for b in range(a)]))


# Layers


def layer_tensors(sets=2, n=3, tokens=16):
    return (torch.randn(sets * n, 2, tokens, 8) for _ in range(3))


def test_attention_within_a_full_mask_is_plain_coupling():
    query, key, value = layer_tensors()
    within = attend_within(query, key, value, torch.ones(6, 16, dtype=torch.bool), 3, sdpa)
    from jedi.attention import attend_mutual

    folded = (x.unflatten(0, (2, 3)) for x in (query, key, value))
    torch.testing.assert_close(within, attend_mutual(*folded, 0, sdpa).flatten(0, 1))


def test_attention_within_an_empty_mask_is_none():
    query, key, value = layer_tensors()
    within = attend_within(query, key, value, torch.zeros(6, 16, dtype=torch.bool), 3, sdpa)
    torch.testing.assert_close(within, sdpa(query, key, value))


def test_attention_within_a_mask_is_attention_under_that_mask():
    query, key, value = layer_tensors()
    mask = torch.rand(6, 16) < 0.4
    for i in range(6):
        others = [x for x in range(i - i % 3, i - i % 3 + 3) if x != i]
        allowed = torch.cat([torch.ones(16, dtype=torch.bool), *(mask[x] for x in others)])
        keys, values = (torch.cat([x[i], *(x[j] for j in others)], dim=1)[None] for x in (key, value))
        expected = torch.nn.functional.scaled_dot_product_attention(
            query[i : i + 1], keys, values, attn_mask=allowed[None, None, None]
        )
        within = attend_within(query, key, value, mask, 3, sdpa)[i : i + 1]
        torch.testing.assert_close(within, expected)


def unet_call(unet, joint):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(8, 4, 8, 8, generator=generator)
    text = torch.randn(8, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH, generator=generator)
    with torch.no_grad():
        return unet(sample, 500, text, cross_attention_kwargs={"joint": joint}).sample


@pytest.mark.parametrize("words", [False, True])
def test_a_unet_with_our_processors(tiny_components, words):
    """Eight images: under guidance, two sets of two, first without their prompts, then with."""
    unet = tiny_components["unet"]
    install_joint_attention(unet)
    plain, mutual = unet_call(unet, None), unet_call(unet, JointContext(2, 0, "mutual"))
    install_masked_shared_attention(unet)
    marks = torch.zeros(4, tiny.TEXT_LENGTH, dtype=torch.bool)
    marks[:, 3] = True

    def ours(**state):
        context = SharedContext(2, 0, "mutual", grid=(8, 8), words=marks if words else None, **state)
        return unet_call(unet, context), context

    torch.testing.assert_close(ours(shared=False)[0], plain)
    torch.testing.assert_close(ours()[0], mutual)
    torch.testing.assert_close(ours(mask=torch.ones(4, 8, 8, dtype=torch.bool))[0], mutual)
    torch.testing.assert_close(ours(mask=torch.zeros(4, 8, 8, dtype=torch.bool))[0], plain)
    half = torch.zeros(4, 8, 8, dtype=torch.bool)
    half[:, :4] = True
    between = ours(mask=half)[0]
    assert (between - plain).abs().max() > 1e-3 and (between - mutual).abs().max() > 1e-3
    _, context = ours()
    assert context.mask is None
    context.end_step()
    if not words:
        assert context.mask is None
    else:
        assert context.mask.shape == (4, 8, 8) and 0 < context.mask.float().mean() < 1


def test_the_mask_is_where_pixels_look_at_the_words():
    """A layer whose keys and queries are given: of 16 pixels a block of four looks at the word."""
    attn = torch.nn.Module()
    attn.heads, attn.to_q, attn.to_k = 2, torch.nn.Identity(), torch.nn.Identity()
    text = torch.zeros(2, 3, 8)
    text[:, 1] = 4.0  # the word
    pixels = -torch.ones(2, 4, 4, 8)
    pixels[0, :2, :2] = pixels[1, 2:, 2:] = 1.0
    words = torch.tensor([[False, True, False]] * 2)
    context = SharedContext(2, grid=(8, 8), words=words)
    both = torch.cat([torch.randn(2, 16, 8), pixels.flatten(1, 2)])  # without, then with the prompt
    context.add_map(attn, both, torch.cat([torch.randn(2, 3, 8), text]))
    context.end_step()
    assert context.mask[0, :4, :4].all() and not context.mask[0, 6:, :].any() and not context.mask[0, :, 6:].any()
    assert context.mask[1, 4:, 4:].all() and not context.mask[1, :2, :].any() and not context.mask[1, :, :2].any()


def test_otsu_parts_two_heaps():
    maps = torch.cat([torch.rand(40) * 0.2, 0.7 + torch.rand(24) * 0.3])[torch.randperm(64)].view(1, 8, 8)
    assert torch.equal(above_otsu(maps), maps > 0.5)
    assert torch.equal(above_otsu(maps.bfloat16()), maps > 0.5)
    assert above_otsu(torch.full((2, 8, 8), 0.3)).all()  # nothing to tell apart
    one = torch.zeros(1, 5, 5, dtype=torch.bool)
    one[0, 0, 2] = True
    assert grow(one).nonzero().tolist() == [[0, y, x] for y in (0, 1) for x in (1, 2, 3)]


def test_grids_of_layers():
    assert [grid_of(tokens, (8, 12)) for tokens in (96, 24, 6)] == [(8, 12), (4, 6), (2, 3)]
    assert grid_of(15, (5, 9)) == (3, 5)  # odd sides round up, as strided convolutions do
    with pytest.raises(ValueError, match="70 tokens does not fit latents of 8 x 12"):
        grid_of(70, (8, 12))


# Words


def test_words_in_prompts():
    words = tiny.tokenizer()

    def said(prompt, *wanted):
        tokens = words(prompt, padding="max_length", max_length=16, truncation=True).input_ids
        marks = find_words(words, prompt, wanted)
        assert len(marks) == len(tokens) == 16
        return words.decode([token for token, mark in zip(tokens, marks, strict=True) if mark]).strip()

    assert said("a red cat on the grass", "red cat") == "red cat"
    assert said("a blue cat on the grass", "red cat") == "cat"  # the name's last word
    assert said("a cat and a cat", "cat") == "cat cat"
    assert said("a bird in a cup", "dog", "bird") == "bird"
    assert said("a bird in a cup", "dog", "grass") == ""


# Images


def test_copies_stay_copies_and_equal_the_single_image(tiny_base):
    """The same prompt and noise n times: nothing to share, so the images are the single image's."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.set_progress_bar_config(disable=True)
    seeds = [7, 7, 7]
    settings = {"num_inference_steps": 3, "output_type": "np"}
    alone = pipe("a red cat", generator=torch.Generator().manual_seed(7), **settings).images
    install_masked_shared_attention(pipe.unet)
    for words in (None, torch.tensor([find_words(pipe.tokenizer, "a red cat", ["cat"])] * 3)):
        context = SharedContext(3, 0, "mutual", grid=(8, 8), words=words)

        def after_step(pipe, step, timestep, tensors, context=context):
            context.end_step()
            return tensors

        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        together = pipe(
            ["a red cat"] * 3,
            generator=generators,
            cross_attention_kwargs={"joint": context},
            callback_on_step_end=after_step,
            **settings,
        ).images
        if words is None:
            np.testing.assert_allclose(together, np.repeat(alone, 3, 0), atol=1e-4)
        else:  # within a mask the subject counts three times, so they differ from the single image, not from another
            np.testing.assert_allclose(together, together[:1].repeat(3, 0), atol=1e-4)


@pytest.mark.slow
def test_coupling_makes_the_images_of_a_set_alike(root, tmp_path):
    """On a model that makes real images, and whose weights, to be honest, were trained with such a coupling."""
    model = save_plain_jedi(root, tmp_path / "model")
    book = write_book(tmp_path / "book", ["face", "animal", "toy"])
    prompt = "a large {name} on a white background"
    common = {"prompt": prompt, "num_inference_steps": 6, "guidance_scale": 2.0}
    found = {}
    for name, changes in {
        "uncoupled": {"shared_steps": [0.0, 0.0]},
        "coupled": {"masked": False},
        "within masks": {"masked": True},
        "first half": {"shared_steps": [0.0, 0.5], "masked": False},
    }.items():
        found[name] = spread(pixels(source(book, model, {"images_per_set": 3}, **common, **changes).make(ITEMS)))
    print(found)
    assert found["coupled"] < 0.8 * found["uncoupled"]
    assert found["within masks"] < 0.85 * found["uncoupled"]
    assert found["coupled"] < found["first half"] < found["uncoupled"]


@pytest.mark.slow
def test_uncoupled_is_the_plain_pipeline(book, tiny_base):
    one = source(book, tiny_base, shared_steps=[0.0, 0.0], negative_prompt="cup", width=32, height=64)
    (made,) = one.make([ITEMS[1]])
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    plain = pipe(
        made.captions,
        negative_prompt=["cup"] * 2,
        generator=[seeded_generator(seed) for seed in made.provenance["seeds"]],
        num_inference_steps=3,
        width=32,
        height=64,
    ).images
    assert np.abs(pixels([made])[0] - np.stack([np.asarray(image, dtype=int) for image in plain])).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_equal_seeds_equal_bytes_whatever_the_grouping(book, tiny_base, masked):
    def made(groups, changes=None, **section):
        one = source(book, tiny_base, changes, masked=masked, num_inference_steps=2, guidance_scale=2.0, **section)
        return pixels([x for group in groups for x in one.make(group)])

    together = made([ITEMS])
    assert np.array_equal(together, made([ITEMS]))
    assert np.array_equal(together, made([[item] for item in ITEMS]))  # a set is a batch
    batched = made([ITEMS], sets_per_batch=2)
    assert np.abs(together - batched).max() <= 1
    assert np.abs(together - made([ITEMS], shared_steps=[0.0, 0.0])).max() > 5
    assert np.abs(together - made([ITEMS], {"seed": 1})).max() > 20


def test_a_set_and_all_that_made_it(book, tiny_base):
    one = source(book, tiny_base, prompt="{scene}, {look}", shared_steps=[0.0, 0.5])
    (made,) = one.make([Item("heldout", 1)])
    subject = one.subject(Item("heldout", 1))
    assert made.subject == {"id": "robot", "name": "robot", "class": "thing"}
    assert len(set(made.captions)) == 2 and set(made.captions) <= set(subject.scenes)
    assert [image.mode for image in made.images] == ["RGB"] * 2 and made.masks == [None, None]
    assert made.provenance == {
        "model": str(tiny_base),
        "pipeline": "StableDiffusionPipeline",
        "num_inference_steps": 3,
        "prompts": [f"{scene}, a robot with a hat" for scene in made.captions],
        "seeds": [keyed_seed(0, "heldout-00000001", i) for i in range(2)],
        "shared_steps": [0.0, 0.5],
        "masked": True,
    }
    json.dumps([made.subject, made.attributes, made.provenance])
    assert SOURCES.get("shared_attention") is SharedAttention and SharedAttention.gives == {"images"}
    assert one.sizes() == {"train": 6, "heldout": 2} and list(one.inputs()) == ["prompts.json"]


@pytest.mark.slow
def test_a_model_of_two_text_encoders(book, tmp_path, tiny_components):
    """SDXL: attention layers of the same shape, two encoders, extra conditions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        second = CLIPTextModelWithProjection(tiny_components["text_encoder"].config).eval()
        unet = UNet2DConditionModel(
            sample_size=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(32, 64), layers_per_block=1,
            norm_num_groups=8, cross_attention_dim=2 * tiny.TEXT_WIDTH, attention_head_dim=(2, 4),
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=6 * 8 + tiny.TEXT_WIDTH,
        ).eval()  # fmt: skip
    parts = {**tiny_components, "unet": unet, "text_encoder_2": second, "tokenizer_2": tiny.tokenizer()}
    StableDiffusionXLPipeline(**parts).save_pretrained(tmp_path)
    made = {
        name: pixels(source(book, tmp_path, **section).make(ITEMS[:2]))
        for name, section in {"coupled": {}, "uncoupled": {"shared_steps": [0.0, 0.0]}}.items()
    }
    assert made["coupled"].shape == (2, 2, 32, 32, 3)
    assert np.abs(made["coupled"] - made["uncoupled"]).max() > 5


def test_coupling_in_a_share_of_the_steps(book, tiny_base, monkeypatch):
    steps = []
    plain = shared.SharedContext.end_step
    monkeypatch.setattr(shared.SharedContext, "end_step", lambda self: (steps.append(self.shared), plain(self))[1])
    list(source(book, tiny_base, num_inference_steps=5, shared_steps=[0.2, 0.8]).make(ITEMS[:1]))
    assert steps == [False, True, True, True, False]


def test_sets_that_do_not_name_their_subject(book, tiny_base):
    one = source(book, tiny_base, prompt="an image", sets_per_batch=2)
    dropped = list(one.make(ITEMS))
    assert dropped == [Dropped(item.key, "subject not named in its scene") for item in ITEMS]
    (made,) = source(book, tiny_base, prompt="an image", masked=False).make(ITEMS[:1])
    assert len(made.images) == 2


def test_what_the_safety_checker_blackens_is_dropped(book, tiny_base, monkeypatch):
    monkeypatch.setattr(
        StableDiffusionPipeline, "run_safety_checker", lambda self, image, *_: (image, [False, True, False, False])
    )
    first, second = source(book, tiny_base, sets_per_batch=2).make(ITEMS[:2])
    assert first == Dropped("train-00000000", "unsafe") and len(second.images) == 2


def test_models_of_another_shape(book, tmp_path, tiny_components):
    flux = save_flux(tmp_path / "flux")
    with pytest.raises(ConfigError, match="shared_attention.model=.*FluxPipeline has no UNet"):
        list(source(book, flux).make(ITEMS))
    tiny_components["unet"] = UNet2DConditionModel(
        sample_size=8, down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",),
        mid_block_type=None, block_out_channels=(32,), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=tiny.TEXT_WIDTH,
    )  # fmt: skip
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(ConfigError, match="shared_attention.model=.*SD 1.x / 2.x shape"):
        list(source(book, tiny.save_base(tiny_components, folder)).make(ITEMS))


def test_too_few_scenes(tmp_path, tiny_base):
    few = write_book(tmp_path, scenes=2)
    assert source(few, tiny_base).sizes() == {"train": 6, "heldout": 2}
    with pytest.raises(ConfigError, match="has 2 scenes of .* set images_per_set=2"):
        source(few, tiny_base, {"images_per_set": 3}).sizes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": ""}, "shared_attention.model is empty"),
        ({"prompt": "{collage}"}, "'collage' is not a placeholder"),
        ({"shared_steps": [0.5]}, "shared_attention.shared_steps"),
        ({"shared_steps": [0.5, 1.5]}, "shared_attention.shared_steps"),
        ({"sets_per_batch": 0}, "shared_attention.sets_per_batch"),
        ({"call": {"cross_attention_kwargs": {}}}, "'cross_attention_kwargs' is not for this key"),
    ],
)
def test_impossible_settings(settings, said):
    with pytest.raises(ConfigError, match=said):
        section("shared_attention", **settings)
