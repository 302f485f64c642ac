"""A model in one .safetensors file, in Stable Diffusion's original layout: diffusers converts it, part by part.

Such a file holds weights and nothing else. The settings of the parts, the tokenizer and the scheduler are those of the
model that it was made from: a folder (its JSON and text files are enough), or a name on the hub, from which only these
files come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import nn

from jedi.errors import InputError, first_line
from jedi.io.kinds import INDEX, SUPPORTED
from jedi.io.model_files import SCHEDULER, UNET, check_values
from jedi.io.parts import check_finite, known_class, load_part, made, named

_KINDS = {"v1", "v2", "inpainting", "inpainting_v2", "xl_base", "xl_inpaint"}
"""What diffusers calls the layouts that hold our models."""
_LINK = re.compile(r"https://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/(?:blob|resolve)/([^/]+)/([^?#]+)")
_CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


def find_file(file: str | Path, **options: Any) -> Path:
    """A file, or what the hub gives for a link to one of its files.

    ``options`` are those of ``huggingface_hub.hf_hub_download``. Raises ``InputError`` if there is none.
    """
    from huggingface_hub import hf_hub_download

    if (link := _LINK.fullmatch(str(file))) is None:
        if not Path(file).is_file():
            raise InputError(f"{file}: no such file")
        return Path(file)
    try:
        return Path(hf_hub_download(link[1], link[3], revision=link[2], **options))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: the hub does not give it: {first_line(error)}") from error


def read_metadata(file: Path) -> dict[str, Any]:
    """What our export wrote into the head of the file beside the weights; {} for files of others.

    Raises:
        InputError: it is not a file of safetensors, or what we wrote is damaged.
    """
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        raise InputError(
            f"{file}: a model in one file is a .safetensors file; a pickle can run code, convert it where it came from"
        )
    try:
        with safe_open(file, "pt") as opened:
            found, names = json.loads((opened.metadata() or {}).get("jedi", "{}")), set(opened.keys())
    except Exception as error:  # safetensors' own class, OSError, ...
        raise InputError(f"{file}: not readable as safetensors: {first_line(error)}") from None
    if _CONV_IN not in names:
        raise InputError(f"{file} holds no model in Stable Diffusion's original layout (it has no {_CONV_IN})")
    if not isinstance(found, dict) or not all(isinstance(found.get(key, {}), dict) for key in ("index", "scheduler")):
        raise InputError(f"{file}: its metadata 'jedi' is not as our export writes it")
    return found


def config_folder(file: Path, config: str | Path | None = None, **options: Any) -> Path:
    """The folder with the settings and the tokenizer of the model in ``file``.

    Args:
        config: a folder or a hub's name; None: what diffusers takes the file to be made from.
        options: of ``huggingface_hub.snapshot_download``.

    Raises:
        InputError: another kind of model, or nothing gives those files; what is needed then.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, infer_diffusers_model_type
    from huggingface_hub import snapshot_download

    read_metadata(file)
    if config is not None and Path(config).is_dir():
        return Path(config)
    if config is None:
        shapes = _shapes(file)
        if (kind := infer_diffusers_model_type(shapes)) not in _KINDS:
            raise InputError(f"{file} is what diffusers calls {kind}; {SUPPORTED}")
        config = str(fetch_diffusers_config(shapes)["pretrained_model_name_or_path"])
    patterns = ["*.json", "*.txt", "**/*.json", "**/*.txt"]
    try:
        folder = Path(snapshot_download(str(config), allow_patterns=patterns, **options))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} holds weights only; its settings and tokenizer are those of {config}, which neither a folder nor "
            f"the hub gives ({first_line(error)}): name a folder with that model's JSON and tokenizer files "
            "(--model-config, base_config= or config=)"
        ) from error
    if not (folder / INDEX).is_file():
        raise InputError(f"{config} is not a model of diffusers: it has no {INDEX}")
    return folder


def _shapes(file: Path) -> dict[str, torch.Tensor]:
    """The weights without their numbers."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return {name: torch.empty(opened.get_slice(name).get_shape(), device="meta") for name in opened.keys()}  # noqa: SIM118


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """All weights of the file, mapped into memory."""
    from safetensors.torch import load_file

    return made(lambda: load_file(file), "the file", file)


def load_single(file: Path, folder: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Parts of the model in ``file``, networks in float32; ``folder`` is that of :func:`config_folder`.

    A file that our export wrote has a scheduler and a trained size of its own.

    Raises:
        InputError: a part that cannot be made of it.
    """
    weights, parts = read_weights(file), {}
    for name, part in kinds.items():
        parts[name] = (
            convert(part, weights, folder, name, file)
            if issubclass(part, nn.Module)
            else load_part(part, folder / name)
        )
    own = read_metadata(file)
    if "unet" in parts and "sample_size" in own:
        check_values(file, {"sample_size": own["sample_size"]}, UNET)
        parts["unet"].register_to_config(sample_size=own["sample_size"])
    if "scheduler" in parts and "scheduler" in own:
        settings = own["scheduler"]
        kind: Any = known_class("diffusers", settings.get("_class_name"), file)
        if not issubclass(kind, SchedulerMixin):
            raise InputError(f"{file}: its scheduler is of class {kind.__name__}")
        check_values(file, settings, SCHEDULER)
        parts["scheduler"] = made(lambda: kind.from_config(settings), kind.__name__, file)
    return parts


def convert(kind: type[nn.Module], weights: dict[str, torch.Tensor], folder: Path, name: str, file: Path) -> Any:
    """A network in float32 out of the weights of a file, its settings from the folder of :func:`config_folder`.

    Raises:
        InputError: the file lacks weights of it, or has others; weights that are not finite.
    """
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    source = f"{file} ({name})"
    options: dict[str, Any] = {"config": str(folder), "subfolder": name, "torch_dtype": torch.float32}
    options["local_files_only"] = True
    if hasattr(kind, "from_single_file"):
        if name == "unet":  # an inpainting model's, or ours, with the settings of a plain base
            options["in_channels"] = weights[_CONV_IN].shape[1]
        make = lambda: kind.from_single_file(dict(weights), **options)
    else:
        make = lambda: create_diffusers_clip_model_from_ldm(kind, checkpoint=dict(weights), **options)
    try:
        network = made(make, kind.__name__, source)
    except InputError as error:
        if "meta tensor" not in str(error):  # what the file did not fill
            raise
        raise InputError(f"{source}: the file lacks weights of {kind.__name__}") from error
    if missing := [key for key, value in network.state_dict().items() if value.is_meta]:
        raise InputError(f"{source}: the file lacks weights of {kind.__name__}: {named(missing)}")
    check_finite(network, source)
    return network.eval()
