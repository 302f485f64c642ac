"""The parts and settings of a joint model, and what it is told: all of JediPipeline but the sampling."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from jedi import checks, schedulers
from jedi.attention import (
    UNTRAINED_MODES,
    JointAttnProcessor,
    check_backend,
    check_joint_attention,
    install_joint_attention,
)
from jedi.captions import encode_captions
from jedi.errors import InputError
from jedi.io.base import check_parts
from jedi.mixins import StableDiffusionMethods, lora_scaled
from jedi.pretrained import Pretrained
from jedi.sampling import SAMPLING_DEFAULTS, check_defaults, check_modes, sampling_settings
from jedi.sizes import Size, trained_size
from jedi.text import EncodedText
from jedi.unet import JointUNet


class JediModel(Pretrained, StableDiffusionMethods, DiffusionPipeline):
    """What :class:`jedi.pipeline.JediPipeline` is made of; that one is what is used, and tells of the arguments."""

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components = ["text_encoder_2", "tokenizer_2"]  # noqa: RUF012 (diffusers' form)

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        trained_modes: Any = UNTRAINED_MODES,
        max_trained_references: Any = None,
        prediction_type: Any = None,
        sampling_defaults: Any = None,
        knows: Any = None,
        force_zeros_for_empty_prompt: Any = False,
    ) -> None:
        super().__init__()
        c = vae.config.latent_channels
        if (unet.config.in_channels, unet.config.out_channels) != (2 * c + 1, c):
            raise InputError(
                f"unet takes {unet.config.in_channels} and gives {unet.config.out_channels} channels; with this vae "
                f"a joint UNet takes 2c + 1 = {2 * c + 1} and gives c = {c} (JointUNet.from_base() grows a plain base)"
            )
        parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "unet": unet, "scheduler": scheduler}
        parts |= {"text_encoder_2": text_encoder_2, "tokenizer_2": tokenizer_2}
        check_parts(parts, "the model")
        check_modes("trained_modes", trained_modes)
        check_defaults(sampling_defaults)
        self.register_modules(**parts)
        self.register_to_config(
            trained_modes=list(trained_modes),
            max_trained_references=max_trained_references,
            prediction_type=prediction_type or schedulers.prediction_type(scheduler),
            sampling_defaults=dict(sampling_defaults or {}),
            knows=knows,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self.attention_backend = "sdpa"
        self._joint_unet = JointUNet(unet)
        self._clip_skip: int | None = None
        self._cross_attention_kwargs: dict[str, Any] | None = None

    @property
    def image_size(self) -> Size:
        """Height and width in pixels of what the model was trained on, and makes where nothing else is asked for."""
        return trained_size(self.unet, self.vae_scale_factor)

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """Steps, guidance and scales of this model."""
        return SAMPLING_DEFAULTS | dict(self.config.sampling_defaults)

    @property
    def force_zeros_for_empty_prompt(self) -> bool:
        """Whether the empty caption is zeros for this model."""
        return self.config.force_zeros_for_empty_prompt

    @property
    def joint_unet(self) -> JointUNet:
        """``unet`` for sets of images. Raises ``InputError`` for attention processors that do not take ``joint``."""
        if self._joint_unet.unet is not self.unet:  # another one was assigned
            self._joint_unet = JointUNet(self.unet, self.attention_backend)
        check_joint_attention(self.unet)
        return self._joint_unet

    def sampling_settings(
        self,
        num_inference_steps: int | None = None,
        guidance: str | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
    ) -> dict[str, Any]:
        """What a call with these arguments uses: they themselves, else the model's defaults.

        A rule that has no use for ``image_guidance_scale`` has it at 1, which is off; so the result can be given back.
        Raises ``InputError`` for senseless numbers, an unknown rule, and a rule that is named together with
        another ``image_guidance_scale`` than 1 that it has no use for.
        """
        asked = (num_inference_steps, guidance, guidance_scale, image_guidance_scale)
        return sampling_settings(self.config.sampling_defaults, *asked)

    def set_attention_backend(self, name: str) -> None:
        """Installs joint attention anew, with a back end of ``ATTENTION_BACKENDS`` (`sdpa` at first).

        Raises ``RuntimeError`` if it cannot run here.
        """
        check_backend(name, self._execution_device)
        self.attention_backend = name
        install_joint_attention(self.unet, name)

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        prompt_2: str | Sequence[str] | None = None,
        *,
        clip_skip: int | None = None,
        lora_scale: float | None = None,
    ) -> EncodedText:
        """``p`` prompts as a call takes them: ``embeds [p l d]`` for ``prompt_embeds`` and, of SD-XL, ``pooled [p e]``
        for ``pooled_prompt_embeds``.

        Args:
            prompt_2: what SD-XL's second text encoder reads instead.
            clip_skip: so many last layers of the text encoders are passed over.
            lora_scale: weight of their LoRAs.
        """
        checks.check_clip_skip(clip_skip, self.text_encoder.config.num_hidden_layers)
        converted = lambda x: self.maybe_convert_prompt([x] if isinstance(x, str) else list(x), self.tokenizer)
        second = None if prompt_2 is None else converted(prompt_2)
        with lora_scaled((self.text_encoder, self.text_encoder_2), lora_scale):
            text = encode_captions(self, converted(prompt), clip_skip, second)
        return text.map(lambda x: x.to(self._execution_device, self.unet.dtype))

    # What a call has set for the network, by diffusers' names.

    @property
    def clip_skip(self) -> int | None:
        """Layers of the text encoders that the latest call passed over."""
        return self._clip_skip

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """What the latest call told the attention layers: ``scale`` is the weight of LoRAs."""
        return self._cross_attention_kwargs

    def _set_attention_kwargs(self, values: Mapping[str, Any] | None) -> None:
        """For the calls of networks to come. Raises ``InputError`` for what they do not take."""
        processors = self.unet.attn_processors.values()
        taken = {name for x in processors for name in inspect.signature(x.__call__).parameters}
        own = taken - set(inspect.signature(JointAttnProcessor.__call__).parameters)
        checks.check_attention_kwargs(values, own)
        self._cross_attention_kwargs = None if values is None else dict(values)

    def _text(
        self,
        size: Size,
        prompt: Any,
        embeds: Tensor | None = None,
        pooled: Tensor | None = None,
        prompt_2: Any = None,
        clip_skip: int | None = None,
    ) -> EncodedText:
        """``[p ...]`` of prompts or of what :meth:`encode_prompt` made of them, for images of ``size``."""
        scale = (self.cross_attention_kwargs or {}).get("scale")
        encode = lambda: self.encode_prompt(prompt, prompt_2, clip_skip=clip_skip, lora_scale=scale)
        text = encode() if embeds is None else EncodedText(embeds, pooled)
        return text.map(lambda x: x.to(self._execution_device, self.unet.dtype)).sized(*size)
