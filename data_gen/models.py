"""Diffusers pipelines as data generation loads them: one way in, safetensors only, errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_gen.context import Context
from jedi.errors import first_line
from jedi.io.config import ConfigError
from jedi.io.devices import find_device
from jedi.io.hub import is_hub_name

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_TASKS = {"text2image": "text-to-image", "inpaint": "inpainting"}
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def device_of(context: Context) -> str:
    """The device that `context.device` means: "auto" is CUDA's where there is one. ConfigError if it is not there."""
    import torch

    wish = context.device
    if wish == "auto":
        return find_device(wish)
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise ConfigError(f"device is {wish!r}; expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {wish!r}; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={wish}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu")
    return wish


def load_network(cls: type, key: str, source: str, kinds: tuple[str, ...], context: Context) -> Any:
    """A network of transformers by `jedi.encoders.load_model`, on its device. Errors are ConfigErrors of `key`."""
    import torch

    from jedi.encoders import EncoderError, load_model

    try:
        return load_model(cls, source, kinds, torch.device(device_of(context)))
    except EncoderError as error:
        raise ConfigError(f"{key}: {error}") from None


def load_pipeline(key: str, source: str, kind: Literal["text2image", "inpaint"], context: Context) -> DiffusionPipeline:
    """The pipeline of a diffusers folder or, where there is no such folder, of a model hub's OWNER/NAME.

    It comes in the dtype of the context, on its device, without progress bars. Weights are read as safetensors only:
    a pickle can run code. `key` is the configuration's key that names `source`; errors speak of it.

    Raises:
        ConfigError: no such model, the hub is out of reach, not a diffusers folder, a pipeline of another kind,
            weights as pickles only, a part that does not load.
    """
    import torch
    from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image, DiffusionPipeline

    from jedi.io.quiet import quiet

    _check_source(key, source)
    auto = {"text2image": AutoPipelineForText2Image, "inpaint": AutoPipelineForInpainting}[kind]
    device, dtype = device_of(context), getattr(torch, context.dtype)
    with quiet():
        name, index = _index(auto, key, source)
        try:
            here = Path(source).is_dir()
            folder = Path(source if here else DiffusionPipeline.download(source, use_safetensors=True))
            pipe = auto.from_pretrained(folder, **_parts(folder, index, dtype))
        except Exception as error:  # diffusers and transformers raise almost anything for a folder that lacks a part
            raise ConfigError(_why(key, source, kind, name, error)) from error
    _check_channels(key, source, kind, pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _check_source(key: str, source: str) -> None:
    folder = Path(source)
    if not source:
        raise ConfigError(f"{key} is empty: name a diffusers folder, or OWNER/NAME on the model hub")
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ConfigError(f"{key}={source} is not a diffusers folder: it has no model_index.json")
        for part in sorted(path for path in folder.iterdir() if path.is_dir()):
            files = {path.suffix for path in part.iterdir()}
            if files.intersection(_PICKLED) and ".safetensors" not in files:
                raise ConfigError(
                    f"{key}={source}: the weights of {part.name} are a pickle, which can run code; "
                    "convert them to safetensors (save_pretrained writes these)"
                )
    elif folder.exists():
        raise ConfigError(f"{key}={source} is a file; expected a diffusers folder (from_single_file can convert it)")
    elif not is_hub_name(source):
        raise ConfigError(f"{key}={source}: no such folder (and a name on the model hub is OWNER/NAME)")


def _index(auto: type, key: str, source: str) -> tuple[str, dict[str, Any]]:
    """The pipeline class that the model's index names, and the index."""
    try:
        index = dict(auto.load_config(source))
        return str(index["_class_name"]), index
    except OSError as error:  # no network, no such repository, a gated one: all are OSErrors here
        raise ConfigError(
            f"{key}={source}: no such folder, and the model hub does not give it ({first_line(error)})"
        ) from error
    except (KeyError, ValueError):
        raise ConfigError(f"{key}={source}: its model_index.json names no pipeline class") from None


def _parts(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The parts that the index names, each with all its weights. Raises ``InputError`` as `jedi.io.parts` does."""
    from jedi.io.model_files import PIPELINE
    from jedi.io.parts import known_class, load_part

    named = {
        name: entry
        for name, entry in index.items()
        if not name.startswith("_")
        and name not in PIPELINE  # which are settings
        and isinstance(entry, (list, tuple))
        and len(entry) == 2
        and entry[0] is not None
    }
    kinds = {name: known_class(*entry, folder / "model_index.json") for name, entry in named.items()}
    parts = {
        name: load_part(kind, folder / name, dtype, unexpected=True, use_safetensors=True)
        for name, kind in kinds.items()
    }
    for name, part in parts.items():  # transformers says 1e30 for a tokenizer that does not know; its encoder does
        encoder = parts.get(name.replace("tokenizer", "text_encoder"))
        if "tokenizer" in name and (most := getattr(getattr(encoder, "config", None), "max_position_embeddings", None)):
            part.model_max_length = min(part.model_max_length, most)
    return parts


def _why(key: str, source: str, kind: str, name: str, error: Exception) -> str:
    reason = first_line(error)
    if isinstance(error, ValueError) and "AutoPipeline" in reason:
        return f"{key}={source} is a {name}; expected a {_TASKS[kind]} pipeline"
    if "safetensors" in reason:
        return f"{key}={source}: a part of it has no safetensors weights, and pickles are not read ({reason})"
    return f"{key}={source}: {name} does not load: {reason}"


def _check_channels(key: str, source: str, kind: str, pipe: Any) -> None:
    """An inpainting UNet sits in folders that AutoPipeline takes for text-to-image: it would fail at its first call."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if kind != "text2image" or unet is None or vae is None:
        return
    found, latents = unet.config.in_channels, vae.config.latent_channels
    if found != latents:
        raise ConfigError(
            f"{key}={source}: its unet takes {found} channels for latents of {latents}; "
            "expected a text-to-image model, not one for inpainting or editing"
        )
