"""diffusers' schedulers as samplers of a joint model: another one for a model's own, and which of them will do.

A scheduler is judged by what it does. A short run on numbers whose right denoising is known tells whether the noise
levels of its `add_noise` and of its samples agree, and whether it draws noise that no generator rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from jedi.errors import InputError, short

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Names for the command line."""
NEUTRAL = {"clip_sample": False, "thresholding": False, "set_alpha_to_one": True, "rescale_betas_zero_snr": False}
"""What changes the process; where the model's scheduler does not know it, it is off, whatever diffusers' default."""
_PROBES, _TOLERANCE = 65_536, 0.05


def exchange(scheduler: Any, name: str) -> Any:
    """The scheduler ``name`` of ``SCHEDULERS`` that means what the model's own ``scheduler`` means.

    Its values hold where both know them, those that are its class's defaults included: diffusers' `from_config` would
    take the other class's defaults, which clip samples. What it does not know is neutral (``NEUTRAL``).
    """
    import diffusers

    kind = getattr(diffusers, SCHEDULERS[name])
    own = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    return kind.from_config(own, **_known(kind, {key: own.get(key, value) for key, value in NEUTRAL.items()}))


def prediction_type(scheduler: Any) -> str:
    """What the scheduler takes the network's output for. Raises ``InputError`` for one that says nothing of it."""
    found = scheduler.config.get("prediction_type")
    if found is None or not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(f"{type(scheduler).__name__} is not a discrete-time diffusion scheduler (as DDIM, DPM++)")
    return found


def check_prediction_type(scheduler: Any, trained: str) -> None:
    """The scheduler must read the network's output as what the network was trained to say; ``InputError`` if not."""
    found, name = prediction_type(scheduler), type(scheduler).__name__
    if found != trained:
        raise InputError(
            f"{name} is set to prediction_type {found!r}, this model was trained with {trained!r}; make it "
            f"by {name}.from_config(pipe.scheduler.config)"
        )


def own_steps(scheduler: Any, timesteps: Sequence[int] | None, sigmas: Sequence[float] | None) -> dict[str, Any]:
    """Timesteps or noise levels of the caller's own, for :func:`start`; empty if there are none.

    Raises ``InputError`` for both at once, numbers that do not fall, and a scheduler that takes no such.
    """
    own = {name: list(x) for name, x in (("timesteps", timesteps), ("sigmas", sigmas)) if x is not None}
    if len(own) > 1:
        raise InputError("timesteps and sigmas exclude one another: give one of them")
    for name, values in own.items():
        if name not in inspect.signature(scheduler.set_timesteps).parameters:
            raise InputError(f"{type(scheduler).__name__} takes no {name} of one's own; EulerDiscreteScheduler does")
        if not values or values != sorted(set(values), reverse=True):
            raise InputError(f"{name} must be falling numbers, at least one, got {short(values)}")
    return own


def check_sampler(scheduler: Any, steps: int, use: str = "", own: Mapping[str, Any] | None = None) -> None:
    """Raises ``InputError`` unless ``scheduler`` can take ``steps`` steps in which generators rule all that it draws.

    Args:
        own: timesteps or noise levels instead of ``steps``, as :func:`own_steps` gives them.
        use: what it is used for, if that brings clean images to the samples' noise level by `add_noise`:
            "for an edit", "in mode 'mutual'".
    """
    name, options = type(scheduler).__name__, inspect.signature(scheduler.step).parameters
    if more := [key for key, x in options.items() if x.default is x.empty and x.kind is x.POSITIONAL_OR_KEYWORD][3:]:
        raise InputError(f"{name} cannot be used: its steps need {', '.join(more)}; take {', '.join(SCHEDULERS)}")
    ruled = "generator" in options
    if ruled and not use:
        return
    try:
        drew, error = _trial(scheduler, steps, ruled, own)
    except InputError:
        raise
    except Exception as failure:  # diffusers' code on a user's settings: a scheduler that fails here fails later
        what = f"these {', '.join(own)}" if own else f"{steps} steps"
        raise InputError(f"{name} cannot take {what}: {str(failure) or type(failure).__name__}") from failure
    if drew and not ruled:
        raise InputError(
            f"{name} draws noise that ignores the generator, so its images could not be reproduced: use a scheduler "
            f"whose `step` takes a generator, or one that draws none ({', '.join(SCHEDULERS)})"
        )
    if use and not error < _TOLERANCE:
        raise InputError(
            f"{name} cannot be used {use}: what is given would be {error:.0%} off the noise level of its samples; "
            f"HeunDiscreteScheduler, DPMSolverMultistepScheduler, ... can"
        )


def _trial(scheduler: Any, steps: int, ruled: bool, own: Mapping[str, Any] | None) -> tuple[bool, float]:
    """Whether it drew noise, and by how much the noise level of its samples left that of add_noise, as a share.

    Of images that are 0 everywhere all noise is known: a network without fault says how far each pixel is from 0, in
    the noise level's unit. What starts as equal pixels stays equal unless noise is drawn.
    """
    import torch

    kind = type(scheduler)
    plain = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "clip_sample": False, "thresholding": False}
    trial = kind.from_config(scheduler.config, **_known(kind, plain))
    start(trial, steps, own=own)
    options = {"generator": torch.Generator().manual_seed(0)} if ruled else {}
    size = lambda x: float(x.square().mean().sqrt())
    one, sample, error, drew = torch.ones(1, 1, 1, _PROBES), None, 0.0, False
    for t in trial.timesteps:
        noisy = trial.add_noise(torch.zeros_like(one), one, t[None])
        sample = noisy if sample is None else sample
        error = max(error, abs(size(sample) / size(noisy) - 1))
        drew |= float(sample.std()) > 1e-3 * size(sample)
        network = trial.scale_model_input(sample, t)
        sample = trial.step(network / size(network), t, sample, **options, return_dict=False)[0]
    if not size(sample) < size(noisy):
        raise ValueError("they do not lead from noise to an image")
    return drew, error


def start(
    scheduler: Any, steps: int, device: Any = None, own: Mapping[str, Any] | None = None, strength: float = 1.0
) -> Any:
    """Makes it ready for a run of ``steps`` steps, or of those of :func:`own_steps`; returns their timesteps.

    Args:
        strength: share of them that is taken, the last ones, as in diffusers' image-to-image.

    Raises:
        InputError: it cannot take them, or none is left.
    """
    name, known = type(scheduler).__name__, scheduler.config.num_train_timesteps
    options: Mapping[str, Any] = own or {"num_inference_steps": steps}
    what = ", ".join(f"{name}={short(value)}" for name, value in options.items())
    if not own and steps > known:  # each scheduler of diffusers has its own way to fail
        raise InputError(f"{what} is too many: the model knows {known} timesteps; take fewer")
    try:
        scheduler.set_timesteps(**options, device=device)
    except ValueError as error:
        raise InputError(f"{what} does not suit {name}: {error}") from None
    first = float(max(scheduler.timesteps))
    if first > known - 1:  # where `steps_offset` pushes the first step over the end
        remedy = "begin lower" if own else "take fewer"
        raise InputError(
            f"{what} is too many: {name} would begin at timestep {first:g}, the last one is {known - 1}; {remedy}"
        )
    count = len(scheduler.timesteps) if own else steps
    skipped = count - int(count * strength)
    if skipped == count:
        raise InputError(f"strength {strength:g} of {count} steps leaves none: raise one of them")
    skipped *= scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return scheduler.timesteps[skipped:]


def _known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that the class has a parameter for."""
    return {key: value for key, value in values.items() if key in inspect.signature(kind.__init__).parameters}
