"""Training under Lightning: the module, the data module, the callbacks. `train.py` puts them together.

Nothing random has a state: what a step does is a function of (config, data, step). So weights, their
average, the optimiser and the step number are all that a checkpoint needs for the run to go on exactly.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from lightning.pytorch.accelerators import AcceleratorRegistry, CPUAccelerator
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import StrategyRegistry
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from jedi.attention import check_backend
from jedi.captions import encode_captions
from jedi.conditioning import CONDITIONING_POLICIES, draw_sets
from jedi.data import BatchPlan, JointBatch, SetDataset, SetIndex, StepSampler, collate
from jedi.diffusion import LOSS_WEIGHTINGS, NoiseSchedule
from jedi.errors import InputError
from jedi.io import config as configs
from jedi.io.base import Base, check_unet, load_unet
from jedi.loss import joint_loss
from jedi.pipeline import JediPipeline
from jedi.rng import keyed_seed, seed_global
from jedi.training import checkpoints
from jedi.training.callbacks import (
    Checkpoints,
    HeldOut,
    Progress,
    Recurring,
    RunCheckpointIO,
    SampleGrid,
    StopOnSignal,
)
from jedi.training.config import HardwareConfig, OptimizerConfig, TrainConfig
from jedi.training.export import is_run, load_run_unet
from jedi.training.latents import LatentCache, encode_all
from jedi.training.run import identity, make_logger, open_run, write_run  # noqa: F401 (train.py has them from here)
from jedi.unet import JointUNet
from jedi.vae import encode_pixels

log = logging.getLogger(__name__)


class JointTraining(L.LightningModule):
    """The joint UNet, its average, one step. The frozen parts are not registered: no checkpoint has them."""

    def __init__(self, config: TrainConfig, base: Base, begun: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.schedule = NoiseSchedule.from_scheduler(base.scheduler)
        self.policy = CONDITIONING_POLICIES.get(config.conditioning.policy)
        weight = LOSS_WEIGHTINGS.get(config.loss.weighting)
        weight(self.schedule, torch.zeros(1, dtype=torch.int64), config.loss.gamma)  # refused now, not at step 1
        unet = base.unet
        if begun is not None:  # the weights come from this checkpoint; the model that they once came from may be gone
            unet = UNet2DConditionModel.from_config(checkpoints.load(begun)["jedi"]["unet"])
        elif config.init_from is not None:
            load = load_run_unet if is_run(config.init_from) else load_unet
            unet = load(config.init_from, self.schedule.prediction_type)
            check_unet(unet, base.vae, base.text_encoder, f"init_from {config.init_from} on base {config.base}")
        if config.network.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.unet = JointUNet.from_base(unet, config.network.attention).train()
        self.ema = AveragedModel(self.unet, multi_avg_fn=_ema_update(config.ema.decay)).requires_grad_(False).eval()
        if config.network.compile:
            self.unet.compile()
        self._base = (base,)  # in a tuple: a module would become part of this one
        self.loss_sum: Tensor | float = 0.0
        self.loss_count = 0
        self.paused_seconds = 0.0
        samples = config.samples  # refused now, not when the first images are due or the run is exported
        self._assemble().sampling_settings(samples.steps, None, samples.guidance_scale, samples.image_guidance_scale)

    @property
    def base(self) -> Base:
        """The frozen vae, text encoder, tokenizer and scheduler."""
        return self._base[0]

    @property
    def ema_unet(self) -> JointUNet:
        """The averaged UNet: what is validated, sampled and exported."""
        return cast(JointUNet, self.ema.module)

    def on_fit_start(self) -> None:
        height, width = self.trainer.datamodule.latent_size
        for unet in (self.unet.unet, self.ema_unet.unet):  # what is trained is what is saved, sampled and exported
            unet.register_to_config(sample_size=height if height == width else [height, width])
        self.base.vae.to(self.device)
        self.base.text_encoder.to(self.device)
        self.schedule = replace(self.schedule, alphas_cumprod=self.schedule.alphas_cumprod.to(self.device))
        for callback in self.trainer.callbacks:
            if isinstance(callback, Recurring):  # what a signal cut short at the step where this launch begins
                callback.catch_up(self.trainer, self)

    def on_train_start(self) -> None:
        for state in self.optimizers(use_pl_optimizer=False).state.values():
            for name, value in state.items():  # on a CPU these are still mapped from the file, which will be removed
                state[name] = value.clone() if value.is_cpu else value

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """``[b n 3 H W]`` -> scaled latents ``[b n c h w]``, in float32 whatever the training's precision."""
        with torch.autocast(self.device.type, enabled=False):
            return encode_pixels(self.base.vae, images.flatten(0, 1)).unflatten(0, images.shape[:2]).float()

    @torch.no_grad()
    def encode_text(self, captions: list[list[str]]) -> Tensor:
        """``b`` lists of ``n`` captions -> ``[b n l d]``; equal ones (above all the empty one) only once."""
        flat = [caption for captions_of_set in captions for caption in captions_of_set]
        distinct = list(dict.fromkeys(flat))
        with torch.autocast(self.device.type, enabled=False):
            text = encode_captions(self.base.tokenizer, self.base.text_encoder, distinct).float()
        place = {caption: i for i, caption in enumerate(distinct)}
        return text[[place[caption] for caption in flat]].unflatten(0, (len(captions), -1))

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
            self.encode_text(captions),
            draws,
            plan,
            config.loss.weighting,
            config.loss.gamma,
        )
        self.loss_sum, self.loss_count = self.loss_sum + result.loss.detach(), self.loss_count + 1
        return result.loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        config = self.config
        # Set anew at each step: neither a checkpoint's rate nor one of a launch with another max_steps goes on.
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * lr_factor(self.global_step, config.max_steps, config.optimizer)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.ema.update_parameters(self.unet)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.unet, self.config.optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["jedi"] = {
            "config": configs.to_dict(self.config),
            "max_references": self.trainer.datamodule.max_references,
            "prediction_type": self.schedule.prediction_type,
            "unet": json.loads(self.unet.unet.to_json_string()),
            "step": self.global_step,
        }
        if "optimizer_states" not in checkpoint:  # only to be sampled from and exported: the average is enough
            averaged = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("ema.module.")}
            checkpoint["state_dict"] = averaged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Of Lightning's counters only the number of steps goes on. A launch begins at a whole step, so its micro
        # batches are counted from 0: restored, they would end a step in the middle where `accumulate` has changed.
        del checkpoint["loops"]
        steps = self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.ready = steps.completed = checkpoint["jedi"]["step"]

    def pipeline(self) -> JediPipeline:
        """A pipeline of the averaged UNet and the frozen parts (shared, not copied). For a trainer's module."""
        pipe = self._assemble(self.trainer.datamodule.max_references)
        pipe.set_attention_backend(self.config.network.attention)  # installed in the UNet: validation uses it too
        return pipe

    def _assemble(self, max_references: int | None = None) -> JediPipeline:
        base, config = self.base, self.config
        scheduler = type(base.scheduler).from_config(base.scheduler.config)
        return JediPipeline(
            base.vae,
            base.text_encoder,
            base.tokenizer,
            self.ema_unet.unet,
            scheduler,
            config.trained_modes,
            max_references,
            sampling_defaults=config.sampling_defaults,
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count for the throughput."""
        start = time.monotonic()
        yield
        self.paused_seconds += time.monotonic() - start


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW; matrices and kernels are decayed, biases and gains are not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.lr, (config.betas[0], config.betas[1]), config.eps)


def lr_factor(step: int, max_steps: int, config: OptimizerConfig) -> float:
    """Learning rate at a step (0 is the first) as a share of ``lr``: warm-up, plateau, fall."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    length = max(1, config.decay_steps or max_steps - config.warmup_steps)
    done = min(1.0, max(0.0, 1 - (max_steps - step) / length))
    shape = 1 - done if config.schedule == "linear" else 0.5 + 0.5 * float(np.cos(np.pi * done))
    return config.final_lr + (1 - config.final_lr) * shape


def _ema_update(decay: float):
    """Averaging for `AveragedModel`; the decay rises, lest a short run be an average of its first weights."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        step = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + step) / (10 + step)))

    return update


class JointData(L.LightningDataModule):
    """Training batches from the step that the trainer stands at; the held-out sets."""

    def __init__(self, config: TrainConfig, base: Base) -> None:
        super().__init__()
        self.config, self.base = config, base
        self.index = SetIndex.read(config.data.path, "train", config.data.verify)
        self.plan = BatchPlan(self.index, config.batch_size, config.seed, config.data.set_size)
        self.max_references = max(bucket.n for bucket in self.plan.used) - 1
        if used := [k for k, weight in enumerate(config.conditioning.reference_weights) if weight > 0]:
            self.max_references = min(self.max_references, max(used))
        policy = CONDITIONING_POLICIES.get(config.conditioning.policy)
        for bucket in self.plan.used:  # refused now, not at the first step with such a set
            policy(config.seed, 0, bucket.n, config.conditioning)
        images: dict[tuple[int, int], int] = {}  # of each size in latents
        for bucket in self.plan.used:
            size = base.latent_size(bucket.width, bucket.height)
            images[size] = images.get(size, 0) + bucket.n * len(self.plan.buckets[bucket])
        self.latent_size = max(images, key=images.__getitem__)
        """Height and width that most images have, in latents: the model's size from now on."""
        self.latents = None
        if config.data.cache_latents:
            self.latents = LatentCache.of_run(config, self.index, base)

    def summary(self) -> str:
        """One line: how much there is, and what is left out."""
        plan, count = self.plan, len(self.index.sets)
        dropped = f"{plan.dropped_per_epoch} sets left over, others each time" if plan.dropped_per_epoch else "no rest"
        never = f"; {plan.never_used} sets never used, too few of their size" if plan.never_used else ""
        epoch = f"an epoch is {plan.steps_per_epoch} steps, {dropped}{never}"
        return f"{count} sets in {len(self.index.shards)} shards; {epoch}"

    def setup(self, stage: str) -> None:
        """Encodes what is missing, on all ranks; none goes on before all is there, and none waits in a collective
        operation meanwhile, which would time out."""
        if self.latents is not None:
            vae = self.base.vae.to(self.trainer.strategy.root_device)
            encode_all(self.latents, vae, show=self.trainer.is_global_zero and not self.latents.complete)

    def train_dataloader(self) -> DataLoader:
        trainer, config = self.trainer, self.config
        sampler = StepSampler(
            self.plan,
            trainer.global_rank,
            trainer.world_size,
            trainer.accumulate_grad_batches,
            start=trainer.global_step,
            stop=config.max_steps,
        )
        return DataLoader(
            SetDataset(self.index, config.seed, self.latents),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=config.data.workers,
            worker_init_fn=_outlive_signals,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )


def _outlive_signals(worker: int) -> None:
    """In a data worker: who wants to stop the training may tell all its processes (Slurm does), but to finish
    the step the training process needs its workers. A worker that is told to end has ten seconds left.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(10))


def make_trainer(config: TrainConfig, data: JointData, stop: StopOnSignal) -> L.Trainer:
    """Lightning's Trainer with our callbacks and loggers, as the configuration says."""
    stop.latents = data.latents
    recurring: list[Recurring] = []
    if config.validation.every_steps:
        recurring.append(HeldOut(config, stop, data.max_references))
    if config.samples.every_steps:
        recurring.append(SampleGrid(config, stop, data.max_references))
    # In this order: the last checkpoint of a step knows what else was done at it.
    callbacks = [stop, Progress(config), *recurring, Checkpoints(config, stop, recurring)]
    hardware = config.hardware
    check_hardware(hardware)
    trainer = L.Trainer(
        accelerator=hardware.accelerator,
        devices=int(hardware.devices) if hardware.devices.isdecimal() else hardware.devices,
        num_nodes=hardware.nodes,
        strategy=hardware.strategy,
        precision=choose_precision(hardware),
        # Lightning's own requeueing saves inside the signal handler, which hangs: StopOnSignal does it.
        plugins=[RunCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else [])],
        logger=[make_logger(name, config) for name in config.log.loggers],
        callbacks=callbacks,
        max_steps=config.max_steps,
        max_epochs=-1,  # an epoch of Lightning's is the whole run; ours are the batch plan's
        gradient_clip_val=config.optimizer.clip_grad_norm or None,
        limit_val_batches=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=config.run,
    )
    stop.launcher = trainer.strategy.launcher
    trainer.accumulate_grad_batches = config.accumulate(trainer.world_size)
    try:
        check_backend(config.network.attention, trainer.strategy.root_device)
    except RuntimeError as error:
        raise InputError(f"network.attention: {error}") from None
    return trainer


