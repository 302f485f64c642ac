"""Words of captions and prompts that the stages share: the subjects of an image, templates, places."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from data_gen.samples import SubjectSet
from data_gen.sources.subjects import NAMES, names

# Where images are set when the configuration names no places: each completes "a fox ...".
PLACES = (
    "on a sandy beach", "in a snowy forest", "on a wooden table", "in a city street at night", "on a green meadow",
    "in a modern kitchen", "on a mountain trail", "by a quiet lake", "in front of a brick wall",
    "in a cosy living room", "on a cobblestone square", "among autumn leaves", "in a sunny garden",
    "on a stone bench in a park", "in an old library", "in a desert at sunset", "on a pier by the sea",
    "in a plain photo studio", "on a picnic blanket", "in a field of flowers", "on a rainy street", "in a workshop",
    "on a marble counter", "in front of a white fence",
)  # fmt: skip
_DETERMINERS = ("a", "an", "the", "some", "two", "three", "one", "this", "that", "my", "his", "her", "their")
# Words that begin the place in "a red fox sleeping under an old tree".
_PREPOSITIONS = (
    "above", "against", "among", "amid", "at", "behind", "below", "beneath", "beside", "between", "by", "in", "inside",
    "near", "next to", "on", "outside", "over", "under", "underneath",
)  # fmt: skip
_PLACE = re.compile(rf"\b(?:{'|'.join(_PREPOSITIONS)})\s+\w.*", re.IGNORECASE)


def subjects_in(subject_set: SubjectSet, image: int) -> list[dict[str, Any]]:
    """The subjects that one image of a set shows: the only one, or those that its attributes number."""
    subject = subject_set.subject
    if "subjects" not in subject:
        return [subject]
    present = subject_set.attributes[image].get("subjects", range(len(subject["subjects"])))
    return [subject["subjects"][j] for j in present]


def noun_of(subject: dict[str, Any], what: str = "name") -> str:
    """The word for a subject: its `name` or its `class`, each standing in for the other where it is missing."""
    other = "class" if what == "name" else "name"
    return str(subject.get(what) or subject.get(other) or "object").strip()


def words_for(subjects: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What templates may say of the subjects of one image: see `NAMES`; several are joined by "and"."""
    each = [names(noun_of(subject), noun_of(subject, "class")) for subject in subjects]
    return {placeholder: listed([said[placeholder] for said in each]) for placeholder in NAMES}


def listed(phrases: Sequence[str]) -> str:
    """ "a fox", "a fox and a hat", "a fox, a hat and a cup"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def begins_with_determiner(text: str) -> bool:
    """Whether a caption begins with its subject: "a fox ...", "the tower ...", not "in the snow, a fox"."""
    return text.split(" ")[0].lower() in _DETERMINERS


def place_of(caption: str) -> str:
    """Where a caption sets its subject: from the first preposition of place on ("under an old tree"), or ""."""
    found = _PLACE.search(caption)
    return found.group(0).strip(" .,") if found else ""


def fill(template: str, **values: str) -> str:
    """The template with its fields; what an empty field leaves behind (commas, double spaces) is tidied."""
    text = re.sub(r"\s+", " ", template.format(**values))
    text = re.sub(r"\s+([,.])", r"\1", text)
    text = re.sub(r"(,\s*)+(?=,)", "", text)
    return text.strip(" ,")
