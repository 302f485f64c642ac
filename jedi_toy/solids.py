"""Solid subjects: random bodies in space, lit and rendered. A style that no training set shows: it is for measuring.

A subject is a number. Its image comes from ray marching a signed distance (a few ellipsoids, boxes, capsules, rings
and cones, most of them in mirrored pairs) with one lamp, a highlight and darker creases."""

from __future__ import annotations

import colorsys
import functools
import random

import numpy as np
from PIL import Image

from jedi_toy.drawings import by_chance

_KINDS = ("toy", "thing", "machine", "monster")
_STEPS = 60  # of a ray
_LAMP = np.array((-0.5, 0.75, 0.8)) / np.linalg.norm((-0.5, 0.75, 0.8))


draw_solid = by_chance("S", lambda code_point: random.Random(f"{code_point}/kind").choice(_KINDS))


@functools.lru_cache(maxsize=256)
def solid(code_point: str, size: int) -> Image.Image:
    """RGBA, `size` pixels a side, a pure function of the arguments."""
    rng = random.Random(code_point)
    parts = _draw_parts(rng)
    turn = _rotation(rng.uniform(-0.7, 0.7), rng.uniform(-0.15, 0.5))
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(1.6 * axis, -1.6 * axis)
    rays = np.stack([x.ravel(), y.ravel(), np.full(x.size, 2.4)], -1)
    alive = np.arange(len(rays))
    for _ in range(_STEPS):
        distance = _distances(rays[alive] @ turn, parts).min(0)
        rays[alive, 2] -= distance
        alive = alive[(distance > 0.002) & (rays[alive, 2] > -2.4)]
        if not len(alive):
            break
    hit = rays[:, 2] > -2.4
    hit[alive] = _distances(rays[alive] @ turn, parts).min(0) < 0.03  # nearly there: along an edge
    pixels = np.zeros((len(rays), 4), np.uint8)
    pixels[hit, :3] = _shade(rays[hit], turn, parts)
    pixels[hit, 3] = 255
    return Image.fromarray(pixels.reshape(size, size, 4), "RGBA")


def _draw_parts(rng: random.Random) -> list[tuple]:
    """(form, centre, radii, colour) of each; the first is the body."""
    colour = lambda: np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.5, 1)))
    colours = [colour() for _ in range(3)]
    body = np.array([rng.uniform(0.45, 0.75) for _ in range(3)])
    parts = [(rng.choice(("ellipsoid", "ellipsoid", "box", "cone")), np.zeros(3), body, colours[0])]
    for number in range(rng.randint(2, 5)):
        out = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(-0.2, 1)])
        at = out / np.linalg.norm(out) * body * rng.uniform(0.8, 1.15)
        radii = np.array([rng.uniform(0.12, 0.4) for _ in range(3)])
        form = rng.choice(("ellipsoid", "ellipsoid", "box", "capsule", "ring", "cone"))
        sides = (-1, 1) if rng.random() < 0.7 else (0,)
        parts += [(form, at * (side, 1, 1), radii, colours[1 + number % 2]) for side in sides]
    return parts


def _distances(points: np.ndarray, parts: list[tuple]) -> np.ndarray:
    """``[parts points]``, never more than the true distance by much."""
    found = []
    for form, centre, radii, _ in parts:
        p = points - centre
        if form == "ellipsoid":
            inner = np.linalg.norm(p / radii, axis=-1)
            distance = (inner - 1) * radii.min()
        elif form == "box":
            q = np.abs(p) - radii * 0.8
            distance = np.linalg.norm(q.clip(0), axis=-1) + q.max(-1).clip(max=0) - 0.08
        elif form == "capsule":
            p[:, 1] -= p[:, 1].clip(-radii[1], radii[1])
            distance = np.linalg.norm(p, axis=-1) - 0.6 * radii[0]
        elif form == "ring":
            around = np.hypot(p[:, 0], p[:, 1]) - 1.2 * radii[0]
            distance = np.hypot(around, p[:, 2]) - 0.07
        else:  # a cone, its tip up
            side = np.hypot(p[:, 0], p[:, 2]) - radii[0] * (1 - (p[:, 1] / radii[1]).clip(-1, 1)) / 2
            distance = np.maximum(side, np.abs(p[:, 1]) - radii[1]) * 0.7
        found.append(distance)
    return np.stack(found) * 0.9


def _shade(points: np.ndarray, turn: np.ndarray, parts: list[tuple]) -> np.ndarray:
    """uint8 ``[points 3]`` of places on the surface."""

    def field(at: np.ndarray) -> np.ndarray:
        return _distances(at @ turn, parts).min(0)

    offsets = 0.01 * np.eye(3)
    normal = np.stack([field(points + offset) - field(points - offset) for offset in offsets], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    colour = np.stack([part[3] for part in parts])[_distances(points @ turn, parts).argmin(0)]
    crease = (field(points + 0.15 * normal) / 0.12).clip(0.35, 1)
    light = 0.3 * crease + 0.75 * (normal @ _LAMP).clip(0, 1) * (0.5 + 0.5 * crease)
    halfway = _LAMP + np.array((0, 0, 1))
    shine = (normal @ (halfway / np.linalg.norm(halfway))).clip(0, 1) ** 30
    return (255 * (colour * light[:, None] + 0.35 * shine[:, None])).clip(0, 255).astype(np.uint8)


def _rotation(yaw: float, pitch: float) -> np.ndarray:
    a, b, c, d = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array(((a, 0, b), (0, 1, 0), (-b, 0, a))) @ np.array(((1, 0, 0), (0, c, -d), (0, d, c)))
