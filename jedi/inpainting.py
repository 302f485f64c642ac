"""Inpainting: an image of which a part is to be generated, the rest staying as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
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
    region: images.Box
    """What of the image the model sees: all of it, or the surroundings of the mask."""
    box: images.Box
    """Where that stands within what the model makes."""
    latents: Tensor
    """``[1 c h w]``, clean."""
    mask: Tensor
    """``[1 1 h w]``: 1 = to be generated, 0 = given."""

    @classmethod
    def prepare(
        cls,
        image: Image.Image,
        mask: Image.Image,
        size: Size,
        vae: Any,
        device: Any,
        padding_mask_crop: int | None = None,
    ) -> Inpainting:
        """From an image and its mask (white = to be generated), for a model that makes ``size`` (height, width).

        With ``padding_mask_crop`` the model sees the mask and so many pixels around it, more where the aspect of
        ``size`` asks for more (diffusers' `VaeImageProcessor.get_crop_region`); else the whole image.
        """
        (height, width), image, mask = size, images.to_rgb(image), images.to_mask(mask)
        region = (0, 0, *image.size)
        if padding_mask_crop is not None:
            region = VaeImageProcessor.get_crop_region(mask, width, height, padding_mask_crop)
        seen, box = images.fit(image.crop(region), width, height)
        left, top, right, bottom = box
        latents = encode_pixels(vae, images.to_tensor([seen]).to(device)).float()
        alpha = (images.to_tensor([mask]).to(device) + 1) / 2
        # A latent pixel is generated if the mask touches any pixel of it; the margins are given.
        touched = F.adaptive_max_pool2d(_part(alpha, region), (bottom - top, right - left))
        touched = F.pad(touched, (left, width - right, top, height - bottom))
        touched = (F.adaptive_max_pool2d(touched, latents.shape[-2:]) > 0).float()
        return cls(images.to_tensor([image]).to(device), alpha, region, box, latents, touched)

    def hold(self, latents: Tensor, given: Tensor) -> Tensor:
        """``latents [n c h w]`` with ``given`` in the latent pixels that are not to be generated."""
        return torch.where(self.mask > 0, latents, given)

    def paste(self, pixels: Tensor) -> Tensor:
        """What is decoded ``[n 3 ...]`` -> ``[n 3 H W]``, of the image's size, equal to it where alpha is 0."""
        pixels, seen = _part(pixels, self.box), _part(self.image, self.region)
        if pixels.shape[-2:] != seen.shape[-2:]:
            pixels = F.interpolate(pixels, size=seen.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)
        whole = self.image.repeat(len(pixels), 1, 1, 1)
        _part(whole, self.region).copy_(seen.lerp(pixels, _part(self.alpha, self.region)))
        return whole


def _part(x: Tensor, box: images.Box) -> Tensor:
    """A view of what stands in the box, of ``[... H W]``."""
    left, top, right, bottom = box
    return x[..., top:bottom, left:right]
