"""A worked example of an extension: parts of your own, picked by name in a configuration.

    python train.py --config configs/train/tiny.yaml "extensions=[examples.extension]" \
        conditioning.policy=more_references loss.weighting=soft_min_snr

A module named in `extensions` is imported before anything is built, in every process. What it registers
stands beside what comes with JeDi: loss weightings and conditioning policies (below), attention modes
(`jedi.attention.ATTENTION_MODES`; `conditioning.modes` lists those that your policy draws), guidance rules
(`jedi.guidance.GUIDANCE`), all in the same way.
"""

import torch
from torch import Tensor

from jedi.conditioning import CONDITIONING_POLICIES, ConditioningConfig, StepPlan
from jedi.diffusion import LOSS_WEIGHTINGS, NoiseSchedule
from jedi.rng import keyed_generator


@LOSS_WEIGHTINGS.register("soft_min_snr")
def soft_min_snr(schedule: NoiseSchedule, t: Tensor, gamma: float) -> Tensor:
    """Min-SNR without its corner: ``S g / (S + g)`` for ``min(S, g)``, divided by ``S + 1`` for v.

    ``t``: timesteps ``[b]`` -> weights ``[b]``. This one is for v-prediction and says so otherwise.
    """
    if schedule.prediction_type != "v_prediction":
        raise ValueError(f"soft_min_snr is written for v_prediction, the base predicts {schedule.prediction_type}")
    snr = schedule.snr(t)
    return snr * gamma / (snr + gamma) / (snr + 1)


@CONDITIONING_POLICIES.register("more_references")
def more_references(seed: int, step: int, n: int, config: ConditioningConfig) -> StepPlan:
    """k = n - 1 in half of the steps, uniform in the others; `mutual` always has references.

    Whatever is drawn must be a function of (seed, step): ranks and accumulated micro batches draw it again.
    """
    u = torch.rand(4, generator=keyed_generator(seed, "more_references", step), dtype=torch.float64).tolist()
    k = n - 1 if u[0] < 0.5 else int(u[1] * n)
    mutual = k > 0 and u[2] < config.mutual_prob
    drop = k > 0 and not mutual and u[3] < config.drop_references_prob
    return StepPlan(k, "mutual" if mutual else "one_way", drop)
