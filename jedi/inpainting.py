"""Inpainting: an image of which a part is to be generated, the rest staying as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from jedi.io import images
from jedi.sizes import Size
from jedi.vae import encode_pixels


@dataclass
class Inpainting:
    """What stays and what is generated. All tensors on the device of the call, float32."""

    image: Tensor
    """``[1 3 H W]`` in [-1, 1], at its own size."""
    alpha: Tensor
    """``[1 1 H W]``: 1 = to be generated, 0 = stays; what lies between is blended."""
    box: images.Box
    """Where the image stands within what the model makes."""
    latents: Tensor
    """``[1 c h w]``, clean."""
    mask: Tensor
    """``[1 1 h w]``: 1 = to be generated, 0 = given."""

    @classmethod
    def prepare(cls, image: Image.Image, mask: Image.Image, size: Size, vae: Any, device: Any) -> Inpainting:
        """From an image and its mask (white = to be generated), for a model that makes ``size`` (height, width)."""
        (height, width), image, mask = size, images.to_rgb(image), images.to_mask(mask)
        whole, box = images.fit(image, width, height)
        left, top, right, bottom = box
        latents = encode_pixels(vae, images.to_tensor([whole]).to(device)).float()
        alpha = (images.to_tensor([mask]).to(device) + 1) / 2
        # A latent pixel is generated if the mask touches any pixel of it; the margins are given.
        touched = F.adaptive_max_pool2d(alpha, (bottom - top, right - left))
        touched = F.pad(touched, (left, width - right, top, height - bottom))
        touched = (F.adaptive_max_pool2d(touched, latents.shape[-2:]) > 0).float()
        return cls(images.to_tensor([image]).to(device), alpha, box, latents, touched)

    def hold(self, latents: Tensor, given: Tensor) -> Tensor:
        """``latents [n c h w]`` with ``given`` in the latent pixels that are not to be generated."""
        return torch.where(self.mask > 0, latents, given)

    def paste(self, pixels: Tensor) -> Tensor:
        """What is decoded ``[n 3 ...]`` -> ``[n 3 H W]``, of the image's size, equal to it where alpha is 0."""
        left, top, right, bottom = self.box
        size = self.image.shape[-2:]
        pixels = pixels[..., top:bottom, left:right]
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        return self.image.lerp(pixels, self.alpha)
