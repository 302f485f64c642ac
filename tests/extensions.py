"""An extension that the training tests load: draws with a signal at a given step, and an attention mode."""

import os
import signal
from collections.abc import Callable

import torch
from torch import Tensor

from jedi.attention import ATTENTION_MODES, AttentionMode
from jedi.conditioning import CONDITIONING_POLICIES, ConditioningConfig, StepPlan, draw_step
from jedi.errors import InputError
from jedi.training.optimizer import OPTIMIZERS

STEP, SIGNAL = "JEDI_TEST_SIGNAL_STEP", "JEDI_TEST_SIGNAL"


@CONDITIONING_POLICIES.register("until_signal")
def until_signal(seed: int, step: int, n: int, config: ConditioningConfig) -> StepPlan:
    """The usual policy; at step $JEDI_TEST_SIGNAL_STEP the process sends itself $JEDI_TEST_SIGNAL (or fails), once."""
    if os.environ.get(STEP) == str(step):
        del os.environ[STEP]
        if os.environ[SIGNAL] == "CRASH":
            raise InputError(f"step {step} fails")
        os.kill(os.getpid(), signal.Signals[os.environ[SIGNAL]])
    return draw_step(seed, step, n, config)


def attend_alone(query: Tensor, key: Tensor, value: Tensor, k: int, kernel: Callable) -> Tensor:
    """Every image attends to itself: references change nothing. All tensors ``[b n h l d]``."""
    b, n = query.shape[:2]
    return kernel(*(x.flatten(0, 1) for x in (query, key, value))).unflatten(0, (b, n))


ATTENTION_MODES.register("alone")(AttentionMode(attend_alone))

OPTIMIZERS.register("sgd")(lambda groups, config: torch.optim.SGD(groups, config.lr))


@CONDITIONING_POLICIES.register("alone")
def alone(seed: int, step: int, n: int, config: ConditioningConfig) -> StepPlan:
    """One reference, in that mode."""
    return StepPlan(1, "alone")
