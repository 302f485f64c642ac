"""How a subject is drawn: with or without outlines, flat or shaded, textured, slightly bent, in other colours.

A :class:`Style` belongs to the subject: it is the same in all images of a set, but for the light that falls on it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from jedi.io.images import open_image
from jedi_toy import made_up
from jedi_toy.drawings import opaque_box, recolour, sprite, svg_path, with_colours
from jedi_toy.solids import solid

OUTLINES = ("kept", "tinted", "thin", "thick", "none")
SURFACES = ("flat", "soft", "glossy")
TEXTURES = ("none", "grain", "strokes", "weave", "spots")


@dataclass(frozen=True)
class Style:
    """A way of drawing. The first values are OpenMoji's own."""

    outline: str = "kept"
    surface: str = "flat"
    texture: str = "none"
    tint: tuple[int, int, int] = (0, 0, 0)
    """Of outlines that are "tinted"."""
    saturation: float = 1.0
    value: float = 1.0
    """Brightness."""
    bend: float = 0.0
    """How far points are moved, as a share of the drawing's side."""
    seed: int = 0
    """Of the texture and the bend."""


PLAIN = Style()


def draw_style(rng: random.Random) -> Style:
    """A style by chance."""
    return Style(
        outline=rng.choice(OUTLINES),
        surface=rng.choice(SURFACES),
        texture=rng.choice(("none", "none", "none", *TEXTURES)),
        tint=tuple(rng.randint(20, 110) for _ in range(3)),
        saturation=rng.choice((1.0, rng.uniform(0.4, 1.2))),
        value=rng.choice((1.0, rng.uniform(0.75, 1.1))),
        bend=rng.choice((0.0, rng.uniform(0.0, 0.05))),
        seed=rng.randrange(10**6),
    )


def styled(code_point: str, size: int, style: Style, turn: float) -> Image.Image:
    """The subject in that style with its hues turned (`drawings.recolour`): RGBA, cropped to its box; the whole
    drawing's canvas is `size` pixels a side. Code points of `made_up` begin with M, those of `solids` with S."""
    if style == PLAIN and code_point[0] not in "MS":
        return recolour(sprite(code_point, size), turn)
    image = recolour(solid(code_point, size) if code_point[0] == "S" else _drawn(code_point, size, style), turn)
    if style.saturation != 1 or style.value != 1:
        image = _toned(image, style)
    if style.texture != "none":
        image = _textured(image, style)
    if style.bend:
        image = _bent(image, style)
    return image.crop(opaque_box(image))


def _drawn(code_point: str, size: int, style: Style) -> Image.Image:
    is_made_up = code_point[0] == "M"
    svg = made_up.drawing(code_point) if is_made_up else svg_path(code_point).read_text(encoding="utf-8")
    whole = _render(_with_lines(svg, style), size)
    if style.outline != "none":
        return whole
    bare = _render(_without_lines(svg), size)
    # Drawings that live by their lines (faces, tools) keep them, thin and tinted.
    kept, all_ = ((np.asarray(one.getchannel("A")) > 127).sum() for one in (bare, whole))
    return bare if kept > 0.8 * all_ else whole


def _render(svg: str, size: int) -> Image.Image:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return open_image(bytes(png), "a drawing").convert("RGBA")


def _with_lines(svg: str, style: Style) -> str:
    """The drawing with its outlines in that style."""
    if style.outline == "kept":
        return svg
    if style.outline in ("tinted", "none"):
        tint = "#" + "".join(f"{part:02X}" for part in style.tint)
        svg = re.sub(r'stroke="#000(000)?"', f'stroke="{tint}"', svg)
    width = {"tinted": 1.0, "thin": 0.5, "thick": 1.5, "none": 0.5}[style.outline]
    return re.sub(r'stroke-width="([\d.]+)"', lambda found: f'stroke-width="{width * float(found[1]):.2f}"', svg)


