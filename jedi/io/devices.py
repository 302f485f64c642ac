"""The device that a command works on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jedi.errors import InputError

if TYPE_CHECKING:
    import torch


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


def cpu_computes_in(dtype: torch.dtype) -> bool:
    """Whether the processor has instructions for bfloat16 or float16, and PyTorch's matrix product uses them.

    The second is asked by a trial: where a build does without, they take hundreds of times as long as float32. The
    factor of 4 is far from both cases, so that a busy machine does not change the answer from launch to launch.
    """
    import torch

    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get(f"avx512_{name}") or capabilities.get(f"amx_{name}")):
        return False
    seconds = {}
    for kind in (torch.float32, dtype):
        a = torch.ones(256, 256, dtype=kind)
        torch.mm(a, a)  # warm-up
        trials = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, a)
            trials.append(time.perf_counter() - start)
        seconds[kind] = min(trials)
    return seconds[dtype] < 4 * seconds[torch.float32]
