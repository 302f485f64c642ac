"""What an LLM is asked: two kinds of small requests, each with one worked example and a JSON schema.

Small, since a weak model keeps to one thing at a time and a strong one loses nothing by it: names of one category,
or the look and the scenes of one subject. Hints drawn from the seed (some looks, a detail, some places) keep a model
from giving everybody the same red fox under the same tree.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from data_gen.english import with_article
from data_gen.prompts.config import PromptsSettings
from data_gen.prompts.vocabulary import CATEGORY, COLOURS, LOOKS, PLACES

AVOIDED = 20
"""Names that a request asks not to repeat: the latest ones."""
PHRASE_LETTERS = 130
"""A scene or a look is shorter: some 25 words, of the 77 tokens that CLIP reads."""
_WORD = "[a-z][a-z'-]{1,13}"
_SYSTEM = "You write prompts for a picture generator. You answer with one JSON object and nothing else."
# The worked example is of another category than the one asked for, or a weak model gives it back.
_EXAMPLES = {
    "musical instrument": "old brass trumpet, red electric guitar, white grand piano, dark wooden cello, "
    "striped marching drum, tiny silver bell, polished church organ, round golden gong",
    "animal": "young tabby cat, grey circus elephant, spotted hunting dog, fluffy mountain sheep, small blue parrot, "
    "green tree frog, plump golden hamster, tall black horse",
}
_KINDS = {
    "musical instrument": "trumpet, electric guitar, grand piano, cello, drum, bell, church organ, gong",
    "animal": "cat, elephant, hunting dog, sheep, parrot, tree frog, hamster, horse",
}
_DETAILS = {
    "old brass trumpet": (
        "a dented bell",
        "an old brass trumpet with a dented bell and a green ribbon",
        {
            "on a stone wall": "an old brass trumpet lying on a stone wall at sunset",
            "in a shop window": "an old brass trumpet shining in a shop window",
            "in the desert": "an old brass trumpet half buried in the desert",
            "on a balcony": "an old brass trumpet hanging from the rail of a balcony in the rain",
        },
    ),
    "young tabby cat": (
        "one white paw",
        "a young tabby cat with one white paw and a torn ear",
        {
            "on a stone wall": "a young tabby cat asleep on a stone wall in the sun",
            "in a shop window": "a young tabby cat looking out of a shop window at night",
            "in the desert": "a young tabby cat walking through the desert",
            "on a balcony": "a young tabby cat playing with a leaf on a balcony",
        },
    ),
}


@dataclass(frozen=True)
class Request:
    """One question. `kind` is "subjects" (`count` names of `category`) or "portrait" (of `subject`: its look if
    `look` is set, and `count` scenes, in `places`). A back end may go by these fields or by `messages`."""

    kind: str
    category: str
    count: int
    round: int
    """0, 1, ...: how often this was asked before."""
    seed: int
    """The configuration's."""
    messages: tuple[dict[str, str], ...]
    """Roles and contents, as chat templates and endpoints take them."""
    schema: dict[str, Any]
    """JSON schema of the answer."""
    identity: tuple[tuple[str, str], ...]
    """PromptsSettings.identity."""
    temperature: float
    max_tokens: int
    subject: str = ""
    look: bool = False
    places: tuple[str, ...] = ()
    detail: str = ""
    """By which the subject may be known: "a torn ear"."""

    @cached_property
    def key(self) -> str:
        """sha256 over all that decides the answer: what the response cache knows it by."""
        parts = [self.identity, self.about, self.seed, self.messages, self.schema, self.temperature, self.max_tokens]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def sampling_seed(self) -> int:
        """Seed of the answer's sampling, 31 bits: every server takes those."""
        return int(self.key[:8], 16) >> 1

    @property
    def about(self) -> str:
        """For people who read the response cache."""
        return f"{self.kind} of {self.subject or self.category}, round {self.round}"


