"""JointUNet: a stock diffusers UNet that takes sets of images, ``[b n c h w]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn

from jedi.attention import ATTENTION_MODES, JointContext, ReferenceCache, install_joint_attention
from jedi.errors import InputError
from jedi.text import EncodedText


class JointUNet(nn.Module):
    """Thin wrapper: folds sets into a batch, tells the attention layers how the batch is made of sets, unfolds.

    ``unet`` stays a stock ``UNet2DConditionModel`` with ``2c + 1`` input channels (noisy latents, mask, given latents;
    see :func:`jedi.conditioning.network_input`): save that one, coupling adds no weights.
    """

    def __init__(self, unet: UNet2DConditionModel, backend: str = "sdpa") -> None:
        super().__init__()
        channels = unet.config.out_channels
        if unet.config.in_channels != 2 * channels + 1:
            raise InputError(
                f"a joint UNet takes 2c + 1 = {2 * channels + 1} input channels (noisy latents, mask, given latents), "
                f"this one takes {unet.config.in_channels}; JointUNet.from_base() grows a plain base"
            )
        self.unet = unet
        install_joint_attention(unet, backend)

    @classmethod
    def from_base(cls, unet: UNet2DConditionModel, backend: str = "sdpa") -> JointUNet:
        """From a text-to-image UNet (``c`` input channels) or an inpainting one (``2c + 1``, taken as it is).

        A plain base's ``conv_in`` grows by ``c + 1`` zero-initialised channels, so the prediction does not change.
        """
        config = unet.config
        if config.in_channels == config.out_channels:
            grown = nn.Conv2d(
                2 * config.out_channels + 1,
                unet.conv_in.out_channels,
                unet.conv_in.kernel_size,
                padding=unet.conv_in.padding,
                device=unet.device,
                dtype=unet.dtype,
            )
            with torch.no_grad():
                assert grown.bias is not None
                grown.weight.zero_()
                grown.weight[:, : config.in_channels] = unet.conv_in.weight
                grown.bias.copy_(unet.conv_in.bias)
            unet.conv_in = grown
            unet.register_to_config(in_channels=2 * config.out_channels + 1)
        return cls(unet, backend)

    @property
    def latent_channels(self) -> int:
        """c: channels of a latent image."""
        return self.unet.config.out_channels

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: EncodedText,
        num_references: int = 0,
        mode: str = "one_way",
        cache: ReferenceCache | None = None,
        attention_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Prediction ``[b n c h w]`` for every image of every set.

        Args:
            sample: ``[b n 2c+1 h w]``, references first.
            timestep: ``[b]`` or ``[b n]``. Clean references (`one_way`) run at timestep 0, whatever is passed for them.
            text: ``[b n ...]``, one prompt an image.
            num_references: ``k``, how many of the ``n`` images are references.
            mode: a name of ``jedi.attention.ATTENTION_MODES``.
            cache: references that are encoded already, in this mode; ``num_references`` is 0 then.
            attention_kwargs: more of diffusers' `cross_attention_kwargs`: ``scale`` is the weight of LoRAs.
        """
        b, n = sample.shape[:2]
        if not 0 <= num_references <= n:
            raise ValueError(f"num_references must be 0 to n = {n}, got {num_references}")
        if cache is not None:
            if mode != cache.mode or num_references:
                raise ValueError(f"the cache replaces references: expected mode {cache.mode!r}, num_references 0")
            cache = cache.expand(b)
        timestep = timestep[:, None].expand(b, n) if timestep.ndim == 1 else timestep
        if ATTENTION_MODES.get(mode).clean_references and num_references:
            timestep = torch.cat([torch.zeros_like(timestep[:, :num_references]), timestep[:, num_references:]], dim=1)
        return self._call(sample, timestep, text, JointContext(n, num_references, mode, cache), attention_kwargs)

    def encode_references(
        self,
        sample: Tensor,
        text: EncodedText,
        mode: str = "one_way",
        attention_kwargs: Mapping[str, Any] | None = None,
    ) -> ReferenceCache:
        """Keys and values of clean references. ``[b k 2c+1 h w], [b k ...]`` -> a cache of ``b`` sets.

        Raises ``ValueError`` for a mode that is not cacheable.
        """
        if not ATTENTION_MODES.get(mode).cacheable:
            raise ValueError(f"mode {mode!r}: its references depend on the targets and cannot be cached")
        b, k = sample.shape[:2]
        record = ReferenceCache(num_references=k, mode=mode, size=(sample.shape[-2], sample.shape[-1]))
        timestep = torch.zeros(b, k, dtype=torch.int64, device=sample.device)
        self._call(sample, timestep, text, JointContext(k, k, mode, record=record), attention_kwargs)
        return record

    def _call(
        self, sample: Tensor, timestep: Tensor, text: EncodedText, joint: JointContext, more: Mapping[str, Any] | None
    ) -> Tensor:
        text = text.map(lambda x: x.flatten(0, 1))
        prediction = self.unet(
            rearrange(sample, "b n c h w -> (b n) c h w"),
            timestep.reshape(-1),
            text.embeds,
            cross_attention_kwargs={**(more or {}), "joint": joint},
            added_cond_kwargs=text.added_cond_kwargs,
            return_dict=False,
        )[0]
        return rearrange(prediction, "(b n) c h w -> b n c h w", n=joint.num_images)
