"""A model from the hub, into its cache: the parts that are used, in one form of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jedi.errors import InputError, first_line
from jedi.io.kinds import INDEX
from jedi.io.variants import check_variant, needed


def download(
    name: str, parts: Sequence[str], revision: str | None = None, variant: str | None = None, **options: Any
) -> Path:
    """The folder of a model of the hub, without the parts that are not used (a safety checker is 1.2 GB).

    diffusers' own download would run a repository's pipeline.py, or refuse one that has it, as our exports do.

    Args:
        parts: names of the parts that are wanted, where the model has them.
        variant: of the weights, where a part has it (`fp16`); the plain ones by default, else what there is.
        options: of ``huggingface_hub.snapshot_download``: ``cache_dir``, ``token``, ``local_files_only``, ...

    Raises:
        InputError: the hub and its cache on this machine do not give it, or nothing of that variant.
    """
    import huggingface_hub

    reason: Exception | None = None
    wanted = [INDEX]
    if not options.get("local_files_only"):
        try:
            files = huggingface_hub.HfApi().list_repo_files(name, revision=revision, token=options.get("token"))
        except Exception as error:  # whatever its HTTP client raises: what is in the cache may be enough
            reason, options["local_files_only"] = error, True
        else:
            by_part = {part: [x.removeprefix(f"{part}/") for x in files if x.startswith(f"{part}/")] for part in parts}
            check_variant(variant, by_part.values(), f"{name} on the hub")
            wanted += ["README.md"]  # its licence is named in the card of what is trained on it
            wanted += [f"{part}/{file}" for part, files in by_part.items() for file in needed(files, variant)]
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted, **options))
    except (OSError, ValueError) as error:
        said = first_line(reason or error)
        raise InputError(f"no folder {name}, and the model hub does not give it: {said}") from (reason or error)
