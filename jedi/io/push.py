"""A folder to the hub. Not to be undone from here: what goes there is named by the caller, nothing else is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jedi.errors import InputError, first_line


def check_name(name: str, option: str) -> None:
    """Raises ``InputError`` unless this is a name that the hub could have, OWNER/NAME."""
    if not re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", name, re.ASCII):
        raise InputError(f"{option} {name}: expected OWNER/NAME")


def push(
    folder: Path,
    name: str,
    kind: Literal["model", "dataset"],
    private: bool = False,
    patterns: Sequence[str] | None = None,
) -> str:
    """Uploads what lies in a folder (files of these ``patterns`` only) to the hub's repository; returns its address.

    A repository that is not there is made, private or public as the account has it by default unless ``private``.

    Raises:
        InputError: the hub cannot be reached or refuses it; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, repo_type=kind, exist_ok=True, private=private or None)
        message = f"Upload a {kind} made by JeDi"
        patterns = None if patterns is None else list(patterns)
        api.upload_folder(
            repo_id=name, folder_path=folder, repo_type=kind, commit_message=message, allow_patterns=patterns
        )
    except (OSError, ValueError) as error:  # its HTTP errors are OSErrors
        again = f": hf upload {name} {folder}" if kind == "model" else ""
        raise InputError(
            f"{folder} is whole, but the hub did not take it as {name}: {first_line(error)}; log in with "
            f"`hf auth login` (or set HF_TOKEN) and upload it again{again}"
        ) from error
    return f"https://huggingface.co/{'datasets/' * (kind == 'dataset')}{name}"
