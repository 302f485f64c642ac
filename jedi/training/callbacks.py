"""What happens between steps: progress, held-out validation, samples, checkpoints, stopping on a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tqdm.auto import tqdm

from jedi.data import JointBatch, SetDataset, SetIndex
from jedi.errors import InputError
from jedi.images import contact_sheet
from jedi.pipeline import JediPipeline, image_generators
from jedi.recipe import TrainConfig
from jedi.validation import HeldOutSets, choose_sets, reference_gain, reference_losses, wrong_partners

if TYPE_CHECKING:
    from jedi.latents import LatentCache
    from jedi.training import JointTraining


class StepCallback(L.Callback):
    """A callback that is called after every optimiser step rather than after every micro batch."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_step(trainer, module, batch)

    def on_step(self, trainer: L.Trainer, module: JointTraining, batch: JointBatch) -> None:
        """After an optimiser step; ``trainer.global_step`` has counted it."""
        raise TypeError(f"{type(self).__name__} does not say what to do after a step")


class Progress(StepCallback):
    """Progress bar with loss, throughput and time left; the same to the loggers; the count of images."""

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
            raise InputError(
                f"the loss is {loss} at step {trainer.global_step}: lower optimizer.lr, or train in 32-true"
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

    def __init__(self, config: TrainConfig, max_references: int) -> None:
        self.config, self.best = config, float("inf")
        self.data = SetDataset(SetIndex.read(config.data.path, "heldout", config.data.verify))
        options = config.validation
        self.members, self.k = choose_sets(self.data.index, options.sets, options.references, 1, max_references)
        wrong_partners([self.data.record(i)["subject"]["id"] for i in self.members])  # refused now, not at the start

    def on_train_start(self, trainer, module) -> None:
        encoders = (module.encode_images, module.encode_text)
        self._sets = HeldOutSets.encode(self.data, self.members, self.k, *encoders)

    def on_step(self, trainer, module, batch) -> None:
        step, config = trainer.global_step, self.config.validation
        if step % config.every_steps and step != self.config.max_steps:
            return
        with module.paused(), trainer.precision_plugin.forward_context():
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
                save_checkpoint(trainer, self.config.run, "best.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class SampleGrid(StepCallback):
    """Pictures of held-out subjects at fixed seeds, into ``samples/`` and the loggers."""

    def __init__(self, config: TrainConfig, max_references: int) -> None:
        self.config = config
        self.data = SetDataset(SetIndex.read(config.data.path, "heldout"))
        options = config.samples
        chosen = choose_sets(self.data.index, options.subjects, options.references, options.prompts, max_references)
        self.members, self.k = chosen

    def on_step(self, trainer, module, batch) -> None:
        step = trainer.global_step
        due = step % self.config.samples.every_steps == 0 or step == self.config.max_steps
        if not due or not trainer.is_global_zero:
            return
        with module.paused(), trainer.precision_plugin.forward_context():
            grid = self.draw(module.pipeline())
            path = self.config.run / "samples" / f"step-{step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            grid.save(path)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("samples", np.asarray(grid), step, dataformats="HWC")
                elif isinstance(logger, WandbLogger):
                    logger.log_image("samples", [grid], step)

    def draw(self, pipe: JediPipeline) -> Image.Image:
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
                generator=image_generators(1000 * row, len(prompts)),
            ).images
            rows.append([(image, "reference") for image in references] + list(zip(images, prompts, strict=True)))
        return contact_sheet(rows)


class Checkpoints(StepCallback):
    """``checkpoints/last.ckpt`` every so many steps and at the end. A file appears whole or not at all."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def on_step(self, trainer, module, batch) -> None:
        step = trainer.global_step
        if step % self.config.checkpoint_every_steps == 0 or step == self.config.max_steps:
            with module.paused():
                save_checkpoint(trainer, self.config.run, "last.ckpt")
        if step == self.config.max_steps and trainer.is_global_zero:
            write_json(self.config.run / "done", {"step": step})


class StopOnSignal(StepCallback):
    """SIGINT, SIGTERM, SIGUSR1: save after the step that is running, and stop; the same command goes on.

    SIGUSR1 under Slurm (``#SBATCH --signal=USR1@90``, pre-emption) also puts the job back into the queue. Not
    SIGTERM: a job that somebody cancelled would come back to life. The handler only sets a flag, all ranks
    agree on it after the step, and no data worker has it: saving inside a handler hangs, or saves twice.

    Before the first step there is nothing to save: ``SystemExit`` ends the start (0 for SIGUSR1, else 128 + signal).
    While latents are encoded, a job comes back only if a part of them was finished: else it might do so for ever.

    A context manager: signals are handled like this from ``with stop:`` to the end of the block.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.received, self.stepping = config, 0, False
        self.latents: LatentCache | None = None

    def __enter__(self) -> StopOnSignal:
        self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
        self._install()
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer, module) -> None:
        self._install()  # Lightning has meanwhile put a handler of its own on SIGTERM

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.stepping = True

    def _install(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        if not self.stepping:
            if number == signal.SIGUSR1 and rank_zero_only.rank == 0:
                if self.latents is not None and self.latents.stalled:
                    raise SystemExit(
                        "train.py: told to stop before one part of the latents was encoded, so the job is not put back "
                        "into the queue: give it more time, or let several processes run python -m jedi.latents first"
                    )
                requeue(os.environ)
            raise SystemExit(0 if number == signal.SIGUSR1 else 128 + number)
        self.received = number
        if number == signal.SIGINT:
            os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")

    def on_step(self, trainer, module, batch) -> None:
        if trainer.world_size > 1:
            flag = torch.tensor(self.received, device=module.device)
            self.received = int(trainer.strategy.reduce(flag, reduce_op="max"))
        if self.received and trainer.global_step < self.config.max_steps:
            save_checkpoint(trainer, self.config.run, "last.ckpt")
            trainer.should_stop = True

    def teardown(self, trainer, module, stage) -> None:
        if trainer.should_stop and self.received == signal.SIGUSR1 and trainer.is_global_zero:
            requeue(os.environ)


def requeue(environment: Mapping[str, str]) -> None:
    """Puts our Slurm job (or our task of an array) back into the queue; without Slurm, nothing."""
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    subprocess.run(["scontrol", "requeue", job], check=True)


def save_checkpoint(trainer: L.Trainer, run: Path, name: str) -> None:
    """Saves ``checkpoints/name`` of the run; it appears whole or not at all. All ranks call this.

    Raises:
        InputError: the weights are not finite; the file that is there stays.
    """
    path = run / "checkpoints" / name
    weights = list(trainer.lightning_module.unet.parameters())
    if not bool(torch.stack(torch._foreach_norm(weights)).isfinite().all()):
        raise InputError(
            f"the weights are not finite at step {trainer.global_step}, {path} is left as it was: lower optimizer.lr"
        )
    temporary = path.with_name(f".{name}.new")
    trainer.save_checkpoint(temporary, weights_only=False)
    if trainer.is_global_zero:
        temporary.replace(path)


def log_metrics(trainer: L.Trainer, metrics: dict[str, float]) -> None:
    """To all loggers, at the current step."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, trainer.global_step)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(path)
