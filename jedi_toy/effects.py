"""What is drawn into a scene beside its subject: weather behind it, signs of what it does around it. Each comes with
the words that say it: `WEATHER` and `ACTIONS` map a name to a painter and its phrases.

A painter draws on a transparent layer with coordinates from 0 to 1; an action's is given the subject's box."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from data_gen.drawn_backgrounds import Canvas, Colour

_SCALE = 2
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Effect(NamedTuple):
    paint: Callable[[Layer, random.Random, Box], None]
    phrases: tuple[str, ...]


WEATHER: dict[str, Effect] = {}
ACTIONS: dict[str, Effect] = {}


def _effect(effects: dict[str, Effect], name: str, *phrases: str) -> Callable:
    def add(paint: Callable[[Layer, random.Random, Box], None]) -> Callable:
        effects[name] = Effect(paint, phrases)
        return paint

    return add


class Layer(Canvas):
    """A transparent image to draw on; colours have an opacity too."""

    def fill(self, colour: Colour) -> None:
        self.polygon([(0, 0), (1, 0), (1, 1), (0, 1)], colour)

    def line(self, *points: tuple[float, float], colour: Colour, width: float) -> None:
        scaled = [(x * self.pixels, y * self.pixels) for x, y in points]
        self.draw.line(scaled, fill=colour, width=max(1, round(width * self.pixels)), joint="curve")


def add_weather(image: Image.Image, name: str, seed: int) -> None:
    """Draws weather into an RGB image that holds its background only."""
    _add(image, WEATHER[name], seed, (0.0, 0.0, 1.0, 1.0))


def add_action(image: Image.Image, name: str, seed: int, box: Box) -> None:
    """Draws the signs of an action around `box` (of the subject, as shares of the side), before the subject is put
    there."""
    _add(image, ACTIONS[name], seed, box)


def _add(image: Image.Image, effect: Effect, seed: int, box: Box) -> None:
    layer = Layer(_SCALE * image.width, "RGBA")
    effect.paint(layer, random.Random(seed), box)
    small = layer.image.resize(image.size, Image.Resampling.BOX)
    image.paste(small, (0, 0), small)


@_effect(WEATHER, "rain", "in the rain", "while it rains", "on a rainy day")
def _rain(layer: Layer, rng: random.Random, box: Box) -> None:
    layer.fill((40, 50, 70, 70))
    slant = rng.uniform(-0.04, 0.04)
    for _ in range(70):
        x, y, length = rng.uniform(-0.05, 1.05), rng.random(), rng.uniform(0.06, 0.12)
        layer.line((x, y), (x + slant, y + length), colour=(196, 216, 240, 220), width=0.007)


@_effect(WEATHER, "fog", "in the fog", "on a foggy day", "in thick mist")
def _fog(layer: Layer, rng: random.Random, box: Box) -> None:
    layer.fill((226, 228, 230, 150))
    for _ in range(9):
        y = rng.random()
        layer.disc(rng.random(), y, rng.uniform(0.25, 0.5), (236, 238, 240, 120), flat=0.14)


@_effect(WEATHER, "sunshine", "in the sunshine", "on a sunny day", "while the sun shines")
def _sunshine(layer: Layer, rng: random.Random, box: Box) -> None:
    x, y = rng.choice((0.06, 0.94)), 0.06
    for i in range(14):
        turn, half = 2 * math.pi * i / 14, 0.06
        reach = [(x + 1.5 * math.cos(turn + d), y + 1.5 * math.sin(turn + d)) for d in (-half, half)]
        layer.polygon([(x, y), *reach], (255, 236, 130, 90))
    layer.disc(x, y, 0.15, (255, 220, 60, 255))


@_effect(WEATHER, "storm", "in a thunderstorm", "during a storm", "while lightning strikes")
def _storm(layer: Layer, rng: random.Random, box: Box) -> None:
    layer.fill((20, 20, 44, 120))
    for x in (rng.uniform(0.05, 0.25), rng.uniform(0.75, 0.95)):
        points, y = [(x, 0.0)], 0.0
        while y < 0.6:
            y += rng.uniform(0.08, 0.14)
            points.append((x + rng.uniform(-0.07, 0.07), y))
        layer.line(*points, colour=(255, 250, 190, 255), width=0.016)


@_effect(WEATHER, "wind", "in the wind", "on a windy day", "while the wind blows")
def _wind(layer: Layer, rng: random.Random, box: Box) -> None:
    for _ in range(8):
        x, y, length = rng.uniform(-0.1, 0.8), rng.random(), rng.uniform(0.15, 0.35)
        points = [(x + length * t / 9, y + 0.02 * math.sin(t * 0.9)) for t in range(10)]
        end, r = points[-1], 0.03
        curl = [(end[0] + r * math.sin(a / 3), end[1] - r + r * math.cos(a / 3)) for a in range(1, 13)]
        layer.line(*points, *curl, colour=(250, 252, 255, 230), width=0.01)


@_effect(WEATHER, "leaves", "among falling leaves", "while leaves fall")
def _leaves(layer: Layer, rng: random.Random, box: Box) -> None:
    for _ in range(26):
        x, y, turn = rng.random(), rng.random(), rng.uniform(0, math.pi)
        a, b = 0.04 * math.cos(turn), 0.04 * math.sin(turn)
        colour = rng.choice(((206, 96, 30), (226, 160, 40), (150, 70, 30)))
        layer.polygon([(x - a, y - b), (x + b / 2, y - a / 2), (x + a, y + b), (x - b / 2, y + a / 2)], (*colour, 255))


@_effect(WEATHER, "confetti", "among falling confetti", "while confetti rains down")
def _confetti(layer: Layer, rng: random.Random, box: Box) -> None:
    for _ in range(50):
        x, y, side = rng.random(), rng.random(), rng.uniform(0.012, 0.022)
        colour = tuple(rng.randint(60, 255) for _ in range(3))
        layer.polygon([(x, y), (x + side, y + side / 2), (x + side, y + 1.5 * side), (x, y + side)], (*colour, 255))


@_effect(ACTIONS, "jumping", "jumping", "leaping into the air")
def _jumping(layer: Layer, rng: random.Random, box: Box) -> None:
    middle, half = (box[0] + box[2]) / 2, (box[2] - box[0]) / 2
    layer.disc(middle, min(0.97, box[3] + 0.06), 0.7 * half, (10, 10, 20, 130), flat=0.16)
    for x in (middle - 0.6 * half, middle, middle + 0.6 * half):
        layer.line((x, box[3] - 0.02), (x, box[3] + 0.05), colour=(40, 40, 50, 255), width=0.012)


@_effect(ACTIONS, "running", "running", "rushing along", "in a hurry")
def _running(layer: Layer, rng: random.Random, box: Box) -> None:
    side = rng.choice((0, 2))  # where it comes from
    for share in (0.25, 0.5, 0.75):
        y, x = box[1] + share * (box[3] - box[1]), box[side]
        out = (-0.16 if side == 0 else 0.16) * rng.uniform(0.7, 1.0)
        layer.line((x + out / 8, y), (x + out, y), colour=(40, 40, 50, 255), width=0.016)
    for i in range(3):
        out = (-0.05 - 0.05 * i) * (1 if side == 0 else -1)
        layer.disc(box[side] + out, box[3] - 0.02, 0.035 - 0.007 * i, (206, 196, 180, 255))


@_effect(ACTIONS, "sleeping", "sleeping", "fast asleep")
def _sleeping(layer: Layer, rng: random.Random, box: Box) -> None:
    x, y = (box[0] + box[2]) / 2 + 0.1, box[1] + 0.02
    for size in (0.045, 0.065, 0.085):
        x, y = x + 0.045, y - size * 0.6
        points = [(x, y), (x + size, y), (x, y + size), (x + size, y + size)]
        layer.line(*points, colour=(255, 255, 255, 255), width=0.034)
        layer.line(*points, colour=(40, 60, 150, 255), width=0.016)


@_effect(ACTIONS, "shining", "shining", "glowing")
def _shining(layer: Layer, rng: random.Random, box: Box) -> None:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    wide, high, count = (box[2] - box[0]) / 2 + 0.04, (box[3] - box[1]) / 2 + 0.04, rng.randint(12, 16)
    for i in range(count):
        c, s = math.cos(2 * math.pi * i / count), math.sin(2 * math.pi * i / count)
        start, end = (x + wide * c, y + high * s), (x + (wide + 0.1) * c, y + (high + 0.1) * s)
        layer.line(start, end, colour=(255, 214, 40, 255), width=0.022)


@_effect(ACTIONS, "singing", "singing", "singing a song")
def _singing(layer: Layer, rng: random.Random, box: Box) -> None:
    for x, y in ((box[0], box[1] + 0.06), (box[2] - 0.02, box[1] + 0.02), (box[2] + 0.06, box[1] + 0.16)):
        layer.disc(x, y, 0.028, (30, 20, 50, 255), flat=0.8)
        layer.line((x + 0.022, y), (x + 0.022, y - 0.11), (x + 0.06, y - 0.08), colour=(30, 20, 50, 255), width=0.014)


@_effect(ACTIONS, "in love", "in love", "surrounded by hearts")
def _in_love(layer: Layer, rng: random.Random, box: Box) -> None:
    for x, y in ((box[0] - 0.01, box[1] + 0.08), (box[2] - 0.02, box[1] + 0.0), (box[2] + 0.05, box[1] + 0.2)):
        r = rng.uniform(0.028, 0.042)
        for side in (-1, 1):
            layer.disc(x + side * r * 0.6, y, r * 0.75, (226, 30, 70, 255))
        layer.polygon([(x - r * 1.3, y + r * 0.2), (x + r * 1.3, y + r * 0.2), (x, y + r * 2)], (226, 30, 70, 255))
