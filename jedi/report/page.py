"""The page of a report: numbers become places on the page, ``page.html`` says what stands where.

Drawings are written as SVG by the template, so that their colours follow the reader's light or dark page.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from jedi.io.images import load_image, to_rgb
from jedi.report.document import (
    ARROWS,
    Cell,
    Curve,
    Gallery,
    GalleryImage,
    Histogram,
    Report,
    Section,
    Table,
    Text,
    as_cell,
    headings,
    printable,
    terminal_width,
    words,
)

SMALL = 128
"""Images up to this many pixels a side stay as they are (PNG) and are shown enlarged, pixel by pixel."""
TILE = 160
"""About as wide as an image is shown, in CSS pixels."""
LARGEST = 384
"""Larger images are shrunk to this many pixels a side (WebP): sharp on a dense screen, in a file that opens."""
PLOTS = {"wide": (720, 420), "narrow": (360, 340)}
"""A curve is drawn twice, for a desk and for a phone: shrunk, its words could not be read."""
BARS = {"wide": (720, 280), "narrow": (360, 260)}
"""The same for a histogram."""
MARGINS = (54, 14, 34, 44)
"""Left, right, top, bottom of a drawing: room for the axes' words."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def render(report: Report) -> str:
    """The page as one string of HTML. Every word of the report is escaped by jinja2.

    Raises ``ImageError`` for an image that cannot be read.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda x: printable(x) if type(x) is str else x,  # not Markup: that is escaped already
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_view(section) for section in report.sections]
    return environment.get_template("page.html").render(report=report, sections=sections)


def _view(section: Section) -> dict[str, Any]:
    """What the template needs to know of a section."""
    views = {Table: _table, Curve: _curve, Histogram: _histogram, Gallery: _gallery, Text: _text}
    view = next(view for kind, view in views.items() if isinstance(section, kind))
    return {"title": section.title, "note": getattr(section, "note", ""), **view(section)}


def _text(text: Text) -> dict[str, Any]:
    return {"kind": "text", "paragraphs": [x.strip() for x in text.body.split("\n\n") if x.strip()]}


# ---- tables


def _table(table: Table) -> dict[str, Any]:
    cells = [{x: as_cell(row.get(x)) for x in table.columns} for _, row in table.rows]
    scales = {x: _scale([row[x] for row in cells]) for x in table.columns}
    first = table.groups[0][1] if table.groups else len(cells)
    best = {x: _best([row[x] for row in cells[:first]], better) for x, better in table.better.items()}

    def plain(column: str) -> bool:
        """Figures without whiskers: they stand under one another, on the right."""
        return scales[column] is None and not any(isinstance(row[column].value, str) for row in cells)

    rows = []
    for i, ((label, _), row) in enumerate(zip(table.rows, cells, strict=True)):
        views = []
        for column, cell in row.items():
            value, *interval = words(table, column, cell)
            views.append(
                {
                    "value": value,
                    "interval": "".join(interval),
                    "whisker": scales[column] and _whisker(cell, *scales[column]),
                    "best": cell.value is not None and cell.value == best.get(column),
                    "kind": "none" if cell.value is None else "word" if isinstance(cell.value, str) else "number",
                }
            )
        rows.append({"label": label, "cells": views, "first": i < first})
    return {
        "kind": "table",
        "heads": [(x, ARROWS.get(table.better.get(x, ""), ""), plain(x)) for x in table.columns],
        "rows": rows,
        "headings": headings(table),
        "whiskers": any(scales.values()),
        "bold": any(x is not None for x in best.values()),
    }


def _scale(cells: Sequence[Cell]) -> tuple[float, float] | None:
    """The range that a column's whiskers share; ``None`` where no cell has an interval."""
    if all(cell.low is None for cell in cells):
        return None
    numbers = [x for cell in cells for x in (cell.value, cell.low, cell.high) if isinstance(x, (int, float))]
    return min(numbers), max(numbers)


def _best(cells: Sequence[Cell], better: str) -> float | None:
    """The best figure of several; one alone is not called best."""
    numbers = [cell.value for cell in cells if isinstance(cell.value, (int, float))]
    if len(numbers) < 2:
        return None
    return max(numbers) if better == "higher" else min(numbers)


def _whisker(cell: Cell, least: float, most: float) -> dict[str, float] | None:
    """Places of value, low and high between 2 and 98."""
    if not isinstance(cell.value, (int, float)):
        return None
    places = {"value": cell.value, "low": cell.low, "high": cell.high}
    span = most - least
    return {k: round(2 + 96 * ((v - least) / span if span else 0.5), 2) for k, v in places.items() if v is not None}


# ---- images


