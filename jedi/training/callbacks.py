"""What happens between steps: progress, held-out validation, samples, checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from tqdm.auto import tqdm

from jedi.data import JointBatch, SetDataset, SetIndex
from jedi.errors import InputError
from jedi.io.contact_sheet import contact_sheet
from jedi.io.files import atomic, write_json
from jedi.pipeline import JediPipeline, image_generators
from jedi.training import checkpoints
from jedi.training.checkpoint_io import save_checkpoint
from jedi.training.config import TrainConfig
from jedi.training.module import JointTraining
from jedi.training.signals import StopOnSignal
from jedi.training.validation import HeldOutSets, choose_sets, reference_gain, reference_losses, wrong_partners


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
        self.config, self.images = config, 0
        self._bar: Any = None

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
            "train/lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
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

    def on_exception(self, trainer, module, exception) -> None:
        self.teardown(trainer, module, None)  # what is said of it gets a line of its own

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = state["images"]


class Recurring(StepCallback):
    """Work that is due every so many steps and at the end. A signal cuts it short; then it is made up for when the run
    goes on: the step of the last such work is in the checkpoint."""

    def __init__(self, config: TrainConfig, every_steps: int, stop: StopOnSignal) -> None:
        self.config, self.every_steps, self.stop, self.done = config, every_steps, stop, 0

    def on_fit_start(self, trainer, module) -> None:
        self.catch_up(trainer, module)  # what a signal cut short at the step where this launch begins

    def on_step(self, trainer, module, batch) -> None:
        self.catch_up(trainer, module)

    def owed(self, step: int) -> bool:
        """Whether the work of this step is due and not done."""
        due = step > 0 and (step % self.every_steps == 0 or step == self.config.max_steps)
        return due and self.done != step

    def catch_up(self, trainer: L.Trainer, module: JointTraining) -> None:
        """Does what is owed at the step where the trainer stands, unless the run is to stop. All ranks call this."""
        step = trainer.global_step
        if not self.owed(step) or self.stop.agreed(trainer):
            return
        with module.paused(), trainer.precision_plugin.forward_context():
            self.done = step if self.work(trainer, module) else self.done

    def work(self, trainer: L.Trainer, module: JointTraining) -> bool:
        """The work, on all ranks; False if it was cut short."""
        raise TypeError(f"{type(self).__name__} does not say what its work is")

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]


class HeldOut(Recurring):
    """Held-out loss and reference gain of the averaged weights; the best go to ``checkpoints/best-N.ckpt``."""

    def __init__(self, config: TrainConfig, stop: StopOnSignal, max_references: int) -> None:
        options = config.validation
        super().__init__(config, options.every_steps, stop)
        self.data = SetDataset(SetIndex.read(config.data.folder, "heldout", config.data.verify))
        self.members, self.k = choose_sets(self.data.index, options.sets, options.references, 1, max_references)
        wrong_partners([self.data.record(i)["subject"]["id"] for i in self.members])  # refused now, not at the start
        self._sets: HeldOutSets | None = None

    def work(self, trainer, module) -> bool:
        config, modes = self.config.validation, self.config.trained_modes
        if self._sets is None:
            encoders = (module.encode_images, module.encode_text)
            with module.frozen_parts():
                self._sets = HeldOutSets.encode(self.data, self.members, self.k, *encoders)
        with module.averaged() as unet:
            losses = reference_losses(
                unet,
                module.schedule,
                self._sets,
                modes,
                config.bins,
                config.batch_size,
                only=range(trainer.global_rank, len(self._sets), trainer.world_size),
                stop=lambda: self.stop.received,
            )
        losses = trainer.strategy.reduce(losses, reduce_op="sum")
        if self.stop.agreed(trainer):
            return False
        metrics = reference_gain(losses, modes)
        log_metrics(trainer, metrics)
        if trainer.is_global_zero:
            checkpoints.record_validation(self.config.run, trainer.global_step, metrics)
            tqdm.write(
                f"step {trainer.global_step}: held-out loss {metrics['heldout/loss']:.5f}, reference gain over wrong "
                f"{metrics['gain/wrong']:.2%}, over none {metrics['gain/none']:.2%}",
                file=sys.stderr,
            )
        loss = metrics["heldout/loss"]
        # What losses must have in common to be compared. (A run's modes, base and loss never change.)
        measured = {
            "sets": config.sets,
            "references": self.k,
            "bins": config.bins,
            "precision": str(trainer.precision),
            "data": self.data.index.fingerprint[:16],
        }
        if trainer.strategy.broadcast(loss < self.best(measured) if trainer.is_global_zero else None):
            save_checkpoint(trainer, self.config, "best", 1, {"loss": loss, "measured": measured})
        return True

    def best(self, measured: Mapping[str, Any]) -> float:
        """The loss of the best checkpoint; infinity if there is none, or if it was not ``measured`` so."""
        path = next((x for x in checkpoints.listed(self.config.run, "best").values() if x.is_file()), None)
        if path is None:
            return float("inf")
        try:
            record = checkpoints.record(path)
        except checkpoints.CheckpointError as error:
            tqdm.write(f"{error}; it does not count as the best so far", file=sys.stderr)
            return float("inf")
        if (before := record.get("measured")) != measured:
            line = f"{path.name} was measured with {before}, now {measured}: it does not count as the best so far"
            tqdm.write(line, file=sys.stderr)
            return float("inf")
        return record["loss"]


class SampleGrid(Recurring):
    """Images of held-out subjects at fixed seeds, into ``samples/`` and the loggers."""

    def __init__(self, config: TrainConfig, stop: StopOnSignal, max_references: int) -> None:
        options = config.samples
        super().__init__(config, options.every_steps, stop)
        self.data = SetDataset(SetIndex.read(config.data.folder, "heldout"))
        chosen = choose_sets(self.data.index, options.subjects, options.references, options.prompts, max_references)
        self.members, self.k = chosen

    def work(self, trainer, module) -> bool:
        grid = None
        if trainer.is_global_zero:
            with module.averaged(), module.frozen_parts():
                grid = self.draw(module.pipeline())
        if self.stop.agreed(trainer):
            return False
        if grid is not None:
            step = trainer.global_step
            path = self.config.run / "samples" / f"step-{step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            with atomic(path) as temporary:
                grid.save(temporary, "PNG")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("samples", np.asarray(grid), step, dataformats="HWC")
                elif isinstance(logger, WandbLogger):
                    logger.log_image("samples", [grid], step)
        return True

    def draw(self, pipe: JediPipeline) -> Image.Image | None:
        """One row a subject: its references, then an image for each prompt. None if a signal came meanwhile."""
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
                image_guidance_scale=options.image_guidance_scale,
                generator=image_generators(1000 * row, len(prompts)),
            ).images
            if self.stop.received:
                return None
            rows.append([(image, "reference") for image in references] + list(zip(images, prompts, strict=True)))
        return contact_sheet(rows)


class Checkpoints(StepCallback):
    """Saves every so many steps, at the end, and at once when the run is to stop; writes `done` at the end."""

    def __init__(self, config: TrainConfig, stop: StopOnSignal, recurring: Sequence[Recurring]) -> None:
        self.config, self.stop, self.recurring = config, stop, recurring

    def on_step(self, trainer, module, batch) -> None:
        step, config, stopped = trainer.global_step, self.config.checkpoints, self.stop.agreed(trainer)
        with module.paused():
            # First: a run that is killed in between goes on from before this step, and comes by here again.
            if config.keep_every_steps and step % config.keep_every_steps == 0:
                save_checkpoint(trainer, self.config, "kept")
            if stopped or step % config.every_steps == 0 or step == self.config.max_steps:
                save_checkpoint(trainer, self.config, "step", config.keep)
                if trainer.is_global_zero:
                    write_json(self.config.run / "progress.json", {"step": step})
        trainer.should_stop = bool(stopped) and not self.complete(step)

    def complete(self, step: int) -> bool:
        """Whether nothing is left to be done, a validation that was cut short included."""
        return step >= self.config.max_steps and not any(work.owed(step) for work in self.recurring)

    def on_fit_end(self, trainer, module) -> None:
        if trainer.is_global_zero and self.complete(trainer.global_step):
            write_json(self.config.run / "done", {"step": trainer.global_step})


def log_metrics(trainer: L.Trainer, metrics: dict[str, float]) -> None:
    """To all loggers, at the current step."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, trainer.global_step)
