"""The base model of a training run: the parts of a Stable-Diffusion-shaped diffusers folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, CLIPTokenizerFast

from jedi.diffusion import NoiseSchedule
from jedi.errors import InputError
from jedi.io.download import download
from jedi.io.files import file_sha256
from jedi.io.hub import is_hub_name
from jedi.io.kinds import INDEX, ModelKind, detect
from jedi.io.model_files import SCHEDULER, TEXT_ENCODER, TOKENIZER, UNET, VAE, Rule, check_values, read_model_json
from jedi.io.parts import known_class, load_part
from jedi.io.single_file import config_folder, load_single
from jedi.io.variants import check_variant

KINDS = {
    "unet": (UNet2DConditionModel,),
    "vae": (AutoencoderKL,),
    "text_encoder": (CLIPTextModel,),
    "tokenizer": (CLIPTokenizer, CLIPTokenizerFast),
    "scheduler": (SchedulerMixin,),
    "text_encoder_2": (CLIPTextModelWithProjection,),
    "tokenizer_2": (CLIPTokenizer, CLIPTokenizerFast),
}
"""What each part of a model may be; the last two are SD-XL's alone."""
XL_PARTS = ("text_encoder_2", "tokenizer_2")
PARTS = tuple(part for part in KINDS if part not in XL_PARTS)
"""The parts of every model."""
FROZEN_PARTS = (*PARTS[1:], *XL_PARTS)
FILES: dict[str, tuple[str, dict[str, Rule], tuple[str, ...]]] = {
    "unet": ("config.json", UNET, ("sample_size", "in_channels", "out_channels", "cross_attention_dim")),
    "vae": ("config.json", VAE, ("latent_channels", "block_out_channels")),
    "text_encoder": ("config.json", TEXT_ENCODER, ("hidden_size", "max_position_embeddings")),
    "tokenizer": ("tokenizer_config.json", TOKENIZER, ()),
    "scheduler": ("scheduler_config.json", SCHEDULER, ("num_train_timesteps",)),
    "text_encoder_2": ("config.json", TEXT_ENCODER, ("hidden_size", "max_position_embeddings", "projection_dim")),
    "tokenizer_2": ("tokenizer_config.json", TOKENIZER, ()),
}
"""Each part's JSON file, the rules that it follows, and the keys that must be there."""


@dataclass
class Base:
    """Parts of a base model, as diffusers and transformers load them."""

    unet: UNet2DConditionModel
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    folder: Path
    kind: ModelKind
    text_encoder_2: Any = None
    """SD-XL's second one; None in other models."""
    tokenizer_2: Any = None
    force_zeros_for_empty_prompt: bool = False
    """SD-XL: the empty caption is zeros, not what the text encoders make of it."""

    @property
    def text_encoders(self) -> list[Any]:
        """The one text encoder, or SD-XL's two."""
        return [encoder for encoder in (self.text_encoder, self.text_encoder_2) if encoder is not None]

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the latents of images of that size in pixels. ``InputError`` if the vae cannot halve it
        so often."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if width % factor or height % factor:
            raise InputError(
                f"images of {width} x {height} pixels: the vae of base {self.folder} takes multiples of {factor}; "
                "regenerate the data at such a resolution"
            )
        return height // factor, width // factor

    def image_size(self, latents: Tensor) -> tuple[int, int]:
        """Height and width in pixels of the images that ``latents`` ``[... h w]`` stand for."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return latents.shape[-2] * factor, latents.shape[-1] * factor

    def fingerprint(self, *parts: str) -> str:
        """As :func:`fingerprint`, of some parts."""
        return fingerprint(self.folder, parts)


def fingerprint(folder: Path, parts: Sequence[str] = FROZEN_PARTS) -> str:
    """sha256 over the files of parts of a base: equal when they are equal, wherever the folder lies. Of a base in one
    file: over that file."""
    if folder.is_file():
        return file_sha256(folder)
    digest = hashlib.sha256()
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                digest.update(path.relative_to(folder).as_posix().encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
    return digest.hexdigest()


def load_base(
    name: str | Path, revision: str | None = None, variant: str | None = None, config: str | None = None
) -> Base:
    """Loads a base from a folder, from one file or, if there is neither, from the model hub. All parts are in float32.

    ``revision`` is the hub's; ``variant`` is of the weights' files, as `fp16`; ``config`` of a model in one file as in
    :func:`jedi.io.single_file.config_folder`.

    Raises:
        InputError: nothing there, another kind of model (:mod:`jedi.io.kinds`), a folder that lacks a part, parts that
            are damaged or do not fit one another.
    """
    folder = find_folder(name, revision, variant)
    parts = load_parts(folder, variant=variant, config=config)
    check_parts(parts, f"base {folder}")
    settings = settings_folder(folder, config)
    base = Base(**parts, folder=folder, kind=detect(settings), force_zeros_for_empty_prompt=empty_is_zeros(settings))
    for part in (base.vae, *base.text_encoders):
        part.requires_grad_(False).eval()
    return base


def settings_folder(folder: Path, config: str | None = None) -> Path:
    """Where a model's JSON files and tokenizer are: in its folder; of a model in one file that of
    :func:`jedi.io.single_file.config_folder`."""
    return config_folder(folder, config) if folder.is_file() else folder


def empty_is_zeros(folder: Path) -> bool:
    """Whether the model was trained with zeros for the empty caption: SD-XL, unless its index says otherwise.

    ``folder`` is that of :func:`settings_folder`."""
    index = read_model_json(folder / INDEX)
    return is_xl(index) and index.get("force_zeros_for_empty_prompt", True) is True


def is_xl(index: Mapping[str, Any]) -> bool:
    """Whether a model_index.json names a second text encoder, as SD-XL's does."""
    return index.get("text_encoder_2") not in (None, [None, None])


