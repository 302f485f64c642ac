"""Random numbers as pure functions of a seed and a key.

Whoever needs chance asks for a generator by *what* it is for: ``keyed_generator(seed, position, "noise")``. Nothing
then depends on the order of calls, on ranks, on workers or on where a run was resumed.
"""

from __future__ import annotations

import hashlib

import torch


def keyed_seed(seed: int, *key: int | str) -> int:
    """A 63-bit seed from ``seed`` and ``key``: sha256 of their text, so the same on every machine and version."""
    text = "/".join(map(str, (seed, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def keyed_generator(seed: int, *key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream is a pure function of ``(seed, key)``.

    Draw on the CPU (the default) and move the result: CPU and GPU streams of one seed differ.
    """
    return torch.Generator(device).manual_seed(keyed_seed(seed, *key))
