"""The settings of the `emoji` source: what its scenes may hold, and what may differ within a set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from jedi.io.config import ConfigError
from jedi.io.ranges import Interval, OneOf, Range, Share
from jedi_toy.drawings import CLASSES, COMPANIONS, EYEWEAR, HATS, NECKWEAR
from jedi_toy.effects import ACTIONS, WEATHER
from jedi_toy.wording import VOCABULARIES

Size = Annotated[list[float], Interval(0.05, 1)]

ACCESSORIES = (*HATS, *EYEWEAR, *NECKWEAR)
POSES = ("upright", "mirrored", "tilted left", "tilted right", "lying", "upside down")
SIZES = ("small", "medium", "large")
PLACES = ("middle", "left", "right", "top", "bottom")
CORNERS = ("top left", "top right", "bottom left", "bottom right")  # known too, but not drawn from by default
VARIABLE = ("background", "pose", "size", "place", "companion", "accessory")
ALSO_VARIABLE = ("light", "weather", "action")  # of the wider world


@dataclass
class EmojiSettings:
    """Scenes of the `emoji` source. Lists are drawn from evenly (repeat a word to see it more often). Sizes
    are the longer side of the dressed subject as a fraction of the image's side. `vary` names what may
    differ between the images of a set; all else is drawn once for the set. `mixture` makes several kinds of
    sets in one go: each part says its share and what it sets otherwise than the rest of this section."""

    classes: list[Annotated[str, OneOf(tuple(CLASSES))]] = field(default_factory=lambda: list(CLASSES))
    recolourings: Annotated[int, Range(1, 64)] = 8
    """1 keeps the drawing's own colours only."""
    backgrounds: list[str] = field(default_factory=list)
    """Empty: those of `data_gen.drawn_backgrounds`; [all]: more too."""
    background_variants: Annotated[int, Range(1, 10_000)] = 64
    poses: list[Annotated[str, OneOf(POSES)]] = field(default_factory=lambda: list(POSES))
    references: Annotated[int, Range(0, 63)] = 0
    """Members of a set of one subject that are its references; they come first."""
    reference_poses: list[Annotated[str, OneOf(POSES)]] = field(default_factory=lambda: list(POSES))
    """Of these."""
    covered_reference_prob: Share = 0.0
    """That a companion stands before a reference and covers a part of it."""
    cover: Size = field(default_factory=lambda: [0.45, 0.6])
    """Size of that companion."""
    tilt: Annotated[list[float], Interval(0, 90)] = field(default_factory=lambda: [10.0, 25.0])
    """Degrees, for the two tilted poses."""
    sizes: list[Annotated[str, OneOf(SIZES)]] = field(default_factory=lambda: list(SIZES))
    small: Size = field(default_factory=lambda: [0.35, 0.45])
    medium: Size = field(default_factory=lambda: [0.5, 0.62])
    large: Size = field(default_factory=lambda: [0.68, 0.9])
    subjects: list[Annotated[int, Range(1, 3)]] = field(default_factory=lambda: [1])
    """In a set, 1 to 3, of different classes."""
    slots: bool = False
    """Each subject alone is shown small, where it stands in the images of all (jedi.io.images)."""
    together: Size = field(default_factory=lambda: [0.4, 0.5])
    """Size of two in one image; three are smaller."""
    places: list[Annotated[str, OneOf((*PLACES, *CORNERS))]] = field(default_factory=lambda: list(PLACES))
    jitter: Annotated[float, Range(0, 0.5)] = 0.04
    """Random shift of the centre, as a fraction of the image's side."""
    companions: list[Annotated[str, OneOf(tuple(COMPANIONS))]] = field(default_factory=lambda: list(COMPANIONS))
    companion_prob: Share = 0.25
    accessories: list[Annotated[str, OneOf(ACCESSORIES)]] = field(default_factory=lambda: list(ACCESSORIES))
    accessory_prob: Share = 0.2
    vary: list[Annotated[str, OneOf((*VARIABLE, *ALSO_VARIABLE))]] = field(default_factory=lambda: list(VARIABLE))
    name_prob: Share = 0.4
    """Of saying "a fox", not "an animal"; at most half of a set's captions do."""
    mention_prob: Share = 0.5
    """Of saying pose, size, place; companions, accessories are said with 0.9."""
    pose_mention_prob: Share | None = None
    """Of saying the pose; `mention_prob` if not given."""
    # The wider world. Nothing of it is drawn by default.
    made_up_prob: Share = 0.0
    """That a set's subjects are random shapes put together (made_up.py)."""
    solid_prob: Share = 0.0
    """... are bodies in space (solids.py: for measuring, not for training)."""
    style_prob: Share = 0.0
    """... are drawn in another style (styles.py)."""
    shadow_prob: Share = 0.0
    """That a subject casts a soft shadow."""
    photo_prob: Share = 0.0
    """That a reference looks as if a camera took it (blur, noise)."""
    weather_prob: Share = 0.0
    weather: list[Annotated[str, OneOf(tuple(WEATHER))]] = field(default_factory=lambda: list(WEATHER))
    action_prob: Share = 0.0
    actions: list[Annotated[str, OneOf(tuple(ACTIONS))]] = field(default_factory=lambda: list(ACTIONS))
    wording: Annotated[str, OneOf(tuple(VOCABULARIES))] = "plain"
    """wide: more words, several ways to say each."""
    min_visible: Share = 0.5
    """A set with an image that shows less of its subject is dropped, and counted."""
    mixture: list[dict[str, Any]] = field(default_factory=list)
    """[{share: 2, vary: [background]}, {subjects: [2]}]."""

    def __post_init__(self) -> None:
        needed = {"classes": CLASSES, "poses": POSES, "reference_poses": POSES, "sizes": SIZES, "places": PLACES}
        for key, known in needed.items():
            if not getattr(self, key):
                raise ConfigError(f"emoji.{key} is empty: name at least one of {', '.join(known)}")
        if not self.subjects:
            raise ConfigError("emoji.subjects is empty; expected numbers from 1 to 3")
        for kind, key, choices in (
            ("companion", "companion_prob", self.companions),
            ("companion", "covered_reference_prob", self.companions),
            ("accessory", "accessory_prob", self.accessories),
            ("weather", "weather_prob", self.weather),
            ("action", "action_prob", self.actions),
        ):
            if getattr(self, key) > 0 and not choices:
                raise ConfigError(f"there is no {kind} to choose from: name one, or set emoji.{key}=0")
        if self.covered_reference_prob and not (self.references and "companion" in self.vary):
            raise ConfigError(
                "emoji.covered_reference_prob needs emoji.references above 0, and companion in emoji.vary"
            )
