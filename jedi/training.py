"""Training under Lightning: the module, the data module, the callbacks. `train.py` puts them together.

Nothing random has a state: what a step does is a function of (config, data, step), so the checkpoint holds weights,
their average, the optimiser and the step number, and that is enough to go on exactly.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from jedi import config as configs
from jedi.base import Base, load_unet
from jedi.conditioning import CONDITIONING_POLICIES, draw_sets
from jedi.data import BatchPlan, JointBatch, SetDataset, SetIndex, StepSampler, collate
from jedi.diffusion import LOSS_WEIGHTINGS, NoiseSchedule
from jedi.export import is_run, load_run_unet
from jedi.images import contact_sheet, encode_pixels
from jedi.latents import LatentCache
from jedi.loss import joint_loss
from jedi.pipeline import JediPipeline, encode_captions
from jedi.recipe import OptimizerConfig, TrainConfig
from jedi.rng import keyed_seed
from jedi.unet import JointUNet
from jedi.validation import HeldOutSets, reference_gain, reference_losses, wrong_partners

log = logging.getLogger(__name__)


# --- the model ----------------------------------------------------------------------------------------------------


class JointTraining(L.LightningModule):
    """The joint UNet, its average, one training step. The frozen parts are not registered: no checkpoint has them."""

    def __init__(self, config: TrainConfig, base: Base) -> None:
        super().__init__()
        self.config = config
        self.schedule = NoiseSchedule.from_scheduler(base.scheduler)
        self.policy = CONDITIONING_POLICIES.get(config.conditioning.policy)
        LOSS_WEIGHTINGS.get(config.loss.weighting)  # an unknown name is refused now, not at the first step
        unet = base.unet
        if config.init_from is not None:
            load = load_run_unet if is_run(config.init_from) else load_unet
            unet = load(config.init_from, self.schedule.prediction_type)
        if config.network.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.unet = JointUNet.from_base(unet, config.network.attention).train()
        if self.unet.latent_channels != base.vae.config.latent_channels:
            raise ValueError(
                f"init_from {config.init_from} makes {self.unet.latent_channels} latent channels, the vae of base "
                f"{config.base} has {base.vae.config.latent_channels}: start from a model made with this vae"
            )
        self.ema = (
            AveragedModel(self.unet, multi_avg_fn=_ema_update(config.ema.decay)).requires_grad_(False).eval()
        )
        if config.network.compile:
            self.unet.compile()
        self._base = (base,)  # in a tuple: a module would become part of this one
        self.loss_sum, self.loss_count = 0.0, 0
        self.paused_seconds = 0.0

    @property
    def base(self) -> Base:
        """The frozen vae, text encoder, tokenizer and scheduler."""
        return self._base[0]

    @property
    def ema_unet(self) -> JointUNet:
        """The averaged UNet: what is validated, sampled and exported."""
        return self.ema.module

    def on_fit_start(self) -> None:
        self.base.vae.to(self.device)
        self.base.text_encoder.to(self.device)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """``[b n 3 H W]`` -> scaled latents ``[b n c h w]``, in float32 whatever the precision of the training."""
        with torch.autocast(self.device.type, enabled=False):
            return encode_pixels(self.base.vae, images.flatten(0, 1)).unflatten(0, images.shape[:2]).float()

    @torch.no_grad()
    def encode_text(self, captions: list[list[str]]) -> Tensor:
        """``b`` lists of ``n`` captions -> ``[b n l d]``; equal captions (the empty one, above all) are encoded once."""
        flat = [caption for captions_of_set in captions for caption in captions_of_set]
        distinct = list(dict.fromkeys(flat))
        with torch.autocast(self.device.type, enabled=False):
            text = encode_captions(self.base.tokenizer, self.base.text_encoder, distinct).float()
        place = {caption: i for i, caption in enumerate(distinct)}
        return text[[place[caption] for caption in flat]].unflatten(0, (len(captions), -1))

    def training_step(self, batch: JointBatch, batch_idx: int) -> Tensor:
        config = self.config
        # A base with dropout draws from the global generator: keyed like everything else, resuming stays exact.
        torch.manual_seed(keyed_seed(config.seed, "network", int(batch.positions[0])))
        plan = self.policy(config.seed, batch.step, batch.n, config.conditioning)
        latents = self.encode_images(batch.images) if batch.latents is None else batch.latents
        draws = draw_sets(
            config.seed,
            batch.positions,
            plan,
            tuple(latents.shape[1:]),
            self.schedule.num_timesteps,
            config.conditioning,
        )
        captions = [
            ["" if drop else caption for caption, drop in zip(captions, drops, strict=True)]
            for captions, drops in zip(batch.captions, draws.drop_caption.tolist(), strict=True)
        ]
        draws = type(draws)(
            **{field.name: getattr(draws, field.name).to(self.device) for field in fields(draws)}
        )
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

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.unet)

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.config
        optimizer = make_optimizer(self.unet, config.optimizer)
        schedule = LambdaLR(optimizer, lambda step: lr_factor(step, config.max_steps, config.optimizer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["jedi"] = {
            "config": configs.to_dict(self.config),
            "max_references": self.trainer.datamodule.max_references,
            "prediction_type": self.schedule.prediction_type,
            "unet": json.loads(self.unet.unet.to_json_string()),
            "step": self.global_step,
        }

    def pipeline(self) -> JediPipeline:
        """A pipeline of the averaged UNet and the frozen parts (shared, not copied)."""
        base, config = self.base, self.config
        scheduler = type(base.scheduler).from_config(base.scheduler.config)
        unet = self.ema_unet.unet
        return JediPipeline(
            base.vae,
            base.text_encoder,
            base.tokenizer,
            unet,
            scheduler,
            config.trained_modes,
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
    return torch.optim.AdamW(groups, config.lr, tuple(config.betas), config.eps)


def lr_factor(step: int, max_steps: int, config: OptimizerConfig) -> float:
    """Learning rate at a step (0 is the first) as a share of ``lr``: linear warm-up, plateau, fall up to ``max_steps``."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    length = max(1, config.decay_steps or max_steps - config.warmup_steps)
    done = min(1.0, max(0.0, 1 - (max_steps - step) / length))
    shape = 1 - done if config.schedule == "linear" else 0.5 + 0.5 * float(np.cos(np.pi * done))
    return config.final_lr + (1 - config.final_lr) * shape


