"""The device that a command works on."""

from __future__ import annotations

from jedi.errors import InputError


def find_device(name: str | None, option: str = "--device") -> str:
    """``name``; a GPU if there is one, else the CPU, for None and "auto".

    Raises ``InputError`` that names the ``option`` if the device cannot be used here.
    """
    import torch

    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{option} {name}: {str(error).splitlines()[0]}") from error
    return name
