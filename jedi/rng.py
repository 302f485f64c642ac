"""Random numbers as pure functions of a seed and a key.

Whoever needs chance asks for a generator by *what* it is for: ``keyed_generator(seed, position, "noise")``. Nothing
then depends on the order of calls, on ranks, on workers or on where a run was resumed. Seeds are whole numbers from
0 to 2^64 - 1, and two of them never share a stream. This module loads torch only when a generator is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jedi.errors import InputError

if TYPE_CHECKING:
    import torch

_WORDS = 624  # of the Mersenne Twister's state
_STATE = slice(24, 24 + 8 * _WORDS)  # where PyTorch keeps them in a CPU generator's state, as 64-bit numbers


def check_seed(seed: int, name: str = "seed", count: int = 1) -> int:
    """The seed, if it and the ``count - 1`` after it are whole numbers from 0 to 2^64 - 1; ``InputError`` if not."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= 2**64 - count:
        raise InputError(f"{name} must be a whole number from 0 to 2^64 - {count}, got {seed!r}")
    return seed


def keyed_seed(seed: int, *key: int | str) -> int:
    """A 63-bit seed from ``seed`` and ``key``: sha256 of their text, so the same on every machine and version."""
    text = "/".join(map(str, (check_seed(seed), *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seeded_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """``torch.Generator(device).manual_seed(seed)``, but of all 64 bits of the seed.

    PyTorch's CPU generator drops all but the lowest 32: 7 and 7 + 2^32 would draw the same. Seeds below 2^32 give
    PyTorch's own stream; for others the whole state is made from the seed. Draw on the CPU (the default) and move the
    result: CPU and GPU streams of one seed differ.
    """
    import torch

    generator = torch.Generator(device).manual_seed(check_seed(seed))
    if generator.device.type == "cpu" and seed >= 2**32:
        words = hashlib.shake_256(str(seed).encode()).digest(4 * _WORDS)
        state = generator.get_state()
        state[_STATE] = torch.frombuffer(bytearray(words), dtype=torch.uint32).to(torch.int64).view(torch.uint8)
        generator.set_state(state)
    return generator


def keyed_generator(seed: int, *key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A :func:`seeded_generator` whose stream is a pure function of ``(seed, key)``."""
    return seeded_generator(keyed_seed(seed, *key), device)


def image_generators(seed: int, count: int, device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator an image: image i gets ``seed + i``. On the CPU by default: a GPU draws others.

    Raises ``InputError`` if one of the seeds is not in 0 to 2^64 - 1.
    """
    check_seed(seed, count=count)
    return [seeded_generator(seed + i, device) for i in range(count)]


def image_noise(
    count: int, shape: Sequence[int], generator: torch.Generator | list[torch.Generator] | None, device: torch.device
) -> torch.Tensor:
    """``[count *shape]``, float32: image i draws from its own generator, or all in turn from a single one."""
    import torch

    generators = generator if isinstance(generator, list) else [generator] * count
    places = [device if one is None else one.device for one in generators]  # a generator draws on its own device
    drawn = [torch.randn(1, *shape, generator=g, device=place) for g, place in zip(generators, places, strict=True)]
    return torch.cat([noise.to(device) for noise in drawn])


def seed_global(seed: int) -> None:
    """Seeds PyTorch's global generators, of all devices, as :func:`seeded_generator` does."""
    import torch

    torch.manual_seed(check_seed(seed))
    torch.set_rng_state(seeded_generator(seed).get_state())
