"""What captions say: varied wording over a small vocabulary. Captions are exact: they say nothing that is
not in the picture."""

from __future__ import annotations

import random
from collections.abc import Sequence

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
_POSES = {
    "tilted left": ("leaning to the left", "tilted to the left"),
    "tilted right": ("leaning to the right", "tilted to the right"),
    "lying": ("lying on its side", "fallen over"),
    "upside down": ("upside down", "standing on its head"),
    "mirrored": ("turned around", "facing the other way"),
}
_PLACES = {
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle",),
}
_SIZES = {"small": ("small", "little"), "large": ("large", "big")}
_OPENINGS = ("", "", "", "a picture of ", "a drawing of ", "this is ", "here is ")
_VERBLESS = ("", "a picture of ", "a drawing of ")


def is_plural(noun: str) -> bool:
    """Whether a noun takes no article: "grapes" does not, "pile of books" and "bus" do."""
    head = noun.split(" of ")[0]
    return head.endswith("s") and not head.endswith(("ss", "us", "is"))


def with_article(noun: str) -> str:
    """The noun as captions say it: "a fox", "an apple", "grapes"."""
    if is_plural(noun):
        return noun
    sounds_like_consonant = noun.startswith(("uni", "ute", "one", "eu"))
    return f"{'an' if noun[0] in 'aeiou' and not sounds_like_consonant else 'a'} {noun}"


def caption(
    chance: random.Random,
    noun: str,
    background: Sequence[str],
    *,
    size: str | None = None,
    pose: str | None = None,
    place: str | None = None,
    companion: str | None = None,
    accessory: str | None = None,
) -> str:
    """One caption, lower case, without a full stop. `background` holds phrases to choose from; None stays
    unsaid."""
    if size in _SIZES:
        noun = f"{chance.choice(_SIZES[size])} {noun}"
    subject = with_article(noun)
    if accessory:
        subject += chance.choice(
            (f" wearing {with_article(accessory)}", f" with {with_article(accessory)} on")
        )
    details = [chance.choice(words[key]) for key, words in ((pose, _POSES), (place, _PLACES)) if key in words]
    chance.shuffle(details)
    if companion:
        beside = with_article(companion)
        details.append(chance.choice((f"next to {beside}", f"with {beside} nearby", f"beside {beside}")))
    scene = chance.choice(background)
    subject = " ".join([subject, *details])
    plural = is_plural(noun)
    opening = chance.choice(_VERBLESS if plural else _OPENINGS)
    form = chance.randrange(4)
    if form == 0:
        return f"{scene}, {subject}"
    if form == 1:
        return f"{opening}{subject}, {scene}" if details else f"{opening}{subject} {scene}"
    if form == 2 and not opening:
        return f"{scene} there {'are' if plural else 'is'} {subject}"
    return f"{opening}{subject} {scene}"


def caption_together(
    chance: random.Random, nouns: Sequence[str], background: Sequence[str], places: Sequence[str] | None = None
) -> str:
    """A caption of two or three subjects side by side: "a fox on the left and a hat on the right, in the snow".

    `places` (one a subject) are said where they are given."""
    parts = [with_article(noun) for noun in nouns]
    if places is not None:
        parts = [f"{part} {chance.choice(_PLACES[place])}" for part, place in zip(parts, places, strict=True)]
    order = chance.sample(range(len(parts)), len(parts))
    parts = [parts[i] for i in order]
    subjects = f"{', '.join(parts[:-1])} and {parts[-1]}"
    if len(parts) == 2 and places is None and chance.random() < 0.3:
        subjects = f"{parts[0]} next to {parts[1]}"
    scene = chance.choice(background)
    form = chance.randrange(3)
    if form == 0:
        return f"{scene}, {subjects}"
    return f"{chance.choice(_VERBLESS)}{subjects}{', ' if form == 1 else ' '}{scene}"
