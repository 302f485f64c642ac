"""The back end `template`: subjects and scenes from word lists. Needs no model, no network and no time.

Every answer is a pure function of the seed and the request. A category gives (its nouns) x (its looks) names, 750
to 1,700; all nouns come once before any comes again.
"""

from __future__ import annotations

import json
import random

from data_gen.english import with_article
from data_gen.prompts.backends import PROMPT_BACKENDS, Answer
from data_gen.prompts.config import PromptsSettings
from data_gen.prompts.templates import Request
from data_gen.prompts.vocabulary import CATEGORY, LIGHTS
from jedi.io.config import ConfigError


@PROMPT_BACKENDS.register("template")
class Template:
    """Answers by the request's fields, as JSON, like any other back end."""

    concurrency = 1

    def __init__(self, config: PromptsSettings) -> None:
        for name in config.categories:
            if name not in CATEGORY:
                known = ", ".join(CATEGORY)
                raise ConfigError(
                    f"prompts.categories: the grammar has no words for {name!r}, only for {known}; choose from these, "
                    "or another prompts.backend"
                )

    def answer(self, request: Request) -> Answer:
        kind, _ = CATEGORY[request.category]
        if request.kind == "subjects":
            first = request.round * request.count
            names = (_name(request.seed, request.category, k) for k in range(first, first + request.count))
            return Answer(json.dumps({"subjects": [name for name in names if name]}))
        rng = random.Random(f"{request.seed}/{request.subject}/{request.round}/grammar")
        subject, content = with_article(request.subject), {}
        if request.look:
            content["look"] = f"{subject} with {request.detail}"
        if request.count:
            actions = [rng.choice(kind.actions) for _ in request.places]
            content["scenes"] = [
                f"{subject} {action} {place}{_light(rng)}"
                for action, place in zip(actions, request.places, strict=True)
            ]
        return Answer(json.dumps(content))


def _name(seed: int, category: str, position: int) -> str | None:
    """Name number `position` of a category; None when all have been given."""
    kind, nouns = CATEGORY[category]
    cycle, place = divmod(position, len(nouns))
    if cycle >= len(kind.looks):
        return None
    noun = random.Random(f"{seed}/{category}/{cycle}/nouns").sample(nouns, len(nouns))[place]
    look = random.Random(f"{seed}/{category}/{noun}/looks").sample(kind.looks, len(kind.looks))[cycle]
    return f"{look} {noun}"


def _light(rng: random.Random) -> str:
    """Sometimes said, sometimes not."""
    return f" {rng.choice(LIGHTS)}" if rng.random() < 0.5 else ""
