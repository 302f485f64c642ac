"""Times several ways of doing the same work, in turns, so that a busy machine hurts all of them alike."""

import statistics
import time
from collections.abc import Callable

import torch


def measure(
    ways: dict[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds (of `clock`) of each repeat by name; the ways take turns. A GPU is waited for."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + repeats):
        for name, work in ways.items():
            _wait()
            start = clock()
            work()
            _wait()
            if turn >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def report(seconds: dict[str, list[float]], units: int, unit: str, subject: str) -> None:
    """Prints for each way: `unit` a second (median, and the range), and how many times as fast `subject` is.

    The ratio is the median over the repeats, each against the peer's measurement in the same turn.
    """
    width = max(map(len, seconds))
    for name, values in seconds.items():
        rates = sorted(units / value for value in values)
        line = f"{name:<{width}}  {statistics.median(rates):9.2f} {unit}/s"
        line += f"  ({rates[0]:.2f} to {rates[-1]:.2f})"
        if name != subject:
            ratios = sorted(peer / own for peer, own in zip(values, seconds[subject], strict=True))
            line += f"  {subject} is {statistics.median(ratios):.2f} times as fast"
            line += f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(line)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
