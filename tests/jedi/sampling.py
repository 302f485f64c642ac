"""Helpers for the tests of sampling: short runs on random weights."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from jedi.pipeline import image_generators
from jedi.unet import JointUNet
from tests import tiny

STEPS = 3
SHAPE = (tiny.LATENT_CHANNELS, tiny.LATENT_SIDE, tiny.LATENT_SIDE)


def random_image(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Noise."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))


REFERENCES = [random_image(1, (48, 20)), random_image(2)]


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """White in the box."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def latents(pipe, prompt="a cat", references=REFERENCES, n=1, seed=0, **options) -> torch.Tensor:
    """``[n c h w]`` of a short run."""
    options = {"num_inference_steps": STEPS, "generator": image_generators(seed, n)} | options
    return pipe(prompt, references, output_type="latent", **options).images


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Equal to an absolute tolerance."""
    return torch.allclose(a, b, rtol=0, atol=tolerance)


def record_calls(monkeypatch, look: Callable) -> list:
    """What ``look`` says of the sample ``[b n 2c+1 h w]`` of each network call to come."""
    seen, original = [], JointUNet.forward

    def forward(self, sample, *args, **kwargs):
        seen.append(look(sample))
        return original(self, sample, *args, **kwargs)

    monkeypatch.setattr(JointUNet, "forward", forward)
    return seen
