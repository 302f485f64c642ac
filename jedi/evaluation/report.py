"""What an evaluation found, as one page: tables with intervals, curves, galleries, facts.

``write_report`` makes ``report.html``, one file that needs nothing else (pictures inside it, no script, no
external address; it reads on a phone, in the dark and on paper), and ``report.json`` beside it with the same
figures. ``text_table`` prints a table in a terminal. Neither torch nor a browser is needed.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from jedi.folders import ResultFolder
from jedi.images import load_image, to_rgb

TEMPLATE = "report.html"
SMALL = 128
"""Pictures up to this many pixels a side stay as they are (PNG) and are shown enlarged, pixel by pixel."""
TILE = 160
"""About as wide as a picture is shown, in CSS pixels."""
LARGEST = 384
"""Larger pictures are shrunk to this many pixels a side (WebP): sharp on a dense screen, in a file that opens."""
PLOT = (480, 320)
"""Width and height of a curve's drawing, in its own units: on a phone they shrink, and its words must stay readable."""
_MARGINS = (54, 14, 34, 42)  # left, right, top, bottom
_ARROWS = {"higher": "\u2191", "lower": "\u2193"}
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class ReportError(ValueError):
    """A report that makes no sense; the message names the place and what would be right."""


@dataclass(frozen=True)
class Cell:
    """A figure with, where it is known, its interval ``[low, high]``; or a word; or ``None``: not measured."""

    value: float | str | None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not isinstance(self.value, str):
            _check_number(self.value, "a cell")
        if self.low is not None or self.high is not None:
            _check_interval(self.value, self.low, self.high, "a cell")


@dataclass
class Table:
    """Rows ``(label, {column: Cell, number, word or None})``; a column that a row lacks was not measured.

    ``groups`` sets rows apart under headings: ``[("This model", 2), ("For comparison", 4)]`` are the first two
    rows and the four after them. ``better`` names for a column "higher" or "lower": it gets an arrow, and its
    best row of the first group (of all rows, without groups) is set in bold. ``formats`` holds Python's format
    for a column, as ``{"accuracy": ".1%"}``; without one a float gets three digits.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Mapping[str, Cell | float | str | None]]]
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()
    better: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One point of a curve; ``[low, high]`` is the interval of ``y``."""

    x: float
    y: float
    label: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _check_number(self.x, "a point's x")
        _check_number(self.y, "a point's y")
        if self.low is not None or self.high is not None:
            _check_interval(self.y, self.low, self.high, "a point's y")


@dataclass
class Series:
    """Points joined in the order given. One point alone is a mark, labelled with the series' name."""

    name: str
    points: Sequence[Point]


@dataclass
class Curve:
    """Series over common axes, for instance identity against prompt as guidance varies."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture with a caption and scores under it; ``reference`` marks what was given, not made."""

    image: Image.Image | Path | str
    caption: str = ""
    scores: Mapping[str, float | str] = field(default_factory=dict)
    reference: bool = False


@dataclass
class Gallery:
    """Rows of pictures (``None``: an empty place), each with a label where ``labels`` has one for every row.

    With ``columns``, a heading for each place of a row, the pictures form a grid, to compare methods. Without,
    a row that is too long for the page goes on in the next line.
    """

    title: str
    rows: Sequence[Sequence[Picture | None]]
    labels: Sequence[str] = ()
    columns: Sequence[str] = ()
    note: str = ""


@dataclass
class Text:
    """Plain text; an empty line begins a new paragraph."""

    title: str
    body: str


Section = Table | Curve | Gallery | Text


@dataclass
class Report:
    """One page: what was found, in a few sentences; the sections; and ``facts``, what they rest on.

    Facts: model, data, encoders, versions, commands, date.
    """

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    facts: Mapping[str, str] = field(default_factory=dict)


def write_report(report: Report, folder: str | Path, name: str = "report") -> Path:
    """Writes ``folder/name.html`` and ``folder/name.json``, whole or not at all; returns the page's path.

    The same call replaces an earlier report of that name; files of other origin are left alone.

    Raises:
        ReportError: something in the report makes no sense, or ``name`` is no file name. ImageError: a picture
        cannot be read. FileExistsError: a file of that name which no earlier report wrote.
    """
    if not name or Path(name).name != name:
        raise ReportError(f"name must be a plain file name without an ending, got {name!r}")
    check_report(report)
    html, folder = render(report), Path(folder)
    files = [f"{name}.html", f"{name}.json"]
    record = json.dumps({"files": files, **to_json(report, folder)}, indent=1, allow_nan=False)
    with ResultFolder(folder, files) as temporary:
        (temporary / files[0]).write_text(html, encoding="utf-8")
        (temporary / files[1]).write_text(record + "\n", encoding="utf-8")
    return folder / files[0]


