"""The prompts of a data set: `prompts.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jedi.io.config import ConfigError
from jedi.io.files import write_json

NAME = "prompts.json"
FORMAT = 1


@dataclass(frozen=True)
class Subject:
    """What stays the same in a set, and the texts that ask for images of it."""

    id: str
    """Unique, of a-z, 0-9 and hyphens."""
    name: str
    """Without an article: "red fox"."""
    category: str
    scenes: list[str]
    """Each the whole prompt of one image: "a red fox sleeping under a tree"."""
    collage: str
    """The prompt of a collage of it."""
    look: str = ""
    """What it is known by: "a red fox with a white tail tip"."""


@dataclass(frozen=True)
class PromptSet:
    """All subjects, the categories taking turns. `counts` says how many answers they took and what was refused,
    by reason; `backend` what answered."""

    subjects: list[Subject]
    counts: dict[str, int] = field(default_factory=dict)
    backend: dict[str, Any] = field(default_factory=dict)


def save(prompts: PromptSet, out: Path) -> Path:
    """Writes `out/prompts.json`: whole or not at all."""
    path = out / NAME
    write_json(path, {"format": FORMAT, **dataclasses.asdict(prompts)})
    return path


def read_prompts(out: str | Path) -> PromptSet:
    """The prompts that `write_prompts` left in the folder `out`.

    Raises:
        ConfigError: there are none yet, or the file is not one of ours.
    """
    path = Path(out) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ConfigError(f"{path}: format {content['format']!r}, this version reads {FORMAT}; write it again")
        subjects = [Subject(**entry) for entry in content["subjects"]]
        return PromptSet(subjects, content["counts"], content["backend"])
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there yet: run `python -m data_gen prompts` with this out= first") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        remedy = "remove it and run `python -m data_gen prompts` again: the answers are in prompts.jsonl"
        raise ConfigError(f"{path} is not a list of prompts ({error!r}); {remedy}") from None
