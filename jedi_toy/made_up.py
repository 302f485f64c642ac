"""Made-up subjects: random shapes put together, with parts, patterns and faces. There is no end of them, so none can
be learnt by heart.

A subject is a number; its drawing is an SVG with OpenMoji's measures (72 units a side, black lines of 2 units; what
outlines a filled shape has the class "line"), so that what restyles drawings restyles these.
"""

from __future__ import annotations

import colorsys
import functools
import math
import random
from collections.abc import Sequence

from jedi_toy.drawings import by_chance

_KINDS = ("monster", "monster", "monster", "toy", "thing", "thing", "vehicle", "building", "plant")
_LINE = 'fill="none" stroke="#000000" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'
Point = tuple[float, float]


def kind(code_point: str) -> str:
    """The class of a made-up subject, as captions say it."""
    return random.Random(f"{code_point}/kind").choice(_KINDS)


draw_subject = by_chance("M", kind)


@functools.lru_cache(maxsize=256)
def drawing(code_point: str) -> str:
    """The SVG of a made-up subject ("M" and nine digits), a pure function of its code point."""
    return _Maker(random.Random(code_point), kind(code_point)).svg()


class _Maker:
    def __init__(self, rng: random.Random, kind: str) -> None:
        self.chance, self.kind = rng, kind
        self.colours = [_colour(rng) for _ in range(5)]
        self.fills: list[str] = []
        self.width, self.height = rng.uniform(14, 24), rng.uniform(14, 24)
        if kind == "vehicle":
            self.width, self.height = rng.uniform(22, 29), rng.uniform(10, 16)
        elif kind == "building":
            self.width, self.height = rng.uniform(12, 22), rng.uniform(18, 25)
        # Straight-sided bodies for what people build, round ones for creatures.
        self.body = _shape(rng, square=kind in ("vehicle", "building"), even=rng.random() < 0.8)

    def svg(self) -> str:
        behind = {"vehicle": self.cabin, "building": self.roof, "plant": self.stems}.get(self.kind, self.limbs)
        behind()
        self.shape(self.outline(), self.colours[0])
        clip = f'<clipPath id="body"><path d="{_path(self.outline())}"/></clipPath>'
        self.pattern()
        front = {"vehicle": self.wheels, "building": self.windows, "monster": self.face, "plant": self.blossom}
        front.get(self.kind, self.emblem)()
        if self.kind in ("toy", "plant", "vehicle") and self.chance.random() < 0.4:
            self.face()
        # Parts may reach beyond the canvas: the view box takes them all in.
        return (
            f'<svg viewBox="-14 -14 100 100" xmlns="http://www.w3.org/2000/svg"><defs>{clip}</defs>'
            f"{''.join(self.fills)}</svg>"
        )

    def outline(self) -> list[Point]:
        return [(36 + self.width * x, 36 + self.height * y) for x, y in self.body]

    def edge(self, angle: float) -> Point:
        """The point of the body's edge in that direction (0 right, a quarter turn down)."""
        x, y = self.body[round(angle / (2 * math.pi) * len(self.body)) % len(self.body)]
        return 36 + self.width * x, 36 + self.height * y

    def shape(self, points: Sequence[Point], colour: str, line: bool = True) -> None:
        path = _path(points)
        self.fills.append(f'<path fill="{colour}" d="{path}"/>')
        if line:
            self.fills.append(f'<path class="line" {_LINE} d="{path}"/>')

    def line(self, points: Sequence[Point]) -> None:
        """A line in front, which no restyling takes away."""
        d = "M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self.fills.append(f'<path {_LINE} d="{d}"/>')

    def disc(self, centre: Point, radius: float, colour: str, line: bool = True) -> None:
        self.shape(_ellipse(centre, radius, radius), colour, line)

    def limbs(self) -> None:
        """One to three kinds of parts, most of them in pairs."""
        rng = self.chance
        for _ in range(rng.randint(1, 3)):
            below = rng.random() < 0.4
            angle = rng.uniform(0.15, 1.2) * (1 if below else -1)
            angles = [angle, math.pi - angle] if rng.random() < 0.8 else [-math.pi / 2 + rng.uniform(-0.4, 0.4)]
            length, wide = rng.uniform(8, 17), rng.uniform(3, 7)
            form, colour = rng.choice(("leaf", "spike", "ball", "blob")), rng.choice(self.colours[:3])
            twist, blob = rng.uniform(-0.5, 0.5), _shape(rng, square=False, even=True)
            for i, at in enumerate(angles):
                root = self.edge(at)
                turn = math.atan2(root[1] - 36, root[0] - 36) + (twist if i == 0 else -twist)
                tip = root[0] + length * math.cos(turn), root[1] + length * math.sin(turn)
                if form == "ball":
                    self.line([root, tip])
                    self.disc(tip, wide * 0.7, colour)
                elif form == "spike":
                    side = wide * math.sin(turn), -wide * math.cos(turn)
                    foot = 36 + 0.75 * (root[0] - 36), 36 + 0.75 * (root[1] - 36)
                    base = (foot[0] + side[0], foot[1] + side[1]), (foot[0] - side[0], foot[1] - side[1])
                    self.shape([base[0], tip, base[1]], colour)
                else:
                    half = _ellipse((0, 0), 1, 1) if form == "leaf" else blob
                    middle = (root[0] + tip[0]) / 2, (root[1] + tip[1]) / 2
                    mirrored = [(x, -y) for x, y in half] if i else half
                    points = [(length * 0.65 * x, wide * y) for x, y in mirrored]
                    self.shape([_turned(point, turn, middle) for point in points], colour)

    def cabin(self) -> None:
        rng = self.chance
        x, y = 36 + rng.uniform(-10, 10), 36 - self.height
        wide, high = rng.uniform(8, 14), rng.uniform(8, 14)
        glass = [(x - wide, y + 4), (x - wide * 0.7, y - high), (x + wide * 0.7, y - high), (x + wide, y + 4)]
        self.shape(glass, self.colours[1])
        self.shape(_ellipse((x, y - high * 0.4), wide * 0.45, high * 0.3), self.colours[2])

    def roof(self) -> None:
        rng = self.chance
        top, over = 36 - self.height * 0.8, self.width * rng.uniform(1.0, 1.25)
        high = rng.uniform(8, 18)
        if rng.random() < 0.3:  # a dome
            self.shape(_ellipse((36, top), over * 0.9, high), self.colours[1])
        else:
            flat = rng.choice((0.0, 0.0, 0.4, 0.7))
            left, right = (36 - over * flat, top - high), (36 + over * flat, top - high)
            self.shape([(36 - over, top), left, right, (36 + over, top)], self.colours[1])
        if rng.random() < 0.5:
            x = 36 + rng.uniform(-0.6, 0.6) * self.width
            self.shape([(x - 2, top), (x - 2, top - high), (x + 2, top - high), (x + 2, top)], self.colours[3])

    def stems(self) -> None:
        rng = self.chance
        self.height, self.width = rng.uniform(9, 14), rng.uniform(9, 16)
        for _ in range(rng.randint(1, 3)):
            root, tip = (36 + rng.uniform(-4, 4), 40.0), (36 + rng.uniform(-18, 18), rng.uniform(54, 68))
            self.line([root, tip])
            turn = rng.uniform(-0.8, 0.8)
            leaf = [(9 * x, 3.5 * y) for x, y in _ellipse((0, 0), 1, 1)]
            middle = (root[0] + tip[0]) / 2, (root[1] + tip[1]) / 2
            self.shape([_turned(point, turn, middle) for point in leaf], self.colours[3])

    def blossom(self) -> None:
        self.disc((36, 36), self.chance.uniform(3, 6), self.colours[2])

    def wheels(self) -> None:
        rng, radius = self.chance, self.chance.uniform(4, 8)
        count = rng.choice((2, 2, 3))
        for i in range(count):
            x = 36 + self.width * 0.65 * (2 * i / (count - 1) - 1)
            self.disc((x, 36 + self.height * 0.9), radius, self.colours[3])
            self.disc((x, 36 + self.height * 0.9), radius * 0.45, self.colours[4])

    def windows(self) -> None:
        rng = self.chance
        columns, rows = rng.randint(1, 3), rng.randint(1, 3)
        wide, high = self.width / columns * 0.35, self.height / rows * 0.3
        round_ones = rng.random() < 0.3
        for row in range(rows):
            for column in range(columns):
                x = 36 + self.width * 0.75 * ((2 * column + 1) / columns - 1)
                y = 36 + self.height * (0.8 * ((2 * row + 1) / rows - 1) - 0.1)
                box = [(x - wide, y - high), (x + wide, y - high), (x + wide, y + high), (x - wide, y + high)]
                self.shape(_ellipse((x, y), wide, high) if round_ones else box, self.colours[2])

    def emblem(self) -> None:
        """One to three shapes on the body."""
        rng = self.chance
        for _ in range(rng.randint(1, 3)):
            at = 36 + rng.uniform(-0.5, 0.5) * self.width, 36 + rng.uniform(-0.5, 0.5) * self.height
            size, form = rng.uniform(3, 8), _shape(rng, square=rng.random() < 0.4, even=False)
            self.shape([(at[0] + size * x, at[1] + size * y) for x, y in form], rng.choice(self.colours[1:]))

    def pattern(self) -> None:
        rng, colour = self.chance, self.colours[3]
        name = rng.choice(("none", "none", "stripes", "dots", "checks", "belly", "half", "rings"))
        parts, step = [], rng.uniform(5, 10)
        if name == "stripes":
            turn = rng.randrange(0, 180, 15)
            parts += [
                f'<path transform="rotate({turn} 36 36)" d="M{x:.1f},-50h{step / 2:.1f}v160h-{step / 2:.1f}z"/>'
                for x in _steps(-50, 120, step)
            ]
        elif name == "dots":
            parts += [
                f'<circle cx="{x + (i % 2) * step / 2:.1f}" cy="{y:.1f}" r="{step * 0.27:.1f}"/>'
                for i, y in enumerate(_steps(8, 66, step))
                for x in _steps(4, 68, step)
            ]
        elif name == "checks":
            parts += [
                f'<path d="M{x:.1f},{y:.1f}h{step:.1f}v{step:.1f}h-{step:.1f}z"/>'
                for i, y in enumerate(_steps(4, 68, step))
                for x in _steps(4 + (i % 2) * step, 68, 2 * step)
            ]
        elif name == "belly":
            y = 36 + self.height * rng.uniform(0.2, 0.5)
            parts.append(f'<path d="{_path(_ellipse((36, y), self.width * 0.65, self.height * 0.6))}"/>')
        elif name == "half":
            parts.append(f'<path transform="rotate({rng.randrange(0, 360, 45)} 36 36)" d="M36,-50h90v170h-90z"/>')
        elif name == "rings":
            ring = f'<circle cx="36" cy="36" fill="none" stroke="{colour}" stroke-width="{step / 3:.1f}"'
            parts += [f'{ring} r="{r:.1f}"/>' for r in _steps(step, 40, step)]
        if parts:
            self.fills.append(f'<g clip-path="url(#body)" fill="{colour}">{"".join(parts)}</g>')
            self.fills.append(f'<path class="line" {_LINE} d="{_path(self.outline())}"/>')

    def face(self) -> None:
        rng, white = self.chance, self.chance.choice(("#FFFFFF", "#FFFFFF", "#FFF6D8"))
        count = rng.choice((1, 2, 2, 2, 2, 3))
        y, apart = 36 - self.height * rng.uniform(0.05, 0.4), self.width * rng.uniform(0.28, 0.5)
        radius, form = rng.uniform(2.2, 5.0), rng.choice(("dot", "white", "white", "sleepy", "ring"))
        look = rng.uniform(-0.4, 0.4) * radius, rng.uniform(-0.3, 0.4) * radius
        for i in range(count):
            x = 36 + (0 if count == 1 else apart * (2 * i / (count - 1) - 1))
            if form == "dot":
                self.disc((x, y), radius * 0.6, "#000000", line=False)
            elif form == "sleepy":
                self.line([(x + radius * math.cos(a), y + radius * 0.7 * math.sin(a)) for a in _steps(0, 3.15, 0.3)])
            else:
                self.disc((x, y), radius, white if form == "white" else self.colours[4])
                self.disc((x + look[0], y + look[1]), radius * 0.45, "#000000", line=False)
        y, wide = 36 + self.height * rng.uniform(0.15, 0.5), self.width * rng.uniform(0.2, 0.5)
        mouth = rng.choice(("smile", "frown", "open", "line", "zigzag", "beak"))
        if mouth in ("smile", "frown"):
            bend = (1 if mouth == "smile" else -1) * wide * rng.uniform(0.3, 0.7)
            self.line([(36 + wide * t, y + bend * (1 - t * t)) for t in _steps(-1, 1.01, 0.2)])
        elif mouth == "open":
            self.shape(_ellipse((36, y), wide * 0.7, wide * rng.uniform(0.3, 0.8)), self.colours[4])
        elif mouth == "line":
            self.line([(36 - wide, y), (36 + wide, y)])
        elif mouth == "zigzag":
            self.line([(36 + wide * t, y + (i % 2) * 3) for i, t in enumerate(_steps(-1, 1.01, 0.33))])
        else:
            self.shape([(36 - wide * 0.6, y - 2), (36 + wide * 0.6, y - 2), (36, y + wide * 0.8)], self.colours[4])


