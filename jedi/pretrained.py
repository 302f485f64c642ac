"""Ways to a JediPipeline: a diffusers folder, one file, a name on the hub. Arguments as diffusers calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils import logging

from jedi.io.base import INDEX, KINDS, empty_is_zeros, find_folder, load_parts
from jedi.io.kinds import detect, is_trained
from jedi.io.model_files import DEFAULTS, PIPELINE, check_values, read_model_json
from jedi.io.quiet import quiet
from jedi.io.single_file import config_folder, find_file, read_metadata
from jedi.unet import JointUNet

logger = logging.get_logger(__name__)

P = TypeVar("P", bound="Pretrained")


class Pretrained:
    """``from_pretrained`` and ``from_single_file`` of a pipeline.

    Unlike diffusers' own they take known classes of diffusers and transformers only, and refuse weights that are
    missing, not expected or not finite (:func:`jedi.io.parts.load_network`). No code of a repository is run.
    """

    @classmethod
    def from_pretrained(
        cls: type[P],
        name: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        variant: str | None = None,
        config: str | Path | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **given: Any,
    ) -> P:
        """The pipeline of a diffusers folder, of one file or, if there is neither, of a model on the hub.

        Args:
            dtype, torch_dtype: of the whole pipeline, whatever the folder's parts were stored in; float32 by default.
            revision: of a model on the hub: a branch, a tag or a commit.
            variant: which files of weights to read, `fp16` for instance, in parts that have them.
            config: of a model in one file: see :meth:`from_single_file`.
            cache_dir, token, local_files_only, force_download: of the hub's downloads.
            given: parts and settings of the constructor that stand in for the folder's (``scheduler=...``).

        A base that JeDi has not trained gets its UNet grown, and takes references in mode `reference_only` alone.

        Raises:
            InputError: no such model, or one that cannot be used; the message names the file and what is wrong.
        """
        hub: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
        hub |= {"local_files_only": local_files_only, "force_download": force_download}
        found = find_folder(name, revision, variant, **hub)
        if found.is_file():
            folder = config_folder(found, config, **hub)
            index, where = read_metadata(found).get("index", {}), found
        else:
            folder = found
            index, where = read_model_json(folder / INDEX), folder / INDEX
        kind = detect(folder)
        settings = {key: value for key, value in index.items() if key in PIPELINE}
        check_values(where, settings, PIPELINE)
        check_values(where, settings.get("sampling_defaults") or {}, DEFAULTS)
        trained = is_trained(settings | given)
        settings["force_zeros_for_empty_prompt"] = empty_is_zeros(folder)
        parts = load_parts(found, [part for part in KINDS if part not in given], variant, str(folder))
        if not trained:
            why = f"its {where.name} names no mode that it was trained in"
            logger.warning(
                f"{name} is {kind.family}, which JeDi has not trained ({why}): it takes references in mode "
                f"reference_only, without promise of quality; train.py base={name} trains it"
            )
            settings["knows"] = f"{kind.family}, untrained by JeDi: references in mode reference_only, no promise made"
            parts["unet"] = JointUNet.from_base(given.get("unet", parts.get("unet"))).unet
        pipe: Any = cls(**settings | given | parts)
        with quiet():  # diffusers warns of an empty list of modules
            return pipe.to(dtype or torch_dtype or torch.float32)

    @classmethod
    def from_single_file(cls: type[P], file: str | Path, *, config: str | Path | None = None, **options: Any) -> P:
        """The pipeline of one .safetensors file in Stable Diffusion's original layout, or of a link to one on the hub.

        Args:
            config: folder or hub name of a model whose JSON and tokenizer files fit; by default the one that
                diffusers takes the file to be made from, out of the hub or its cache.
            options: those of :meth:`from_pretrained`.

        Raises:
            InputError: no such file, one of another kind, or nothing gives the JSON and tokenizer files.
        """
        hub = {key: options[key] for key in ("cache_dir", "token", "local_files_only") if key in options}
        return cls.from_pretrained(find_file(file, **hub), config=config, **options)