def _gallery(gallery: Gallery) -> dict[str, Any]:
    labels = gallery.labels or [""] * len(gallery.rows)
    images = [[x and _open(x) for x in row] for row in gallery.rows]
    enlarged = [max(x.size) * _zoom(x) for row in images for x in row if x and max(x.size) <= SMALL]
    tile = max(enlarged, default=TILE)  # photographs beside small images are shown as large as those
    rows = []
    for label, shown_images, opened in zip(labels, gallery.rows, images, strict=True):
        said = [[x for x in (label, *gallery.columns[i : i + 1]) if x.strip()] for i in range(len(shown_images))]
        views = [
            x and _image(x, image, tile, words or [f"{gallery.title}: image {i + 1}"] * (not x.caption.strip()))
            for i, (x, image, words) in enumerate(zip(shown_images, opened, said, strict=True))
        ]
        rows.append({"label": label, "images": views})
    return {"kind": "gallery", "columns": list(gallery.columns), "rows": rows}


def _open(shown: GalleryImage) -> Image.Image:
    """The image as RGB, a copy, no larger than the page needs it."""
    image = to_rgb(shown.image) if isinstance(shown.image, Image.Image) else load_image(shown.image)
    if max(image.size) > LARGEST:
        image = image.copy()
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return image


def _zoom(image: Image.Image) -> int:
    """How many times a small image is enlarged: a whole number, so that its pixels stay equal squares."""
    return max(1, round(TILE / max(image.size)))


def _image(shown: GalleryImage, image: Image.Image, tile: float, said: Sequence[str]) -> dict[str, Any]:
    """``tile``: the longest side of a large image on the page. ``said``: words for who cannot see it."""
    small = max(image.size) <= SMALL
    zoom = _zoom(image) if small else tile / max(image.size)
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG", "optimize": True} if small else {"format": "WEBP", "quality": 90}))
    alt = [
        *(["reference"] if shown.reference else []),
        *said,
        *([shown.caption] if shown.caption.strip() else []),
    ]
    return {
        "source": f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "width": max(1, round(image.width * zoom)),
        "height": max(1, round(image.height * zoom)),
        "small": small,
        "alt": ", ".join(alt),
        "caption": shown.caption,
        "reference": shown.reference,
        "scores": [(name, x if isinstance(x, str) else format(x, ".3f")) for name, x in shown.scores.items()],
    }


# ---- curves


def _curve(curve: Curve) -> dict[str, Any]:
    points = [point for series in curve.series for point in series.points]
    return {
        "kind": "curve",
        "x_label": curve.x_label,
        "y_label": curve.y_label,
        "series": curve.series,
        "plots": [_plot(curve, name, *size) for name, size in PLOTS.items()],
        "labelled": any(point.label for point in points),
    }


def _plot(curve: Curve, name: str, width: int, height: int) -> dict[str, Any]:
    """Places in a drawing of ``width`` x ``height``: axes, and each point with its interval and words."""
    points = [point for series in curve.series for point in series.points]
    ys = [y for point in points for y in (point.y, point.low, point.high) if y is not None]
    left, right, top, bottom = MARGINS[0], width - MARGINS[1], MARGINS[2], height - MARGINS[3]
    (x0, x1), (y0, y1) = _padded([point.x for point in points]), _padded(ys)

    def across(x: float) -> float:
        return round(left + (x - x0) / (x1 - x0) * (right - left), 2)

    def down(y: float) -> float:
        return round(bottom - (y - y0) / (y1 - y0) * (bottom - top), 2)

    marks = []
    for i, series in enumerate(curve.series):
        alone = len(series.points) == 1
        for point in series.points:
            marks.append(
                {
                    "series": i,
                    "x": across(point.x),
                    "y": down(point.y),
                    "ends": None if point.low is None else (down(point.high), down(point.low)),
                    "label": point.label or (series.name if alone else ""),
                    "title": f"{series.name}{point.label and ', '}{point.label}: {point.x:.4g}, {point.y:.4g}",
                }
            )
    _place_labels(marks, (left, top, width, bottom))
    return {
        "name": name,
        "width": width,
        "height": height,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "x_ticks": [(across(x), text) for x, text in ticks(x0, x1, wanted=7 if name == "wide" else 4)],
        "y_ticks": [(down(y), text) for y, text in ticks(y0, y1)],
        "marks": marks,
    }


# ---- histograms


def _histogram(histogram: Histogram) -> dict[str, Any]:
    bins = list(itertools.pairwise(histogram.edges))
    return {
        "kind": "histogram",
        "x_label": histogram.x_label,
        "y_label": histogram.y_label,
        "names": list(histogram.counts),
        "bins": [(f"{a:.4g} to {b:.4g}", [x[i] for x in histogram.counts.values()]) for i, (a, b) in enumerate(bins)],
        "plots": [_bars(histogram, name, *size) for name, size in BARS.items()],
    }


