"""The page of a report: what the template ``page.html`` needs to know, and the files that are written."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from jedi.errors import InputError
from jedi.io.files import ResultFolder, lies_in
from jedi.io.images import load_image, to_rgb
from jedi.report.charts import MARKERS, SIZES, draw
from jedi.report.document import (
    ARROWS,
    Cell,
    Gallery,
    GalleryImage,
    Histogram,
    LineChart,
    Report,
    Section,
    Table,
    require,
)
from jedi.report.text import printable, to_json

SMALL = 128
"""Images up to this many pixels a side stay as they are (PNG) and are shown enlarged, pixel by pixel."""
TILE = 160
"""About as wide as an image is shown, in CSS pixels."""
LARGEST = 384
"""Larger images are shrunk to this many pixels a side (WebP): sharp on a dense screen, in a file that opens."""


def write_report(
    report: Report, folder: str | Path, name: str = "report", scores: Mapping[str, Any] | None = None
) -> Path:
    """Writes ``folder/name.html``, ``folder/name.json`` and, of ``scores``, ``folder/scores.json``: all or none.

    The page is one file that needs nothing else; the JSON holds the same figures. The same call replaces an earlier
    report of that name; files of other origin are left alone. Returns the page.

    Raises:
        ReportError: ``name`` is no file name. ImageError: an image cannot be read. InputError: there is a file of that
        name which no earlier report wrote.
    """
    plain = name and Path(name).name == name
    require(plain, f"name must be a plain file name without an ending, got {name!r}")
    html, folder = render(report), Path(folder)
    files = report_files(name, scores is not None)
    record = json.dumps({"files": files, **to_json(report, folder)}, indent=1, allow_nan=False)
    with ResultFolder(folder, files) as temporary:
        (temporary / files[0]).write_text(html, encoding="utf-8")
        if scores is not None:
            text = json.dumps(scores, indent=1, ensure_ascii=False, allow_nan=False)
            (temporary / files[1]).write_text(text + "\n", encoding="utf-8")
        (temporary / files[-1]).write_text(record + "\n", encoding="utf-8")
    return folder / files[0]


def report_files(name: str = "report", scores: bool = True) -> list[str]:
    """The files that :func:`write_report` writes, its record last."""
    return [f"{name}.html", *(["scores.json"] if scores else []), f"{name}.json"]


def check_place(out: str | Path, **read: str | Path | None) -> None:
    """Before the work begins: whether ``out`` may hold the report. ``read`` are folders, by the option that names them.

    Raises:
        InputError: ``out`` lies in a folder that is read, where what is written would be read as well. Else as
        :func:`write_report` with scores would, at the end of the work.
    """
    for option, folder in read.items():
        if folder is not None and lies_in(out, folder):
            raise InputError(f"--out {out} is inside --{option} {folder}, which is only read; give another folder")
    ResultFolder(out, report_files())


def render(report: Report) -> str:
    """The page as one string of HTML. Every word of the report is escaped by jinja2 or matplotlib.

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
    views: dict[type, Any] = {Table: _table, LineChart: _line_chart, Histogram: _histogram, Gallery: _gallery}
    view = views.get(type(section), lambda text: {"kind": "text", "paragraphs": text.paragraphs()})
    return {"title": section.title, "note": getattr(section, "note", ""), **view(section)}


# ---- tables


