"""Procedural backgrounds, each with the words that say it: `BACKGROUNDS` maps a name to a painter and its
phrases.

A painter draws at `SCALE` times the final size on a square canvas whose coordinates run from 0 to 1, with a
little random variation; `background` shrinks the result. Add one with `@painter("name", "in a cave", ...)`.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from jedi.io.registry import Registry

SCALE = 3
Colour = tuple[int, ...]


class PaintedBackground(NamedTuple):
    paint: Callable[[Canvas, random.Random], None]
    phrases: tuple[str, ...]
    """Each completes "a fox ..."."""
    wider: bool = False
    """Drawn only where a configuration asks for it."""


BACKGROUNDS: Registry[PaintedBackground] = Registry("background")


def background(name: str, variant: int, size: int) -> Image.Image:
    """An RGB image of `size` pixels a side, a pure function of the arguments. InputError for an unknown
    name."""
    return _paint(name, variant, size).copy()


@functools.lru_cache(maxsize=2048)
def _paint(name: str, variant: int, size: int) -> Image.Image:
    canvas = Canvas(size * SCALE)
    BACKGROUNDS.get(name).paint(canvas, random.Random(f"{name}/{variant}"))
    return canvas.image.resize((size, size), Image.Resampling.BOX)


class Canvas:
    """Drawing in coordinates from 0 (left, top) to 1 (right, bottom)."""

    def __init__(self, pixels: int, mode: str = "RGB") -> None:
        self.pixels = pixels
        self.image = Image.new(mode, (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)

    def gradient(self, top: Colour, bottom: Colour, y0: float = 0.0, y1: float = 1.0) -> None:
        first, last = round(y0 * self.pixels), round(y1 * self.pixels)
        for row in range(first, last):
            colour = mix(top, bottom, (row - first) / max(1, last - first - 1))
            self.draw.line([(0, row), (self.pixels, row)], fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        corners = [round(v * self.pixels) for v in (x0, y0, x1, y1)]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            self.draw.rectangle([corners[0], corners[1], corners[2] - 1, corners[3] - 1], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, flat: float = 1.0) -> None:
        box = [x - radius, y - radius * flat, x + radius, y + radius * flat]
        self.draw.ellipse([v * self.pixels for v in box], fill=colour)

    def ring(self, x: float, y: float, radius: float, colour: Colour, width: float) -> None:
        box = [v * self.pixels for v in (x - radius, y - radius, x + radius, y + radius)]
        self.draw.ellipse(box, outline=colour, width=max(1, round(width * self.pixels)))

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.pixels, y * self.pixels) for x, y in points], fill=colour)

    def wave(self, y: float, height: float, periods: float, phase: float, colour: Colour) -> None:
        """Fills everything below a sine line."""
        xs = [i / 48 for i in range(49)]
        line = [(x, y - height * math.sin(2 * math.pi * (periods * x + phase))) for x in xs]
        self.polygon([*line, (1, 1), (0, 1)], colour)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def near(rng: random.Random, colour: Colour, spread: int = 10) -> Colour:
    return tuple(max(0, min(255, c + rng.randint(-spread, spread))) for c in colour)


def usual_backgrounds() -> list[str]:
    """The names that are drawn from where a configuration names none."""
    return [name for name in BACKGROUNDS if not BACKGROUNDS.get(name).wider]


def painter(name: str, *phrases: str, wider: bool = False) -> Callable:
    def add(paint: Callable[[Canvas, random.Random], None]) -> Callable[[Canvas, random.Random], None]:
        BACKGROUNDS.register(name)(PaintedBackground(paint, phrases, wider))
        return paint

    return add


@painter("sky", "in the sky", "among the clouds", "high up in the sky")
def sky(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (86, 160, 232)), near(rng, (178, 218, 250)))
    for _ in range(rng.randint(3, 5)):
        x, y, radius = rng.random(), rng.uniform(0.08, 0.95), rng.uniform(0.05, 0.09)
        for shift, grow in ((-1.3, 0.8), (0.0, 1.2), (1.3, 0.85)):
            canvas.disc(x + shift * radius, y, radius * grow, (250, 252, 255), flat=0.75)


@painter("beach", "on the beach", "by the sea", "on a sandy beach")
def beach(canvas: Canvas, rng: random.Random) -> None:
    horizon, shore = rng.uniform(0.3, 0.4), rng.uniform(0.55, 0.65)
    canvas.gradient(near(rng, (150, 212, 250)), (214, 240, 252), 0, horizon)
    canvas.gradient((20, 120, 190), (60, 180, 210), horizon, 1)
    canvas.wave(shore - 0.02, 0.02, 1.5, rng.random(), (240, 250, 250))
    canvas.wave(shore, 0.02, 1.5, rng.random(), near(rng, (240, 214, 150)))
    for _ in range(25):
        canvas.disc(rng.random(), rng.uniform(shore + 0.06, 1), 0.008, (212, 180, 118))


@painter("forest", "in the forest", "in the woods", "among tall trees")
def forest(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (120, 170, 130)), (70, 120, 80), 0, 0.75)
    canvas.box(0, 0.75, 1, 1, near(rng, (62, 74, 34)))
    for row, (y, shade) in enumerate(((0.68, (44, 104, 62)), (0.8, (26, 78, 44)))):
        for i in range(6):
            x, width = (i + 0.5 * row) / 5 + rng.uniform(-0.04, 0.04), rng.uniform(0.1, 0.15)
            canvas.box(x - 0.015, y, x + 0.015, y + 0.08, (84, 56, 36))
            for step in range(3):
                low = y - 0.17 * step
                canvas.polygon([(x - width, low), (x, low - 0.3), (x + width, low)], near(rng, shade, 8))


@painter("night", "at night", "under the stars", "on a starry night")
def night(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (8, 10, 40), 6), near(rng, (34, 38, 96)))
    for _ in range(40):
        canvas.disc(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.005, 0.014), (250, 246, 210))
    x, y = rng.choice((0.14, 0.86)), rng.uniform(0.12, 0.18)
    canvas.disc(x, y, 0.09, (252, 244, 200))
    canvas.disc(x + 0.045, y - 0.02, 0.075, (14, 16, 52))
    canvas.wave(0.92, 0.02, 1, rng.random(), (10, 14, 30))


@painter("snow", "in the snow", "on a snowy day", "while it snows")
def snow(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (150, 172, 200)), (200, 214, 230), 0, 0.7)
    canvas.wave(0.62, 0.05, 1.0, rng.random(), (226, 236, 246))
    canvas.wave(0.75, 0.04, 1.2, rng.random(), (246, 250, 254))
    for _ in range(45):
        canvas.disc(rng.random(), rng.random(), rng.uniform(0.01, 0.02), (255, 255, 255))


@painter("desert", "in the desert", "among sand dunes")
def desert(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (250, 222, 160)), (255, 240, 205), 0, 0.6)
    canvas.disc(rng.uniform(0.15, 0.85), 0.14, 0.08, (255, 250, 225))
    for y, shade in ((0.5, (226, 160, 88)), (0.62, (206, 132, 62)), (0.78, (184, 108, 48))):
        canvas.wave(y, 0.07, 0.8, rng.random(), near(rng, shade, 8))


@painter("sunset", "at sunset", "in the evening sun", "before the setting sun")
def sunset(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (92, 40, 120)), (240, 100, 80), 0, 0.45)
    canvas.gradient((240, 100, 80), (255, 196, 90), 0.45, 0.72)
    canvas.disc(rng.uniform(0.2, 0.8), 0.7, 0.16, (255, 240, 150))
    canvas.box(0, 0.72, 1, 1, near(rng, (70, 28, 70)))


@painter("brick wall", "in front of a brick wall", "by a wall of bricks")
def brick_wall(canvas: Canvas, rng: random.Random) -> None:
    canvas.box(0, 0, 1, 1, (206, 190, 178))
    base, height, width = near(rng, (166, 72, 56)), 0.125, 0.25
    offset = rng.random() * width
    for row in range(8):
        for column in range(-1, 6):
            x, y = column * width + (row % 2) * width / 2 - offset, row * height
            canvas.box(x, y, x + width - 0.022, y + height - 0.022, near(rng, base, 12))


@painter("meadow", "on a meadow", "in the grass", "in a field of flowers")
def meadow(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (170, 220, 250)), (222, 242, 250), 0, 0.5)
    canvas.wave(0.4, 0.05, 0.7, rng.random(), near(rng, (132, 200, 84)))
    canvas.wave(0.52, 0.04, 0.9, rng.random(), near(rng, (96, 176, 60)))
    for _ in range(26):
        x, y = rng.random(), rng.uniform(0.58, 1)
        canvas.disc(x, y, 0.016, rng.choice(((250, 240, 120), (255, 255, 255), (244, 140, 180))))


@painter("under water", "under water", "deep in the sea", "down in the sea")
def under_water(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (50, 186, 200)), near(rng, (8, 66, 112)))
    for _ in range(14):
        canvas.ring(rng.random(), rng.random(), rng.uniform(0.015, 0.04), (176, 232, 240), 0.008)
    for _ in range(7):
        x = rng.random()
        for step in range(7):
            canvas.disc(x + 0.02 * math.sin(step * 1.3), 1 - step * 0.035, 0.017, (24, 128, 92), flat=1.4)


@painter("city", "in the city", "on a city street", "between tall houses")
def city(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((190, 204, 216), (224, 226, 226), 0, 0.8)
    x = -rng.uniform(0, 0.1)
    while x < 1:
        width, top = rng.uniform(0.15, 0.22), rng.uniform(0.08, 0.4)
        shade = near(rng, (104, 116, 134), 22)
        canvas.box(x, top, x + width - 0.01, 0.8, shade)
        for row in range(int((0.74 - top) / 0.1)):
            for column in range(3):
                window = rng.choice(((246, 226, 150), (246, 226, 150), mix(shade, (0, 0, 0), 0.3)))
                left, up = x + 0.022 + column * (width - 0.03) / 3, top + 0.04 + row * 0.1
                canvas.box(left, up, left + 0.032, up + 0.05, window)
        x += width
    canvas.box(0, 0.8, 1, 1, (74, 76, 82))
    for i in range(4):
        canvas.box(0.02 + i * 0.28, 0.89, 0.16 + i * 0.28, 0.915, (232, 232, 226))


@painter("wooden floor", "on a wooden floor", "on wooden boards")
def wooden_floor(canvas: Canvas, rng: random.Random) -> None:
    base, planks = near(rng, (190, 136, 82)), 6
    for i in range(planks):
        x0, x1 = i / planks, (i + 1) / planks
        canvas.box(x0, 0, x1, 1, near(rng, base, 14))
        canvas.box(x1 - 0.012, 0, x1, 1, (112, 74, 42))
        for _ in range(2):
            y = rng.random()
            canvas.box(x0, y, x1, y + 0.012, (112, 74, 42))


@painter("checkered cloth", "on a checkered cloth", "on a checkered blanket")
def checkered_cloth(canvas: Canvas, rng: random.Random) -> None:
    tint, cells = near(rng, rng.choice(((206, 58, 62), (58, 104, 190), (60, 150, 90)))), 8
    for row in range(cells):
        for column in range(cells):
            colour = mix((252, 250, 246), tint, 0.5 * (row % 2) + 0.5 * (column % 2))
            canvas.box(column / cells, row / cells, (column + 1) / cells, (row + 1) / cells, colour)


@painter("studio", "in a plain studio", "in front of a plain wall", "on a plain background")
def studio(canvas: Canvas, rng: random.Random) -> None:
    shade = rng.randint(186, 224)
    canvas.gradient((shade, shade, shade), (shade - 26, shade - 26, shade - 24))


@painter("mountains", "in the mountains", "high in the mountains")
def mountains(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (126, 182, 232)), (216, 232, 244), 0, 0.8)
    for x, height, shade in (
        (0.2, 0.58, (112, 116, 140)),
        (0.8, 0.64, (98, 102, 128)),
        (0.5, 0.46, (126, 130, 152)),
    ):
        x, width, top = x + rng.uniform(-0.08, 0.08), height * 0.8, 0.8 - height
        canvas.polygon([(x - width, 0.8), (x, top), (x + width, 0.8)], shade)
        white, foot = width * 0.3, top + height * 0.3
        canvas.polygon([(x - white, foot), (x, top), (x + white, foot)], (250, 252, 255))
    canvas.box(0, 0.8, 1, 1, near(rng, (88, 128, 84)))


@painter("striped wallpaper", "in front of striped wallpaper", "by a striped wall")
def striped_wallpaper(canvas: Canvas, rng: random.Random) -> None:
    stripe = near(rng, rng.choice(((226, 150, 172), (140, 196, 164), (176, 156, 214))))
    for i in range(10):
        canvas.box(i / 10, 0, (i + 1) / 10, 1, mix(stripe, (255, 250, 252), 0.7) if i % 2 else stripe)
    canvas.box(0, 0.9, 1, 1, (240, 234, 224))


@painter("kitchen", "in the kitchen", "on the kitchen tiles")
def kitchen(canvas: Canvas, rng: random.Random) -> None:
    tile = near(rng, (150, 206, 214), 12)
    for row in range(4):
        for column in range(6):
            x, y = column / 6, row / 6
            canvas.box(x, y, x + 1 / 6 - 0.012, y + 1 / 6 - 0.012, near(rng, tile, 6))
    canvas.box(0, 0.66, 1, 1, (228, 204, 168))
    canvas.box(0, 0.66, 1, 0.7, (150, 112, 76))


@painter("garden", "in the garden", "by the garden fence")
def garden(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((146, 206, 244), (206, 234, 248), 0, 0.6)
    canvas.box(0, 0.5, 1, 0.78, (70, 138, 66))
    for i in range(8):
        x = i / 8 + 0.02
        canvas.polygon([(x, 0.3), (x + 0.04, 0.24), (x + 0.08, 0.3), (x + 0.08, 0.8), (x, 0.8)], (248, 246, 240))
    canvas.box(0, 0.38, 1, 0.42, (230, 228, 222))
    canvas.box(0, 0.62, 1, 0.66, (230, 228, 222))
    canvas.box(0, 0.78, 1, 1, near(rng, (112, 184, 78)))
