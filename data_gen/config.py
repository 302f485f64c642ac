"""The configuration of `python -m data_gen`: every field can be set in the YAML file or as `key=value`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from data_gen.sources.drawings import CLASSES, COMPANIONS, EYEWEAR, HATS, NECKWEAR
from jedi.config import ConfigError, to_dict

ACCESSORIES = (*HATS, *EYEWEAR, *NECKWEAR)
POSES = ("upright", "mirrored", "tilted left", "tilted right", "lying", "upside down")
SIZES = ("small", "medium", "large")
PLACES = ("middle", "left", "right", "top", "bottom")
VARIABLE = ("background", "pose", "size", "place", "companion", "accessory")
# The settings that change no byte of the data: another value goes on in the same folder.
FREE_KEYS = ("out", "workers", "contact_sheet_rows")
GENERATION = 4  # raised whenever the same settings begin to give other bytes, so that no folder mixes both


@dataclass
class EmojiConfig:
    """Scenes of the `emoji` source. Lists are drawn from evenly (repeat a word to see it more often). Sizes
    are the longer side of the dressed subject as a fraction of the picture's side. `vary` names what may
    differ between the images of a set; all else is drawn once for the set. `mixture` makes several kinds of
    sets in one go: each part says its share and what it sets otherwise than the rest of this section."""

    classes: list[str] = field(default_factory=lambda: list(CLASSES))
    recolourings: int = 8  # 1 keeps the drawing's own colours only
    backgrounds: list[str] = field(default_factory=list)  # empty: all there are
    background_variants: int = 64
    poses: list[str] = field(default_factory=lambda: list(POSES))
    tilt: list[float] = field(default_factory=lambda: [10.0, 25.0])  # degrees, for the two tilted poses
    sizes: list[str] = field(default_factory=lambda: list(SIZES))
    small: list[float] = field(default_factory=lambda: [0.35, 0.45])
    medium: list[float] = field(default_factory=lambda: [0.5, 0.62])
    large: list[float] = field(default_factory=lambda: [0.68, 0.9])
    subjects: list[int] = field(default_factory=lambda: [1])  # in a set, 1 to 3, of different classes
    slots: bool = False  # each subject alone is shown small, where it stands in the pictures of all (jedi.images)
    together: list[float] = field(default_factory=lambda: [0.4, 0.5])  # size of two in one picture; three are smaller
    places: list[str] = field(default_factory=lambda: list(PLACES))
    jitter: float = 0.04  # random shift of the centre, as a fraction of the picture's side
    companions: list[str] = field(default_factory=lambda: list(COMPANIONS))
    companion_probability: float = 0.25
    accessories: list[str] = field(default_factory=lambda: list(ACCESSORIES))
    accessory_probability: float = 0.2
    vary: list[str] = field(default_factory=lambda: list(VARIABLE))
    name_probability: float = 0.4  # of saying "a fox", not "an animal"; at most half of a set's captions do
    mention_probability: float = 0.5  # of saying pose, size, place; companions, accessories are said with 0.9
    min_visible: float = 0.5  # a set with an image that shows less of its subject is dropped, and counted
    mixture: list[dict[str, Any]] = field(default_factory=list)  # [{share: 2, vary: [background]}, {subjects: [2]}]

    def __post_init__(self) -> None:
        for key, known in (
            ("classes", CLASSES),
            ("poses", POSES),
            ("sizes", SIZES),
            ("places", PLACES),
            ("companions", COMPANIONS),
            ("accessories", ACCESSORIES),
            ("vary", VARIABLE),
        ):
            values = getattr(self, key)
            unknown = [value for value in values if value not in known]
            if unknown:
                raise ConfigError(f"emoji.{key}: unknown {unknown[0]!r}; known are {', '.join(known)}")
            if not values and key in ("classes", "poses", "sizes", "places"):
                raise ConfigError(f"emoji.{key} is empty: name at least one of {', '.join(known)}")
        for key in (*SIZES, "together"):
            _check_range(f"emoji.{key}", getattr(self, key), 0.05, 1.0)
        if not self.subjects or not all(count in (1, 2, 3) for count in self.subjects):
            raise ConfigError(f"emoji.subjects is {self.subjects}; expected numbers from 1 to 3")
        _check_range("emoji.tilt", self.tilt, 0.0, 90.0)
        for kind, choices in (("companion", self.companions), ("accessory", self.accessories)):
            if getattr(self, f"{kind}_probability") > 0 and not choices:
                raise ConfigError(
                    f"there is no {kind} to choose from: name one, or set emoji.{kind}_probability=0"
                )
        for kind in ("companion", "accessory", "name", "mention"):
            _check_number(f"emoji.{kind}_probability", getattr(self, f"{kind}_probability"), 0.0, 1.0)
        _check_number("emoji.min_visible", self.min_visible, 0.0, 1.0)
        _check_number("emoji.jitter", self.jitter, 0.0, 0.5)
        _check_number("emoji.recolourings", self.recolourings, 1, 64)
        _check_number("emoji.background_variants", self.background_variants, 1, 10_000)


@dataclass
class DataConfig:
    """One data set: `sets` training and `heldout_sets` held-out sets of `images_per_set` square pictures of
    `resolution` pixels, in shards of `sets_per_shard`. `workers` 0 means one process a core."""

    out: str
    source: str = "emoji"
    seed: int = 0
    sets: int = 12_000
    heldout_sets: int = 400
    images_per_set: int = 4
    resolution: int = 64
    sets_per_shard: int = 500
    workers: int = 0
    contact_sheet_rows: int = 12
    extensions: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)  # for sources that extensions add
    emoji: EmojiConfig = field(default_factory=EmojiConfig)

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is empty; give the folder to write to, for instance out=data/mine")
        _check_number("seed", self.seed, 0, 2**63 - 1)
        _check_number("sets", self.sets, 1, 10**9)
        _check_number("heldout_sets", self.heldout_sets, 0, 10**9)
        _check_number("images_per_set", self.images_per_set, 1, 64)
        _check_number("resolution", self.resolution, 16, 2048)
        _check_number("sets_per_shard", self.sets_per_shard, 1, 10**6)
        _check_number("workers", self.workers, 0, 1024)
        _check_number("contact_sheet_rows", self.contact_sheet_rows, 1, 200)


def content(config: DataConfig) -> dict[str, Any]:
    """The settings that decide the data's bytes."""
    settings = {key: value for key, value in to_dict(config).items() if key not in FREE_KEYS}
    return {"generation": GENERATION, **settings}


def config_hash(config: DataConfig) -> str:
    """sha256 (hexadecimal) over the settings that decide the data's bytes."""
    return hashlib.sha256(json.dumps(content(config), sort_keys=True).encode()).hexdigest()


def _check_number(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} is {value}; it must lie between {low} and {high}")


def _check_range(key: str, value: list[float], low: float, high: float) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ConfigError(f"{key} is {list(value)}; expected [least, most] between {low} and {high}")