def check_hardware(hardware: HardwareConfig) -> None:
    """Raises ``InputError`` for what this machine does not have, or Lightning does not know."""
    kinds = {"auto": ["cuda", "mps", "tpu", "cpu"], "gpu": ["cuda", "mps"]}
    kinds |= {kind: [kind] for kind in AcceleratorRegistry.available_accelerators()}
    if hardware.accelerator not in kinds:
        raise InputError(f"hardware.accelerator is {hardware.accelerator!r}; known are {', '.join(sorted(kinds))}")
    asked = [AcceleratorRegistry[kind]["accelerator"] for kind in kinds[hardware.accelerator]]
    found = next((accelerator for accelerator in asked if accelerator.is_available()), None)
    if found is None:
        raise InputError(f"hardware.accelerator={hardware.accelerator}: this machine has none; take auto or cpu")
    count = None if found is CPUAccelerator else found.auto_device_count()
    devices = hardware.devices
    if not re.fullmatch(r"auto|0*[1-9]\d*" + (r"|\d+,(\d+(,\d+)*)?" if count else ""), devices):
        raise InputError(f"hardware.devices is auto, 1 or more, or a list of GPUs that are there, got {devices!r}")
    if count and max(int(number) + ("," in devices) for number in re.findall(r"\d+", devices) or "0") > count:
        raise InputError(f"hardware.devices={devices}: this machine has {count}")
    strategies = ["auto", *sorted(name for name in StrategyRegistry.available_strategies() if name.startswith("ddp"))]
    if hardware.strategy not in strategies:
        raise InputError(f"hardware.strategy is {hardware.strategy!r}; known are {', '.join(strategies)}")


def choose_precision(hardware: HardwareConfig) -> str:
    """Lightning's name of the precision to train in; see ``HardwareConfig.precision`` for `auto`."""
    if hardware.precision != "auto":
        return hardware.precision
    if hardware.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    on_cpu = hardware.accelerator == "cpu" or (hardware.accelerator == "auto" and not torch.accelerator.is_available())
    return "bf16-mixed" if on_cpu and _cpu_computes_in_bf16() else "32-true"


def _cpu_computes_in_bf16() -> bool:
    """Whether the processor has instructions for it, and PyTorch's matrix product uses them.

    The second is asked by a trial: where a build does without, bf16 takes hundreds of times as long as float32. The
    factor of 4 is far from both cases, so that a busy machine does not change the answer from launch to launch.
    """
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 256, dtype=dtype)
        torch.mm(a, a)  # warm-up
        trials = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, a)
            trials.append(time.perf_counter() - start)
        seconds[dtype] = min(trials)
    return seconds[torch.bfloat16] < 4 * seconds[torch.float32]
