"""AdamW, and the learning rate at each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from jedi.training.config import OptimizerConfig


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
    shape = 1 - done if config.schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)
    return config.final_lr + (1 - config.final_lr) * shape
