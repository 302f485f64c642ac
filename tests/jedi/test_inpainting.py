"""jedi.inpainting: what is given stays, what is not is made anew."""

import numpy as np
import pytest
import torch
from PIL import Image

from jedi.checks import check_edit
from jedi.errors import InputError
from jedi.inpainting import Inpainting
from jedi.io import images
from jedi.pipeline import image_generators
from jedi.vae import encode_pixels
from tests.jedi.sampling import REFERENCES, SHAPE, STEPS, box_mask, close, latents, random_image, record_calls


@pytest.mark.parametrize(
    ("size", "box"), [((32, 32), (8, 8, 20, 16)), ((70, 41), (30, 5, 50, 30)), ((9, 20), (0, 0, 9, 4))]
)
@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_an_edit_keeps_the_size_and_the_pixels_outside_its_mask(pipe, mode, size, box):
    image = random_image(7, size)
    for result in pipe(
        ["a cat", "a dog"], REFERENCES, image=image, mask_image=box_mask(size, box), mode=mode,
        num_inference_steps=STEPS, generator=image_generators(0, 2),
    ).images:  # fmt: skip
        assert result.size == size
        before, after = np.asarray(image).astype(int), np.asarray(result).astype(int)
        inside = np.asarray(box_mask(size, box)) > 0
        np.testing.assert_array_equal(after[~inside], before[~inside])
        assert abs(after[inside] - before[inside]).mean() > 10


def test_the_network_is_told_what_is_given(pipe, monkeypatch):
    inputs = record_calls(monkeypatch, lambda sample: sample)
    image, mask = random_image(7), box_mask((32, 32), (11, 8, 20, 16))
    result = latents(pipe, image=image, mask_image=mask)
    c = SHAPE[0]
    wanted = torch.zeros(SHAPE[1:])
    wanted[2:4, 2:5] = 1  # latent pixels (4 x 4 pixels) that the mask touches
    clean = encode_pixels(pipe.vae, images.to_tensor([image])).detach()
    noise = torch.randn(1, *SHAPE, generator=image_generators(0, 1)[0])
    pipe.scheduler.set_timesteps(STEPS)
    for x, t in zip(inputs, pipe.scheduler.timesteps, strict=True):
        assert torch.equal(x[0, 0, c], wanted)
        assert close(x[0, 0, c + 1 :], clean[0] * (1 - wanted), 1e-6)
        noisy = pipe.scheduler.add_noise(clean, noise, t[None])
        assert close(x[0, 0, :c] * (1 - wanted), noisy[0] * (1 - wanted), 1e-5)
    assert close(result[0] * (1 - wanted), clean[0] * (1 - wanted), 1e-6)


def test_a_soft_mask_blends(pipe):
    image, mask = random_image(7), Image.new("L", (32, 32), 128)
    options = {"num_inference_steps": STEPS, "output_type": "pt", "image": image}
    hard, soft = (
        pipe("a cat", mask_image=x, generator=image_generators(0, 1), **options).images
        for x in (Image.new("L", (32, 32), 255), mask)
    )
    original = (images.to_tensor([image]) + 1) / 2
    assert close(soft, original.lerp(hard, 128 / 255), 1e-5)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, np.int64])
def test_masks_may_be_arrays_of_zeros_and_ones(pipe, kind):
    """A 0/1 mask used to count as black: nothing was generated."""
    image = random_image(7, (32, 24))
    shape = np.zeros((image.height, image.width), kind)
    shape[:8, :12] = 1
    white = Image.fromarray(shape.astype(np.uint8) * 255)
    check_edit(image, shape)
    made = [Inpainting.prepare(image, mask, pipe.image_size, pipe.vae, "cpu") for mask in (shape, white)]
    assert torch.equal(made[0].mask, made[1].mask) and torch.equal(made[0].alpha, made[1].alpha)
    assert made[0].mask.max() == 1
    with pytest.raises(InputError, match="map of labels"):
        check_edit(image, shape.astype(np.uint8) * 7)
