"""Backgrounds of the wider world, some of them made of noise and gradients. `emoji.backgrounds: [all]` draws from
these as well; without it there are those of `data_gen.drawn_backgrounds` only."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageFilter

from data_gen.drawn_backgrounds import Canvas, Colour, mix, near, painter
from jedi_toy.styles import noise


def _any_colour(rng: random.Random, least: int = 40, most: int = 235) -> Colour:
    return tuple(rng.randint(least, most) for _ in range(3))


def _noise(canvas: Canvas, rng: random.Random, columns: int, rows: int | None = None) -> np.ndarray:
    return noise(np.random.default_rng(rng.getrandbits(32)), canvas.pixels, canvas.pixels, columns, rows)


def _fill(canvas: Canvas, pixels: np.ndarray) -> None:
    canvas.image.paste(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), (0, 0))


@painter("gradient", "before a soft gradient", "on a smooth backdrop", wider=True)
def gradient(canvas: Canvas, rng: random.Random) -> None:
    angle, first, last = rng.uniform(0, 2 * math.pi), _any_colour(rng), _any_colour(rng)
    y, x = np.mgrid[: canvas.pixels, : canvas.pixels] / canvas.pixels - 0.5
    share = (0.5 + 0.7 * (x * math.cos(angle) + y * math.sin(angle))).clip(0, 1)[..., None]
    _fill(canvas, np.array(first) + share * (np.array(last, float) - np.array(first)))


@painter("blur", "in front of a blurred scene", "before something out of focus", wider=True)
def blur(canvas: Canvas, rng: random.Random) -> None:
    pixels = np.stack([_noise(canvas, rng, rng.randint(3, 5)) for _ in range(3)], -1)
    _fill(canvas, np.array(_any_colour(rng, 90, 180)) + 75 * pixels)


@painter("lights", "with blurry lights behind", "in front of a row of lamps", wider=True)
def lights(canvas: Canvas, rng: random.Random) -> None:
    dark = tuple(rng.randint(10, 60) for _ in range(3))
    canvas.gradient(dark, mix(dark, (0, 0, 0), 0.4))
    for _ in range(rng.randint(14, 22)):
        glow = mix(dark, _any_colour(rng, 120, 255), rng.uniform(0.4, 0.9))
        canvas.disc(rng.random(), rng.random(), rng.uniform(0.04, 0.1), glow)
    canvas.image.paste(canvas.image.filter(ImageFilter.GaussianBlur(canvas.pixels * 0.008)), (0, 0))


@painter("marble", "on a marble table", "on polished stone", wider=True)
def marble(canvas: Canvas, rng: random.Random) -> None:
    y, x = np.mgrid[: canvas.pixels, : canvas.pixels] / canvas.pixels
    folds = x * rng.uniform(2, 5) + y * rng.uniform(2, 5) + 1.2 * _noise(canvas, rng, 6)
    veins = (1 - np.abs(np.sin(math.pi * folds))) ** 4
    base = np.array(near(rng, (222, 218, 214), 14), float)
    _fill(canvas, base - veins[..., None] * np.array((90, 84, 78)))


@painter("pebbles", "on pebbles", "on small stones", wider=True)
def pebbles(canvas: Canvas, rng: random.Random) -> None:
    canvas.box(0, 0, 1, 1, (70, 64, 58))
    for row in range(12):
        for column in range(12):
            x, y = (column + rng.uniform(0.1, 0.9)) / 12, (row + rng.uniform(0.1, 0.9)) / 12
            shade = rng.randint(100, 200)
            canvas.disc(x, y, rng.uniform(0.03, 0.05), near(rng, (shade, shade - 6, shade - 14), 8), flat=0.8)


@painter("paper", "on crumpled paper", "on a sheet of old paper", wider=True)
def paper(canvas: Canvas, rng: random.Random) -> None:
    folds = _noise(canvas, rng, 5) + 0.6 * np.abs(_noise(canvas, rng, 11)) + 0.15 * _noise(canvas, rng, 90)
    _fill(canvas, np.array(near(rng, (214, 196, 156), 12)) + 22 * folds[..., None])


@painter("carpet", "on a woven carpet", "on a rug", wider=True)
def carpet(canvas: Canvas, rng: random.Random) -> None:
    base, other = near(rng, (120, 34, 52), 24), near(rng, (222, 180, 110), 24)
    canvas.box(0, 0, 1, 1, base)
    for i in range(5):
        for j in range(5):
            x, y = (i + 0.5) / 5, (j + 0.5) / 5
            for size, colour in ((0.09, other), (0.06, base), (0.03, other)):
                canvas.polygon([(x - size, y), (x, y - size), (x + size, y), (x, y + size)], colour)
    _fill(canvas, np.asarray(canvas.image).astype(float) + 12 * _noise(canvas, rng, 120)[..., None])


@painter("blackboard", "in front of a blackboard", "in the classroom", wider=True)
def blackboard(canvas: Canvas, rng: random.Random) -> None:
    _fill(canvas, np.array((38, 62, 52)) + 10 * _noise(canvas, rng, 7)[..., None] * np.ones(3))
    for row in range(4):
        x, y = rng.uniform(0.05, 0.2), 0.1 + row * 0.17
        while x < rng.uniform(0.7, 0.95):
            width = rng.uniform(0.03, 0.08)
            canvas.box(x, y, x + width, y + 0.016, (206, 214, 208))
            x += width + 0.03
    canvas.box(0, 0.88, 1, 1, near(rng, (150, 104, 60)))


@painter("cave", "in a cave", "inside a cave", wider=True)
def cave(canvas: Canvas, rng: random.Random) -> None:
    y, x = np.mgrid[: canvas.pixels, : canvas.pixels] / canvas.pixels
    lit = np.exp(-(((x - rng.uniform(0.35, 0.65)) / 0.3) ** 2 + ((y - 0.4) / 0.28) ** 2))
    rock = np.array((74, 58, 50)) + 22 * _noise(canvas, rng, 9)[..., None]
    _fill(canvas, rock + lit[..., None] * np.array((110, 100, 70)))
    for _ in range(9):
        x, width = rng.random(), rng.uniform(0.03, 0.07)
        canvas.polygon([(x - width, 0), (x + width, 0), (x, rng.uniform(0.12, 0.3))], near(rng, (52, 40, 36), 6))


@painter("space", "in outer space", "among the planets", wider=True)
def space(canvas: Canvas, rng: random.Random) -> None:
    clouds = (_noise(canvas, rng, 4)).clip(0, 1)[..., None]
    _fill(canvas, np.array((6, 4, 14)) + clouds * np.array((90, 20, 100)))
    for _ in range(60):
        canvas.disc(rng.random(), rng.random(), rng.uniform(0.003, 0.008), (255, 255, 255))
    for _ in range(2):
        x, y, radius = rng.random(), rng.uniform(0, 0.4), rng.uniform(0.05, 0.1)
        canvas.disc(x, y, radius, _any_colour(rng, 90, 220))
        canvas.disc(x, y, radius * 1.6, (210, 190, 150), flat=0.12)


@painter("stage", "on a stage", "in front of a curtain", wider=True)
def stage(canvas: Canvas, rng: random.Random) -> None:
    base = near(rng, (150, 18, 34), 12)
    for i in range(24):
        canvas.box(i / 24, 0, (i + 1) / 24, 0.8, mix(base, (0, 0, 0), 0.35 + 0.35 * math.sin(i * 1.9)))
    canvas.box(0, 0.8, 1, 1, near(rng, (112, 70, 38)))
    canvas.disc(0.5, 0.9, 0.4, (226, 200, 150), flat=0.2)


@painter("library", "in the library", "in front of bookshelves", wider=True)
def library(canvas: Canvas, rng: random.Random) -> None:
    canvas.box(0, 0, 1, 1, (70, 44, 26))
    for row in range(4):
        x = 0.0
        while x < 1:
            width, top = rng.uniform(0.025, 0.06), row / 4 + rng.uniform(0.02, 0.08)
            canvas.box(x, top, x + width - 0.006, (row + 1) / 4 - 0.02, _any_colour(rng, 60, 200))
            x += width
        canvas.box(0, (row + 1) / 4 - 0.02, 1, (row + 1) / 4, (128, 84, 48))


@painter("road", "on the road", "on a country road", wider=True)
def road(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (140, 190, 230)), (232, 236, 226), 0, 0.4)
    canvas.box(0, 0.4, 1, 1, near(rng, (170, 160, 84)))
    x = rng.uniform(0.4, 0.6)
    canvas.polygon([(x - 0.03, 0.4), (x + 0.03, 0.4), (1.0, 1), (0.0, 1)], (92, 92, 96))
    for i in range(5):
        near_, far = 0.45 + 0.11 * i, 0.49 + 0.11 * i
        canvas.polygon([(x - 0.01, near_), (x + 0.01, near_), (x + 0.02, far), (x - 0.02, far)], (240, 236, 220))


@painter("living room", "in the living room", "at home", wider=True)
def living_room(canvas: Canvas, rng: random.Random) -> None:
    canvas.box(0, 0, 1, 0.72, near(rng, (226, 206, 172), 14))
    canvas.box(0, 0.72, 1, 1, near(rng, (142, 96, 64), 10))
    x = rng.choice((0.08, 0.6))
    canvas.box(x, 0.08, x + 0.32, 0.42, (250, 250, 246))
    canvas.box(x + 0.02, 0.1, x + 0.155, 0.4, near(rng, (150, 200, 236)))
    canvas.box(x + 0.165, 0.1, x + 0.3, 0.4, near(rng, (150, 200, 236)))
    sofa, colour = 0.66 - x, _any_colour(rng, 60, 170)
    canvas.box(sofa - 0.16, 0.5, sofa + 0.26, 0.8, colour)
    canvas.box(sofa - 0.16, 0.64, sofa + 0.26, 0.8, mix(colour, (0, 0, 0), 0.2))


@painter("swamp", "in a swamp", "in the reeds", wider=True)
def swamp(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(near(rng, (158, 170, 120)), (96, 112, 70), 0, 0.55)
    canvas.gradient((74, 92, 62), (40, 58, 48), 0.55, 1)
    for _ in range(9):
        canvas.disc(rng.random(), rng.uniform(0.6, 1), rng.uniform(0.04, 0.08), (96, 132, 60), flat=0.35)
    for _ in range(26):
        x, y = rng.random(), rng.uniform(0.55, 1)
        canvas.box(x, y - rng.uniform(0.15, 0.3), x + 0.008, y, near(rng, (86, 100, 40)))
        canvas.disc(x + 0.004, y - 0.2, 0.013, (98, 60, 34), flat=2.2)
