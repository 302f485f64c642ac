"""JediPipeline: images of the subject that the references show, wherever the prompt puts it.

Reads as ``check -> prepare -> schedule -> denoise -> decode``. Letters: ``b`` sets, ``k`` references and ``m`` targets
of a set, ``c h w`` latents, ``H W`` pixels, ``l d`` tokens of a caption. The ``n = b m`` targets are the
images; between network calls they lie flat, ``[(b m) c h w]``, in the order of the images that come out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput, logging
from PIL import Image
from torch import Tensor

from jedi import checks, schedulers
from jedi.attention import ATTENTION_MODES, ReferenceCache
from jedi.captions import caption_length
from jedi.conditioning import network_input
from jedi.errors import InputError
from jedi.guidance import GUIDANCE, in_interval
from jedi.guided_unet import Conditions, GuidedUNet, References
from jedi.inpainting import Inpainting
from jedi.model import JediModel
from jedi.references import ReferenceImages
from jedi.rng import image_generators as image_generators  # documented as this module's
from jedi.rng import image_noise
from jedi.sizes import Size, wanted_size
from jedi.text import EncodedText
from jedi.vae import decode_latents, encode_pixels

logger = logging.get_logger(__name__)


@dataclass
class JediPipelineOutput(BaseOutput):
    """``images``: list of PIL images, array ``[n H W 3]`` or tensor ``[n 3 H W]`` in [0, 1], or latents."""

    images: Any


class JediPipeline(JediModel):
    """Personalised text-to-image generation by joint-image diffusion, without tuning.

    ``unet`` is a stock ``UNet2DConditionModel`` with ``2c + 1`` input channels; joint attention is installed
    here, once, and has no parameters. An attention processor of your own that you set on ``unet`` later is used if
    it takes ``joint``, and refused if not. ``save_pretrained`` writes a plain diffusers folder.

    Args:
        trained_modes: modes that the model was trained in, the default first; others are refused. By default that of an
            untrained base whose ``unet`` has been grown (:meth:`JointUNet.from_base`): `reference_only`.
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

    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012 (diffusers' form)

    _interrupt = False
    _num_timesteps = 0
    _guidance_scale = _image_guidance_scale = 1.0
    _guidance_rescale = 0.0

    @property
    def interrupt(self) -> bool:
        """Set ``pipe._interrupt = True`` in a callback to skip the steps that are left."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Scheduler steps of the latest call."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float:
        """Of the latest call. A callback may set ``pipe._guidance_scale`` for the steps to come; 1 is off."""
        return self._guidance_scale

    @property
    def image_guidance_scale(self) -> float:
        """Likewise; ``pipe._image_guidance_scale``."""
        return self._image_guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """Likewise; ``pipe._guidance_rescale``, 0 is off."""
        return self._guidance_rescale

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
        cross_attention_kwargs: Mapping[str, Any] | None = None,
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
        self._set_attention_kwargs(cross_attention_kwargs)
        size = wanted_size(height, width, self.image_size, self.vae_scale_factor)
        given = ReferenceImages(references, reference_prompts, reference_masks, reference_resize)
        self._check_references(given, mode)
        if not given:
            raise ValueError("references is empty: there is nothing to encode")
        cache = self._encode_references(given, size, mode)
        self.maybe_free_model_hooks()
        return cache

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        references: Sequence[Image.Image] | None = None,
        reference_prompts: str | Sequence[str] | None = None,
        reference_masks: Sequence[Image.Image | None] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
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
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        eta: float = 0.0,
        guidance: str | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        image_guidance_interval: tuple[float, float] = (0.0, 1.0),
        mode: str | None = None,
        image: Image.Image | None = None,
        mask_image: Image.Image | None = None,
        padding_mask_crop: int | None = None,
        strength: float = 1.0,
        cache: ReferenceCache | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        clip_skip: int | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
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
            prompt_2, negative_prompt_2: what SD-XL's second text encoder reads instead, as many.
            prompt_embeds: ``[p l d]``, in place of ``prompt``: what :meth:`encode_prompt` gives. ``l`` may be another
                where references are encoded apart, or there are none.
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
            timesteps, sigmas: steps of your own in place of ``num_inference_steps``, falling; one of them, and only for
                schedulers that take them.
            eta: DDIM's, 0 to 1; other schedulers have no use for it.
            guidance_rescale: share of the guided prediction that gets the unguided one's deviation, 0 to 1 (arXiv
                2305.08891).
            guidance_interval, image_guidance_interval: shares of the run (0 to 1) between which each is on.
            mode: `one_way` (references are encoded once), `mutual` or an extension's; by default the cache's,
                else the first trained one.
            image, mask_image: an image, and what of it is to be generated (white). The result has the image's
                size and, outside of the mask, its pixels; the model works on it fitted as a whole into ``height`` x
                ``width``. Let the mask cover all of what has to go.
            padding_mask_crop: so many pixels around the mask are all that the model sees of ``image``, at full size.
            strength: share of the steps that an edit takes, from the image with noise on it; with 1 nothing is left
                of what the mask covers.
            cache: from :meth:`encode_references`, in place of ``references``.
            generator: a list with one generator an image (:func:`image_generators`; an image is then the
                same alone and in a batch), or a single one for all.
            latents: ``[n c h w]``: the initial noise, of variance 1.
            output_type: "pil", "np" ``[n H W 3]``, "pt" ``[n 3 H W]`` in [0, 1], or "latent" ``[n c h w]``.
            return_dict: ``False`` gives a tuple.
            clip_skip: so many last layers of the text encoders are passed over for the prompts; not for other texts,
                as in diffusers.
            cross_attention_kwargs: ``scale`` is the weight of LoRAs; an attention processor of your own may take more.
            callback_on_step_end: ``callback(pipe, step, timestep, tensors)``; the tensors that it returns are
                taken over. diffusers' `PipelineCallback` too.
            callback_on_step_end_tensor_inputs: tensors for the callback: "latents" ``[n c h w]``, "prompt_embeds" and
                "negative_prompt_embeds" ``[n l d]``.

        Raises:
            InputError: arguments that are senseless or do not fit one another, or a mode or scheduler that
                the model was not trained for.
        """
        # check
        settings = self.sampling_settings(num_inference_steps, guidance, guidance_scale, image_guidance_scale)
        steps, rule = settings["num_inference_steps"], GUIDANCE.get(settings["guidance"])
        mode = mode or (self.config.trained_modes[0] if cache is None else cache.mode)
        given = ReferenceImages(references, reference_prompts, reference_masks, reference_resize)
        size = wanted_size(height, width, self.image_size, self.vae_scale_factor)
        shape = self._latent_shape(size)
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self.check_inputs(
            references=given,
            shape=shape,
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_2=prompt_2,
            negative_prompt_2=negative_prompt_2,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            cache=cache,
            mode=mode,
            num_images_per_prompt=num_images_per_prompt,
            joint=joint,
            generator=generator,
            latents=latents,
            image=image,
            mask_image=mask_image,
            strength=strength,
            padding_mask_crop=padding_mask_crop,
            eta=eta,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            image_guidance_interval=image_guidance_interval,
            clip_skip=clip_skip,
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        n = num_images_per_prompt * checks.num_prompts(prompt, prompt_embeds)
        own_steps = self._check_scheduler(steps, timesteps, sigmas, image is not None, bool(given), mode)
        self._set_attention_kwargs(cross_attention_kwargs)
        self._clip_skip = clip_skip
        self._guidance_scale, self._image_guidance_scale = settings["guidance_scale"], settings["image_guidance_scale"]
        self._guidance_rescale, self._interrupt = guidance_rescale, False

        # prepare: b sets of m targets
        text = self._text(size, prompt, prompt_embeds, pooled_prompt_embeds, prompt_2, clip_skip)  # p ...
        others = (negative_prompt_embeds, negative_pooled_prompt_embeds, negative_prompt_2)
        negative = self._text(size, negative_prompt or "", *others)
        repeat = lambda x: x.repeat_interleave(num_images_per_prompt, 0)[:, None]
        text = text.expand(num_images_per_prompt, len(text.embeds)) if joint else text.map(repeat)
        negative = negative.map(repeat) if len(negative.embeds) > 1 and not joint else negative
        device = self._execution_device
        noise = image_noise(n, shape, generator, device) if latents is None else latents.to(device, torch.float32)
        members = self._members(given, cache, mode, size, text.embeds.shape[:2], generator)
        edit = None
        if image is not None and mask_image is not None:
            edit = Inpainting.prepare(image, mask_image, size, self.vae, device, padding_mask_crop)
        conditions = Conditions(mode, text, negative, members, edit, self.cross_attention_kwargs)
        denoise = GuidedUNet(self.joint_unet, self.scheduler, conditions)

        # schedule
        run = schedulers.start(self.scheduler, steps, device, own_steps, strength)
        self._num_timesteps = len(run)
        latents = noise * self.scheduler.init_noise_sigma
        if edit is not None and strength < 1:
            latents = denoise.add_noise(edit.latents.expand_as(noise), noise, run[0])
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {name: x for name, x in (("generator", generator), ("eta", eta)) if name in accepted}

        # denoise
        with self.progress_bar(total=len(run)) as progress:
            for i, t in enumerate(run):
                if self.interrupt:
                    continue
                if edit is not None:  # given pixels follow the noise level, with one fixed noise
                    latents = edit.hold(latents, denoise.add_noise(edit.latents.expand_as(noise), noise, t))
                s_text = self.guidance_scale if in_interval(i, len(run), guidance_interval) else 1.0
                s_refs = self.image_guidance_scale if in_interval(i, len(run), image_guidance_interval) else 1.0
                prediction = denoise(latents, t, rule, s_text, s_refs, self.guidance_rescale)
                latents = self.scheduler.step(prediction, t, latents, **options, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = {"latents": latents, **conditions.prompts}
                    shown = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, i, t, shown) or {}
                    latents = changed.get("latents", latents)
                    conditions.change_prompts(changed)
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
        references: ReferenceImages,
        shape: tuple[int, int, int],
        prompt: Any,
        negative_prompt: Any,
        prompt_2: Any,
        negative_prompt_2: Any,
        prompt_embeds: Any,
        negative_prompt_embeds: Any,
        pooled_prompt_embeds: Any,
        negative_pooled_prompt_embeds: Any,
        cache: Any,
        mode: Any,
        num_images_per_prompt: Any,
        joint: Any,
        generator: Any,
        latents: Any,
        image: Any,
        mask_image: Any,
        strength: Any,
        padding_mask_crop: Any,
        eta: Any,
        guidance_rescale: Any,
        guidance_interval: Any,
        image_guidance_interval: Any,
        clip_skip: Any,
        output_type: Any,
        callback_on_step_end_tensor_inputs: Any,
    ) -> None:
        """Raises ``InputError`` as ``__call__`` does; arguments as there, ``shape`` is ``c h w``."""
        checks.check_mode(mode, self.config.trained_modes)
        self._check_references(references, mode, cache)
        tokens = (caption_length(self.tokenizer, self.text_encoder), self.unet.config.cross_attention_dim)
        checks.check_prompts(prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, tokens)
        if references and prompt_embeds is not None and not ATTENTION_MODES.get(mode).cacheable:
            checks.check_length("prompt_embeds", prompt_embeds, tokens[0], mode)
        checks.check_second_prompts(self.text_encoder_2, (prompt, negative_prompt), (prompt_2, negative_prompt_2))
        pooled = (pooled_prompt_embeds, negative_pooled_prompt_embeds)
        checks.check_pooled(self.text_encoder_2, (prompt_embeds, negative_prompt_embeds), pooled)
        checks.check_count("num_images_per_prompt", num_images_per_prompt)
        n = num_images_per_prompt * checks.num_prompts(prompt, prompt_embeds)
        sets = num_images_per_prompt if joint else n
        checks.check_cache(cache, sets, None if ATTENTION_MODES.get(mode).any_size else shape[1:])
        checks.check_noise(generator, latents, (n, *shape))
        checks.check_edit(image, mask_image, strength, padding_mask_crop)
        checks.check_share("eta", eta)
        checks.check_share("guidance_rescale", guidance_rescale)
        checks.check_interval("guidance_interval", guidance_interval)
        checks.check_interval("image_guidance_interval", image_guidance_interval)
        checks.check_clip_skip(clip_skip, self.text_encoder.config.num_hidden_layers)
        checks.check_outputs(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)

    def _latent_shape(self, size: Size) -> tuple[int, int, int]:
        return self.unet.config.out_channels, size[0] // self.vae_scale_factor, size[1] // self.vae_scale_factor

    def _check_references(self, references: ReferenceImages, mode: str, cache: Any = None) -> None:
        references.check(mode, cache)
        limit = self.config.max_trained_references
        if limit is not None and len(references) > limit:
            logger.warning(f"{len(references)} references; this model was trained with at most {limit}")

    def _check_scheduler(
        self, steps: int, timesteps: Any, sigmas: Any, edit: bool, references: bool, mode: str
    ) -> dict[str, Any]:
        """The caller's own steps, if any. Raises ``InputError`` for a scheduler that does not do here."""
        schedulers.check_prediction_type(self.scheduler, self.config.prediction_type)
        own = schedulers.own_steps(self.scheduler, timesteps, sigmas)
        noisy = references and not ATTENTION_MODES.get(mode).clean_references
        use = "for an edit" if edit else f"in mode {mode!r}" if noisy else ""
        schedulers.check_sampler(self.scheduler, steps, use, own)
        return own

    def _members(
        self, given: ReferenceImages, cache: Any, mode: str, size: Size, sets: Sequence[int], generator: Any
    ) -> References:
        """The given members of ``b m = sets``: from the cache, encoded now, or as they enter every network call."""
        if cache is not None:
            return References(cache.num_references, cache.to(self._execution_device, self.unet.dtype))
        if not given:
            return References(0)
        if ATTENTION_MODES.get(mode).cacheable:
            return References(len(given), self._encode_references(given, size, mode))
        (b, m), (clean, captions) = sets, self._reference_inputs(given, size)
        members = References(len(given), None, clean, captions)
        if not ATTENTION_MODES.get(mode).clean_references:
            # A set's first image draws for its references: a set is the same alone and in a batch.
            first = generator[::m] if isinstance(generator, list) else generator
            members.noise = image_noise(b, clean.shape, first, self._execution_device)
        return members

    def _reference_inputs(self, references: ReferenceImages, size: Size) -> tuple[Tensor, EncodedText]:
        """Clean latents ``[k c h w]`` and text ``[k ...]`` of the references."""
        pixels = references.pixels(size, self.image_size, self.vae_scale_factor).to(self._execution_device)
        text = self._text((pixels.shape[-2], pixels.shape[-1]), references.captions)
        return encode_pixels(self.vae, pixels).float(), text

    def _encode_references(self, references: ReferenceImages, size: Size, mode: str) -> ReferenceCache:
        latents, text = self._reference_inputs(references, size)
        latents = latents[None].to(self.unet.dtype)  # b = 1
        sample = network_input(latents, torch.zeros_like(latents[:, :, :1]), latents)
        return self.joint_unet.encode_references(sample, text[None], mode, self.cross_attention_kwargs)