def _ema_update(decay: float):
    """Averaging for `AveragedModel`. The decay rises, so that a short run is not an average of its first weights."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        step = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + step) / (10 + step)))

    return update


# --- the data -----------------------------------------------------------------------------------------------------


class JointData(L.LightningDataModule):
    """Training batches from the step that the trainer stands at; the held-out sets."""

    def __init__(self, config: TrainConfig, base: Base) -> None:
        super().__init__()
        self.config, self.base = config, base
        self.prepare_data_per_node = False  # cached latents lie beside the data, where all nodes see them
        self.index = SetIndex.read(config.data.path, "train", config.data.verify)
        self.plan = BatchPlan(self.index, config.batch_size, config.seed, config.data.set_size)
        self.max_references = max(bucket.n for bucket in self.plan.buckets) - 1
        self.latents = None
        if config.data.cache_latents:
            folder = config.data.latents_folder or Path(config.data.path) / "latents"
            self.latents = LatentCache(self.index, folder, base.fingerprint("vae"))

    def prepare_data(self) -> None:
        if self.latents is None or self.latents.complete:
            return
        vae = self.base.vae.to(self.trainer.strategy.root_device)
        with tqdm(total=self.latents.count, desc="encoding images", unit="image") as bar, torch.no_grad():
            self.latents.fill(
                lambda images: encode_pixels(vae, images), report=lambda done: bar.update(done - bar.n)
            )

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
            worker_init_fn=_ignore_signals,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )


def _ignore_signals(worker: int) -> None:
    """In a worker: signals to stop are for the training process, which then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


# --- what happens between steps -----------------------------------------------------------------------------------


