"""What is accepted of an answer, and why the rest is not. Every reason is counted, and told to the LLM."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from data_gen.english import is_plural
from data_gen.prompts.backends import THINK, THOUGHT, Answer
from data_gen.prompts.templates import PHRASE_LETTERS, Request, examples
from data_gen.prompts.vocabulary import COLOURS, LOOKS
from data_gen.prompts.words import content_words, head_noun, plain, subject_key, tidy, words

MAX_NAME_WORDS = 5
MIN_WORDS = 4
_DECODER = json.JSONDecoder()
SAME = 0.8
"""Two scenes are one when so large a part of all their words is common to both (Jaccard)."""
_VAGUE = frozenset(words("animal vehicle food clothing furniture object instrument character creature person thing"))
_REFUSALS = re.compile(
    r"\bas an? (ai|language|assistant)|language model|\bi('m| am) (sorry|unable|not able)|\bi (cannot|can't|can not)\b"
    r"|\bsorry\b|\bhere (is|are) (a|the|some|your)\b|\bplaceholder\b"
)


class Invalid(ValueError):
    """An answer, or a part of it, that cannot be used: `reason` is counted, and told in the next request. The text
    itself is not told: weak models take up whatever they read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse(answer: Answer, request: Request) -> dict:
    """The answer as JSON of the schema: an object with exactly the keys asked for, strings and lists of strings.

    It may stand after a model's thoughts, in a fence of Markdown and among other words, for many models cannot help
    it: the last JSON object of the answer counts. Numbers of items and patterns are left to the filters.

    Raises:
        Invalid: "cut off while thinking", "cut off", "not JSON" or "not as asked".
    """
    _, closed, said = answer.text.rpartition(THOUGHT)
    if not answer.finished:
        raise Invalid("cut off while thinking" if not closed and THINK in said else "cut off")
    value = _last_object(said)
    properties = request.schema["properties"]
    if set(value) != set(properties):
        raise Invalid("not as asked")
    for key, part in properties.items():
        strings = [value[key]] if part["type"] == "string" else value[key]
        if not isinstance(strings, list) or not strings or not all(isinstance(text, str) for text in strings):
            raise Invalid("not as asked")
    return value


def _last_object(text: str) -> dict:
    """The last JSON object in a text that is not part of another. Raises Invalid."""
    found, start = None, text.find("{")
    while start >= 0:
        try:
            found, end = _DECODER.raw_decode(text, start)
        except RecursionError:
            break
        except ValueError:
            end = start + 1
        start = text.find("{", end)
    if found is None:
        raise Invalid("not JSON")
    return found


def check_name(text: str, category: str) -> str:
    """A subject's name, in its plain form. Raises Invalid."""
    name = re.sub(r"^(a|an|the|some) ", "", plain(tidy(text)))
    if _REFUSALS.search(name):
        raise Invalid("a refusal")
    if not re.fullmatch(r"[a-z][a-z '-]*[a-z]", name):
        raise Invalid("odd characters")
    if len(name.split()) > MAX_NAME_WORDS:
        raise Invalid("too long")
    noun = head_noun(name)
    vague = noun in _adjectives() or _VAGUE & set(words(category)) & set(words(name))
    if not subject_key(name) or vague or words(name).count(noun) > 1:
        raise Invalid("names no subject")
    if is_plural(name) and noun not in _pairs():
        raise Invalid("plural")
    return name


def check_look(text: str, subject: str) -> str:
    """How a subject looks, one phrase. Raises Invalid."""
    return _phrase(text, subject)


def check_scene(text: str, subject: str, known: Sequence[str]) -> str:
    """A scene of the subject that is not one of those `known`. Raises Invalid."""
    scene = _phrase(text, subject)
    if any(alike(scene, other, subject) for other in known):
        raise Invalid("repeat")
    return scene


def alike(a: str, b: str, subject: str) -> bool:
    """Whether two scenes say nearly the same of their subject."""
    own = set(words(subject))
    return _same(set(content_words(a)) - own, set(content_words(b)) - own)


@cache
def _pairs() -> set[str]:
    """Plurals that are one thing."""
    return set(
        words(
            "glasses sunglasses goggles scissors pliers tongs shears binoculars headphones jeans pants trousers shorts "
            "leggings tights overalls pyjamas boots shoes sneakers socks gloves mittens slippers sandals clogs skates "
            "heels bagpipes maracas castanets cymbals bongos noodles fries"
        )
    )


@cache
def _adjectives() -> set[str]:
    """Words that say how something looks, and never what it is."""
    return set(words(" ".join((*LOOKS, *COLOURS, "one")))) - set(words("orange cream"))


def _same(a: set[str], b: set[str]) -> bool:
    return len(a & b) >= SAME * len(a | b)


@cache
def _examples() -> list[set[str]]:
    """The words of each worked example, without those of its subject."""
    return [set(content_words(text)) - set(words(subject)) for subject, text in examples()]


def _phrase(text: str, subject: str) -> str:
    phrase = tidy(text)
    if _REFUSALS.search(plain(phrase)):
        raise Invalid("a refusal")
    if not re.fullmatch(r"[^\W_]([^\W_]|[ ,.;:'!()/%-])*", phrase):
        raise Invalid("odd characters")
    if len(phrase.split()) < MIN_WORDS:
        raise Invalid("too short")
    if len(phrase) >= PHRASE_LETTERS:
        raise Invalid("too long")
    named = words(phrase).count(head_noun(subject))
    if not named:
        raise Invalid("lacks the subject")
    pairs = list(pairwise(content_words(phrase)))
    if named > 1 or len(set(pairs)) < len(pairs):  # a second fox would be another fox
        raise Invalid("repeats itself")
    own = set(content_words(phrase)) - set(words(subject))
    if not own:
        raise Invalid("says nothing of the subject")
    if any(_same(own, example - set(words(subject))) for example in _examples()):
        raise Invalid("copies the example")
    return phrase
