"""The optimisation loop of the toy world's networks: AdamW, one cycle of the learning rate, progress, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from jedi.io.config import ConfigError
from jedi.training import checkpoints

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopCheckpoints:
    """Where a loop saves its state, to resume from there."""

    folder: Path
    every: int
    """Steps from one checkpoint to the next; the last step has one in any case."""
    settings: Mapping[str, Any]
    """Stored in each checkpoint; a loop with other settings does not resume from it."""
    evaluate: Callable[[], str]
    """What is logged with each checkpoint."""

    def resume(self, parts: Mapping[str, Any]) -> int:
        """Loads the newest checkpoint, if any, into ``parts`` by ``load_state_dict``; returns the steps done."""
        if not checkpoints.has_begun(self.folder):
            return 0
        stored = checkpoints.load(checkpoints.newest(self.folder))
        if stored["settings"] != self.settings:
            raise ConfigError(
                f"{self.folder} is of a run with other settings; choose another out=, or remove {self.folder}"
            )
        for name, part in parts.items():
            part.load_state_dict(stored[name])
        return stored["step"]

    def save(self, parts: Mapping[str, Any], step: int) -> None:
        """Writes the state after ``step`` steps; the newest two are kept."""
        path = checkpoints.place(self.folder, "step", step)
        path.parent.mkdir(exist_ok=True)
        state = {name: part.state_dict() for name, part in parts.items()}
        checkpoints.save({"settings": self.settings, "step": step, **state}, path, {"step": step})
        checkpoints.thin(self.folder, "step", step, keep=2)
        log.info("step %d: %s", step, self.evaluate())


def fit(
    name: str,
    networks: Mapping[str, nn.Module],
    loss: Callable[[int], tuple[Tensor, str]],
    steps: int,
    learning_rate: float,
    *,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    warmup: float = 0.3,
    saving: LoopCheckpoints | None = None,
) -> None:
    """Trains those parameters of ``networks`` that require gradients.

    Args:
        name: of the progress bar.
        loss: step -> the loss of the step, and what the progress bar says of it. A loop that resumes (``saving``)
            needs one that depends on the step and the networks alone.
        warmup: the share of the steps in which the learning rate rises.
    """
    parameters = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, learning_rate, betas=(0.9, beta2), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=warmup)
    parts = {**networks, "optimiser": optimiser, "schedule": schedule}
    start = saving.resume(parts) if saving else 0
    progress = tqdm(range(start, steps), desc=name, unit="step", dynamic_ncols=True)
    for step in progress:
        value, said = loss(step)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix_str(said)
        if saving and ((step + 1) % saving.every == 0 or step + 1 == steps):
            saving.save(parts, step + 1)
