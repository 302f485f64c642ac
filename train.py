"""Trains a joint-image diffusion model: config -> base -> data -> model -> Trainer.fit.

    python train.py --config configs/train/tiny.yaml out=runs/tiny seed=1

The same command again resumes the run. Ctrl-C saves and stops.
"""

import signal

# Before anything slow is imported: Slurm's warning (--signal=USR1@...) must not kill a job that is starting.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from jedi.io.command_line import Parser, add_settings, exit_code

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as the command line says.

    Returns 0 when the run is complete or was put back into Slurm's queue, 2 when something is wrong with the
    arguments or the data (one line on stderr), 130 or 143 when SIGINT or SIGTERM stopped it (saved; the same
    command resumes).
    """
    parser = Parser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser, "configs/train/tiny.yaml", "optimizer.lr=1e-4")

    less = (
        "what needs less: a smaller micro_batch_size, network.gradient_checkpointing=true, optimizer.name=adamw_8bit, "
        "ema.device=cpu, hardware.frozen_dtype=bfloat16, lora.rank=16; during validation and sampling a smaller "
        "validation.batch_size and samples.prompts"
    )
    return exit_code("train.py", lambda: run(parser.parse_args(argv)), memory=less)


def run(arguments: argparse.Namespace) -> int:
    """From the configuration to the end of the run; returns the exit code."""
    from jedi.io import config as configs
    from jedi.training.config import TrainConfig

    if (config := configs.of_command(TrainConfig, arguments)) is None:
        return 0
    configs.import_extensions(config.extensions)
    from jedi.io.base import load_base
    from jedi.io.quiet import quiet
    from jedi.training.data_module import JointData
    from jedi.training.module import JointTraining
    from jedi.training.run import identity, open_run, write_run
    from jedi.training.signals import StopOnSignal
    from jedi.training.trainer import make_trainer

    quiet_lightning()
    quiet(logging.WARNING)
    base = load_base(config.base, config.base_revision, config.base_variant, config.base_config)
    data = JointData(config, base)
    stop = StopOnSignal()
    trainer = make_trainer(config, data, stop)
    values = identity(config, data, base)
    with open_run(config, values, trainer) as state:
        if state.finished is not None:
            print(f"{config.run} is complete at step {state.finished}; raise max_steps to continue")
            return 0
        model = JointTraining(config, base, state.resume_from)
        write_run(config, values, trainer)
        if trainer.is_global_zero:
            print(f"{config.run}: base {base.kind}; {data.summary()}", file=sys.stderr)
        with stop:
            trainer.fit(model, data, ckpt_path=state.resume_from, weights_only=True)
    if not stop.ended_early:
        return 0
    if trainer.is_global_zero:
        stop.put_back()
        print(f"stopped and saved before step {config.max_steps}: the same command resumes")
    return STOPPED.get(stop.told.value, 0)


def quiet_lightning() -> None:
    """Silences what libraries say that nobody can act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers fork after their first use
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for needless in ("does not have many workers", r"module\(s\) in eval mode", "LeafSpec"):
        warnings.filterwarnings("ignore", f".*{needless}.*")


if __name__ == "__main__":
    sys.exit(main())
