"""What a user of StableDiffusionPipeline may do to a pipeline besides calling it, by diffusers' own methods.

LoRA (`load_lora_weights`, `fuse_lora`, `set_adapters`, ...), textual inversion, FreeU, memory. What would take joint
attention off the UNet is either brought to it (xformers) or refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import (
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
    TextualInversionLoaderMixin,
)
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import scale_lora_layers, unscale_lora_layers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jedi.errors import InputError, first_line
from jedi.io.base import KINDS
from jedi.unet import JointUNet

CONV_IN = "conv_in.safetensors"
"""Beside a LoRA: the whole `conv_in` that was trained with it."""


class StableDiffusionMethods(StableDiffusionMixin, TextualInversionLoaderMixin, StableDiffusionLoraLoaderMixin):
    """Methods of diffusers' Stable Diffusion pipelines, 1.x to XL, for a pipeline with a joint UNet."""

    _own_conv_in: dict[str, Tensor] | None = None
    _lora_loadable_modules = ["unet", "text_encoder", "text_encoder_2"]  # noqa: RUF012 (diffusers' form)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **given: Any) -> Any:
        """From a pipeline of diffusers or of ours, whose parts it shares; in the dtype that they have.

        The UNet of a plain base is copied and grown (:meth:`JointUNet.from_base`); its references work in mode
        `reference_only`. ``given``: parts and settings of the constructor that stand in for its own.
        """
        parts = {name: part for name, part in pipeline.components.items() if name in KINDS} | given
        if parts["unet"].config.in_channels == parts["unet"].config.out_channels:
            parts["unet"] = JointUNet.from_base(copy.deepcopy(parts["unet"])).unet
        return super().from_pipe(pipeline, **{"dtype": pipeline.dtype} | parts)

    def load_lora_weights(self, pretrained_model_name_or_path_or_dict: Any, **options: Any) -> None:
        """A LoRA of this model or of its base, in diffusers' or kohya's form, as StableDiffusionPipeline loads it.

        A LoRA of a plain base on `conv_in` gets zeros for the channels that a joint UNet has besides. From a folder
        that ``jedi.training.export --lora separate`` wrote comes the trained `conv_in` too.

        Raises:
            InputError: that `conv_in` is damaged, or of another width.
        """
        self._load_conv_in(pretrained_model_name_or_path_or_dict)
        xl = getattr(self, "text_encoder_2", None) is not None
        kind = StableDiffusionXLLoraLoaderMixin if xl else StableDiffusionLoraLoaderMixin
        kind.load_lora_weights(self, pretrained_model_name_or_path_or_dict, **options)

    def unload_lora_weights(self) -> None:
        """As StableDiffusionPipeline's; a `conv_in` that came with the adapters goes with them."""
        super().unload_lora_weights()
        if self._own_conv_in is not None:
            self.unet.conv_in.load_state_dict(self._own_conv_in)
            self._own_conv_in = None

    def _load_conv_in(self, source: Any) -> None:
        file = Path(source) / CONV_IN if isinstance(source, str | Path) else None
        if file is None or not file.is_file():
            return
        layer = getattr(self.unet.conv_in, "base_layer", self.unet.conv_in)
        own = {name: weight.clone() for name, weight in layer.state_dict().items()}
        try:
            weights = load_file(file)
            if not all(bool(weight.isfinite().all()) for weight in weights.values()):
                raise ValueError("not finite")
            layer.load_state_dict(weights)
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise InputError(f"{file} is not the conv_in of this model: {first_line(error)}") from None
        self._own_conv_in = self._own_conv_in or own

    @classmethod
    def load_lora_into_unet(cls, state_dict: Mapping[str, Tensor], *, unet: Any, **options: Any) -> None:
        """As diffusers' own, which loads nothing for a `conv_in` of another width."""
        super().load_lora_into_unet(widen_conv_in(state_dict, unet), unet=unet, **options)

    def fuse_lora(self, components: Sequence[str] = ("unet", "text_encoder", "text_encoder_2"), **options: Any) -> None:
        """As StableDiffusionPipeline's, of all parts."""
        super().fuse_lora([name for name in components if getattr(self, name, None) is not None], **options)

    def unfuse_lora(
        self, components: Sequence[str] = ("unet", "text_encoder", "text_encoder_2"), **options: Any
    ) -> None:
        """As StableDiffusionPipeline's, of all parts."""
        super().unfuse_lora([name for name in components if getattr(self, name, None) is not None], **options)

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Callable | None = None) -> None:
        """What `enable_xformers_memory_efficient_attention` does: joint attention by xformers' kernel, the vae's too.

        Raises ``RuntimeError`` if it does not run here, ``InputError`` for an ``attention_op`` of one's own.
        """
        if attention_op is not None:
            raise InputError("attention_op: joint attention takes xformers' own choice; leave it out")
        self.set_attention_backend("xformers" if valid else "sdpa")
        self.vae.set_use_memory_efficient_attention_xformers(valid)

    def set_attention_slice(self, slice_size: str | int | None) -> None:
        """What `enable_attention_slicing` does: ``InputError``, for joint attention has no sliced form."""
        if slice_size is not None:
            raise InputError(
                "attention slicing does not go with joint attention, whose kernel (sdpa) never holds the scores; to "
                "save memory: pipe.enable_model_cpu_offload(), pipe.vae.enable_slicing(), pipe.vae.enable_tiling()"
            )

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Of the vae alone: ``InputError`` with ``unet``, for joint attention reads the projections one by one."""
        if unet:
            raise InputError("fused projections do not go with joint attention; unet=False fuses the vae's")
        super().fuse_qkv_projections(unet=False, vae=vae)

    def enable_vae_slicing(self) -> None:
        """The vae decodes one image after another, which saves memory."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """The vae decodes all images at once again."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """The vae works on overlapping tiles, which saves memory on large images."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """The vae works on whole images again."""
        self.vae.disable_tiling()


@contextmanager
def lora_scaled(networks: Iterable[Any], scale: float | None) -> Iterator[None]:
    """LoRAs of the networks weigh ``scale`` within the context; None: as they are."""
    networks = [network for network in networks if network is not None and scale is not None]
    for network in networks:
        scale_lora_layers(network, scale)
    try:
        yield
    finally:
        for network in networks:
            unscale_lora_layers(network, scale)


def widen_conv_in(state_dict: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """A LoRA whose `conv_in` reads ``c`` channels, for a UNet whose own reads more: zeros for those."""
    c, channels = unet.config.out_channels, unet.config.in_channels
    down = lambda key: "conv_in." in key and ("lora_A" in key or "down" in key)
    widened = lambda x: F.pad(x, (0, 0, 0, 0, 0, channels - c))
    return {key: widened(x) if down(key) and x.shape[1] == c else x for key, x in state_dict.items()}
