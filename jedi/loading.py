"""A model by its name: a folder, a run of train.py, or a name on the hub. For the front ends.

Every failure is an ``InputError`` of one line that names the option, ``--model``, ``--device`` or ``--lora``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jedi
from jedi.checks import check_mode
from jedi.errors import InputError, first_line
from jedi.io.devices import cpu_computes_in, find_device
from jedi.io.hub import find_model
from jedi.io.quiet import quiet

if TYPE_CHECKING:
    import torch

    from jedi.pipeline import JediPipeline

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
"""The parts of a model that have weights; the last one is SD-XL's."""
OFFLOADS = ("model", "sequential")
"""Whole parts, or layer by layer."""


def load_pipeline(
    name: str,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    variant: str | None = None,
    model_config: str | None = None,
    offload: bool = False,
) -> tuple[JediPipeline, dict[str, str]]:
    """The pipeline on its device, silent, and the sha256 of its parts' weights in float32. With ``offload`` it stays on
    the CPU, for :func:`offload_to`, and a device that is none to offload from is refused.

    ``revision``, ``variant`` and ``model_config`` (there: ``config``) as in ``JediPipeline.from_pretrained``.

    Says on stderr where a CPU is slow in ``dtype``. Raises ``InputError`` for a model or a device that cannot be used.
    """
    origin = find_model(name)
    import torch

    from jedi.pipeline import JediPipeline

    quiet(logging.ERROR)
    device = find_device(device)
    on_cpu = torch.device(device).type == "cpu"
    if offload and on_cpu:
        raise InputError("--offload: on a CPU there is nothing to offload from; leave it out, or give --device")
    if on_cpu and dtype != "float32" and not cpu_computes_in(getattr(torch, dtype)):
        slow = "this CPU has no fast arithmetic for it, and may take ten times as long as in float32"
        print(f"--dtype {dtype}: {slow}", file=sys.stderr)
    try:
        if origin == "run":
            from jedi.training.load_run import load_run

            pipe = load_run(name)
        else:
            pipe = JediPipeline.from_pretrained(name, revision=revision, variant=variant, config=model_config)
    except InputError as error:
        where = " from the hub (there is no such folder here)" if origin == "hub" else ""
        raise InputError(f"--model {name}: cannot be loaded{where}: {error}") from error
    # Now: in another dtype the same weights would have another digest.
    digests = model_sha256(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cpu" if offload else device, getattr(torch, dtype)), digests


def loras_of(asked: Sequence[str]) -> list[tuple[Path, float]]:
    """Files and scales of ``FILE`` or ``FILE=SCALE``. Raises ``InputError`` for a file that is none, or no number."""
    found = []
    for text in asked:
        file, _, scale = (text, "=", "1") if Path(text).is_file() else text.rpartition("=")
        path = Path(file or text)
        if not path.is_file() or path.suffix != ".safetensors":
            raise InputError(f"--lora {text}: no .safetensors file")
        try:
            found.append((path, float(scale)))
        except ValueError:
            raise InputError(f"--lora {text}: its scale is no number") from None
        if not math.isfinite(found[-1][1]):
            raise InputError(f"--lora {text}: its scale is not finite")
    return found


def load_loras(pipe: JediPipeline, loras: Sequence[tuple[Path, float]]) -> None:
    """LoRAs with their scales, all at once. Raises ``InputError`` for one that is damaged or of another model."""
    for i, (path, _) in enumerate(loras):
        try:
            pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=f"lora_{i}")
        except Exception as error:  # diffusers, peft and transformers raise almost anything over a user's file
            raise InputError(f"--lora {path}: cannot be loaded into this model: {first_line(error)}") from error
        if not any(f"lora_{i}" in names for names in pipe.get_list_adapters().values()):
            raise InputError(f"--lora {path}: none of its weights are of a layer that this model has")
    if loras:
        pipe.set_adapters([f"lora_{i}" for i in range(len(loras))], [scale for _, scale in loras])


def offload_to(pipe: JediPipeline, how: str, device: str | None = None) -> None:
    """Parts of a pipeline on the CPU go to ``device`` (a GPU if not given) for their work only; ``how``: `OFFLOADS`."""
    enable = pipe.enable_model_cpu_offload if how == "model" else pipe.enable_sequential_cpu_offload
    enable(device=find_device(device))


def used_settings(pipe: JediPipeline, asked: Any) -> dict[str, Any]:
    """Arguments of the pipeline's call: what is ``asked`` for by its attributes ``steps``, ``guidance``,
    ``guidance_scale``, ``image_guidance_scale`` and ``mode``, else the model's defaults. Raises ``InputError`` for what
    makes no sense, or that the model was not trained for."""
    used = pipe.sampling_settings(asked.steps, asked.guidance, asked.guidance_scale, asked.image_guidance_scale)
    mode = asked.mode or pipe.config.trained_modes[0]
    check_mode(mode, pipe.config.trained_modes)
    return {**used, "mode": mode}


def scheduler_settings(pipe: JediPipeline) -> dict[str, Any]:
    """For records: without what diffusers keeps for itself, a list in random order."""
    return {key: value for key, value in pipe.scheduler.config.items() if key != "_use_default_values"}


def versions() -> dict[str, str]:
    """Versions of what decides the pixels."""
    libraries = ("torch", "diffusers", "transformers", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {"jedi": jedi.__version__, "python": platform.python_version(), **found}


def model_sha256(pipe: JediPipeline) -> dict[str, str]:
    """The sha256 of the weights of each part of the model, as they are now."""
    return {name: weights_sha256(part) for name in PARTS if (part := getattr(pipe, name)) is not None}


def weights_sha256(part: torch.nn.Module) -> str:
    """sha256 over the bytes of all tensors of a part of a model, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for _, tensor in sorted(part.state_dict().items()):
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