def _shape(rng: random.Random, square: bool, even: bool) -> list[Point]:
    """A closed outline around the origin, about 1 in each direction: Gielis' superformula, or a rounded box. `even`
    makes left and right alike."""
    if square or rng.random() < 0.35:
        power = rng.uniform(4, 14) if square else rng.uniform(1.3, 4)  # from a lozenge over an ellipse to a box
        radii = [(abs(math.cos(a)) ** power + abs(math.sin(a)) ** power) ** (-1 / power) for a in _angles()]
    else:
        lobes, turn = rng.randint(2, 8), math.pi / 2
        n1, n2 = rng.uniform(1.5, 8), rng.uniform(1.5, 8)
        if not even:
            turn += rng.uniform(-1, 1)
        radii = [
            (abs(math.cos(lobes * (a + turn) / 4)) ** n2 + abs(math.sin(lobes * (a + turn) / 4)) ** n2) ** (-1 / n1)
            for a in _angles()
        ]
    points = [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, _angles(), strict=True)]
    if even:  # the right half, mirrored
        across = [points[(len(points) // 2 - i) % len(points)] for i in range(len(points))]
        points = [
            (abs(x), y) if math.cos(a) >= 0 else (-abs(other[0]), other[1])
            for (x, y), other, a in zip(points, across, _angles(), strict=True)
        ]
    bound = max(max(abs(x), abs(y)) for x, y in points)
    return [(x / bound, y / bound) for x, y in points]


def _angles() -> list[float]:
    return [2 * math.pi * i / 72 for i in range(72)]


def _ellipse(centre: Point, rx: float, ry: float) -> list[Point]:
    return [(centre[0] + rx * math.cos(a), centre[1] + ry * math.sin(a)) for a in _angles()[::2]]


def _turned(point: Point, angle: float, around: Point) -> Point:
    c, s = math.cos(angle), math.sin(angle)
    return around[0] + c * point[0] - s * point[1], around[1] + s * point[0] + c * point[1]


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in points) + "Z"


def _steps(first: float, end: float, step: float) -> list[float]:
    return [first + i * step for i in range(max(0, math.ceil((end - first) / step)))]


def _colour(rng: random.Random) -> str:
    """Any colour; now and then nearly white, grey or dark."""
    saturation, value = rng.uniform(0.35, 0.95), rng.uniform(0.55, 1.0)
    if rng.random() < 0.15:
        saturation, value = rng.uniform(0, 0.15), rng.uniform(0.25, 1.0)
    rgb = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return "#" + "".join(f"{round(255 * part):02X}" for part in rgb)
