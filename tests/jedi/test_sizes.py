"""Sizes: squares and others, references of another size than the targets, edits."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from jedi.attention import ATTENTION_MODES, AttentionMode, JointContext, attend_mutual
from jedi.errors import InputError
from jedi.inpainting import Inpainting
from jedi.io import images
from jedi.pipeline import JediPipeline, image_generators
from jedi.references import ReferenceImages
from jedi.sizes import own_size
from tests.jedi.sampling import REFERENCES, STEPS, box_mask, close, latents, random_image

WIDE = [random_image(1, (60, 30)), random_image(2, (80, 40))]


@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_any_size_that_the_vae_takes(pipe, mode):
    made = pipe("a cat", REFERENCES, mode=mode, height=36, width=20, num_inference_steps=1).images[0]
    assert made.size == (20, 36)  # an odd latent size too
    assert latents(pipe, height=24, num_inference_steps=1).shape[-2:] == (6, 8)  # the other side is the trained one


def test_a_model_of_rectangles_makes_rectangles(parts):
    unet = copy.deepcopy(parts["unet"])
    unet.register_to_config(sample_size=[6, 10])
    pipe = JediPipeline(**parts | {"unet": unet})
    pipe.set_progress_bar_config(disable=True)
    assert pipe.image_size == (24, 40)
    assert close(latents(pipe), latents(pipe, height=24, width=40), 0)
    assert pipe("a cat", num_inference_steps=1).images[0].size == (40, 24)


def test_references_are_padded_or_cropped_to_the_targets(pipe):
    options = {"height": 16, "width": 24}
    padded, cropped = (latents(pipe, references=WIDE[:1], reference_resize=x, **options) for x in ("pad", "crop"))
    whole = images.fit(WIDE[0], 24, 16)[0]  # 24 x 12 with margins
    middle = WIDE[0].resize((24, 16), Image.Resampling.LANCZOS, box=(7.5, 0, 52.5, 30))
    assert close(padded, latents(pipe, references=[whole], **options), 0)
    assert close(cropped, latents(pipe, references=[middle], **options), 0)
    assert not close(padded, cropped, 1e-3)


def test_references_keep_their_aspect_whatever_the_targets_are(pipe):
    """The cache is made of images of 44 x 24 pixels, and serves targets of any size."""
    assert own_size(WIDE[0], (32, 32), 4) == own_size(WIDE[1], (32, 32), 4) == (24, 44)
    cache = pipe.encode_references(WIDE, reference_resize="keep")
    assert cache.size == (6, 11)
    for size in ((32, 32), (20, 48)):
        options = {"height": size[0], "width": size[1]}
        direct = latents(pipe, references=WIDE, reference_resize="keep", **options)
        assert close(direct, latents(pipe, references=None, cache=cache, **options), 0)
        assert not close(direct, latents(pipe, references=WIDE, **options), 1e-3)
    masked = ReferenceImages(WIDE, masks=[box_mask(WIDE[0].size, (0, 0, 9, 9)), None], resize="keep")
    assert masked.pixels((8, 8), (32, 32), 4).shape == (2, 3, 24, 44)


def test_a_cache_of_another_size_means_all_its_tokens(pipe):
    """Targets attend to references of another size as to ones of theirs: by hand, in one layer."""
    name, processor = next(iter(pipe.unet.attn_processors.items()))
    attn = dict(pipe.unet.named_modules())[name.removesuffix(".processor")]
    cache = pipe.encode_references(WIDE, reference_resize="keep")
    x = torch.randn(1, 64, attn.to_q.in_features)
    with torch.no_grad():
        found = processor(attn, x, joint=JointContext(1, cache=cache))
        key, value = cache.layers[processor.name]
        split = lambda y: y.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        q, k, v = (split(layer(x)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        weights = (q @ torch.cat([key, k], 2).transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        expected = (weights @ torch.cat([value, v], 2)).transpose(1, 2).flatten(2)
        assert close(found, attn.to_out[0](expected), 1e-5)


def test_a_mode_that_splits_the_tokens_wants_one_size(parts, monkeypatch):
    square = AttentionMode(attend_mutual, clean_references=True, cacheable=True)
    monkeypatch.setitem(ATTENTION_MODES._parts, "square", square)
    pipe = JediPipeline(**parts, trained_modes=["square"])
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(InputError, match="'keep' does not go with mode 'square'"):
        pipe.encode_references(WIDE, reference_resize="keep")
    cache = pipe.encode_references(WIDE, height=24, width=44)
    with pytest.raises(InputError, match="cache was made at another size, and mode 'square' takes"):
        latents(pipe, references=None, cache=cache)
    assert latents(pipe, references=None, cache=cache, height=24, width=44).shape[-2:] == (6, 11)


def test_an_edit_at_another_size(pipe):
    image, mask = random_image(7, (70, 41)), box_mask((70, 41), (30, 5, 50, 30))
    edit = Inpainting.prepare(image, mask, (24, 40), pipe.vae, "cpu")
    assert edit.latents.shape == (1, 4, 6, 10) and edit.box == (0, 0, 40, 23)
    result = pipe(
        "a cat", REFERENCES, image=image, mask_image=mask, height=24, width=40, num_inference_steps=STEPS,
        generator=image_generators(0, 1),
    ).images[0]  # fmt: skip
    assert result.size == image.size
    inside = np.asarray(mask) > 0
    before, after = np.asarray(image).astype(int), np.asarray(result).astype(int)
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert abs(after[inside] - before[inside]).mean() > 10