def _bars(histogram: Histogram, name: str, width: int, height: int) -> dict[str, Any]:
    """Places in a drawing of ``width`` x ``height``: axes, stacked bars, and the lines with their words."""
    left, right, top, bottom = MARGINS[0], width - MARGINS[1], MARGINS[2], height - MARGINS[3]
    x0, x1 = histogram.edges[0], histogram.edges[-1]
    highest = max(1, *(sum(column) for column in zip(*histogram.counts.values(), strict=True)))
    most = highest * (1.05 + 0.09 * len(histogram.lines))  # above the bars there is room for the lines' words
    whole = all(edge - 0.5 == round(edge - 0.5) for edge in histogram.edges)  # bins of whole numbers

    def across(x: float) -> float:
        return round(left + (x - x0) / (x1 - x0) * (right - left), 2)

    def tall(count: int) -> float:
        """At least one pixel, so that what is rare is seen."""
        return round(max(1.0, count / most * (bottom - top)), 2) if count else 0.0

    bars = []
    for i, (a, b) in enumerate(itertools.pairwise(histogram.edges)):
        floor, x = bottom, across(a)
        for series, (kind, counts) in enumerate(histogram.counts.items()):
            if high := tall(counts[i]):
                floor = round(floor - high, 2)
                wide = round(max(0.5, across(b) - x - 0.5), 2)  # a thin gap between bars
                title = f"{kind}, {a:.4g} to {b:.4g}: {counts[i]:,}"
                bars.append({"series": series, "x": x, "y": floor, "width": wide, "height": high, "title": title})
    lines = []
    for i, (text, value) in enumerate(sorted(histogram.lines.items(), key=lambda line: line[1])):
        x = across(value)
        after = x < (left + right) / 2  # the words stand on the side with more room
        place = {"words": x + 5 if after else x - 5, "anchor": "start" if after else "end", "y": top + 11 + 15 * i}
        lines.append({"x": x, "text": text, **place})
    x_ticks = [(x, text) for x, text in ticks(x0, x1, wanted=8 if name == "wide" else 4) if not whole or x == round(x)]
    y_ticks = [y for y, _ in ticks(0, most, wanted=4) if y == round(y)]
    return {
        "name": name,
        "width": width,
        "height": height,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "x_ticks": [(across(x), f"{round(x):,}" if whole else text) for x, text in x_ticks],
        "y_ticks": [(round(bottom - y / most * (bottom - top), 2), f"{round(y):,}") for y in y_ticks],
        "bars": bars,
        "lines": lines,
    }


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """A range with some room on both sides, also around a single value."""
    least, most = min(values), max(values)
    room = 0.07 * (most - least) or 0.1 * abs(least) or 1.0
    return least - room, most + room


def ticks(least: float, most: float, wanted: int = 5) -> list[tuple[float, str]]:
    """Round figures between two ends, at most ``wanted`` + 1 of them, with their words.

    Their distance is 1, 2 or 5 times a power of ten.
    """
    power = 10.0 ** math.floor(math.log10((most - least) / wanted))
    step = next(x * power for x in (1, 2, 5, 10) if x * power * wanted >= (most - least) * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    plain = decimals < 6 and max(abs(least), abs(most)) < 1e6
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [(i * step, format(i * step, f".{decimals}f" if plain else ".4g")) for i in range(first, last + 1)]


def _place_labels(marks: list[dict[str, Any]], frame: Box) -> None:
    """Gives labels a place beside their mark where they cover nothing; a label without one is left out.

    Its words are still in the mark's tooltip and in the list of figures under the curve.
    """
    taken = [box for mark in marks for box in _around(mark)]
    for a, b in itertools.pairwise(marks):
        if a["series"] == b["series"]:  # the line between them
            x, y, dx, dy = a["x"], a["y"], b["x"] - a["x"], b["y"] - a["y"]
            steps = max(1, round(math.hypot(dx, dy) / 5))
            between = [(x + dx * i / steps, y + dy * i / steps) for i in range(steps)]
            taken += [(x - 1, y - 1, x + 1, y + 1) for x, y in between]
    for mark in sorted((mark for mark in marks if mark["label"]), key=lambda mark: -len(mark["label"])):
        wide, high, x, y = 6.8 * terminal_width(mark["label"]), 12, mark["x"], mark["y"]
        lefts = (x + 7, x - 7 - wide, x - wide / 2)
        corners = [(lefts[0], y - 6), (lefts[0], y - 16), (lefts[0], y + 4), (lefts[1], y - 6)]
        corners += [(lefts[1], y - 16), (lefts[1], y + 4), (lefts[2], y - 20), (lefts[2], y + 8)]
        boxes = [(a, b, a + wide, b + high) for a, b in corners]
        free = [box for box in boxes if _inside(box, frame) and not any(_overlap(box, other) for other in taken)]
        mark["words"] = (round(free[0][0], 2), round(free[0][3] - 2, 2)) if free else None
        taken += free[:1]


def _around(mark: dict[str, Any]) -> list[Box]:
    """What a mark covers: itself, and its interval."""
    x, y = mark["x"], mark["y"]
    boxes = [(x - 4, y - 4, x + 4, y + 4)]
    return boxes if mark["ends"] is None else [*boxes, (x - 3, mark["ends"][0], x + 3, mark["ends"][1])]


def _inside(box: Box, frame: Box) -> bool:
    return frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
