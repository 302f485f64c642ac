"""Optimisers by name, and the learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from jedi.io.packages import need
from jedi.io.registry import Registry
from jedi.training.config import OptimizerConfig

Groups = list[dict[str, Any]]
"""Parameters as torch's optimisers take them: ``params`` and ``weight_decay`` of each group."""
OPTIMIZERS: Registry[Callable[[Groups, OptimizerConfig], Optimizer]] = Registry("optimizer")


@OPTIMIZERS.register("adamw")
def adamw(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """PyTorch's AdamW, its moments in the weights' precision: twice their memory. Fused where the device has it."""
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= {"cpu", "cuda", "mps", "xpu"} or None
    optimizer = torch.optim.AdamW(groups, config.lr, _betas(config), config.eps, fused=fused)
    # A fused one could undo a loss scale within its step, and Lightning would then refuse to clip gradients.
    optimizer._step_supports_amp_scaling = False
    return optimizer


@OPTIMIZERS.register("adamw_8bit")
def adamw_8bit(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """AdamW with moments of 8 bits, by bitsandbytes: half of the weights' memory."""
    need("bitsandbytes", "optimizer.name=adamw_8bit", "optimizers")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, config.lr, _betas(config), config.eps)


@OPTIMIZERS.register("adamw_8bit_torchao")
def adamw_8bit_torchao(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """AdamW with moments of 8 bits, by torchao, which compiles it. Weights in bf16 are rounded at random."""
    return _torchao("AdamW8bit", groups, config)


@OPTIMIZERS.register("adamw_4bit_torchao")
def adamw_4bit_torchao(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """AdamW with moments of 4 bits: a quarter of the weights' memory. Otherwise as :func:`adamw_8bit_torchao`."""
    return _torchao("AdamW4bit", groups, config)


@OPTIMIZERS.register("adafactor")
def adafactor(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """transformers' Adafactor without its own learning rate: no first moment, the second one of rows and columns."""
    from transformers.optimization import Adafactor

    return Adafactor(groups, config.lr, scale_parameter=False, relative_step=False)


def _torchao(name: str, groups: Groups, config: OptimizerConfig) -> Optimizer:
    need("torchao", f"optimizer.name={config.name}", "optimizers")
    import torchao.optim

    make = getattr(torchao.optim, name)
    return make(groups, config.lr, _betas(config), config.eps, bf16_stochastic_round=True)


def _betas(config: OptimizerConfig) -> tuple[float, float]:
    return config.betas[0], config.betas[1]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimiser of the weights that are trained; matrices and kernels are decayed, biases and gains are not.

    Raises:
        InputError: there is none of that name, or its package is not installed.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS.get(config.name)(groups, config)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of all groups; where it is kept as a tensor (torchao), in a new one."""
    for group in optimizer.param_groups:
        group["lr"] = torch.full_like(group["lr"], lr) if isinstance(group["lr"], Tensor) else lr


def unmap(optimizer: Optimizer) -> None:
    """Copies what is in the CPU's memory: a state that was loaded may still be mapped from a file that will go."""
    for state in optimizer.state.values():
        state.update(tree_map_only(Tensor, lambda value: value.to("cpu", copy=True) if value.is_cpu else value, state))


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
