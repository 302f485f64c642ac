"""Who answers: the interface, and the register that a configuration picks from (`prompts.backend`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jedi.io.registry import Registry

if TYPE_CHECKING:
    from data_gen.prompts.config import PromptsSettings
    from data_gen.prompts.templates import Request


THINK, THOUGHT = "<think>", "</think>"
"""Between them stands what a reasoning model says to itself."""


@dataclass(frozen=True)
class Answer:
    """What came back, as it came. `finished` is False where the limit of tokens cut it off."""

    text: str
    finished: bool = True


class Backend(Protocol):
    """Made once, as `factory(config)`, where mistakes in the configuration are refused; models are loaded at the
    first `answer`, for the cache may hold all answers already."""

    concurrency: int
    """How many threads may call `answer` at once."""

    def answer(self, request: Request) -> Answer:
        """Text that should be the JSON asked for; what it is worth is judged by others. A back end that can,
        makes it a pure function of the request (`request.sampling_seed`).

        Raises:
            ConfigError: asking again would change nothing (no such model). OSError: it might (no connection).
        """
        ...


PROMPT_BACKENDS: Registry[Callable[[PromptsSettings], Backend]] = Registry("prompt back end")
