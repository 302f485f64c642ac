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

UNET_LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT_LAYERS = [f"lora_te_text_model_encoder_layers_0_self_attn_{x}_proj" for x in ("q", "out")]


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


def kohya(conv_in: bool = False, text: int = 32) -> dict[str, torch.Tensor]:
    """A style LoRA of the plain base in kohya's form, of rank 2 with alpha 1: of one attention layer, and more.

    ``text`` is the width of the text encoder; 0 leaves it out."""
    generator = torch.Generator().manual_seed(3)
    shapes = {UNET_LAYER: ((2, 32), (32, 2))}
    if conv_in:
        shapes["lora_unet_conv_in"] = ((2, SHAPE[0], 3, 3), (32, 2, 1, 1))
    if text:
        shapes |= dict.fromkeys(TEXT_LAYERS, ((2, text), (text, 2)))
    lora = {}
    for name, (down, up) in shapes.items():
        lora[f"{name}.lora_down.weight"] = torch.randn(down, generator=generator)
        lora[f"{name}.lora_up.weight"] = torch.randn(up, generator=generator)
        lora[f"{name}.alpha"] = torch.tensor(1.0)
    return lora


def added(lora: dict, name: str) -> torch.Tensor:
    """What a LoRA adds to a layer's weights: up times down, times alpha / rank."""
    down, up = lora[f"{name}.lora_down.weight"], lora[f"{name}.lora_up.weight"]
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:]) / 2
