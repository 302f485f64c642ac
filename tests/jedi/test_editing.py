"""jedi.editing: what is given stays, what is not is made anew."""

import numpy as np
import pytest
import torch
from PIL import Image

from jedi import images as pictures
from jedi.pipeline import image_generators
from tests.jedi.sampling import REFERENCES, SHAPE, STEPS, box_mask, close, latents, picture, record_calls


@pytest.mark.parametrize(
    ("size", "box"), [((32, 32), (8, 8, 20, 16)), ((70, 41), (30, 5, 50, 30)), ((9, 20), (0, 0, 9, 4))]
)
@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_an_edit_keeps_the_size_and_the_pixels_outside_its_mask(pipe, mode, size, box):
    image = picture(7, size)
    for result in pipe(
        ["a cat", "a dog"], REFERENCES, image=image, mask=box_mask(size, box), mode=mode,
        num_inference_steps=STEPS, generator=image_generators(0, 2),
    ).images:  # fmt: skip
        assert result.size == size
        before, after = np.asarray(image).astype(int), np.asarray(result).astype(int)
        inside = np.asarray(box_mask(size, box)) > 0
        np.testing.assert_array_equal(after[~inside], before[~inside])
        assert abs(after[inside] - before[inside]).mean() > 10


def test_the_network_is_told_what_is_given(pipe, monkeypatch):
    inputs = record_calls(monkeypatch, lambda sample: sample)
    image, mask = picture(7), box_mask((32, 32), (11, 8, 20, 16))
    result = latents(pipe, image=image, mask=mask)
    c = SHAPE[0]
    wanted = torch.zeros(SHAPE[1:])
    wanted[2:4, 2:5] = 1  # latent pixels (4 x 4 pixels) that the mask touches
    clean = pictures.encode_pixels(pipe.vae, pictures.to_tensor([image])).detach()
    noise = torch.randn(1, *SHAPE, generator=image_generators(0, 1)[0])
    pipe.scheduler.set_timesteps(STEPS)
    for x, t in zip(inputs, pipe.scheduler.timesteps, strict=True):
        assert torch.equal(x[0, 0, c], wanted)
        assert close(x[0, 0, c + 1 :], clean[0] * (1 - wanted), 1e-6)
        noisy = pipe.scheduler.add_noise(clean, noise, t[None])
        assert close(x[0, 0, :c] * (1 - wanted), noisy[0] * (1 - wanted), 1e-5)
    assert close(result[0] * (1 - wanted), clean[0] * (1 - wanted), 1e-6)


def test_a_soft_mask_blends(pipe):
    image, mask = picture(7), Image.new("L", (32, 32), 128)
    options = {"num_inference_steps": STEPS, "output_type": "pt", "image": image}
    hard, soft = (
        pipe("a cat", mask=x, generator=image_generators(0, 1), **options).images
        for x in (Image.new("L", (32, 32), 255), mask)
    )
    original = (pictures.to_tensor([image]) + 1) / 2
    assert close(soft, original.lerp(hard, 128 / 255), 1e-5)
