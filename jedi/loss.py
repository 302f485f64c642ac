"""The joint denoising loss: predict the targets of a set, given its references."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jedi.attention import ATTENTION_MODES
from jedi.conditioning import SetDraws, StepPlan, network_input
from jedi.diffusion import LOSS_WEIGHTINGS, NoiseSchedule
from jedi.text import EncodedText


@dataclass(frozen=True)
class JointLoss:
    """``loss`` is what is minimised; the other is for evaluation, detached."""

    loss: Tensor
    """Scalar: weighted mean over the targets."""
    per_target: Tensor
    """``[b m]``: unweighted mean squared error over the free pixels of each of the ``m = n - k`` targets."""


def noisy_slot(schedule: NoiseSchedule, latents: Tensor, draws: SetDraws, plan: StepPlan) -> Tensor:
    """What stands in the noisy channels, ``[b n c h w]``: q(x_t | x_0), but clean references (`one_way`) stay so."""
    noisy = schedule.add_noise(latents, draws.noise, draws.timestep)
    if ATTENTION_MODES.get(plan.mode).clean_references:
        k = plan.num_references
        noisy = torch.cat([latents[:, :k], noisy[:, k:]], dim=1)
    return noisy


def joint_loss(
    unet: nn.Module,
    schedule: NoiseSchedule,
    latents: Tensor,
    text: EncodedText,
    draws: SetDraws,
    plan: StepPlan,
    weighting: str = "uniform",
    gamma: float = 5.0,
) -> JointLoss:
    """Per target: squared error over its free pixels divided by their number (docs/method.md eq. 3).

    Args:
        unet: a ``JointUNet`` (or a wrapped one).
        latents: ``[b n c h w]``, clean, scaled; references first.
        text: ``[b n ...]`` with the dropped captions already empty.
        draws: noise, timesteps and masks of these sets (:func:`jedi.conditioning.draw_sets`); on any device, best on
            the CPU, where looking at the masks does not make a GPU wait.
        plan: k, the mode, and whether the references are removed.
        weighting: a name of ``LOSS_WEIGHTINGS``.

    Raises:
        ValueError: a target has no free pixel, or there is no target.
    """
    k = plan.num_references
    if latents.shape[1] == k:
        raise ValueError(f"a set of {k} images with {k} references has no target")
    if not bool(draws.mask[:, k:].flatten(2).any(-1).all()):
        raise ValueError("a target is given as a whole: nothing is left to be generated")
    draws = draws.to(latents.device)
    mask = draws.mask.to(latents)
    noisy = noisy_slot(schedule, latents, draws, plan)
    free = mask[:, k:]
    if not ATTENTION_MODES.get(plan.mode).given:
        mask = torch.cat([torch.ones_like(mask[:, :k]), free], dim=1)
    network = network_input(noisy, mask, latents)
    target = schedule.target(latents, draws.noise, draws.timestep)[:, k:]

    if plan.drop_references:
        prediction = unet(network[:, k:], draws.timestep, text[:, k:], 0, plan.mode)
    else:
        prediction = unet(network, draws.timestep, text, k, plan.mode)[:, k:]
    error = (prediction.float() - target.float()).square().mean(2, keepdim=True)  # mean over c: a pixel's error
    per_target = (error * free).flatten(2).sum(-1) / free.flatten(2).sum(-1)
    weight = LOSS_WEIGHTINGS.get(weighting)(schedule, draws.timestep, gamma)
    return JointLoss((weight[:, None] * per_target).mean(), per_target.detach())
