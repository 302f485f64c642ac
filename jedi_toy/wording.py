"""What captions say: varied wording over a small vocabulary. Captions are exact: they say nothing that is
not in the image."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_gen.english import is_plural, with_article
from jedi_toy.effects import ACTIONS, WEATHER

NOUNS = {
    "animal": ("animal", "creature"),
    "food": ("piece of food", "snack"),
    "drink": ("drink", "beverage"),
    "plant": ("plant",),
    "vehicle": ("vehicle",),
    "building": ("building", "structure"),
    "face": ("face", "head"),
    "monster": ("monster",),
    "person": ("person", "figure"),
    "hand": ("hand",),
    "garment": ("piece of clothing", "garment"),
    "instrument": ("instrument",),
    "machine": ("machine", "device"),
    "tool": ("tool",),
    "toy": ("toy", "plaything"),
    "thing": ("thing", "object"),
}


@dataclass(frozen=True)
class Words:
    """The ways to say what a scene holds, by its name."""

    poses: Mapping[str, Sequence[str]]
    places: Mapping[str, Sequence[str]]
    sizes: Mapping[str, Sequence[str]]
    openings: Sequence[str]
    verbless: Sequence[str]
    """Openings that go with a plural, too."""
    beside: Sequence[str]
    forms: int
    """How many of the sentence's forms are used."""


PLAIN = Words(
    poses={
        "tilted left": ("leaning to the left", "tilted to the left"),
        "tilted right": ("leaning to the right", "tilted to the right"),
        "lying": ("lying on its side", "fallen over"),
        "upside down": ("upside down", "standing on its head"),
        "mirrored": ("turned around", "facing the other way"),
    },
    places={
        "left": ("on the left",),
        "right": ("on the right",),
        "top": ("at the top",),
        "bottom": ("at the bottom",),
        "middle": ("in the middle",),
    },
    sizes={"small": ("small", "little"), "large": ("large", "big")},
    openings=("", "", "", "a picture of ", "a drawing of ", "this is ", "here is "),
    verbless=("", "a picture of ", "a drawing of "),
    beside=("next to {}", "with {} nearby", "beside {}"),
    forms=4,
)
WIDE = Words(
    poses={
        "tilted left": (*PLAIN.poses["tilted left"], "tipped to the left"),
        "tilted right": (*PLAIN.poses["tilted right"], "tipped to the right"),
        "lying": (*PLAIN.poses["lying"], "lying down"),
        "upside down": (*PLAIN.poses["upside down"], "turned upside down"),
        "mirrored": (*PLAIN.poses["mirrored"], "mirrored", "looking the other way"),
    },
    places={
        "left": ("on the left", "at the left edge", "on the left side"),
        "right": ("on the right", "at the right edge", "on the right side"),
        "top": ("at the top", "high up", "at the upper edge"),
        "bottom": ("at the bottom", "down below", "at the lower edge"),
        "middle": ("in the middle", "in the centre"),
        "top left": ("at the top left", "in the upper left corner"),
        "top right": ("at the top right", "in the upper right corner"),
        "bottom left": ("at the bottom left", "in the lower left corner"),
        "bottom right": ("at the bottom right", "in the lower right corner"),
    },
    sizes={"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    openings=("", "", "", "a picture of ", "an image of ", "a view of ", "this is ", "here is ", "we see "),
    verbless=("", "a picture of ", "an image of ", "a view of ", "we see "),
    beside=("next to {}", "with {} nearby", "beside {}", "together with {}", "accompanied by {}"),
    forms=6,
)
VOCABULARIES = {"plain": PLAIN, "wide": WIDE}


def caption(
    rng: random.Random,
    noun: str,
    background: Sequence[str],
    words: Words = PLAIN,
    *,
    size: str | None = None,
    pose: str | None = None,
    place: str | None = None,
    companion: str | None = None,
    accessory: str | None = None,
    weather: str | None = None,
    action: str | None = None,
) -> str:
    """One caption, lower case, without a full stop. `background` holds phrases to choose from; None stays
    unsaid."""
    if size in words.sizes:
        noun = f"{rng.choice(words.sizes[size])} {noun}"
    subject = with_article(noun)
    if accessory:
        subject += rng.choice((f" wearing {with_article(accessory)}", f" with {with_article(accessory)} on"))
    details = [rng.choice(said[key]) for key, said in ((pose, words.poses), (place, words.places)) if key in said]
    if action:
        details.append(rng.choice(ACTIONS[action].phrases))
    rng.shuffle(details)
    if companion:
        details.append(rng.choice(words.beside).format(with_article(companion)))
    scene = _where(rng, background, weather)
    subject = " ".join([subject, *details])
    plural = is_plural(noun)
    opening = rng.choice(words.verbless if plural else words.openings)
    form = rng.randrange(words.forms)
    if form == 0:
        return f"{scene}, {subject}"
    if form == 1:
        return f"{opening}{subject}, {scene}" if details else f"{opening}{subject} {scene}"
    if form == 2 and not opening:
        return f"{scene} there {'are' if plural else 'is'} {subject}"
    if form == 4 and not opening:
        return f"there {'are' if plural else 'is'} {subject} {scene}"
    if form == 5:
        return f"{scene}: {subject}"
    return f"{opening}{subject} {scene}"


def caption_together(
    rng: random.Random,
    nouns: Sequence[str],
    background: Sequence[str],
    places: Sequence[str] | None = None,
    words: Words = PLAIN,
    weather: str | None = None,
) -> str:
    """A caption of two or three subjects side by side: "a fox on the left and a hat on the right, in the snow".

    `places` (one a subject) are said where they are given."""
    parts = [with_article(noun) for noun in nouns]
    if places is not None:
        parts = [f"{part} {rng.choice(words.places[place])}" for part, place in zip(parts, places, strict=True)]
    order = rng.sample(range(len(parts)), len(parts))
    parts = [parts[i] for i in order]
    subjects = f"{', '.join(parts[:-1])} and {parts[-1]}"
    if len(parts) == 2 and places is None and rng.random() < 0.3:
        subjects = f"{parts[0]} next to {parts[1]}"
    scene = _where(rng, background, weather)
    form = rng.randrange(3)
    if form == 0:
        return f"{scene}, {subjects}"
    return f"{rng.choice(words.verbless)}{subjects}{', ' if form == 1 else ' '}{scene}"


def _where(rng: random.Random, background: Sequence[str], weather: str | None) -> str:
    scene = rng.choice(background)
    if weather is None:
        return scene
    both = [scene, rng.choice(WEATHER[weather].phrases)]
    rng.shuffle(both)
    return " ".join(both)
