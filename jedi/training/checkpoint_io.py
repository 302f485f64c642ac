"""Saving a run's checkpoints through Lightning; :mod:`jedi.training.checkpoints` knows how they lie on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO

from jedi.errors import InputError
from jedi.training import checkpoints
from jedi.training.config import TrainConfig


def save_checkpoint(
    trainer: L.Trainer, config: TrainConfig, kind: str, keep: int | None = None, record: Mapping[str, Any] | None = None
) -> None:
    """Saves ``checkpoints/KIND-N.ckpt`` and removes older ones of its kind but ``keep``. All ranks call this.

    Raises:
        InputError: the weights are not finite; nothing is saved or removed.
    """
    step = trainer.global_step
    path = checkpoints.place(config.run, kind, step)
    weights = list(trainer.lightning_module.unet.parameters())
    if not bool(torch.stack(torch._foreach_norm(weights)).isfinite().all()):
        raise InputError(f"the weights are not finite at step {step}, no {path} is made: lower optimizer.lr")
    averaged_only = kind != "step" and config.checkpoints.weights_only
    trainer.save_checkpoint(path, averaged_only, {"step": step, **(record or {})})
    if keep is not None and trainer.is_global_zero:
        checkpoints.thin(config.run, kind, step, keep)


class RunCheckpointIO(CheckpointIO):
    """How Lightning reads and writes the checkpoints of a run: see :mod:`jedi.training.checkpoints`.

    With `ddp_fork` and its kin Lightning would also hand the trained weights to the parent process, through a file in
    $TMPDIR. Nothing there needs them: that file (it comes without options) is not written, and reads as empty.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None:
            checkpoints.save(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return checkpoints.load(path) if Path(path).is_file() else {}

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).parent.rmdir()  # what Lightning made in $TMPDIR, see above
