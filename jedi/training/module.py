"""What Lightning trains: the joint UNet and its average, one step, what a checkpoint holds.

Nothing random has a state: what a step does is a function of (config, data, step). So weights, their
average, the optimiser and the step number are all that a checkpoint needs for the run to go on exactly.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from jedi.captions import encode_captions
from jedi.conditioning import CONDITIONING_POLICIES, draw_sets
from jedi.data import JointBatch
from jedi.diffusion import LOSS_WEIGHTINGS, NoiseSchedule
from jedi.errors import InputError
from jedi.io import config as configs
from jedi.io.base import Base, check_unet
from jedi.io.quiet import quiet
from jedi.loss import joint_loss
from jedi.pipeline import JediPipeline
from jedi.rng import keyed_seed, seed_global
from jedi.sampling import check_defaults, check_modes, sampling_settings
from jedi.schedulers import start
from jedi.text import EncodedText
from jedi.training import checkpoints
from jedi.training.average import PREFIX, AveragedWeights
from jedi.training.config import TrainConfig
from jedi.training.load_run import load_first_unet
from jedi.training.optimizer import lr_factor, make_optimizer, set_lr, unmap
from jedi.training.trained import check_frozen, frozen_sha256, make_unet
from jedi.unet import JointUNet
from jedi.vae import encode_pixels


class JointTraining(L.LightningModule):
    """The joint UNet, its average, one step. The frozen parts are not registered: no checkpoint has them."""

    def __init__(self, config: TrainConfig, base: Base, resume_from: Path | None = None) -> None:
        super().__init__()
        self.config = config
        check_sampling(config, base)  # refused now, not when the first images are due or the run is exported
        self.schedule = NoiseSchedule.from_scheduler(base.scheduler)
        self.policy = CONDITIONING_POLICIES.get(config.conditioning.policy)
        weight = LOSS_WEIGHTINGS.get(config.loss.weighting)
        weight(self.schedule, torch.zeros(1, dtype=torch.int64), config.loss.gamma)  # refused now, not at step 1
        make_optimizer(torch.nn.Linear(1, 1), config.optimizer)  # its package may be missing
        unet = base.unet
        saved = checkpoints.load(resume_from)["jedi"] if resume_from is not None else {}
        if saved and not config.trains_part:  # the model that the weights once came from may be gone
            unet = UNet2DConditionModel.from_config(saved["unet"])
        elif config.init_from is not None:
            unet = load_first_unet(config.init_from, self.schedule.prediction_type)
            check_unet(unet, base.vae, base.text_encoders, f"init_from {config.init_from} on base {config.base}")
        if config.network.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.unet = make_unet(unet, config).train()
        self.frozen = {
            f"unet.{name}" for name, parameter in self.unet.named_parameters() if not parameter.requires_grad
        }
        self.frozen_sha256 = frozen_sha256(self.unet.unet)
        if saved:
            check_frozen(saved, self.frozen_sha256, config)
        if config.network.channels_last:
            self.unet.to(memory_format=torch.channels_last)
        self.average = AveragedWeights(self.unet, config.ema)
        if config.network.compile:
            self.unet.compile()
        self._besides: dict[str, EncodedText] = {}  # captions that the text cache has not
        self._base = (base,)  # in a tuple: a module would become part of this one
        self.loss_sum: Tensor | float = 0.0
        self.loss_count = 0
        self.paused_seconds = 0.0
        self._optimizer_states: list[dict[str, Any]] | None = None

    @property
    def base(self) -> Base:
        """The frozen vae, text encoder, tokenizer and scheduler."""
        return self._base[0]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[JointUNet]:
        """The UNet with the averaged weights, in evaluation mode: what is validated and sampled. It is the trained one,
        which has its own weights again at the end of the block."""
        # What was compiled for the training would be compiled once more, for this.
        eager = torch.compiler.set_stance("force_eager") if self.config.network.compile else contextlib.nullcontext()
        with self.average.applied(), eager:
            try:
                yield self.unet.eval()
            finally:
                self.unet.train()

    def setup(self, stage: str) -> None:
        height, width = self.trainer.datamodule.latent_size  # what is trained is what is saved, sampled and exported
        self.unet.unet.register_to_config(sample_size=height if height == width else [height, width])
        device = self.trainer.strategy.root_device
        self.average.to(device)
        dtype = getattr(torch, self.config.hardware.frozen_dtype)
        with quiet():  # diffusers warns of parts to be kept in float32, and names none
            for part in (self.base.vae, *self.base.text_encoders):
                part.to("cpu" if part in self.resting else device, dtype)
        if "mixed" in str(self.trainer.precision):  # which brings the dtypes of weights and activations together
            for name, parameter in self.named_parameters():
                if name in self.frozen:
                    parameter.data = parameter.data.to(dtype)
        self.schedule = replace(self.schedule, alphas_cumprod=self.schedule.alphas_cumprod.to(device))

    @property
    def resting(self) -> list[Any]:
        """The frozen parts whose results are cached: they lie on the CPU, but for :meth:`frozen_parts`."""
        data = self.config.data
        return [self.base.vae] * data.cache_latents + self.base.text_encoders * data.cache_text

    @contextlib.contextmanager
    def frozen_parts(self) -> Iterator[None]:
        """All frozen parts are on the device inside, for held-out images and for sampling."""
        for part in self.resting:
            part.to(self.trainer.strategy.root_device)
        try:
            yield
        finally:
            for part in self.resting:
                part.to("cpu")

    def on_train_start(self) -> None:
        self._optimizer_states = None
        unmap(self.optimizers(use_pl_optimizer=False))

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """``[b n 3 H W]`` -> scaled latents ``[b n c h w]``, without autocast: in the VAE's own precision."""
        with torch.autocast(self.device.type, enabled=False):
            return encode_pixels(self.base.vae, images.flatten(0, 1)).unflatten(0, images.shape[:2]).float()

    @torch.no_grad()
    def encode_text(
        self, captions: list[list[str]], height: int, width: int, origins: Tensor | None = None
    ) -> EncodedText:
        """``b`` lists of ``n`` captions -> ``[b n ...]``; equal ones (above all the empty one) only once.

        SD-XL is told ``height`` and ``width`` of the images in pixels, and their ``origins [b n 4]``.
        """
        flat = [caption for captions_of_set in captions for caption in captions_of_set]
        distinct = list(dict.fromkeys(flat))
        cache = self.trainer.datamodule.text if self.config.data.cache_text else None
        known = {} if cache is None else cache.read(distinct) | self._besides
        if unknown := [caption for caption in distinct if caption not in known]:
            with torch.autocast(self.device.type, enabled=False):
                text = encode_captions(self.base, unknown)
            known |= {caption: text[i] for i, caption in enumerate(unknown)}
            if cache is not None:  # the empty caption, and held-out ones
                self._besides |= {caption: known[caption] for caption in unknown}
        # Each for itself: the cache's rows lie on the CPU, what was encoded beside it where the text encoders were.
        there = {caption: known[caption].map(lambda x: x.to(self.device).float()) for caption in distinct}
        text = EncodedText.cat([there[caption][None] for caption in flat])
        return text.map(lambda x: x.unflatten(0, (len(captions), -1))).sized(height, width, origins)

    def training_step(self, batch: JointBatch, batch_idx: int) -> Tensor:
        config = self.config
        # A base with dropout draws from the global generator: it is keyed like all else, to resume exactly.
        seed_global(keyed_seed(config.seed, "network", int(batch.positions[0])))
        plan = self.policy(config.seed, batch.step, batch.n, config.conditioning)
        latents = self.encode_images(cast(Tensor, batch.images)) if batch.latents is None else batch.latents
        draws = draw_sets(
            config.seed,
            batch.positions,
            plan,
            latents.shape[1:],
            self.schedule.num_timesteps,
            config.conditioning,
        )
        captions = [
            ["" if drop else caption for caption, drop in zip(captions, drops, strict=True)]
            for captions, drops in zip(batch.captions, draws.drop_caption.tolist(), strict=True)
        ]
        result = joint_loss(
            self.unet,
            self.schedule,
            latents,
            self.encode_text(captions, *self.base.image_size(latents), batch.origins),
            draws,
            plan,
            config.loss.weighting,
            config.loss.gamma,
        )
        self.loss_sum, self.loss_count = self.loss_sum + result.loss.detach(), self.loss_count + 1
        sources = config.data.sources
        source = sources[self.trainer.datamodule.plan.place(batch.step)[0]] if sources else None
        return result.loss if source is None else result.loss * source.loss_weight

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        config = self.config
        # Set anew at each step: neither a checkpoint's rate nor one of a launch with another max_steps goes on.
        set_lr(optimizer, config.optimizer.lr * lr_factor(self.global_step, config.max_steps, config.optimizer))
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.average.update(self.global_step + 1)  # Lightning counts the step when this returns

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.unet, self.config.optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["jedi"] = {
            "config": configs.to_dict(self.config),
            "max_references": self.trainer.datamodule.max_references,
            "prediction_type": self.schedule.prediction_type,
            "unet": json.loads(self.unet.unet.to_json_string()),
            "step": self.global_step,
            "frozen_sha256": self.frozen_sha256,
        }
        state = {name: value for name, value in checkpoint["state_dict"].items() if name not in self.frozen}
        state |= self.average.state_dict()
        if "optimizer_states" not in checkpoint:  # only to be sampled from and exported: the average is enough
            state = {k: v for k, v in state.items() if PREFIX + k.removeprefix("unet.") not in state}
        checkpoint["state_dict"] = state
        if "optimizer_states" in checkpoint and self._optimizer_states is not None:
            checkpoint["optimizer_states"] = self._optimizer_states  # Lightning restores them after `on_fit_start`

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Of Lightning's counters only the number of steps goes on. A launch begins at a whole step, so its micro
        # batches are counted from 0: restored, they would end a step in the middle where `accumulate` has changed.
        del checkpoint["loops"]
        own, state = self.state_dict(), checkpoint["state_dict"]
        state |= {name: own[name] for name in self.frozen}
        if {name for name in state if name.startswith("unet.")} != own.keys():
            raise InputError("the checkpoint has other trained weights than `lora` and `network.trainable` say")
        self.average.load_state_dict(state)
        self._optimizer_states = checkpoint["optimizer_states"]
        steps = self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.ready = steps.completed = checkpoint["jedi"]["step"]

    def pipeline(self) -> JediPipeline:
        """A pipeline of the UNet and the frozen parts (shared, not copied), to be used while the UNet is
        :meth:`averaged`. For a trainer's module."""
        base, config = self.base, self.config
        pipe = JediPipeline(
            base.vae,
            base.text_encoder,
            base.tokenizer,
            self.unet.unet,
            own_scheduler(base),
            base.text_encoder_2,
            base.tokenizer_2,
            trained_modes=config.trained_modes,
            max_trained_references=self.trainer.datamodule.max_references,
            sampling_defaults=config.sampling_defaults,
            force_zeros_for_empty_prompt=base.force_zeros_for_empty_prompt,
        )
        pipe.set_attention_backend(config.network.attention)  # installed in the UNet: validation uses it too
        return pipe

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count for the throughput."""
        start = time.monotonic()
        yield
        self.paused_seconds += time.monotonic() - start


def own_scheduler(base: Base) -> Any:
    """The base's scheduler in a copy: sampling changes its state."""
    return type(base.scheduler).from_config(base.scheduler.config)


def check_sampling(config: TrainConfig, base: Base) -> None:
    """Raises ``InputError`` for attention modes or settings of sampling that the run's pipeline would refuse."""
    check_modes("conditioning.modes", config.trained_modes)
    samples = config.samples
    check_defaults(config.sampling_defaults)
    scales = (samples.guidance_scale, samples.image_guidance_scale)
    sampling_settings(config.sampling_defaults, samples.steps, None, *scales)
    if samples.every_steps:
        start(own_scheduler(base), samples.steps)
