"""JediPipeline: images of the subject that the references show, wherever the prompt puts it.

Reads as ``check -> prepare -> schedule -> denoise -> decode``. Letters: ``b`` sets, ``k`` references and ``m`` targets
of a set, ``c h w`` latents, ``H W`` pixels, ``l d`` tokens of a caption. The ``n = b m`` targets are the
images; between network calls they lie flat, ``[(b m) c h w]``, in the order of the images that come out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput, logging
from PIL import Image
from torch import Tensor

from jedi import checks, schedulers
from jedi.attention import (
    ATTENTION_MODES,
    MODES,
    ReferenceCache,
    check_backend,
    check_joint_attention,
    install_joint_attention,
)
from jedi.captions import caption_length, encode_captions
from jedi.conditioning import network_input
from jedi.errors import InputError
from jedi.guidance import GUIDANCE, in_interval
from jedi.guided_unet import Conditions, GuidedUNet, References
from jedi.inpainting import Inpainting
from jedi.io.base import check_parts
from jedi.mixins import StableDiffusionMethods
from jedi.pretrained import Pretrained
from jedi.references import ReferenceImages
from jedi.rng import image_generators as image_generators  # documented as this module's
from jedi.rng import image_noise
from jedi.sampling import SAMPLING_DEFAULTS, check_defaults, check_modes, sampling_settings
from jedi.sizes import Size, trained_size, wanted_size
from jedi.text import EncodedText
from jedi.unet import JointUNet
from jedi.vae import decode_latents, encode_pixels

logger = logging.get_logger(__name__)


@dataclass
class JediPipelineOutput(BaseOutput):
    """``images``: list of PIL images, array ``[n H W 3]`` or tensor ``[n 3 H W]`` in [0, 1], or latents."""

    images: Any


class JediPipeline(Pretrained, StableDiffusionMethods, DiffusionPipeline):
    """Personalised text-to-image generation by joint-image diffusion, without tuning.

    ``unet`` is a stock ``UNet2DConditionModel`` with ``2c + 1`` input channels; joint attention is installed
    here, once, and has no parameters. An attention processor of your own that you set on ``unet`` later is used if
    it takes ``joint``, and refused if not. ``save_pretrained`` writes a plain diffusers folder.

    Args:
        trained_modes: modes that the model was trained in, the default first; others are refused.
        text_encoder_2, tokenizer_2: SD-XL's second ones.
        force_zeros_for_empty_prompt: the empty caption is zeros, as SD-XL was trained.
        max_trained_references: more references than this give a warning; ``None`` if unknown.
        prediction_type: what the network predicts (diffusers' names); ``None`` takes it from ``scheduler``.
            A scheduler of another prediction type is refused when it is used.
        sampling_defaults: what of ``jedi.sampling.SAMPLING_DEFAULTS`` is better otherwise for this model.
        knows: in a few words what it was trained on, and so what lies outside; sample.py says it.

    Raises:
        InputError: parts that do not fit one another, an unknown mode or default.

    Example::

        pipe = JediPipeline.from_pretrained("models/jedi-tiny")
        cache = pipe.encode_references([load_image("a.png"), load_image("b.png")])  # jedi.io.images
        for prompt in prompts:
            pipe(prompt=prompt, cache=cache, generator=image_generators(0, 1)).images[0].show()
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components = ["text_encoder_2", "tokenizer_2"]  # noqa: RUF012 (diffusers' form)
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 (diffusers' form)

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        trained_modes: Any = MODES,
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
        self._interrupt = False
        self._num_timesteps = 0

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

    @property
    def interrupt(self) -> bool:
        """Set ``pipe._interrupt = True`` in a callback to skip the steps that are left."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Scheduler steps of the latest call."""
        return self._num_timesteps

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
    def encode_references(
        self,
        references: Sequence[Image.Image],
        reference_prompts: str | Sequence[str] | None = None,
        reference_masks: Sequence[Image.Image | None] | None = None,
        mode: str | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        reference_resize: str = "pad",
    ) -> ReferenceCache:
        """Keys and values of the references, for ``pipe(..., cache=cache)`` with any prompt and batch.

        Arguments as in ``__call__``, at least one reference; ``mode`` is by default the first trained one whose
        references can be cached. A call's own ``height`` and ``width`` may be others where the mode says so
        (`one_way` does). Raises ``InputError`` also if no mode can be cached, or the one that is named.
        """
        trained = self.config.trained_modes
        if mode is not None:
            checks.check_mode(mode, trained)
        asked = trained if mode is None else [mode]
        mode = next((x for x in asked if ATTENTION_MODES.get(x).cacheable), None)
        if mode is None:
            raise InputError(
                f"references cannot be cached in mode {', '.join(asked)} (this model was trained in "
                f"{', '.join(trained)}): give them to each call"
            )
        size = wanted_size(height, width, self.image_size, self.vae_scale_factor)
        given = ReferenceImages(references, reference_prompts, reference_masks, reference_resize)
        self._check_references(given, mode)
        if not given:
            raise ValueError("references is empty: there is nothing to encode")
        cache = self._encode_references(given, size, mode)
        self.maybe_free_model_hooks()
        return cache

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str]) -> EncodedText:
        """``p`` prompts as a call takes them: ``embeds [p l d]`` for ``prompt_embeds`` and, of SD-XL, ``pooled [p e]``
        for ``pooled_prompt_embeds``."""
        prompts = self.maybe_convert_prompt([prompt] if isinstance(prompt, str) else list(prompt), self.tokenizer)
        return encode_captions(self, prompts).map(lambda x: x.to(self._execution_device, self.unet.dtype))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        references: Sequence[Image.Image] | None = None,
        reference_prompts: str | Sequence[str] | None = None,
        reference_masks: Sequence[Image.Image | None] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        num_images_per_prompt: int = 1,
        joint: bool = False,
        height: int | None = None,
        width: int | None = None,
        reference_resize: str = "pad",
        num_inference_steps: int | None = None,
        guidance: str | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        image_guidance_interval: tuple[float, float] = (0.0, 1.0),
        mode: str | None = None,
        image: Image.Image | None = None,
        mask_image: Image.Image | None = None,
        cache: ReferenceCache | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict], dict | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> JediPipelineOutput | Any:  # a tuple where `return_dict` is False
        """Images of the references' subject, one prompt after another, ``num_images_per_prompt`` each.

        Args:
            prompt: one prompt or several; ``p`` below is their number.
            references: ``k`` images of the subject, of any size, mode and aspect. None: plain text-to-image.
            reference_prompts: one caption for all references or one each; ``None`` is the empty caption. The
                same in every guidance branch.
            reference_masks: for each reference ``None`` or a mask of the subject (white); the rest is hidden.
            negative_prompt: takes the place of the empty caption in the guidance branches without the prompt;
                one for all prompts, or one each. Without guidance it has no effect.
            prompt_embeds: ``[p l d]``, in place of ``prompt``: what :meth:`encode_prompt` gives.
            negative_prompt_embeds: ``[p l d]`` or ``[1 l d]``, in place of ``negative_prompt``.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: ``[p e]``; SD-XL needs them with the former.
            num_images_per_prompt: with ``joint``, the number of stories.
            joint: sample all prompts as one set, so that they agree with one another; the images come story
                after story. By default each image is a set of its own, with the references.
            height, width: pixels of what is made, multiples of ``vae_scale_factor``; by default :attr:`image_size`.
            reference_resize: "pad" fits references as a whole into the targets' size, "crop" fills it with their
                middle, "keep" leaves them their aspect (:class:`jedi.references.ReferenceImages`; in `one_way`).
            num_inference_steps, guidance, guidance_scale, image_guidance_scale: ``None`` takes the model's
                defaults. ``guidance`` names a rule of :mod:`jedi.guidance`; an ``image_guidance_scale`` chooses
                `three_branch` where the default rule has no use for one. Scales of 1 switch guidance off.
            guidance_interval, image_guidance_interval: shares of the run (0 to 1) between which each is on.
            mode: `one_way` (references are encoded once), `mutual` or an extension's; by default the cache's,
                else the first trained one.
            image, mask_image: an image, and what of it is to be generated (white). The result has the image's
                size and, outside of the mask, its pixels; the model works on it fitted as a whole into ``height`` x
                ``width``. Let the mask cover all of what has to go.
            cache: from :meth:`encode_references`, in place of ``references``.
            generator: a list with one generator an image (:func:`image_generators`; an image is then the
                same alone and in a batch), or a single one for all.
            latents: ``[n c h w]``: the initial noise, of variance 1.
            output_type: "pil", "np" ``[n H W 3]``, "pt" ``[n 3 H W]`` in [0, 1], or "latent" ``[n c h w]``.
            return_dict: ``False`` gives a tuple.
            callback_on_step_end: ``callback(pipe, step, timestep, tensors)``; the tensors that it returns are
                taken over.
            callback_on_step_end_tensor_inputs: tensors for the callback: "latents", ``[n c h w]``.

        Raises:
            InputError: arguments that are senseless or do not fit one another, or a mode or scheduler that
                the model was not trained for.
        """
        settings = self.sampling_settings(num_inference_steps, guidance, guidance_scale, image_guidance_scale)
        mode = mode or (self.config.trained_modes[0] if cache is None else cache.mode)
        given = ReferenceImages(references, reference_prompts, reference_masks, reference_resize)
        size = wanted_size(height, width, self.image_size, self.vae_scale_factor)

        # check
        self.check_inputs(
            prompt=prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt=negative_prompt,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            references=given,
            cache=cache,
            mode=mode,
            size=size,
            num_images_per_prompt=num_images_per_prompt,
            joint=joint,
            num_inference_steps=settings["num_inference_steps"],
            image=image,
            mask_image=mask_image,
            generator=generator,
            latents=latents,
        )
        checks.check_interval("guidance_interval", guidance_interval)
        checks.check_interval("image_guidance_interval", image_guidance_interval)
        checks.check_outputs(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        rule = GUIDANCE.get(settings["guidance"])
        scales = (settings["guidance_scale"], settings["image_guidance_scale"])
        device = self._execution_device

        # prepare: b sets of m targets
        text = self._text(size, prompt, prompt_embeds, pooled_prompt_embeds)  # p ...
        negative = self._text(size, negative_prompt or "", negative_prompt_embeds, negative_pooled_prompt_embeds)
        repeat = lambda x: x.repeat_interleave(num_images_per_prompt, 0)[:, None]
        text = text.expand(num_images_per_prompt, len(text.embeds)) if joint else text.map(repeat)
        negative = negative.map(repeat) if len(negative.embeds) > 1 and not joint else negative
        b, m = text.embeds.shape[:2]
        drawn = image_noise(b * m, self._latent_shape(size), generator, device) if latents is None else latents
        noise = drawn.to(device, torch.float32)
        if cache is not None:
            members = References(cache.num_references, cache.to(device, self.unet.dtype))
        elif not given:
            members = References(0)
        elif ATTENTION_MODES.get(mode).cacheable:
            members = References(len(given), self._encode_references(given, size, mode))
        else:
            clean, captions = self._reference_inputs(given, size)
            members = References(len(given), None, clean, captions)
            if not ATTENTION_MODES.get(mode).clean_references:
                # A set's first image draws for its references: a set is the same alone and in a batch.
                first = generator[::m] if isinstance(generator, list) else generator
                members.noise = image_noise(b, clean.shape, first, device)
        edit = None
        if image is not None and mask_image is not None:
            edit = Inpainting.prepare(image, mask_image, size, self.vae, device)
        conditions = Conditions(mode, text, negative, members, edit)

        # schedule
        timesteps = self._schedule(settings["num_inference_steps"])
        latents = noise * self.scheduler.init_noise_sigma
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if "generator" in accepted else {}

        # denoise
        denoise = GuidedUNet(self.joint_unet, self.scheduler, conditions)
        self._interrupt = False
        with self.progress_bar(total=len(timesteps)) as progress:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                if edit is not None:  # given pixels follow the noise level, with one fixed noise
                    latents = edit.hold(latents, denoise.add_noise(edit.latents.expand_as(noise), noise, t))
                s_text, s_refs = (
                    scale if in_interval(i, len(timesteps), interval) else 1.0
                    for scale, interval in zip(scales, (guidance_interval, image_guidance_interval), strict=True)
                )
                prediction = denoise(latents, t, rule, s_text, s_refs)
                latents = self.scheduler.step(prediction, t, latents, **options, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                    latents = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", latents)
                progress.update()

        # decode
        if edit is not None:
            latents = edit.hold(latents, edit.latents.expand_as(latents))
        result = latents
        if output_type != "latent":
            pixels = decode_latents(self.vae, latents).float().clamp(-1, 1)
            pixels = pixels if edit is None else edit.paste(pixels)
            result = self.image_processor.postprocess(pixels, output_type=output_type)
        self.maybe_free_model_hooks()
        return JediPipelineOutput(images=result) if return_dict else (result,)

    def check_inputs(
        self,
        *,
        prompt: Any,
        prompt_embeds: Any,
        negative_prompt: Any,
        negative_prompt_embeds: Any,
        pooled_prompt_embeds: Any,
        negative_pooled_prompt_embeds: Any,
        references: ReferenceImages,
        cache: Any,
        mode: str,
        size: Size,
        num_images_per_prompt: Any,
        joint: bool,
        num_inference_steps: int,
        image: Any,
        mask_image: Any,
        generator: Any,
        latents: Any,
    ) -> None:
        """Raises ``InputError`` as ``__call__`` does."""
        tokens = (caption_length(self.tokenizer, self.text_encoder), self.unet.config.cross_attention_dim)
        checks.check_prompts(prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, tokens)
        pooled = (pooled_prompt_embeds, negative_pooled_prompt_embeds)
        checks.check_pooled(self.text_encoder_2, (prompt_embeds, negative_prompt_embeds), pooled)
        checks.check_count("num_images_per_prompt", num_images_per_prompt)
        checks.check_mode(mode, self.config.trained_modes)
        schedulers.check_prediction_type(self.scheduler, self.config.prediction_type)
        self._check_references(references, mode, cache)
        checks.check_edit(image, mask_image)
        count = num_images_per_prompt * checks.num_prompts(prompt, prompt_embeds)
        shape = self._latent_shape(size)
        fixed = None if ATTENTION_MODES.get(mode).any_size else shape[1:]
        checks.check_cache(cache, num_images_per_prompt if joint else count, fixed)
        checks.check_noise(generator, latents, (count, *shape))
        noisy = bool(references) and not ATTENTION_MODES.get(mode).clean_references
        use = "for an edit" if image is not None else f"in mode {mode!r}" if noisy else ""
        schedulers.check_sampler(self.scheduler, num_inference_steps, use)

    def _latent_shape(self, size: Size) -> tuple[int, int, int]:
        return self.unet.config.out_channels, size[0] // self.vae_scale_factor, size[1] // self.vae_scale_factor

    def _check_references(self, references: ReferenceImages, mode: str, cache: Any = None) -> None:
        references.check(mode, cache)
        limit = self.config.max_trained_references
        if limit is not None and len(references) > limit:
            logger.warning(f"{len(references)} references; this model was trained with at most {limit}")

    def _text(self, size: Size, prompt: Any, embeds: Any = None, pooled: Any = None) -> EncodedText:
        text = self.encode_prompt(prompt) if embeds is None else EncodedText(embeds, pooled)
        return text.map(lambda x: x.to(self._execution_device, self.unet.dtype)).sized(*size)

    def _reference_inputs(self, references: ReferenceImages, size: Size) -> tuple[Tensor, EncodedText]:
        """Clean latents ``[k c h w]`` and text ``[k ...]`` of the references."""
        pixels = references.pixels(size, self.image_size, self.vae_scale_factor).to(self._execution_device)
        text = self._text((pixels.shape[-2], pixels.shape[-1]), references.captions)
        return encode_pixels(self.vae, pixels).float(), text

    def _encode_references(self, references: ReferenceImages, size: Size, mode: str) -> ReferenceCache:
        latents, text = self._reference_inputs(references, size)
        latents = latents[None].to(self.unet.dtype)  # b = 1
        sample = network_input(latents, torch.zeros_like(latents[:, :, :1]), latents)
        return self.joint_unet.encode_references(sample, text[None], mode)

    def _schedule(self, steps: int) -> Tensor:
        schedulers.start(self.scheduler, steps, self._execution_device)
        self._num_timesteps = len(self.scheduler.timesteps)
        return self.scheduler.timesteps
