"""Trains a joint-image diffusion model: config -> base -> data -> model -> Trainer.fit.

    python train.py --config configs/train/tiny.yaml out=runs/tiny seed=1

The same command again goes on where the run stands. Ctrl-C saves and stops.
"""

import signal

# Before anything slow is imported: Slurm's warning (--signal=USR1@...) must not kill a job that is starting.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

import argparse
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as the command line says.

    Returns 0 when the run is complete or was put back into Slurm's queue, 2 when something is wrong with the
    arguments or the data (one line on stderr), 130 or 143 when SIGINT or SIGTERM stopped it (saved; the same
    command goes on).
    """
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a recipe: configs/train/tiny.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what differs: optimizer.lr=1e-4")
    args = parser.parse_args(argv)

    from jedi import config as configs
    from jedi.recipe import TrainConfig

    try:
        config = configs.load(TrainConfig, args.config, args.overrides)
        configs.import_extensions(config)
        done = config.run / "done"
        if done.exists() and (step := json.loads(done.read_text())["step"]) >= config.max_steps:
            print(f"{config.run} is complete at step {step}; raise max_steps to go on")
            return 0
        from transformers.utils.logging import disable_progress_bar

        from jedi import training
        from jedi.base import load_base
        from jedi.data import DataError
        from jedi.folders import FolderInUse, locked

        quiet()
        disable_progress_bar()
        base = load_base(config.base)
        data = training.JointData(config, base)
        model = training.JointTraining(config, base)
        stop = training.StopOnSignal(config)
        trainer = training.make_trainer(config, data, stop)
        checkpoint = training.open_run(config, training.identity(config, data, base))
    except (ValueError, OSError) as error:
        return refuse(error)
    if trainer.is_global_zero:
        print(f"{config.run}: {data.summary()}", file=sys.stderr)
    try:
        with stop, locked(config.run) if trainer.is_global_zero else nullcontext():
            trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    except (DataError, FloatingPointError, FolderInUse) as error:
        traceback.clear_frames(error.__traceback__)  # frees the data loader, which ends its workers
        return refuse(error)
    if not stop.received or trainer.global_step >= config.max_steps:
        return 0
    if trainer.is_global_zero:
        print(f"stopped and saved at step {trainer.global_step} of {config.max_steps}: the same command goes on")
    return STOPPED.get(stop.received, 0)


def refuse(error: Exception) -> int:
    """One line on stderr; an error from a data worker ends with what it is about."""
    print(f"train.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
    return 2


def quiet() -> None:
    """Silences what libraries say that nobody can act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers fork after their first use
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for needless in ("does not have many workers", r"module\(s\) in eval mode", "LeafSpec"):
        warnings.filterwarnings("ignore", f".*{needless}.*")


if __name__ == "__main__":
    sys.exit(main())
