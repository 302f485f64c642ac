"""Painting one image of the `emoji` source: what a scene is, and drawings put into it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageOps

from data_gen.drawn_backgrounds import background
from jedi.io.images import binary, place_in_row
from jedi_toy.drawings import COMPANIONS, EYEWEAR, HATS, NECKWEAR, SPRITE_SIZE, opaque_box, sprite
from jedi_toy.effects import add_action, add_weather
from jedi_toy.styles import as_photo, cast_shadow, lit

_PLACE_DIRECTIONS = {
    "middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1),
    "top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1),
}  # fmt: skip
_NOTICEABLE = 0.1  # shift of the centre (fraction of the side) from which a caption may speak of a place
_HAT, _EYES, _NECK = 0.1, 0.34, 0.72  # heights on a subject (0 = top) at which accessories sit


@dataclass(frozen=True)
class Scene:
    """All that is drawn by chance for one image."""

    background: str
    variant: int
    pose: str
    angle: float
    """Degrees, counter-clockwise."""
    size: str
    fraction: float
    """Longer side of the dressed subject / side of the image."""
    place: str
    shift: tuple[float, float]
    """Jitter of the centre, as a fraction of the image's side."""
    companion: str | None
    companion_side: str
    companion_fraction: float
    accessory: str | None
    centre: tuple[float, float] | None = None
    """Where the subject stands, in place of `place` and `shift`."""
    # The wider world:
    light: tuple[float, float] = (0.0, 0.0)
    """Where it comes from (`styles.lit`)."""
    shadow: bool = False
    weather: str | None = None
    action: str | None = None
    seed: int = 0
    """Of what is drawn for weather and action."""
    photo: int | None = None
    """Seed of the camera that took it, None: no camera."""

    @property
    def mirrored(self) -> bool:
        return self.pose == "mirrored"


@dataclass(frozen=True)
class RenderedSubject:
    """Where a subject came to stand in an image."""

    mask: Image.Image
    """L, 255 = visible."""
    centre: tuple[float, float]
    """Of the dressed subject, as fractions of the image's side."""
    visible: float
    """Visible part, [0, 1]."""


@dataclass(frozen=True)
class Render:
    image: Image.Image
    """RGB."""
    figures: tuple[RenderedSubject, ...]
    """In the order of the subjects given."""

    @property
    def mask(self) -> Image.Image:
        """L, 255 = visible part of a subject."""
        return functools.reduce(ImageChops.lighter, (figure.mask for figure in self.figures))


def compose(
    scenes: Sequence[Scene], figures: Sequence[Image.Image], size: int, surfaces: Sequence[str] | None = None
) -> Render:
    """Paints one image of `size` x `size` pixels: `figures` (RGBA, cropped to their boxes), each as its
    scene says, on the first scene's background and beside its companion. `surfaces` (one a figure) say how light
    shades them (`styles.lit`); flat if not given."""
    image = background(scenes[0].background, scenes[0].variant, size)
    if scenes[0].weather:
        add_weather(image, scenes[0].weather, scenes[0].seed)
    whole, centres, covers = [], [], []
    for scene, figure, surface in zip(scenes, figures, surfaces or ["flat"] * len(figures), strict=True):
        subject, dress = _pose(figure, scene)
        subject = lit(_fit(subject, scene.fraction * size), surface, scene.light)
        corner, centre = [], []
        for axis in range(2):
            slack = size - subject.size[axis]
            wanted = slack / 2 * (1 + 0.9 * _PLACE_DIRECTIONS[scene.place][axis]) + scene.shift[axis] * size
            if scene.centre is not None:
                wanted = scene.centre[axis] * size - subject.size[axis] / 2
            corner.append(round(min(max(wanted, 0), slack)))
            centre.append(round((corner[axis] + subject.size[axis] / 2) / size, 4))
        centres.append(tuple(centre))
        if scene.shadow:
            cast_shadow(image, subject, tuple(corner), scene.light)
        if scene.action:
            edges = (*corner, corner[0] + subject.width, corner[1] + subject.height)
            add_action(image, scene.action, scene.seed, tuple(edge / size for edge in edges))
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
        companion = sprite(COMPANIONS[scenes[0].companion], sprite_size(size))
        companion = _fit(companion, scenes[0].companion_fraction * size)
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
        seen.append(RenderedSubject(mask, centre, round(float(visible.sum() / max(1, present.sum())), 4)))
    return Render(image if scenes[0].photo is None else as_photo(image, scenes[0].photo), tuple(seen))


def sprite_size(resolution: int) -> int:
    return max(SPRITE_SIZE, 2 * resolution)


def _fit(image: Image.Image, longest: float) -> Image.Image:
    """The image resized so that its longer side has `longest` pixels."""
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
    left, top, right, bottom = zip(*map(opaque_box, layers), strict=True)
    layers = [layer.crop((min(left), min(top), max(right), max(bottom))) for layer in layers]
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
    item = item.resize((round(wide), max(1, round(item.height * wide / item.width))), Image.Resampling.LANCZOS)
    pad = max(item.size)
    bare = ImageOps.expand(figure, pad, (0, 0, 0, 0))
    dress = Image.new("RGBA", bare.size)
    dress.paste(item, (pad + round(x - item.width / 2), pad + round(y * height - lift - item.height / 2)))
    return bare, dress


def _span(figure: Image.Image, y: float) -> tuple[float, float]:
    """Centre and width of the subject, in pixels, at a height (0 = top, 1 = bottom)."""
    row = np.asarray(figure.getchannel("A"))[min(figure.height - 1, int(y * figure.height))]
    columns = np.flatnonzero(row >= 128)
    if len(columns) == 0:
        return figure.width / 2, figure.width / 2
    return (columns[0] + columns[-1]) / 2, columns[-1] - columns[0] + 1


def in_slot(image: Render, slot: int, slots: int) -> Render:
    """An image of one subject as `jedi.io.images.place_in_row` shows it, the mask too."""
    figure, size = image.figures[0], image.image.width
    mask = Image.new("L", image.image.size)
    small = binary(figure.mask.resize((size // slots,) * 2, Image.Resampling.BOX))
    mask.paste(small, (slot * size // slots, (size - size // slots) // 2))
    centre = ((slot + figure.centre[0]) / slots, 0.5 + (figure.centre[1] - 0.5) / slots)
    placed = RenderedSubject(mask, tuple(round(x, 4) for x in centre), figure.visible)
    return Render(place_in_row(image.image, slot, slots, size, size), (placed,))


def is_clear(place: str, centre: tuple[float, float]) -> bool:
    """Whether a viewer would agree that a subject with this centre is at `place`."""
    x, y = centre[0] - 0.5, centre[1] - 0.5
    if place == "middle":
        return max(abs(x), abs(y)) < _NOTICEABLE
    right, down = _PLACE_DIRECTIONS[place]
    if right and down:
        return min(x * right, y * down) >= _NOTICEABLE
    along, across = x * right + y * down, abs(x * down) + abs(y * right)
    return along >= _NOTICEABLE and along > across