def _without_lines(svg: str) -> str:
    """The drawing without what is drawn over its coloured shapes: OpenMoji's groups "line", and outlines."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("id", "").startswith("line") or child.get("class") == "line":
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def _toned(image: Image.Image, style: Style) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    grey = pixels[..., :3].mean(-1, keepdims=True)
    return with_colours(image, (grey + (pixels[..., :3] - grey) * style.saturation) * style.value)


def _textured(image: Image.Image, style: Style) -> Image.Image:
    """Lighter and darker places all over the drawing, fixed to it."""
    width, height = image.size
    rng = np.random.default_rng(style.seed)
    strength = rng.uniform(0.12, 0.3)
    if style.texture == "grain":
        field = noise(rng, width, height, max(2, width // 3))
    elif style.texture == "strokes":  # noise drawn out along one direction
        field = noise(rng, width, height, max(2, width // 3), max(2, height // 24))
        field = field.T[:height, :width] if rng.random() < 0.5 and width == height else field
    elif style.texture == "weave":
        y, x = np.mgrid[:height, :width] * (2 * np.pi * rng.uniform(10, 22) / width)
        field = np.sin(x) * np.sin(y)
    else:
        field = np.where(noise(rng, width, height, int(rng.integers(8, 18))) > 0.35, 1.0, -0.2)
    pixels = np.asarray(image).astype(np.float32)
    return with_colours(image, pixels[..., :3] * (1 + strength * field[..., None]))


def _bent(image: Image.Image, style: Style) -> Image.Image:
    """A smooth deformation, by moving the corners of a coarse mesh."""
    cells, padded = 4, ImageOps.expand(image, round(0.06 * image.width), (0, 0, 0, 0))
    width, height = padded.size
    rng = np.random.default_rng(style.seed + 1)
    xs, ys = np.linspace(0, width, cells + 1).round(), np.linspace(0, height, cells + 1).round()
    moved = np.stack(np.meshgrid(xs, ys, indexing="ij"), -1)
    moved[1:-1, 1:-1] += rng.uniform(-1, 1, (cells - 1, cells - 1, 2)) * style.bend * width
    mesh = [
        (
            (int(xs[i]), int(ys[j]), int(xs[i + 1]), int(ys[j + 1])),
            tuple(float(v) for di, dj in ((0, 0), (0, 1), (1, 1), (1, 0)) for v in moved[i + di, j + dj]),
        )
        for i in range(cells)
        for j in range(cells)
    ]
    premultiplied = padded.convert("RGBa").transform(padded.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return premultiplied.convert("RGBA")


def noise(rng: np.random.Generator, width: int, height: int, columns: int, rows: int | None = None) -> np.ndarray:
    """Smooth noise ``[height width]`` in about [-1, 1], with so many hills across."""
    rows = rows or max(2, round(columns * height / width))
    coarse = Image.fromarray(rng.uniform(0, 255, (rows, columns)).astype(np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32) / 127.5 - 1


def lit(figure: Image.Image, surface: str, light: tuple[float, float]) -> Image.Image:
    """A figure (RGBA, as it stands in the image) with the shades of a body that bulges towards the viewer.

    `light`: where it comes from, x to the right and y down, of length 0 (from the viewer) to 1 (from the side)."""
    if surface == "flat":
        return figure
    side = max(figure.size)
    alpha = figure.getchannel("A")
    height = np.zeros((figure.height, figure.width), np.float32)
    for part in (0.04, 0.1, 0.2):  # a sum of blurred outlines: steep at the rim, nearly flat inside
        blurred = ImageOps.expand(alpha, side // 4).filter(ImageFilter.GaussianBlur(part * side))
        height += np.asarray(ImageOps.crop(blurred, side // 4))
    dy, dx = np.gradient(height / 255 * 0.22 * side)
    normal = np.stack([-dx, -dy, np.ones_like(dx)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    towards = np.array([*light, np.sqrt(max(0.05, 1 - light[0] ** 2 - light[1] ** 2))])
    towards /= np.linalg.norm(towards)
    brightness = (normal @ towards).clip(0, 1)
    pixels = np.asarray(figure).astype(np.float32)
    rgb = pixels[..., :3] * (0.45 + 0.65 * brightness[..., None])
    if surface == "glossy":
        halfway = towards + np.array([0, 0, 1])
        shine = (normal @ (halfway / np.linalg.norm(halfway))).clip(0, 1) ** 40
        rgb += 130 * shine[..., None]
    return with_colours(figure, rgb)


def cast_shadow(image: Image.Image, figure: Image.Image, corner: tuple[int, int], light: tuple[float, float]) -> None:
    """Darkens `image` (RGB) where a figure that is about to be pasted at `corner` keeps the light away."""
    size = image.width
    shape = Image.new("L", image.size)
    away = round(corner[0] - 0.06 * size * light[0]), round(corner[1] + 0.03 * size - 0.06 * size * min(0.0, light[1]))
    shape.paste(figure.getchannel("A").point(lambda a: a * 0.45), away)
    image.paste((10, 10, 20), (0, 0), shape.filter(ImageFilter.GaussianBlur(0.025 * size)))


def as_photo(image: Image.Image, seed: int) -> Image.Image:
    """The image as a simple camera might take it: a little blurred, noisy, darker at the corners, tinted light."""
    rng = np.random.default_rng(seed)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.007) * image.width))
    pixels = np.asarray(image).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : 1j * image.height, -1 : 1 : 1j * image.width]
    pixels *= (1 - rng.uniform(0, 0.3) * (x * x + y * y) / 2)[..., None]
    pixels *= rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, 3)
    pixels += rng.normal(0, rng.uniform(0, 12), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