class StepCallback(L.Callback):
    """A callback that is called after every optimiser step rather than after every micro batch."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_step(trainer, module, batch)

    def on_step(self, trainer: L.Trainer, module: JointTraining, batch: JointBatch) -> None:
        """After an optimiser step; ``trainer.global_step`` has counted it."""
        raise TypeError(f"{type(self).__name__} does not say what to do after a step")


class Progress(StepCallback):
    """Progress bar with loss, throughput and time left; the same numbers to the loggers; the count of images."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.images, self._bar = config, 0, None

    def on_train_start(self, trainer, module) -> None:
        self._bar = tqdm(
            total=self.config.max_steps,
            initial=trainer.global_step,
            unit="step",
            desc=self.config.run.name,
            disable=not trainer.is_global_zero,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )
        self._window(module)

    def on_step(self, trainer, module, batch) -> None:
        self.images += self.config.batch_size * batch.n
        self._bar.update()
        if trainer.global_step % self.config.log.every_steps and trainer.global_step < self.config.max_steps:
            return
        mean = torch.as_tensor(module.loss_sum / module.loss_count, device=module.device)
        loss = float(trainer.strategy.reduce(mean, reduce_op="mean"))
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {trainer.global_step}: lower optimizer.lr, or use precision 32-true"
            )
        seconds = max(time.monotonic() - self._start - module.paused_seconds, 1e-9)
        speed = (self.images - self._images) / seconds
        metrics = {
            "train/loss": loss,
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "images": self.images,
            "images_per_second": speed,
        }
        log_metrics(trainer, metrics)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {speed:.1f} images/s", refresh=False)
        self._window(module)

    def _window(self, module: JointTraining) -> None:
        self._start, self._images = time.monotonic(), self.images
        module.loss_sum, module.loss_count, module.paused_seconds = 0.0, 0, 0.0

    def teardown(self, trainer, module, stage) -> None:
        if self._bar is not None:
            self._bar.close()

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = state["images"]


