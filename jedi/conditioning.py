"""What is given and what is to be generated: references, boxes, captions, and the network's input made of them.

Polarity as in diffusers' inpainting: mask 1 = to be generated, 0 = given.

Draws are keyed by the global step (how many references, the mode: all ranks must agree, and a batch needs no padding)
or by a set's global position (boxes, dropped captions, timestep, noise): never by rank, worker or optimiser step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated

import torch
from torch import Tensor

from jedi.errors import InputError
from jedi.io.ranges import NotNegative, Range, Share
from jedi.io.registry import Registry
from jedi.rng import keyed_generator

CONDITIONING_POLICIES: Registry = Registry("conditioning policy")


@dataclass
class ConditioningConfig:
    """Probabilities of what is given during training (docs/method.md §4): the paper is silent, all of them are ours."""

    policy: str = "weighted"
    """Draws k and the mode of a step; a name of ``CONDITIONING_POLICIES``."""
    mutual_prob: Share = 0.5
    """Share of the steps in mode `mutual`; the others are `one_way`."""
    modes: list[str] = field(default_factory=list)
    """Attention modes, drawn evenly, in place of the two of ``mutual_prob``: [reference_only], or an extension's. Of an
    extension's policy: those that it draws, the commoner first."""
    reference_weights: list[NotNegative] = field(default_factory=list)
    """Relative frequency of k = 0, 1, 2, ... references; empty: uniform over 0 to n - 1."""
    drop_references_prob: Share = 0.1
    """Share of the steps in which the references are removed and the set shrinks to its targets."""
    drop_target_caption_prob: Share = 0.1
    """Share of the targets whose caption is replaced by the empty one."""
    drop_reference_caption_prob: Share = 0.5
    """The same of the references."""
    partly_given_prob: Share = 0.2
    """Share of the targets of which a box is given."""
    min_free: Annotated[float, Range(0, 1, above=True)] = 0.1
    """Least share of a partly given target that stays to be generated."""

    def __post_init__(self) -> None:
        if self.reference_weights and sum(self.reference_weights) == 0:
            raise InputError(f"conditioning.reference_weights are not all 0, got {self.reference_weights}")


@dataclass(frozen=True)
class StepPlan:
    """What all sets of one global step have in common."""

    num_references: int
    """k."""
    mode: str
    """A name of ``jedi.attention.ATTENTION_MODES``."""
    drop_references: bool = False
    """Whether the references are removed, so that the targets are predicted without them."""


@CONDITIONING_POLICIES.register("weighted")
def draw_step(seed: int, step: int, n: int, config: ConditioningConfig) -> StepPlan:
    """k by its weights (cut to ``0 .. n - 1``; 0 of single images), the mode a biased coin, references removed now and
    then.

    The draw is keyed by the global step, so that every rank and every accumulated batch of a step agrees. Raises
    ``InputError`` if all weight lies on k >= n.
    """
    u = torch.rand(3, generator=keyed_generator(seed, "step", step), dtype=torch.float64).tolist()
    weights = torch.tensor((config.reference_weights[:n] if n > 1 else []) or [1.0] * n, dtype=torch.float64)
    if weights.sum() == 0:
        raise InputError(
            f"conditioning.reference_weights {config.reference_weights} leave no k below the set size n = {n}"
        )
    k = int((weights.cumsum(0) <= u[0] * weights.sum()).sum())
    if config.modes:
        mode = config.modes[int(u[1] * len(config.modes))]
    else:
        mode = "mutual" if u[1] < config.mutual_prob else "one_way"
    return StepPlan(k, mode, k > 0 and u[2] < config.drop_references_prob)


@dataclass(frozen=True)
class SetDraws:
    """The random choices of ``b`` sets, ``n`` images each; references come first."""

    timestep: Tensor
    """``[b]``, 0 to T - 1: one for the targets of a set."""
    noise: Tensor
    """``[b n c h w]``."""
    mask: Tensor
    """``[b n 1 h w]``: references 0, targets 1 but for given boxes."""
    drop_caption: Tensor
    """``[b n]`` bool."""

    def to(self, device: torch.device | str) -> SetDraws:
        """The same on another device."""
        return SetDraws(*(getattr(self, part.name).to(device) for part in fields(self)))


def draw_sets(
    seed: int,
    positions: Sequence[int] | Tensor,
    plan: StepPlan,
    shape: Sequence[int],
    num_timesteps: int,
    config: ConditioningConfig,
) -> SetDraws:
    """Draws for the sets at these global positions. ``shape`` is ``(n, c, h, w)`` of a set's latents."""
    n, _, h, w = shape
    k = plan.num_references
    timesteps, noises, masks, drops = [], [], [], []
    for position in torch.as_tensor(positions).tolist():
        generator = keyed_generator(seed, "set", position)
        timesteps.append(torch.randint(num_timesteps, (), generator=generator))
        noises.append(torch.randn(shape, generator=generator))
        u = torch.rand(n, 2, generator=generator)
        mask = torch.ones(n, 1, h, w)
        mask[:k] = 0
        for i in range(n):  # boxes are drawn for references too: a draw must not depend on k
            box = draw_box(h, w, config.min_free, generator)
            if i >= k and u[i, 0] < config.partly_given_prob:
                mask[i] = box
        masks.append(mask)
        is_reference = torch.arange(n) < k
        drops.append(
            u[:, 1] < torch.where(is_reference, config.drop_reference_caption_prob, config.drop_target_caption_prob)
        )
    return SetDraws(torch.stack(timesteps), torch.stack(noises), torch.stack(masks), torch.stack(drops))


def draw_box(h: int, w: int, min_free: float, generator: torch.Generator) -> Tensor:
    """A mask ``[1 h w]`` with a rectangle of one polarity on the other: a given box, or all given but a box.

    At least ``min_free`` of the pixels are free (1).
    """
    u = torch.rand(5, generator=generator).tolist()
    # A side is at least one pixel; with `ceil` a free box keeps its promised share after rounding.
    least = min_free**0.5
    bh, bw = (max(1, -int(-(least + x * (1 - least)) * size // 1)) for x, size in ((u[0], h), (u[1], w)))
    top, left = int(u[2] * (h - bh + 1)), int(u[3] * (w - bw + 1))
    mask = torch.zeros(1, h, w)
    mask[:, top : top + bh, left : left + bw] = 1
    if u[4] < 0.5 and (1 - mask).mean() >= min_free:
        mask = 1 - mask
    return mask


def network_input(noisy: Tensor, mask: Tensor, given: Tensor) -> Tensor:
    """Eq. 2: ``[x_t, mask, given latents]`` along the channels, the layout of diffusers' inpainting UNets.

    Args:
        noisy: ``[b n c h w]``, the noisy slot.
        mask: ``[b n 1 h w]``, 1 = to be generated, 0 = given.
        given: ``[b n c h w]`` clean latents; what the mask does not give is hidden (set to zero).

    Returns:
        ``[b n 2c+1 h w]``.
    """
    return torch.cat([noisy, mask.to(noisy.dtype), given * (1 - mask.to(given.dtype))], dim=2)
