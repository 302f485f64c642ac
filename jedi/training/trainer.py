"""Lightning's Trainer as the configuration says: callbacks, loggers, devices, precision, strategy."""

from __future__ import annotations

import re

import lightning as L
import torch
from lightning.pytorch.accelerators import AcceleratorRegistry, CPUAccelerator
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import StrategyRegistry

from jedi.attention import check_backend
from jedi.errors import InputError
from jedi.io.devices import cpu_computes_in
from jedi.training.callbacks import Checkpoints, HeldOut, Progress, Recurring, SampleGrid
from jedi.training.checkpoint_io import RunCheckpointIO
from jedi.training.config import HardwareConfig, TrainConfig
from jedi.training.data_module import JointData
from jedi.training.run import make_logger
from jedi.training.signals import StopOnSignal


def make_trainer(config: TrainConfig, data: JointData, stop: StopOnSignal) -> L.Trainer:
    """Lightning's Trainer with our callbacks and loggers, as the configuration says."""
    stop.caches = [cache for cache in (data.latents, data.text) if cache is not None]
    recurring: list[Recurring] = []
    if config.validation.every_steps:
        recurring.append(HeldOut(config, stop, data.max_references))
    if config.samples.every_steps:
        recurring.append(SampleGrid(config, stop, data.max_references))
    # In this order: the last checkpoint of a step knows what else was done at it.
    callbacks = [stop, Progress(config), *recurring, Checkpoints(config, stop, recurring)]
    hardware = config.hardware
    check_hardware(hardware)
    trainer = L.Trainer(
        accelerator=hardware.accelerator,
        devices=int(hardware.devices) if hardware.devices.isdecimal() else hardware.devices,
        num_nodes=hardware.nodes,
        strategy=hardware.strategy,
        precision=choose_precision(hardware),
        # Lightning's own requeueing saves inside the signal handler, which hangs: StopOnSignal does it.
        plugins=[RunCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else [])],
        logger=[make_logger(name, config) for name in config.log.loggers],
        callbacks=callbacks,
        max_steps=config.max_steps,
        max_epochs=-1,  # an epoch of Lightning's is the whole run; ours are the batch plan's
        gradient_clip_val=config.optimizer.clip_grad_norm or None,
        limit_val_batches=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=config.run,
    )
    stop.launcher = trainer.strategy.launcher
    trainer.accumulate_grad_batches = config.accumulate(trainer.world_size)
    try:
        check_backend(config.network.attention, trainer.strategy.root_device)
    except RuntimeError as error:
        raise InputError(f"network.attention: {error}") from None
    return trainer


def check_hardware(hardware: HardwareConfig) -> None:
    """Raises ``InputError`` for what this machine does not have, or Lightning does not know."""
    kinds = {"auto": ["cuda", "mps", "tpu", "cpu"], "gpu": ["cuda", "mps"]}
    kinds |= {kind: [kind] for kind in AcceleratorRegistry.available_accelerators()}
    if hardware.accelerator not in kinds:
        raise InputError(f"hardware.accelerator is {hardware.accelerator!r}; known are {', '.join(sorted(kinds))}")
    asked = [AcceleratorRegistry[kind]["accelerator"] for kind in kinds[hardware.accelerator]]
    found = next((accelerator for accelerator in asked if accelerator.is_available()), None)
    if found is None:
        raise InputError(f"hardware.accelerator={hardware.accelerator}: this machine has none; take auto or cpu")
    count = None if found is CPUAccelerator else found.auto_device_count()
    devices = hardware.devices
    if not re.fullmatch(r"auto|0*[1-9]\d*" + (r"|\d+,(\d+(,\d+)*)?" if count else ""), devices):
        raise InputError(f"hardware.devices is auto, 1 or more, or a list of GPUs that are there, got {devices!r}")
    if count and max(int(number) + ("," in devices) for number in re.findall(r"\d+", devices) or "0") > count:
        raise InputError(f"hardware.devices={devices}: this machine has {count}")
    strategies = ["auto", *sorted(name for name in StrategyRegistry.available_strategies() if name.startswith("ddp"))]
    if hardware.strategy not in strategies:
        raise InputError(f"hardware.strategy is {hardware.strategy!r}; known are {', '.join(strategies)}")


def choose_precision(hardware: HardwareConfig) -> str:
    """Lightning's name of the precision to train in; see ``HardwareConfig.precision`` for `auto`."""
    if hardware.precision != "auto":
        return hardware.precision
    if hardware.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    on_cpu = hardware.accelerator == "cpu" or (hardware.accelerator == "auto" and not torch.accelerator.is_available())
    return "bf16-mixed" if on_cpu and cpu_computes_in(torch.bfloat16) else "32-true"
