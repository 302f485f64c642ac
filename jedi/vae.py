"""Pixels to scaled latents and back, by the VAE of a diffusers model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils import logging
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

logger = logging.get_logger(__name__)


def encode_pixels(vae: Any, pixels: Tensor) -> Tensor:
    """``[n 3 H W]`` in [-1, 1] -> scaled latents ``[n c h w]``: the posterior's mode, nothing random."""
    batches = _ready_for(vae, pixels).split(encode_batch_size(pixels.shape[-1], pixels.shape[-2]))
    latents = torch.cat([_finite(vae, lambda x: vae.encode(x).latent_dist.mode(), batch) for batch in batches])
    return (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def encode_batch_size(width: int, height: int) -> int:
    """How many images of this size are encoded at once: 64 of up to 128 x 128 pixels, 4 of 512 x 512, 1 of
    1024 x 1024. With Stable Diffusion's VAE that takes up to 2.6 GB: 0.65 GB for each image of 512 x 512.
    """
    return max(1, min(64, 2**20 // (width * height)))


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents ``[n c h w]`` -> ``[n 3 H W]``, about [-1, 1]."""
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    return _finite(vae, lambda x: vae.decode(x).sample, _ready_for(vae, latents))


def _finite(vae: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``run(x)`` of the VAE; where float16 is too narrow for it, once more in float32, in which it stays."""
    found = run(x.to(vae.dtype))
    if vae.dtype != torch.float16 or bool(found.isfinite().all()):
        return found
    logger.warning(
        "the VAE overflows in float16, as SD-XL's does, and computes in float32 from now on; the VAE "
        "madebyollin/sdxl-vae-fp16-fix does not overflow, and neither does bfloat16"
    )
    vae.to(torch.float32)
    return run(x.float())


def _ready_for(vae: Any, x: Tensor) -> Tensor:
    return x.to(get_module_execution_device(vae), vae.dtype)  # with offloading its weights may lie elsewhere
