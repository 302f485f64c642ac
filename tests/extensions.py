"""An extension that the training tests load: the usual draws, and a signal at a given step."""

import os
import signal

from jedi.conditioning import CONDITIONING_POLICIES, ConditioningConfig, StepPlan, draw_step

STEP, SIGNAL = "JEDI_TEST_SIGNAL_STEP", "JEDI_TEST_SIGNAL"


@CONDITIONING_POLICIES.register("until_signal")
def until_signal(seed: int, step: int, n: int, config: ConditioningConfig) -> StepPlan:
    """The usual policy; at step $JEDI_TEST_SIGNAL_STEP the process sends itself $JEDI_TEST_SIGNAL, once."""
    if os.environ.get(STEP) == str(step):
        del os.environ[STEP]
        os.kill(os.getpid(), signal.Signals[os.environ[SIGNAL]])
    return draw_step(seed, step, n, config)
