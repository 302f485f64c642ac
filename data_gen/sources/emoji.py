"""The embedded world: OpenMoji drawings in procedural scenes, with exact captions, masks and attributes.

A *subject* is a drawing with its own recolouring, so the class (and the name) never tell its colours: they
must come from the references. Each set is a pure function of (configuration, split, index).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data_gen.config import DataConfig
from data_gen.sources import SOURCES, SPLITS, Dropped, SubjectSet
from data_gen.sources.backgrounds import BACKGROUNDS, background
from data_gen.sources.drawings import (
    COMPANIONS,
    EYEWEAR,
    HATS,
    LICENCE,
    NECKWEAR,
    SPRITE_SIZE,
    Drawing,
    catalogue,
    is_held_out,
    recolour,
    sprite,
)
from data_gen.sources.wording import NOUNS, caption
from jedi.config import ConfigError

_PLACE_DIRECTIONS = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_ANGLES = {"tilted left": 1, "tilted right": -1}  # of a drawn tilt; the other poses turn by a fixed angle
_TURNS = {"lying": 90.0, "upside down": 180.0}
_NOTICEABLE = 0.1  # shift of the centre (fraction of the side) from which a caption may speak of a place
_HAT, _EYES, _NECK = 0.1, 0.34, 0.72  # heights on a subject (0 = top) at which accessories sit


@dataclass(frozen=True)
class Scene:
    """All that is drawn by chance for one image."""

    background: str
    variant: int
    pose: str
    angle: float  # degrees, counter-clockwise
    mirrored: bool
    size: str
    fraction: float  # longer side of the dressed subject / side of the picture
    place: str
    shift: tuple[float, float]  # jitter of the centre, as a fraction of the picture's side
    companion: str | None
    companion_side: str
    companion_fraction: float
    accessory: str | None


@dataclass(frozen=True)
class Picture:
    image: Image.Image  # RGB
    mask: Image.Image  # L, 255 = visible subject
    centre: tuple[float, float]  # of the dressed subject, as fractions of the picture's side
    visible: float  # visible part of the subject, [0, 1]


@SOURCES.register("emoji")
class EmojiSource:
    """Sets of OpenMoji subjects. Raises ConfigError where the configuration leaves no subject or names an
    unknown background."""

    def __init__(self, config: DataConfig) -> None:
        self.config, self.scenes = config, config.emoji
        self.backgrounds = list(self.scenes.backgrounds) or list(BACKGROUNDS)
        try:
            for name in self.backgrounds:
                BACKGROUNDS.get(name)
        except ValueError as error:
            raise ConfigError(f"emoji.backgrounds: {error}") from None
        drawings = [drawing for drawing in catalogue() if drawing.kind in self.scenes.classes]
        self.subjects = {split: self._subjects(drawings, split) for split in SPLITS}
        for split, wanted in (("train", config.sets), ("heldout", config.heldout_sets)):
            if wanted and not self.subjects[split]:
                raise ConfigError(
                    f"emoji.classes={self.scenes.classes} leaves no {split} subject; add a class"
                )

    def _subjects(self, drawings: list[Drawing], split: str) -> list[tuple[Drawing, int]]:
        chosen = [drawing for drawing in drawings if is_held_out(drawing.code_point) == (split == "heldout")]
        subjects = [(drawing, number) for drawing in chosen for number in range(self.scenes.recolourings)]
        random.Random(f"{self.config.seed}/{split}/subjects").shuffle(subjects)
        return subjects

    def make(self, split: str, index: int) -> SubjectSet | Dropped:
        drawing, number = self.subjects[split][index % len(self.subjects[split])]
        return self.draw_set(drawing, number, random.Random(f"{self.config.seed}/{split}/{index}"))

    def draw_set(self, drawing: Drawing, number: int, chance: random.Random) -> SubjectSet | Dropped:
        """A set of the drawing in recolouring `number` (0 = its own colours)."""
        turn = number / self.scenes.recolourings
        figure = recolour(sprite(drawing.code_point, _sprite_size(self.config.resolution)), turn)
        scenes = self.draw_scenes(chance)
        pictures = [compose(scene, figure, self.config.resolution) for scene in scenes]
        if min(picture.visible for picture in pictures) < self.scenes.min_visible:
            return Dropped("subject hidden")
        named = self._named(chance, drawing)
        captions, attributes = [], []
        for scene, picture, says_name in zip(scenes, pictures, named, strict=True):
            noun = drawing.name if says_name else chance.choice(NOUNS[drawing.kind])
            said = self._mentions(chance, scene, picture)
            captions.append(caption(chance, noun, BACKGROUNDS.get(scene.background).phrases, **said))
            attributes.append(_attributes(scene, picture, says_name, said))
        subject = {
            "id": f"{drawing.code_point}-{number}",
            "name": drawing.name or drawing.kind,
            "class": drawing.kind,
            "code_point": drawing.code_point,
            "base": drawing.base,
            "recolouring": number,
            "hue_turn": round(turn, 4),
        }
        images, masks = [picture.image for picture in pictures], [picture.mask for picture in pictures]
        return SubjectSet(subject, captions, images, masks, attributes, LICENCE)

    def draw_scenes(self, chance: random.Random) -> list[Scene]:
        """One scene an image. What `vary` does not name is the same in all of them; backgrounds repeat only
        when there are fewer of them than images."""
        n, settings = self.config.images_per_set, self.scenes
        names = chance.sample(self.backgrounds, len(self.backgrounds))
        scenes = []
        for i in range(n):
            pose = chance.choice(settings.poses)
            tilt = chance.uniform(*settings.tilt)
            size = chance.choice(settings.sizes)
            has_companion = chance.random() < settings.companion_probability
            has_accessory = chance.random() < settings.accessory_probability
            drawn = {
                "background": {
                    "background": names[i % len(names)],
                    "variant": chance.randrange(settings.background_variants),
                },
                "pose": {
                    "pose": pose,
                    "angle": _TURNS.get(pose, _ANGLES.get(pose, 0) * tilt),
                    "mirrored": pose == "mirrored",
                },
                "size": {"size": size, "fraction": chance.uniform(*getattr(settings, size))},
                "place": {
                    "place": chance.choice(settings.places),
                    "shift": tuple(chance.uniform(-settings.jitter, settings.jitter) for _ in range(2)),
                },
                "companion": {
                    "companion": chance.choice(settings.companions) if has_companion else None,
                    "companion_side": chance.choice(("left", "right")),
                    "companion_fraction": chance.uniform(0.26, 0.34),
                },
                "accessory": {"accessory": chance.choice(settings.accessories) if has_accessory else None},
            }
            if i == 0:
                first = drawn
            choice = {name: drawn[name] if name in settings.vary else first[name] for name in drawn}
            scenes.append(Scene(**{key: value for part in choice.values() for key, value in part.items()}))
        return scenes

    def _named(self, chance: random.Random, drawing: Drawing) -> list[bool]:
        """Which captions say the name. At most half of a set's, so that at least half of all say only the
        class."""
        n = self.config.images_per_set
        named = [chance.random() < self.scenes.name_probability for _ in range(n)]
        allowed = set(chance.sample(range(n), n // 2))
        if sum(named) > n // 2:
            named = [wish and i in allowed for i, wish in enumerate(named)]
        return [wish and drawing.name is not None for wish in named]

    def _mentions(self, chance: random.Random, scene: Scene, picture: Picture) -> dict[str, str | None]:
        def maybe(value: str | None, probability: float) -> str | None:
            return value if chance.random() < probability else None

        p = self.scenes.mention_probability
        return {
            "size": maybe(scene.size if scene.size != "medium" else None, p),
            "pose": maybe(scene.pose if scene.pose != "upright" else None, p),
            "place": maybe(scene.place if _is_clear(scene.place, picture.centre) else None, p),
            "companion": maybe(scene.companion, 0.9),
            "accessory": maybe(scene.accessory, 0.9),
        }


def _is_clear(place: str, centre: tuple[float, float]) -> bool:
    """Whether a viewer would agree that a subject with this centre is at `place`."""
    x, y = centre[0] - 0.5, centre[1] - 0.5
    if place == "middle":
        return max(abs(x), abs(y)) < _NOTICEABLE
    right, down = _PLACE_DIRECTIONS[place]
    along, across = x * right + y * down, abs(x * down) + abs(y * right)
    return along >= _NOTICEABLE and along > across


def compose(scene: Scene, figure: Image.Image, size: int) -> Picture:
    """Paints a scene with the subject `figure` (RGBA, cropped to its box) on `size` x `size` pixels."""
    subject, dress = _pose(figure, scene)
    subject = _fit(subject, scene.fraction * size)
    corner, centre = [], []
    for axis in range(2):
        slack = size - subject.size[axis]
        wanted = slack / 2 * (1 + 0.9 * _PLACE_DIRECTIONS[scene.place][axis]) + scene.shift[axis] * size
        corner.append(round(min(max(wanted, 0), slack)))
        centre.append(round((corner[axis] + subject.size[axis] / 2) / size, 4))
    image = background(scene.background, scene.variant, size)
    cover = Image.new("L", (size, size))
    image.paste(subject, tuple(corner), subject)
    if dress is not None:
        dress = dress.resize(subject.size, Image.Resampling.LANCZOS)
        image.paste(dress, tuple(corner), dress)
        cover.paste(255, tuple(corner), dress.getchannel("A"))
    if scene.companion:
        companion = _fit(
            sprite(COMPANIONS[scene.companion], _sprite_size(size)), scene.companion_fraction * size
        )
        margin = round(0.02 * size)
        x = margin if scene.companion_side == "left" else size - margin - companion.width
        image.paste(companion, (x, size - margin - companion.height), companion)
        cover.paste(255, (x, size - margin - companion.height), companion.getchannel("A"))
    whole = Image.new("L", (size, size))
    whole.paste(subject.getchannel("A"), tuple(corner))
    present = np.asarray(whole) >= 128
    visible = present & (np.asarray(cover) < 128)
    mask = Image.fromarray(visible.astype(np.uint8) * 255)
    return Picture(image, mask, tuple(centre), round(float(visible.sum() / max(1, present.sum())), 4))


def _sprite_size(resolution: int) -> int:
    return max(SPRITE_SIZE, 2 * resolution)


def _fit(image: Image.Image, longest: float) -> Image.Image:
    """The picture resized so that its longer side has `longest` pixels."""
    scale = longest / max(image.size)
    return image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.LANCZOS)


def _pose(figure: Image.Image, scene: Scene) -> tuple[Image.Image, Image.Image | None]:
    """The subject and what it wears, two RGBA layers of one size, turned together and cropped to their
    common box."""
    layers = [figure] if scene.accessory is None else list(_dress(figure, scene.accessory))
    if scene.mirrored:
        layers = [ImageOps.mirror(layer) for layer in layers]
    if scene.angle:
        layers = [layer.rotate(scene.angle, Image.Resampling.BICUBIC, expand=True) for layer in layers]
    boxes = [layer.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox() for layer in layers]
    box = (*(min(b[i] for b in boxes) for i in (0, 1)), *(max(b[i] for b in boxes) for i in (2, 3)))
    layers = [layer.crop(box) for layer in layers]
    return layers[0], layers[1] if len(layers) > 1 else None


def _dress(figure: Image.Image, accessory: str) -> tuple[Image.Image, Image.Image]:
    """The subject on a wider canvas, and its accessory where hats, glasses or bows sit, on a canvas of that
    size."""
    width, height = figure.size
    if accessory in HATS:
        item, y = sprite(HATS[accessory]), _HAT
        x, wide = _span(figure, 0.06)[0], min(max(0.8 * _span(figure, 0.2)[1], 0.4 * width), 0.75 * width)
        lift = item.height * wide / item.width / 2  # a hat stands on its place, the others lie on it
    elif accessory in EYEWEAR:
        item, y, (x, wide), lift = sprite(EYEWEAR[accessory]), _EYES, _span(figure, _EYES), 0.0
        wide = min(max(0.75 * wide, 0.3 * width), 0.85 * width)
    else:
        item, y, (x, wide), lift = sprite(NECKWEAR[accessory]), _NECK, _span(figure, _NECK), 0.0
        wide = min(max(0.6 * wide, 0.3 * width), 0.5 * width)
    item = item.resize(
        (round(wide), max(1, round(item.height * wide / item.width))), Image.Resampling.LANCZOS
    )
    pad = max(item.size)
    bare = Image.new("RGBA", (width + 2 * pad, height + 2 * pad))
    dress = bare.copy()
    bare.paste(figure, (pad, pad))
    dress.paste(item, (pad + round(x - item.width / 2), pad + round(y * height - lift - item.height / 2)))
    return bare, dress


def _span(figure: Image.Image, y: float) -> tuple[float, float]:
    """Centre and width of the subject, in pixels, at a height (0 = top, 1 = bottom)."""
    row = np.asarray(figure.getchannel("A"))[min(figure.height - 1, int(y * figure.height))]
    columns = np.flatnonzero(row >= 128)
    if len(columns) == 0:
        return figure.width / 2, figure.width / 2
    return (columns[0] + columns[-1]) / 2, columns[-1] - columns[0] + 1


def _attributes(scene: Scene, picture: Picture, named: bool, said: dict[str, str | None]) -> dict[str, Any]:
    return {
        "background": scene.background,
        "background_variant": scene.variant,
        "pose": scene.pose,
        "angle": round(scene.angle, 2),
        "mirrored": scene.mirrored,
        "size": scene.size,
        "size_fraction": round(scene.fraction, 4),
        "place": scene.place,
        "centre": list(picture.centre),
        "box": list(picture.mask.getbbox() or (0, 0, 0, 0)),
        "visible": picture.visible,
        "companion": scene.companion,
        "companion_side": scene.companion_side if scene.companion else None,
        "accessory": scene.accessory,
        "caption_says": [
            *(["name"] if named else ["class"]),
            "background",
            *(key for key, value in said.items() if value),
        ],
    }