def _table(table: Table) -> dict[str, Any]:
    rows = table.cells()
    first = table.groups[0][1] if table.groups else len(rows)
    columns = {column: [cells[column] for _, cells in rows] for column in table.columns}
    scales = {column: _scale(cells) for column, cells in columns.items()}
    best = {column: _best(columns[column][:first], better) for column, better in table.better.items()}
    views = []
    for i, (label, cells) in enumerate(rows):
        shown = []
        for column, cell in cells.items():
            value, interval = table.words(column, cell)
            shown.append(
                {
                    "value": value,
                    "interval": interval,
                    "whisker": _whisker(cell, scales[column]),
                    "best": cell.value is not None and cell.value == best.get(column),
                    "kind": "none" if cell.value is None else "word" if isinstance(cell.value, str) else "number",
                }
            )
        views.append({"label": label, "cells": shown, "first": i < first})
    # Figures without whiskers stand under one another, on the right.
    plain = {x: scales[x] is None and not any(isinstance(cell.value, str) for cell in columns[x]) for x in columns}
    return {
        "kind": "table",
        "heads": [(x, ARROWS.get(table.better.get(x, ""), ""), plain[x]) for x in table.columns],
        "rows": views,
        "headings": table.headings(),
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


def _whisker(cell: Cell, scale: tuple[float, float] | None) -> dict[str, float] | None:
    """Places of value, low and high between 2 and 98 percent."""
    if scale is None or not isinstance(cell.value, (int, float)):
        return None
    least, span = scale[0], scale[1] - scale[0]
    places = {"value": cell.value, "low": cell.low, "high": cell.high}
    return {k: round(2 + 96 * ((v - least) / span if span else 0.5), 2) for k, v in places.items() if v is not None}


# ---- charts


def _chart(chart: LineChart | Histogram) -> dict[str, Any]:
    sizes = SIZES[type(chart)]
    return {"kind": "chart", "drawings": [(name, sizes[name], drawing) for name, drawing in draw(chart).items()]}


def _line_chart(chart: LineChart) -> dict[str, Any]:
    points = [(series.name, p) for series in chart.series for p in series.points]
    labelled = any(p.label for _, p in points)
    rows = []
    for name, p in points:
        interval = "" if p.low is None else f"[{p.low:.4g}, {p.high:.4g}]"
        rows.append((name, [*([(p.label, "")] if labelled else []), (f"{p.x:.4g}", ""), (f"{p.y:.4g}", interval)]))
    return {
        **_chart(chart),
        "alt": f"{chart.y_label} against {chart.x_label}",
        "legend": [(mark, series.name) for mark, series in zip(itertools.cycle(MARKERS.values()), chart.series)],
        "heads": ["", *(["point"] if labelled else []), chart.x_label, chart.y_label],
        "rows": rows,
    }


def _histogram(chart: Histogram) -> dict[str, Any]:
    bins = zip(itertools.pairwise(chart.edges), zip(*chart.counts.values(), strict=True), strict=True)
    return {
        **_chart(chart),
        "alt": f"{chart.y_label} by {chart.x_label}",
        "legend": [("\u25a0", name) for name in chart.counts] if len(chart.counts) > 1 else [],
        "heads": [chart.x_label, *chart.counts],
        "rows": [(f"{a:.4g} to {b:.4g}", [(f"{x:,}", "") for x in counts]) for (a, b), counts in bins if any(counts)],
    }


# ---- images


def _gallery(gallery: Gallery) -> dict[str, Any]:
    labels = gallery.labels or [""] * len(gallery.rows)
    images = [[None if x is None else _open(x) for x in row] for row in gallery.rows]
    enlarged = [max(x.size) * _zoom(x) for row in images for x in row if x and max(x.size) <= SMALL]
    tile = max(enlarged, default=TILE)  # photographs beside small images are shown as large as those
    rows = []
    for label, shown_images, opened in zip(labels, gallery.rows, images, strict=True):
        views: list[dict[str, Any] | None] = []
        for i, (shown, image) in enumerate(zip(shown_images, opened, strict=True)):
            if shown is None or image is None:
                views.append(None)
                continue
            said = ["reference"] * shown.reference
            said += [x for x in (label, *gallery.columns[i : i + 1], shown.caption) if x.strip()]
            nothing = said == ["reference"] * shown.reference
            views.append(_image(shown, image, tile, ", ".join(said + [f"{gallery.title}: image {i + 1}"] * nothing)))
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


def _image(shown: GalleryImage, image: Image.Image, tile: float, alt: str) -> dict[str, Any]:
    """``tile``: the longest side of a large image on the page."""
    small = max(image.size) <= SMALL
    zoom = _zoom(image) if small else tile / max(image.size)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"format": "PNG", "optimize": True} if small else {"format": "WEBP", "quality": 90}
    image.save(buffer, **options)
    return {
        "source": f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "width": max(1, round(image.width * zoom)),
        "height": max(1, round(image.height * zoom)),
        "small": small,
        "alt": alt,
        "caption": shown.caption,
        "reference": shown.reference,
        "scores": [(name, x if isinstance(x, str) else format(x, ".3f")) for name, x in shown.scores.items()],
    }
