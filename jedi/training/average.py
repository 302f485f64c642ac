"""The exponential moving average of the trained weights: kept in float32, updated every few steps, on any device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from jedi.training.config import EmaConfig

PREFIX = "ema.module."
"""Of the averaged weights' names in a checkpoint."""


class AveragedWeights:
    """The average of those weights of a model that are trained; none with a decay of 0: the model's own stand for it.

    It is no part of the model: it moves by :meth:`to` alone, and DDP and the optimiser do not know of it. (PyTorch's
    `AveragedModel` copies the whole model, and both it and diffusers' `EMAModel` must lie where the model does.)
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self.config = config
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad} if config.decay else {}
        self.weights = {name: p.detach().to(torch.float32, copy=True) for name, p in self.trained.items()}

    def to(self, device: torch.device) -> None:
        """Where it is kept; with ``device="cpu"`` in its settings that is the CPU's memory, whatever is asked for."""
        if self.config.device != "cpu":
            self.weights = {name: weight.to(device) for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After ``step`` optimiser steps. What it does is a function of the step: it has no state but the weights."""
        if not self.weights or step % self.config.every_steps:
            return
        decay = decay_at(step, self.config)
        averaged, trained = list(self.weights.values()), [p.data for p in self.trained.values()]
        if all(a.device == p.device and a.dtype == p.dtype for a, p in zip(averaged, trained, strict=True)):
            torch._foreach_lerp_(averaged, trained, 1 - decay)
            return
        for a, p in zip(averaged, trained, strict=True):
            a.lerp_(p.to(a), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """To the end of the block the model has the averaged weights: the same memory where device and dtype are the
        same, else a copy where the model is."""
        kept = {name: p.data for name, p in self.trained.items()}
        try:
            for name, p in self.trained.items():
                p.data = self.weights[name].to(p)
            yield
        finally:
            for name, p in self.trained.items():
                p.data = kept[name]

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, not copied, by their names in a checkpoint."""
        return {PREFIX + name: weight for name, weight in self.weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes its weights out of a checkpoint's; what is left of the average there is removed."""
        for name, weight in self.weights.items():
            weight.copy_(state[PREFIX + name])
        for name in [name for name in state if name.startswith("ema.")]:
            del state[name]


def decay_at(step: int, config: EmaConfig) -> float:
    """Share of the old average that is kept after ``step`` optimiser steps; 0 the first time, which copies.

    It rises to ``decay``, lest a short run be an average of its first weights. An update for K steps keeps what K of
    one step would.
    """
    if step <= config.every_steps:
        return 0.0
    return min(config.decay, step / (9 + step)) ** config.every_steps
