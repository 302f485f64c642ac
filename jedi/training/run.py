"""A run's folder: who may work in it, what the run is, where it stands, where its numbers go."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only

from jedi.errors import InputError
from jedi.io import config as configs
from jedi.io.base import FROZEN_PARTS, Base
from jedi.io.files import atomic, locked, read_own_json, remove_leftovers, write_json
from jedi.training import checkpoints
from jedi.training.config import TrainConfig
from jedi.training.data_module import JointData


@dataclass(frozen=True)
class RunState:
    """What there is of a run in its folder."""

    resume_from: Path | None
    """The checkpoint to resume from, whole; None: the run has not begun."""
    finished: int | None
    """The last step, if that is as far as ``max_steps`` or farther."""


@contextlib.contextmanager
def open_run(config: TrainConfig, identity: dict[str, Any], trainer: L.Trainer) -> Iterator[RunState]:
    """Keeps the run's folder for this launch to the end of the block; nothing in it is changed before it is ours.

    The first process takes the lock and compares. Where all processes were started from outside (Slurm, torchrun), the
    others wait for what comes of it, and end as it does; those that Lightning starts begin after it.

    Raises:
        FolderInUse: another launch is at work there.
        InputError: the run there was made with other settings or data, and resuming would mix the two.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    together = trainer.world_size > 1 and environment.creates_processes_externally
    together = together and not isinstance(environment, LightningEnvironment)  # there: a rank that Lightning started
    with contextlib.ExitStack() as held:
        found: Any  # a RunState, or the error
        try:
            if trainer.is_global_zero:
                held.enter_context(locked(config.run))
            found = _state(config, identity) if trainer.is_global_zero or not together else None
        except Exception as error:
            found = error
        if together:
            trainer.strategy.setup_environment()  # Lightning does it again, to no effect
            found = trainer.strategy.broadcast(found)
        if isinstance(found, Exception):
            raise found
        yield found


def _state(config: TrainConfig, identity: dict[str, Any]) -> RunState:
    step = checkpoints.recorded_step(config.run, "done")
    resume_from = checkpoints.newest(config.run) if checkpoints.has_begun(config.run) else None
    if resume_from is not None:
        before = read_own_json(config.run / "identity.json", **{key: type(identity[key]) for key in _ALWAYS})
        changed = [
            f"{key} was {value!r}, is {identity[key]!r}"
            for key, value in before.items()
            if key in identity and value != identity[key]
        ]
        if changed:
            raise InputError(
                f"the run in {config.run} was made with other settings: {'; '.join(changed)}. "
                "Set them back, or choose another `out` (with init_from to start from this run's weights)"
            )
    # A run is finished only while its result is there, whole: else it goes on from an older checkpoint.
    finished = resume_from is not None and step >= config.max_steps and checkpoints.record(resume_from)["step"] >= step
    return RunState(resume_from, step if finished else None)


def write_run(config: TrainConfig, identity: dict[str, Any], trainer: L.Trainer) -> None:
    """Makes the folder of a run that is ours (:func:`open_run`) and writes what the run is. The first process only."""
    if not trainer.is_global_zero:
        return
    folders = [config.run, config.run / "checkpoints"]
    folders[-1].mkdir(parents=True, exist_ok=True)
    for folder in folders:  # what a killed launch left, on whatever host: the folder is ours alone
        remove_leftovers(folder)
    write_json(config.run / "identity.json", identity)
    configs.save(config, config.run / "config.yaml")
    for name, value in (("base", config.base), ("init_from", config.init_from if config.trains_part else None)):
        file, folder = config.run / f"{name}.json", Path(value or "").resolve()
        if value is not None and folder.exists():
            places = {"absolute": str(folder), "relative": os.path.relpath(folder, config.run.resolve())}
            write_json(file, places)
        else:  # a name on the hub, or not needed again
            file.unlink(missing_ok=True)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            with atomic(config.run / "wandb_id") as temporary:
                temporary.write_text(logger.version, encoding="utf-8")


# What may differ when a run goes on: it changes neither the data nor what a step computes (but for rounding),
# or, as max_steps does, only what lies ahead. Base and data are compared by what they hold.
_MAY_CHANGE = {
    "base",
    "base_revision",
    "base_variant",
    "base_config",
    "out",
    "max_steps",
    "micro_batch_size",
    "init_from",
}
_MAY_CHANGE |= {"checkpoints", "network", "validation", "samples", "sampling_defaults", "log", "hardware"}
_ALWAYS = ("seed", "data fingerprint", "base fingerprint")
_MAY_CHANGE_IN = {"data": {"path", "workers", "latents_folder", "verify"}, "ema": {"device"}}


def identity(config: TrainConfig, data: JointData, base: Base) -> dict[str, Any]:
    """What makes a run this run, as flat plain values."""
    values = {key: value for key, value in configs.to_dict(config).items() if key not in _MAY_CHANGE}
    for section, names in _MAY_CHANGE_IN.items():
        values[section] = {key: value for key, value in values[section].items() if key not in names}
    values["network"] = {"trainable": config.network.trainable}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    if config.data.sources:
        flat["data.sources' weights"] = [source.weight for source in config.data.sources]
    return flat | {
        "data fingerprint": data.fingerprint[:16],
        "base fingerprint": base.fingerprint(*FROZEN_PARTS)[:16],
    }


def make_logger(name: str, config: TrainConfig) -> Logger:
    """A Lightning logger that writes below the run's folder. A run that resumes adds to what is there.

    Raises:
        InputError: its package is not installed.
    """
    try:
        return _make_logger(name, config)
    except ModuleNotFoundError:  # Lightning's own, of a requirement that is not met
        raise InputError(f"log.loggers: {name} is not installed: pip install {name}") from None


def _make_logger(name: str, config: TrainConfig) -> Logger:
    if name == "tensorboard":
        return TensorBoardLogger(config.run, name="logs", version="")
    if name == "csv":  # this one deletes what it finds: each launch gets a folder of its own
        return CSVLogger(config.run / "logs", name="csv")
    return WandbLogger(
        project=config.log.project,
        name=config.run.name,
        save_dir=config.run,
        id=wandb_id(config.run),
        resume="allow",
    )


def wandb_id(run: Path) -> str | None:
    """The run's id at W&B: random, since there may be other runs of that name; :func:`write_run` keeps it, for the run
    to go on there."""
    file = run / "wandb_id"
    if rank_zero_only.rank != 0:
        return None
    return file.read_text(encoding="utf-8") if file.exists() else secrets.token_hex(8)