def load_unet(name: str | Path, prediction_type: str) -> UNet2DConditionModel:
    """The UNet of a model folder, in float32, to start from its weights.

    Raises:
        InputError: there is none, it is damaged, or its model predicts something else than ``prediction_type``.
    """
    folder = find_folder(name)
    if folder.is_file():
        raise InputError(
            f"init_from {name}: one file does not say what it predicts; make it the base (base=), or a folder"
        )
    scheduler = folder / "scheduler" / FILES["scheduler"][0]
    if scheduler.exists():
        found = read_model_json(scheduler).get("prediction_type", "epsilon")
        check_init_from(found, prediction_type, folder)
    return load_parts(folder, ("unet",))["unet"]


def load_parts(
    folder: Path,
    names: Sequence[str] = (*PARTS, *XL_PARTS),
    variant: str | None = None,
    config: str | None = None,
) -> dict[str, Any]:
    """Parts of a model by their names, in float32; their JSON files are checked before any is built.

    The parts that only SD-XL has are left out for other models. ``folder`` may be one file, whose JSON files lie in
    ``config``. ``variant`` of the weights is read where a part has it (at least one must), the plain ones elsewhere.

    Raises:
        InputError: another kind of model; a part that is not there, is of a class that we do not use, or cannot be
            loaded.
    """
    source, folder = folder, settings_folder(folder, config)
    detect(folder)
    index = read_model_json(folder / INDEX)
    names = [name for name in names if name not in XL_PARTS or is_xl(index)]
    lacking = [name for name in names if name not in index or not (folder / name).is_dir()]
    if lacking:
        raise InputError(f"{folder} has no {', '.join(lacking)}: a diffusers folder with {', '.join(PARTS)} is needed")
    kinds = {name: _class(index[name], name, folder) for name in names}
    for name in names:
        file, rules, needed = FILES[name]
        path = folder / name / file
        if needed or path.exists():
            check_values(path, read_model_json(path), rules, needed)
    if source.is_file():
        return load_single(source, folder, kinds)
    check_variant(variant, [[path.name for path in (folder / name).glob("*")] for name in PARTS], str(folder))
    return {name: load_part(kinds[name], folder / name, variant=variant) for name in names}