def ask_subjects(
    config: PromptsSettings, seed: int, category: str, round_: int, known: Sequence[str], complaint: str = ""
) -> Request:
    """For names of a category. `known` are the names there are already, `complaint` says what was wrong before."""
    count = config.subjects_per_request
    example = next(key for key in _EXAMPLES if key != category)
    names = (_EXAMPLES if config.adjectives else _KINDS)[example].split(", ")[:count]
    looks, shown = (), ()
    if config.adjectives:
        rng = random.Random(f"{seed}/{category}/{round_}/looks")
        fitting = CATEGORY[category][0].looks if category in CATEGORY else LOOKS
        looks, shown = tuple(rng.sample(fitting, 3)), ("old", "red", "tiny")
    question = _names_wanted(count, category, looks)
    if known:
        question += f" None of these: {', '.join(known[-AVOIDED:])}."
    messages = _chat(_names_wanted(len(names), example, shown), {"subjects": names}, question + complaint)
    words = "{1,3}" if config.adjectives else "{0,3}"
    items = {"type": "string", "pattern": f"^{_WORD}( {_WORD}){words}$"}
    schema = _object({"subjects": {"type": "array", "items": items, "minItems": count, "maxItems": count}})
    return Request("subjects", category, count, round_, seed, messages, schema, **_of(config))


def ask_details(
    config: PromptsSettings,
    seed: int,
    category: str,
    subject: str,
    round_: int,
    *,
    look: bool,
    scenes: int,
    complaint: str,
) -> Request:
    """For what a subject lacks: its look (if `look`), and so many scenes."""
    rng = random.Random(f"{seed}/{subject}/{round_}/places")
    places = tuple(rng.sample(PLACES, scenes))
    kind = CATEGORY.get(category, CATEGORY["household object"])[0]
    detail = rng.choice(kind.features).format(colour=rng.choice(COLOURS)) if look else ""
    others = [name for name, key in zip(_DETAILS, _EXAMPLES, strict=True) if key != category]
    example = others[round_ % len(others)]  # what copied one example does not copy the next
    shown_detail, shown_look, scenes_there = _DETAILS[example]
    there = dict(list(scenes_there.items())[:scenes])
    answer = {**({"look": shown_look} if look else {}), **({"scenes": list(there.values())} if scenes else {})}
    messages = _chat(
        _details_wanted(example, shown_detail if look else "", list(there)),
        answer,
        _details_wanted(subject, detail, places) + complaint,
    )
    name = with_article(subject)
    # A little more than is accepted: who gets to the end was rambling, and is cut off in a word.
    rest = f"[A-Za-z][A-Za-z0-9 '-]{{8,{max(PHRASE_LETTERS - len(name), 20)}}}"
    parts: dict[str, Any] = {}
    if look:
        parts["look"] = {"type": "string", "pattern": f"^{name} with {rest}$"}
    if scenes:
        items = {"type": "string", "pattern": f"^{name} {rest}$"}
        parts["scenes"] = {"type": "array", "items": items, "minItems": scenes, "maxItems": scenes}
    return Request(
        "portrait", category, scenes, round_, seed, messages, _object(parts), **_of(config),
        subject=subject, look=look, places=places, detail=detail,
    )  # fmt: skip


def examples() -> list[tuple[str, str]]:
    """(subject, text) of all that the worked examples say: an answer that says it again has copied them."""
    return [(name, text) for name, (_, look, there) in _DETAILS.items() for text in (look, *there.values())]


def _names_wanted(count: int, category: str, looks: Sequence[str]) -> str:
    if not looks:
        return f"Name {count} different kinds of {category}."
    return (
        f"Name {count} different subjects of the category {category}, each one thing that one could take a photo of, "
        f"in two to four words: how it looks ({', '.join(looks)}, ...), then what it is."
    )


def _details_wanted(subject: str, detail: str, places: Sequence[str]) -> str:
    name = with_article(subject)
    wanted = [f"Subject: {name}."]
    if detail:
        wanted.append(f'Under "look", say in one phrase by what one would know it again, such as {detail}.')
    if places:
        what = "a short scene of it" if len(places) == 1 else f"{len(places)} short scenes of it, one picture each"
        wanted.append(f'Under "scenes", write {what}: {"; ".join(places)}.')
    return " ".join([*wanted, f'Begin with "{name}".'])


def _chat(example: str, answer: dict[str, Any], question: str) -> tuple[dict[str, str], ...]:
    turns = (("system", _SYSTEM), ("user", example), ("assistant", json.dumps(answer)), ("user", question))
    return tuple({"role": role, "content": content} for role, content in turns)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _of(config: PromptsSettings) -> dict[str, Any]:
    identity = tuple(sorted(config.identity().items()))
    return {"identity": identity, "temperature": config.temperature, "max_tokens": config.max_tokens}