def text_table(table: Table) -> str:
    """The table for a terminal: aligned columns, intervals in brackets, "-" for what was not measured."""
    check_section(table)
    lines = [["", *(f"{x} {_ARROWS.get(table.better.get(x), '')}" for x in table.columns)]]
    for label, cells in table.rows:
        lines.append([label, *(" ".join(_words(table, x, _cell(cells.get(x)))) for x in table.columns)])
    lines = [[_one_line(word) for word in line] for line in lines]
    widths = [max(map(_terminal_width, column)) for column in zip(*lines, strict=True)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    headings = _headings(table)
    text = [_one_line(table.title)]
    for i, line in enumerate(lines):
        if i - 1 in headings:
            text.append(f"-- {_one_line(headings[i - 1])} ".ljust(len(rule), "-"))
        elif i == 1:
            text.append(rule)
        blanks = [" " * (width - _terminal_width(word)) for word, width in zip(line, widths, strict=True)]
        figures = [blank + word for blank, word in zip(blanks[1:], line[1:], strict=True)]
        text.append("  ".join([line[0] + blanks[0], *figures]).rstrip())
    return "\n".join([*text, *printable(table.note).splitlines()])


def to_json(report: Report, folder: Path) -> dict[str, Any]:
    """The report as plain JSON values; pictures by their place, relative to ``folder``, or null."""

    def picture(x: Picture | None) -> dict[str, Any] | None:
        if x is None:
            return None
        image = None if isinstance(x.image, Image.Image) else Path(os.path.relpath(x.image, folder)).as_posix()
        return {"image": image, "caption": x.caption, "scores": dict(x.scores), "reference": x.reference}

    def point(x: Point) -> dict[str, Any]:
        return {"x": x.x, "y": x.y, "low": x.low, "high": x.high, "label": x.label}

    def section(x: Section) -> dict[str, Any]:
        common = {"kind": type(x).__name__.lower(), "title": x.title}
        if isinstance(x, Text):
            return {**common, "body": x.body}
        common["note"] = x.note
        if isinstance(x, Curve):
            series = [{"name": s.name, "points": [point(p) for p in s.points]} for s in x.series]
            return {**common, "x_label": x.x_label, "y_label": x.y_label, "series": series}
        if isinstance(x, Gallery):
            rows = [[picture(p) for p in row] for row in x.rows]
            return {**common, "columns": list(x.columns), "labels": list(x.labels), "rows": rows}
        rows = [(label, [(column, _cell(cells.get(column))) for column in x.columns]) for label, cells in x.rows]
        return {
            **common,
            "columns": list(x.columns),
            "groups": [{"title": title, "rows": count} for title, count in x.groups],
            "rows": [
                {"label": label, "cells": {c: {"value": v.value, "low": v.low, "high": v.high} for c, v in cells}}
                for label, cells in rows
            ],
        }

    return {
        "title": report.title,
        "summary": list(report.summary),
        "sections": [section(x) for x in report.sections],
        "facts": dict(report.facts),
    }


def printable(text: str) -> str:
    """``text`` with a mark in the place of what neither a page nor a terminal should get.

    That is: control characters other than tab and line feed, halves of surrogate pairs, and the characters
    that turn the direction of the text around them.
    """
    bad = (x in _TURNS or (unicodedata.category(x) in ("Cc", "Cs") and x not in "\t\n") for x in text)
    return "".join("\ufffd" if is_bad else x for x, is_bad in zip(text, bad, strict=True))


# ---- what may be asked for


def check_report(report: Report) -> None:
    """Raises :class:`ReportError` for the first thing in the report that makes no sense."""
    _check_word(report.title, "the report's title")
    if isinstance(report.summary, str):
        raise ReportError("summary must be a list of sentences, got one string")
    for i, sentence in enumerate(report.summary):
        _check_word(sentence, f"summary[{i}]")
    for key, value in report.facts.items():
        _check_word(key, "a fact's name")
        _check_word(value, f"the fact {key!r}")
    if not report.sections:
        raise ReportError(f"the report {report.title!r} has no sections")
    for i, section in enumerate(report.sections):
        if not isinstance(section, Section):
            raise ReportError(f"sections[{i}] must be a Table, Curve, Gallery or Text, got {type(section).__name__}")
        check_section(section)


def check_section(section: Section) -> None:
    """Raises :class:`ReportError`, which names the section, for what makes no sense in it."""
    _check_word(section.title, f"a {type(section).__name__.lower()}'s title")
    where = f"{type(section).__name__.lower()} {section.title!r}"
    if isinstance(section, Table):
        _check_table(section, where)
    elif isinstance(section, Curve):
        _check_curve(section, where)
    elif isinstance(section, Gallery):
        _check_gallery(section, where)
    else:
        _check_word(section.body, f"{where}: its body")


def _check_table(table: Table, where: str) -> None:
    columns = list(table.columns)
    if not columns or not table.rows:
        raise ReportError(f"{where} has {len(columns)} columns and {len(table.rows)} rows; it needs one of each")
    for column in columns:
        _check_word(column, f"{where}: a column's name")
    if twice := {x for x in columns if columns.count(x) > 1}:
        raise ReportError(f"{where}: the column {min(twice)!r} stands there twice")
    for name in ("better", "formats"):
        if unknown := [x for x in getattr(table, name) if x not in columns]:
            raise ReportError(f"{where}: {name} names {unknown[0]!r}; its columns are {', '.join(columns)}")
    if wrong := [x for x in table.better.values() if x not in _ARROWS]:
        raise ReportError(f"{where}: better must be 'higher' or 'lower', got {wrong[0]!r}")
    for label, cells in table.rows:
        _check_word(label, f"{where}: a row's label")
        if unknown := [x for x in cells if x not in columns]:
            raise ReportError(f"{where}, row {label!r}: no column {unknown[0]!r}; there are {', '.join(columns)}")
        for column in columns:
            try:
                _words(table, column, _cell(cells.get(column)))
            except ValueError as error:
                raise ReportError(f"{where}, row {label!r}, column {column!r}: {error}") from error
    counts = [count for _, count in table.groups]
    for title, count in table.groups:
        _check_word(title, f"{where}: a group's heading")
        if count < 1:
            raise ReportError(f"{where}: the group {title!r} has {count} rows; it needs one")
    if table.groups and sum(counts) != len(table.rows):
        raise ReportError(f"{where}: groups of {counts} rows, but there are {len(table.rows)} rows")


def _check_curve(curve: Curve, where: str) -> None:
    _check_word(curve.x_label, f"{where}: x_label")
    _check_word(curve.y_label, f"{where}: y_label")
    if not curve.series:
        raise ReportError(f"{where} has no series")
    names = [series.name for series in curve.series]
    for series in curve.series:
        _check_word(series.name, f"{where}: a series' name")
        if names.count(series.name) > 1:
            raise ReportError(f"{where}: two series are called {series.name!r}")
        if not series.points:
            raise ReportError(f"{where}: the series {series.name!r} has no points")


def _check_gallery(gallery: Gallery, where: str) -> None:
    pictures = [x for row in gallery.rows for x in row if x is not None]
    if not pictures:
        raise ReportError(f"{where} has no pictures")
    if gallery.labels and len(gallery.labels) != len(gallery.rows):
        raise ReportError(f"{where}: {len(gallery.labels)} labels for {len(gallery.rows)} rows")
    for i, row in enumerate(gallery.rows):
        if gallery.columns and len(row) != len(gallery.columns):
            raise ReportError(f"{where}: row {i} has {len(row)} places, and there are {len(gallery.columns)} columns")
    for picture in pictures:
        if not isinstance(picture, Picture):
            raise ReportError(f"{where}: a {type(picture).__name__} stands where a Picture should")
        if not isinstance(picture.image, (Image.Image, Path, str)):
            raise ReportError(f"{where}: an image must be a PIL picture or a path, got {type(picture.image).__name__}")
        for name, score in picture.scores.items():
            if not isinstance(score, str):
                _check_number(score, f"{where}: the score {name!r} of {picture.caption!r}")


def _check_word(text: Any, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ReportError(f"{what} must be a text that is not empty, got {text!r}")


def _check_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ReportError(f"{what} must be a number of Python, got {value!r} ({type(value).__name__})")
    if not math.isfinite(value):
        raise ReportError(f"{what} is {value}; what was not measured is None")


def _check_interval(value: Any, low: Any, high: Any, what: str) -> None:
    if low is None or high is None:
        raise ReportError(f"{what} needs both ends of its interval, got [{low}, {high}]")
    for x in (value, low, high):
        _check_number(x, f"{what} with an interval")
    slack = 1e-6 * max(1.0, abs(value))  # the mean of equal values may differ from them in the last digits
    if not low - slack <= value <= high + slack:
        raise ReportError(f"{what}: the value {value} lies outside of its interval [{low}, {high}]")


# ---- words and figures of a table


def _cell(value: Cell | float | str | None) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _words(table: Table, column: str, cell: Cell) -> tuple[str, ...]:
    """The value and, if there is one, the interval, as they are printed."""
    if cell.value is None or isinstance(cell.value, str):
        return (cell.value or "-",)
    form = table.formats.get(column, ".3f" if isinstance(cell.value, float) else ",")
    value = format(cell.value, form)
    return (value,) if cell.low is None else (value, f"[{format(cell.low, form)}, {format(cell.high, form)}]")


def _headings(table: Table) -> dict[int, str]:
    """Index of a group's first row -> the group's heading."""
    starts = itertools.accumulate((count for _, count in table.groups), initial=0)
    return {start: title for start, (title, _) in zip(starts, table.groups, strict=False)}


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _terminal_width(text: str) -> int:
    """Columns that a text takes: wide characters two, combining ones none."""
    return sum(
        0 if unicodedata.combining(x) else 2 if unicodedata.east_asian_width(x) in "WF" else 1 for x in text
    )


# ---- the page


def render(report: Report) -> str:
    """The page as one string of HTML; every word of the report is escaped by jinja2."""
    import jinja2  # not needed to print a table

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda x: printable(x) if type(x) is str else x,  # not Markup: that is escaped already
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [_view(section) for section in report.sections]
    return environment.get_template(TEMPLATE).render(report=report, sections=views)


def _view(section: Section) -> dict[str, Any]:
    """What the template needs to know of a section."""
    views = {Table: _table_view, Curve: _curve_view, Gallery: _gallery_view, Text: _text_view}
    return {"kind": type(section).__name__.lower(), "title": section.title, **views[type(section)](section)}


def _text_view(text: Text) -> dict[str, Any]:
    return {"note": "", "paragraphs": [x.strip() for x in text.body.split("\n\n") if x.strip()]}


def _table_view(table: Table) -> dict[str, Any]:
    cells = [{x: _cell(row.get(x)) for x in table.columns} for _, row in table.rows]
    scales = {x: _scale([row[x] for row in cells]) for x in table.columns}
    first = table.groups[0][1] if table.groups else len(cells)
    best = {x: _best([row[x] for row in cells[:first]], better) for x, better in table.better.items()}
    rows = []
    for (label, _), row in zip(table.rows, cells, strict=True):
        views = []
        for column, cell in row.items():
            value, *interval = _words(table, column, cell)
            views.append(
                {
                    "value": value,
                    "interval": "".join(interval),
                    "whisker": scales[column] and _whisker(cell, *scales[column]),
                    "best": cell.value is not None and cell.value == best.get(column),
                    "kind": "none" if cell.value is None else "word" if isinstance(cell.value, str) else "number",
                }
            )
        rows.append({"label": label, "cells": views})
    return {
        "note": table.note,
        "heads": [(x, _ARROWS.get(table.better.get(x, ""), "")) for x in table.columns],
        "rows": rows,
        "headings": _headings(table),
        "whiskers": any(scales.values()),
        "bold": any(x is not None for x in best.values()) and first > 1,
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
    return None if len(numbers) < 2 else max(numbers) if better == "higher" else min(numbers)


def _whisker(cell: Cell, least: float, most: float) -> dict[str, float] | None:
    """Places of value, low and high between 4 and 96."""
    if not isinstance(cell.value, (int, float)):
        return None
    ends = {"x": cell.value, "low": cell.low, "high": cell.high}
    span = most - least
    return {k: round(4 + 92 * ((v - least) / span if span else 0.5), 2) for k, v in ends.items() if v is not None}


def _gallery_view(gallery: Gallery) -> dict[str, Any]:
    labels = gallery.labels or [""] * len(gallery.rows)
    rows = [
        {"label": label, "pictures": [x and _picture_view(x, gallery, label, i) for i, x in enumerate(row)]}
        for label, row in zip(labels, gallery.rows, strict=True)
    ]
    return {"note": gallery.note, "columns": list(gallery.columns), "rows": rows}


def _picture_view(picture: Picture, gallery: Gallery, label: str, place: int) -> dict[str, Any]:
    image = picture.image if isinstance(picture.image, Image.Image) else load_image(picture.image)
    image = to_rgb(image)
    column = gallery.columns[place] if gallery.columns else ""
    said = [x for x in (label, column, picture.caption) if x.strip()] or [gallery.title, f"picture {place + 1}"]
    longest = max(image.size)
    small = longest <= SMALL
    if longest > LARGEST:
        size = tuple(max(1, round(x * LARGEST / longest)) for x in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG", "optimize": True} if small else {"format": "WEBP", "quality": 90}))
    zoom = max(1, round(TILE / longest)) if small else TILE / max(image.size)  # pixels stay square and whole
    return {
        "source": f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "width": max(1, round(image.width * zoom)),
        "height": max(1, round(image.height * zoom)),
        "small": small,
        "alt": ", ".join((["reference"] if picture.reference else []) + said),
        "caption": picture.caption,
        "reference": picture.reference,
        "scores": [(k, v if isinstance(v, str) else format(v, ".3f")) for k, v in picture.scores.items()],
    }


def _curve_view(curve: Curve) -> dict[str, Any]:
    points = [p for series in curve.series for p in series.points]
    xs, ys = [p.x for p in points], [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    width, height = PLOT
    left, right, top, bottom = _MARGINS
    (x0, x1), (y0, y1) = _padded(xs), _padded(ys)
    to_x = lambda v: round(left + (v - x0) / (x1 - x0) * (width - left - right), 2)
    to_y = lambda v: round(height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom), 2)
    marks = []
    for i, series in enumerate(curve.series):
        for p in series.points:
            label = p.label or (series.name if len(series.points) == 1 else "")
            ends = None if p.low is None else (to_y(p.low), to_y(p.high))
            name = f"{series.name}{f', {p.label}' if p.label else ''}: {p.x:.4g}, {p.y:.4g}"
            marks.append({"series": i, "x": to_x(p.x), "y": to_y(p.y), "ends": ends, "label": label, "name": name})
    _place_labels(marks)
    lines = [" ".join(f"{m['x']},{m['y']}" for m in marks if m["series"] == i) for i in range(len(curve.series))]
    return {
        "note": curve.note,
        "size": PLOT,
        "frame": {"left": left, "right": width - right, "top": top, "bottom": height - bottom},
        "x_ticks": [(to_x(v), text) for v, text in _ticks(x0, x1)],
        "y_ticks": [(to_y(v), text) for v, text in _ticks(y0, y1)],
        "x_label": curve.x_label,
        "y_label": curve.y_label,
        "names": [series.name for series in curve.series],
        "lines": lines,
        "marks": marks,
        "series": curve.series,
        "labels": any(p.label for p in points),
        "intervals": any(p.low is not None for p in points),
    }


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """A range with some room on both sides, also around a single value."""
    least, most = min(values), max(values)
    room = 0.07 * (most - least) or 0.1 * abs(least) or 1.0
    return least - room, most + room


def _ticks(least: float, most: float, wanted: int = 5) -> list[tuple[float, str]]:
    """Round figures (steps of 1, 2 or 5 times a power of ten) between two ends, with their words."""
    power = 10.0 ** math.floor(math.log10((most - least) / wanted))
    step = next(x * power for x in (1, 2, 5, 10) if x * power * wanted >= (most - least) * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    form = f".{decimals}f" if decimals < 6 and abs(most) < 1e6 else ".4g"
    return [(i * step, format(i * step + 0.0, form)) for i in range(first, last + 1)]


def _place_labels(marks: list[dict[str, Any]]) -> None:
    """Gives each labelled mark a place for its words: the first of eight around it that covers nothing else."""
    left, right, top, bottom = _MARGINS
    frame = (left, 0, PLOT[0], PLOT[1] - bottom)
    taken = [(m["x"] - 4, m["y"] - 4, m["x"] + 4, m["y"] + 4) for m in marks]
    for mark in marks:
        if not mark["label"]:
            continue
        wide, high, x, y = 6.6 * _terminal_width(mark["label"]), 12, mark["x"], mark["y"]
        corners = [(x + 7, y - 15), (x + 7, y + 3), (x - 7 - wide, y - 15), (x - 7 - wide, y + 3)]
        corners += [(x + 8, y - 6), (x - 8 - wide, y - 6), (x - wide / 2, y - 20), (x - wide / 2, y + 8)]
        boxes = [(a, b, a + wide, b + high) for a, b in corners]
        inside = [box for box in boxes if frame[0] <= box[0] and box[2] <= frame[2] and box[1] >= frame[1]]
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        box = (free or inside or boxes)[0]
        taken.append(box)
        mark["words"] = (round(box[0], 2), round(box[3] - 2, 2))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