def check_parts(parts: Mapping[str, Any], source: str) -> None:
    """Raises ``InputError`` unless the parts of ``source`` fit one another and the scheduler's noise makes sense."""
    pairs = [(f"tokenizer{end}", f"text_encoder{end}") for end in ("", "_2") if parts.get(f"text_encoder{end}")]
    check_unet(parts["unet"], parts["vae"], [parts[encoder] for _, encoder in pairs], source)
    for tokenizer, encoder in pairs:
        words, width = parts[tokenizer].get_vocab(), parts[encoder].config.vocab_size
        # Without its files transformers makes an empty tokenizer.
        if not width / 2 <= len(words) or not all(0 <= number < width for number in words.values()):
            raise InputError(
                f"{source}: the {tokenizer} knows {len(words)} tokens, up to number {max(words.values(), default=0)}, "
                f"the {encoder} {width}; take both from one model"
            )
        if parts[tokenizer].pad_token is None:
            raise InputError(f"{source}: the {tokenizer} has no pad_token, to bring captions to one length")
    try:
        NoiseSchedule.from_scheduler(parts["scheduler"])
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _class(entry: Any, name: str, folder: Path) -> type:
    """The class that the index names for a part, if it is one that we use."""
    library, found = entry if isinstance(entry, list) and len(entry) == 2 else (entry, None)
    kind = known_class(library, found, folder / INDEX)
    if not issubclass(kind, KINDS[name]):
        wanted = " or ".join(x.__name__ for x in KINDS[name])
        raise InputError(f"{folder / INDEX}: {name} is of class {found}; {wanted} is needed")
    return kind


def check_unet(unet: UNet2DConditionModel, vae: Any, text_encoders: Sequence[Any], source: str) -> None:
    """Raises ``InputError`` unless the unet of ``source`` makes the vae's latents and reads the encoded text."""
    config, encoders = unet.config, " and ".join(["text_encoder", "text_encoder_2"][: len(text_encoders)])
    width, xl = sum(encoder.config.hidden_size for encoder in text_encoders), len(text_encoders) == 2
    rows = [
        ("makes latents of {} channels", config.out_channels, "vae gives", vae.config.latent_channels),
        ("reads text of width {}", config.cross_attention_dim, f"{encoders} give{'' if xl else 's'}", width),
    ]
    if xl != (config.addition_embed_type == "text_time"):
        with_or_without = "takes no pooled text and sizes" if xl else "takes SD-XL's pooled text and sizes"
        raise InputError(f"{source}: the unet {with_or_without}, for {encoders}; take all from one model")
    if xl:  # one number a size, 6 sizes
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        rows += [
            ("reads pooled text of width {}", pooled, "text_encoder_2 gives", text_encoders[1].config.projection_dim)
        ]
    for what, found, of, wanted in rows:
        if found != wanted:
            raise InputError(f"{source}: the unet {what.format(found)}, the {of} {wanted}; take both from one model")


def check_init_from(found: str, wanted: str, source: str | Path) -> None:
    """Raises ``InputError`` when weights that predict one thing would be trained to predict another."""
    if found != wanted:
        raise InputError(
            f"init_from {source} predicts {found!r}, the base's scheduler says {wanted!r}: "
            f"start from a model of that prediction type, or change prediction_type in the base's scheduler"
        )


def find_folder(name: str | Path, revision: str | None = None, variant: str | None = None, **options: Any) -> Path:
    """The folder or the one file of a model: ``name`` itself or, if there is none, what the hub gives. ``InputError``
    if neither is.

    ``revision``, ``variant`` and ``options`` are those of :func:`jedi.io.download.download`.
    """
    folder = Path(name)
    if (folder / INDEX).is_file():
        return folder
    if folder.is_file():
        return folder
    if folder.exists():
        raise InputError(f"{name} is not a model: a diffusers folder has a {INDEX}")
    if not is_hub_name(str(name)):
        raise InputError(
            f"{name}: no such folder (a model, or OWNER/NAME on the hub); a small base is made by "
            f"`python -m jedi_toy.tiny_base --config configs/base/tiny.yaml out={name}`"
        )
    return download(str(name), tuple(KINDS), revision, variant, **options)
