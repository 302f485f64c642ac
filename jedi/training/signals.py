"""Stopping on a signal, and the way back into Slurm's queue."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from jedi.errors import InputError
from jedi.training.part_cache import PartCache


class StopOnSignal(L.Callback):
    """SIGINT, SIGTERM, SIGUSR1: save after the step that is running, and stop; the same command resumes.

    Validation and sampling are put off, or given up in the middle: they may take longer than the warning leaves.
    SIGUSR1 under Slurm (``#SBATCH --signal=USR1@90``, pre-emption) also puts the job back into the queue. Not
    SIGTERM: a job that somebody cancelled would come back to life. The handler only sets a flag, all ranks
    agree on it after the step, and no data worker has it: saving inside a handler hangs, or saves twice.

    Before the first step there is nothing to save: ``SystemExit`` ends the start (0 for SIGUSR1, else 128 + signal).
    While latents or captions are encoded, a job comes back only if a part of them was finished: else it might do so for
    ever.
    Where Lightning forks the ranks, the process that they come from hands the signal on and waits for them.

    A context manager: signals are handled like this from ``with stop:`` to the end of the block.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received = 0
        self.caches: list[PartCache] = []
        self.launcher: Any = None
        # Seen by the process that forks the ranks too: the signal, whether steps are made, whether they end early.
        self.told, self.stepping, self._early = (multiprocessing.RawValue("i", 0) for _ in range(3))

    @property
    def ended_early(self) -> bool:
        """Whether a signal ended the training before its last step."""
        return bool(self._early.value)

    def __enter__(self) -> StopOnSignal:
        self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
        self._install()
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer, module) -> None:
        self._install()  # Lightning has meanwhile put a handler of its own on SIGTERM

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.stepping.value = True

    def _install(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        self.told.value = self.told.value or number
        ranks = [process for process in getattr(self.launcher, "procs", []) if process.is_alive()]
        for process in ranks:  # a terminal tells them of Ctrl-C too, and a second one would end them
            os.kill(process.pid, signal.SIGTERM if number == signal.SIGINT else number)
        if not self.stepping.value:
            if number == signal.SIGUSR1 and rank_zero_only.rank == 0 and not ranks:
                if stalled := [cache.what for cache in self.caches if cache.stalled]:
                    raise SystemExit(
                        f"train.py: told to stop before one part of the {stalled[0]} was encoded, so the job is not "
                        "put back into the queue: give it more time, or let several processes run "
                        "python -m jedi.training.latents first"
                    )
                requeue(os.environ)
            raise SystemExit(0 if number == signal.SIGUSR1 else 128 + number)
        self.received = number
        if number == signal.SIGINT:
            os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")

    def agreed(self, trainer: L.Trainer) -> int:
        """The signal that any rank has received, 0 for none. All ranks call this, at the same place."""
        if trainer.world_size == 1:
            return self.received
        flag = torch.tensor(self.received, device=trainer.strategy.root_device)
        if agreed := int(trainer.strategy.reduce(flag, reduce_op="max")):
            self.received = agreed  # not where it is 0: one may have come meanwhile
            self.told.value = self.told.value or agreed
        return agreed

    def teardown(self, trainer, module, stage) -> None:
        self._early.value = trainer.should_stop

    def put_back(self) -> None:
        """After the training, in its first process: the job goes back into the queue where Slurm asked it to stop."""
        if self.ended_early and self.told.value == signal.SIGUSR1:
            requeue(os.environ)


def requeue(environment: Mapping[str, str]) -> None:
    """Puts our Slurm job (or our task of an array) back into the queue; without Slurm, nothing.

    Raises:
        InputError: Slurm's command is not there (in a container), or refuses.
    """
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"job {job} could not be put back into the queue ({error}): submit it again, it resumes from what is saved"
        ) from None