class HeldOut(StepCallback):
    """Held-out loss and reference gain of the averaged weights; the best go to ``checkpoints/best.ckpt``."""

    def __init__(self, config: TrainConfig, checkpoints: Checkpoints) -> None:
        self.config, self.checkpoints = config, checkpoints
        self.best = float("inf")
        self.data = SetDataset(SetIndex.read(config.data.path, "heldout", config.data.verify))
        self.members, k = choose_sets(
            self.data.index, config.validation.sets, config.validation.references, 1
        )
        self.k = k

    def on_train_start(self, trainer, module) -> None:
        self._sets = self.encode(module)

    def encode(self, module: JointTraining) -> HeldOutSets:
        """The chosen sets as latents and text on the module's device."""
        records = [self.data.record(i) for i in self.members]
        images = torch.stack([self.data.images(i, range(self.k + 1)) for i in self.members])
        return HeldOutSets(
            torch.cat([module.encode_images(part.to(module.device)) for part in images.split(8)]),
            module.encode_text([[record["captions"][self.k]] for record in records])[:, 0],
            module.encode_text([[""]])[0],
            wrong_partners([record["subject"]["id"] for record in records]),
        )

    def on_step(self, trainer, module, batch) -> None:
        step, config = trainer.global_step, self.config.validation
        if step % config.every_steps and step != self.config.max_steps:
            return
        with module.paused():
            modes = self.config.trained_modes
            losses = reference_losses(
                module.ema_unet,
                module.schedule,
                self._sets,
                modes,
                config.bins,
                config.batch_size,
                only=range(trainer.global_rank, len(self._sets), trainer.world_size),
            )
            metrics = reference_gain(trainer.strategy.reduce(losses, reduce_op="sum"), modes)
            log_metrics(trainer, metrics)
            if trainer.is_global_zero:
                tqdm.write(
                    f"step {step}: held-out loss {metrics['heldout/loss']:.5f}, reference gain over wrong "
                    f"{metrics['gain/wrong']:.2%}, over none {metrics['gain/none']:.2%}",
                    file=sys.stderr,
                )
            if metrics["heldout/loss"] < self.best:
                self.best = metrics["heldout/loss"]
                self.checkpoints.save(trainer, "best.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class SampleGrid(StepCallback):
    """Pictures of held-out subjects at fixed seeds, into ``samples/`` and the loggers."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.data = SetDataset(SetIndex.read(config.data.path, "heldout"))
        options = config.samples
        self.members, self.k = choose_sets(
            self.data.index, options.subjects, options.references, options.prompts
        )

    def on_step(self, trainer, module, batch) -> None:
        step = trainer.global_step
        if (
            step % self.config.samples.every_steps and step != self.config.max_steps
        ) or not trainer.is_global_zero:
            return
        with module.paused():
            grid = self.draw(module.pipeline())
            path = self.config.run / "samples" / f"step-{step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            grid.save(path)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("samples", np.asarray(grid), step, dataformats="HWC")
                elif isinstance(logger, WandbLogger):
                    logger.log_image("samples", [grid], step)

    def draw(self, pipe: JediPipeline):
        """One row a subject: its references, then a picture for each prompt."""
        options, rows = self.config.samples, []
        pipe.set_progress_bar_config(disable=True)
        for row, i in enumerate(self.members):
            references = [self.data.image(i, member) for member in range(self.k)]
            prompts = self.data.record(i)["captions"][self.k : self.k + options.prompts]
            images = pipe(
                prompt=prompts,
                references=references,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance_scale,
                reference_scale=options.reference_scale,
                generator=[torch.Generator().manual_seed(1000 * row + j) for j in range(len(prompts))],
            ).images
            rows.append(
                [(image, "reference") for image in references] + list(zip(images, prompts, strict=True))
            )
        return contact_sheet(rows)


class Checkpoints(StepCallback):
    """``checkpoints/last.ckpt`` every so many steps and at the end. A file appears whole or not at all."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def on_step(self, trainer, module, batch) -> None:
        step = trainer.global_step
        if step % self.config.checkpoint_every_steps == 0 or step == self.config.max_steps:
            with module.paused():
                self.save(trainer, "last.ckpt")
        if step == self.config.max_steps and trainer.is_global_zero:
            write_json(self.config.run / "done", {"step": step})

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Saves under that name; all ranks call it."""
        path = self.config.run / "checkpoints" / name
        temporary = path.with_name(f".{name}.new")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(path)


class StopOnSignal(StepCallback):
    """SIGINT, SIGTERM, SIGUSR1: save after the step that is running, and stop; the same command goes on.

    SIGUSR1 under Slurm (``#SBATCH --signal=USR1@90``, pre-emption) also puts the job back into the queue. Not SIGTERM:
    a job that somebody cancelled would come back to life. The handler only sets a flag, all ranks agree on it after
    the step, and no worker has it: saving inside a handler hangs or saves twice.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints, self.received, self._before = checkpoints, 0, {}

    def setup(self, trainer, module, stage) -> None:
        self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
        self._install()

    def on_train_start(self, trainer, module) -> None:
        self._install()  # Lightning has put its own handler for SIGTERM there since

    def _install(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt  # a second Ctrl-C: at once
        self.received = number

    def on_step(self, trainer, module, batch) -> None:
        flag = torch.tensor(self.received, device=module.device)
        self.received = int(trainer.strategy.reduce(flag, reduce_op="max"))
        if self.received and trainer.global_step < self.checkpoints.config.max_steps:
            self.checkpoints.save(trainer, "last.ckpt")
            trainer.should_stop = True

    def teardown(self, trainer, module, stage) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if trainer.should_stop and self.received == signal.SIGUSR1 and trainer.is_global_zero:
            requeue(os.environ)


def stop_signal(trainer: L.Trainer) -> int:
    """The signal that stopped this trainer; 0 if none did."""
    return next(callback.received for callback in trainer.callbacks if isinstance(callback, StopOnSignal))


def requeue(environment: Any) -> None:
    """Puts the Slurm job (or this task of an array) that we run in back into the queue; without Slurm, nothing."""
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    subprocess.run(["scontrol", "requeue", job], check=True)


def choose_sets(index: SetIndex, count: int, references: int | None, targets: int) -> tuple[list[int], int]:
    """The first held-out sets that have ``k`` references and ``targets`` more images, of one size; and ``k``.

    ``k`` is ``references`` or, if not given, what the largest sets leave. Sets are taken evenly over the split.

    Raises:
        ValueError: no set is large enough.
    """
    largest = max(record.n for record in index.sets)
    k = largest - targets if references is None else references
    if k < 1 or k + targets > largest:
        raise ValueError(
            f"held-out sets have at most {largest} images, too few for {max(k, 1)} references and {targets} more: "
            "lower validation.references, samples.references or samples.prompts, or make larger sets"
        )
    sizes = [(record.width, record.height) for record in index.sets]
    commonest = max(set(sizes), key=sizes.count)
    fit = [i for i, record in enumerate(index.sets) if record.n >= k + targets and sizes[i] == commonest]
    count = min(count, len(fit))
    return [fit[i * len(fit) // count] for i in range(count)], k


def log_metrics(trainer: L.Trainer, metrics: dict[str, float]) -> None:
    """To all loggers, at the current step."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, trainer.global_step)


# --- the run ------------------------------------------------------------------------------------------------------


def open_run(config: TrainConfig, identity: dict[str, Any]) -> Path | None:
    """Makes the run's folder, or opens it again; returns the checkpoint to go on from, if there is one.

    Raises:
        ValueError: the run there was made with other settings or data, and going on would mix the two.
    """
    last = config.run / "checkpoints" / "last.ckpt"
    identity_file = config.run / "identity.json"
    if last.exists():
        before = json.loads(identity_file.read_text())
        changed = [
            f"{key} was {before.get(key)!r}, is {identity.get(key)!r}"
            for key in {**before, **identity}
            if before.get(key) != identity.get(key)
        ]
        if changed:
            raise ValueError(
                f"the run in {config.run} was made with other settings: {'; '.join(changed)}. "
                "Set them back, or choose another output (with init_from to start from this run's weights)"
            )
    if rank_zero_only.rank == 0:
        (config.run / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_json(identity_file, identity)
        configs.save(config, config.run / "config.yaml")
    return last if last.exists() else None


# What may differ when a run goes on: it changes neither the data nor what a step computes (but for rounding), or, as
# max_steps does, only what lies ahead. Base and data are compared by content.
_MAY_CHANGE = {"base", "output", "max_steps", "micro_batch_size", "checkpoint_every_steps", "init_from"}
_MAY_CHANGE |= {"network", "validation", "samples", "sampling_defaults", "log", "hardware"}
_MAY_CHANGE_IN_DATA = {"path", "workers", "latents_folder", "verify"}


def identity(config: TrainConfig, data: JointData, base: Base) -> dict[str, Any]:
    """What makes a run this run, as flat plain values."""
    values = {key: value for key, value in configs.to_dict(config).items() if key not in _MAY_CHANGE}
    values["data"] = {key: value for key, value in values["data"].items() if key not in _MAY_CHANGE_IN_DATA}
    flat = {}
    for key, value in values.items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat | {
        "data fingerprint": data.index.fingerprint[:16],
        "base fingerprint": base.fingerprint("vae", "text_encoder", "tokenizer", "scheduler")[:16],
    }


def make_trainer(config: TrainConfig) -> L.Trainer:
    """Lightning's Trainer with our callbacks and loggers, as the configuration says."""
    checkpoints = Checkpoints(config)
    callbacks: list[L.Callback] = [Progress(config)]
    if config.validation.every_steps:
        callbacks.append(HeldOut(config, checkpoints))
    if config.samples.every_steps:
        callbacks.append(SampleGrid(config))
    callbacks += [checkpoints, StopOnSignal(checkpoints)]
    hardware = config.hardware
    bf16 = (
        hardware.accelerator in ("auto", "gpu", "cuda")
        and torch.cuda.is_available()
        and torch.cuda.is_bf16_supported()
    )
    trainer = L.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices if not hardware.devices.isdigit() else int(hardware.devices),
        num_nodes=hardware.nodes,
        strategy=hardware.strategy,
        precision=("bf16-mixed" if bf16 else "32-true")
        if hardware.precision == "auto"
        else hardware.precision,
        # Lightning's own requeueing saves inside the signal handler, which hangs: StopOnSignal does it.
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
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
    trainer.accumulate_grad_batches = config.accumulate(trainer.world_size)
    return trainer


def make_logger(name: str, config: TrainConfig) -> Logger:
    """A Lightning logger that writes below the run's folder. A run that goes on adds to what is there."""
    if name == "tensorboard":
        return TensorBoardLogger(config.run, name="logs", version="")
    if name == "csv":  # this one deletes what it finds: each launch gets a folder of its own
        return CSVLogger(config.run / "logs", name="csv")
    return WandbLogger(
        project=config.log.project,
        name=config.run.name,
        save_dir=config.run,
        id=config.run.name,
        resume="allow",
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(path)
