"""The forward process and the conversions between eps, x0 and v. Pure functions of a noise schedule.

Letters: ``alpha_bar_t`` as in DDPM (arXiv 2006.11239), ``alpha = sqrt(alpha_bar)``, ``sigma = sqrt(1 - alpha_bar)``,
``x_t = alpha x0 + sigma eps``, ``v = alpha eps - sigma x0`` (arXiv 2202.00512), ``SNR = alpha^2 / sigma^2``.
Timesteps ``t`` are integers; their dimensions lead those of the images: ``[b]`` or ``[b n]`` for ``[b n c h w]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jedi.errors import InputError
from jedi.io.registry import Registry

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
LOSS_WEIGHTINGS: Registry = Registry("loss weighting")


@dataclass(frozen=True)
class NoiseSchedule:
    """``alphas_cumprod`` ``[T]`` in float32 and what the network predicts (diffusers' names, ``PREDICTION_TYPES``).

    Training needs ``add_noise``, ``target`` and ``snr``; ``to_x0``, ``to_eps`` and ``to_v`` are for extensions and for
    evaluation, which read predictions in other terms. (Sampling is left to diffusers' schedulers.)

    Raises ``InputError`` for another prediction type, for levels that do not fall from 1 towards 0, and for epsilon
    with a zero-terminal-SNR schedule, where pure noise says nothing of the image: it would train, and sample black.
    """

    alphas_cumprod: Tensor
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise InputError(f"prediction_type {self.prediction_type!r} is none of {', '.join(PREDICTION_TYPES)}")
        levels = self.alphas_cumprod
        falls = levels.isfinite().all() and levels.max() <= 1 and (levels.diff() <= 0).all()
        if not (falls and (levels[:-1] > 0).all() and levels[-1] >= 0):
            raise InputError(
                "alphas_cumprod must fall from at most 1 to at least 0, and be 0 at the last timestep only: look at "
                "beta_start, beta_end, beta_schedule and trained_betas of the scheduler"
            )
        if self.prediction_type == "epsilon" and self.zero_terminal_snr:
            raise InputError(
                "epsilon prediction with a zero-terminal-SNR schedule: pure noise says nothing of the image. "
                "Use v_prediction or sample prediction, or rescale_betas_zero_snr=False"
            )

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """From any diffusers scheduler that has ``alphas_cumprod`` (DDPM, DDIM, DPM-Solver, Euler, ...)."""
        if not hasattr(scheduler, "alphas_cumprod"):
            raise InputError(
                f"{type(scheduler).__name__} has no alphas_cumprod: joint diffusion needs a discrete-time "
                "variance-preserving scheduler (DDPM, DDIM, DPM-Solver++, Euler, UniPC, ...)"
            )
        alphas_cumprod = torch.as_tensor(scheduler.alphas_cumprod, dtype=torch.float32)
        if scheduler.config.get("rescale_betas_zero_snr") and alphas_cumprod[-1] < 1e-6:
            # Some schedulers store 2^-24 in place of 0, to divide by it; the forward process means 0.
            alphas_cumprod = torch.cat([alphas_cumprod[:-1], torch.zeros(1)])
        return cls(alphas_cumprod, scheduler.config.prediction_type)

    @property
    def num_timesteps(self) -> int:
        """T; timesteps are 0 (nearly clean) to T - 1."""
        return len(self.alphas_cumprod)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last step is pure noise."""
        return bool(self.alphas_cumprod[-1] == 0)

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_t`` and ``sigma_t``, shaped to multiply ``like``."""
        alpha_bar = self.alphas_cumprod.to(like.device)[t]
        alpha_bar = alpha_bar.reshape(*t.shape, *(1,) * (like.ndim - t.ndim))
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)``, shaped as ``t``."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        return alpha_bar / (1 - alpha_bar)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """A draw of ``q(x_t | x_0)``."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should say, in its own prediction type."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * noise - sigma * x0

    def to_x0(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean image that a prediction means. With eps at zero SNR it is undefined (division by zero)."""
        alpha, sigma = self.alpha_sigma(t, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * prediction) / alpha
        if self.prediction_type == "sample":
            return prediction
        return alpha * x_t - sigma * prediction

    def to_eps(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that a prediction means."""
        alpha, sigma = self.alpha_sigma(t, x_t)
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "sample":
            return (x_t - alpha * prediction) / sigma
        return sigma * x_t + alpha * prediction

    def to_v(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity that a prediction means."""
        if self.prediction_type == "v_prediction":
            return prediction
        alpha, sigma = self.alpha_sigma(t, x_t)
        return alpha * self.to_eps(prediction, x_t, t) - sigma * self.to_x0(prediction, x_t, t)


@LOSS_WEIGHTINGS.register("uniform")
def uniform_weight(schedule: NoiseSchedule, t: Tensor, gamma: float) -> Tensor:
    """1 for every timestep, in the network's own prediction type."""
    return torch.ones(t.shape, device=t.device)


@LOSS_WEIGHTINGS.register("min_snr")
def min_snr_weight(schedule: NoiseSchedule, t: Tensor, gamma: float) -> Tensor:
    """Min-SNR weights (method.md eq. 4, arXiv 2303.09556), ``S`` the SNR, ``g`` gamma.

    eps min(S,g)/S, x0 min(S,g), v min(S,g)/(S+1).
    """
    snr = schedule.snr(t)
    clipped = snr.clamp(max=gamma)
    if schedule.prediction_type == "epsilon":
        return clipped / snr
    if schedule.prediction_type == "sample":
        return clipped
    return clipped / (snr + 1)
