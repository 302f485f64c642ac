"""What an evaluation found, as one page: tables with intervals, curves, galleries, facts.

``write_report`` makes ``report.html``, one file that needs nothing else (images inside it, no script, no
external address; it reads on a phone, in the dark and on paper), and ``report.json`` beside it with the same
figures. ``text_table`` prints a table in a terminal. Neither torch nor a browser is needed.
"""

from __future__ import annotations

import itertools
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from jedi.errors import InputError
from jedi.io.files import ResultFolder, lies_in
from jedi.report.checks import ReportError, check_interval, check_number, check_word

ARROWS = {"higher": "\u2191", "lower": "\u2193"}
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True)
class Cell:
    """A figure with, where it is known, its interval ``[low, high]``; or a word; or ``None``: not measured."""

    value: float | str | None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not isinstance(self.value, str):
            check_number(self.value, "a cell")
        if self.low is not None or self.high is not None:
            check_interval(self.value, self.low, self.high, "a cell")


@dataclass
class Table:
    """Rows ``(label, {column: Cell, number, word or None})``; a column that a row lacks was not measured.

    ``groups`` sets rows apart under headings: ``[("This model", 2), ("For comparison", 4)]`` are the first two
    rows and the four after them; a group without rows is not shown. ``better`` names for a column "higher" or
    "lower": it gets an arrow, and its best row of the first group (of all rows, without groups) is set in bold.
    ``formats`` holds Python's format for a column, as ``{"accuracy": ".1%"}``; without one a float gets three
    digits.
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
        check_number(self.x, "a point's x")
        check_number(self.y, "a point's y")
        if self.low is not None or self.high is not None:
            check_interval(self.y, self.low, self.high, "a point's y")


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


@dataclass
class Histogram:
    """How often values lie in each of n bins, between n + 1 rising ``edges``.

    ``counts`` holds n whole numbers for each kind of thing, kinds stacked in the order given. ``lines`` are upright
    lines with words, a threshold for instance: ``{"min_mean 0.7": 0.7}``.
    """

    title: str
    x_label: str
    y_label: str
    edges: Sequence[float]
    counts: Mapping[str, Sequence[int]]
    lines: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class GalleryImage:
    """An image with a caption and scores under it; ``reference`` marks what was given, not made."""

    image: Image.Image | Path | str
    caption: str = ""
    scores: Mapping[str, float | str] = field(default_factory=dict)
    reference: bool = False


@dataclass
class Gallery:
    """Rows of images (``None``: an empty place), each with a label where ``labels`` has one for every row.

    With ``columns``, a heading for each place of a row, the images form a grid, to compare methods. Without,
    a row that is too long for the page goes on in the next line.
    """

    title: str
    rows: Sequence[Sequence[GalleryImage | None]]
    labels: Sequence[str] = ()
    columns: Sequence[str] = ()
    note: str = ""


@dataclass
class Text:
    """Plain text; an empty line begins a new paragraph."""

    title: str
    body: str


Section = Table | Curve | Histogram | Gallery | Text


@dataclass
class Report:
    """One page: what was found, in a few sentences; the sections; and ``facts``, what they rest on.

    Facts: model, data, encoders, versions, commands, date. ``links`` lead to files near the page: words -> address,
    relative to it.
    """

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    facts: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def write_report(
    report: Report, folder: str | Path, name: str = "report", scores: Mapping[str, Any] | None = None
) -> Path:
    """Writes ``folder/name.html``, ``folder/name.json`` and, of ``scores``, ``folder/scores.json``: all or none.

    The same call replaces an earlier report of that name; files of other origin are left alone. Returns the page.

    Raises:
        ReportError: something in the report makes no sense, or ``name`` is no file name. ImageError: an image
        cannot be read. FileExistsError: a file of that name which no earlier report wrote.
    """
    if not name or Path(name).name != name:
        raise ReportError(f"name must be a plain file name without an ending, got {name!r}")
    from jedi.report.page import render  # jinja2 is not needed to print a table

    check_report(report)
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
            raise InputError(f"--out {out} lies in --{option} {folder}, which is only read; give another folder")
    ResultFolder(out, report_files())


def text_table(table: Table) -> str:
    """The table for a terminal: aligned columns, intervals in brackets, "-" for what was not measured."""
    check_section(table)
    lines = [["", *(f"{x} {ARROWS.get(table.better.get(x), '')}" for x in table.columns)]]
    for label, cells in table.rows:
        lines.append([label, *(" ".join(words(table, x, as_cell(cells.get(x)))) for x in table.columns)])
    lines = [[_one_line(word) for word in line] for line in lines]
    widths = [max(map(terminal_width, column)) for column in zip(*lines, strict=True)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    starts = headings(table)
    text = [_one_line(table.title)]
    for i, line in enumerate(lines):
        if i - 1 in starts:
            text.append(f"-- {_one_line(starts[i - 1])} ".ljust(len(rule), "-"))
        elif i == 1:
            text.append(rule)
        blanks = [" " * (width - terminal_width(word)) for word, width in zip(line, widths, strict=True)]
        figures = [blank + word for blank, word in zip(blanks[1:], line[1:], strict=True)]
        text.append("  ".join([line[0] + blanks[0], *figures]).rstrip())
    return "\n".join([*text, *printable(table.note).splitlines()])


def to_json(report: Report, folder: Path) -> dict[str, Any]:
    """The report as plain JSON values; images by their place, relative to ``folder``, or null."""

    def shown(x: GalleryImage | None) -> dict[str, Any] | None:
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
        if isinstance(x, Histogram):
            counts = {name: list(values) for name, values in x.counts.items()}
            drawn = {"edges": list(x.edges), "counts": counts, "lines": dict(x.lines)}
            return {**common, "x_label": x.x_label, "y_label": x.y_label, **drawn}
        if isinstance(x, Gallery):
            rows = [[shown(p) for p in row] for row in x.rows]
            return {**common, "columns": list(x.columns), "labels": list(x.labels), "rows": rows}
        rows = [(label, [(column, as_cell(cells.get(column))) for column in x.columns]) for label, cells in x.rows]
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
        "links": dict(report.links),
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
    check_word(report.title, "the report's title")
    if isinstance(report.summary, str):
        raise ReportError("summary must be a list of sentences, got one string")
    for i, sentence in enumerate(report.summary):
        check_word(sentence, f"summary[{i}]")
    for key, value in report.facts.items():
        check_word(key, "a fact's name")
        check_word(value, f"the fact {key!r}")
    for text, address in report.links.items():
        check_word(text, "a link's text")
        check_word(address, f"the link {text!r}")
        if ":" in address or address.startswith("/"):
            raise ReportError(f"the link {text!r} leads to {address!r}; expected an address relative to the page")
    if not report.sections:
        raise ReportError(f"the report {report.title!r} has no sections")
    for i, section in enumerate(report.sections):
        if not isinstance(section, Section):
            kinds = "Table, Curve, Histogram, Gallery or Text"
            raise ReportError(f"sections[{i}] must be a {kinds}, got {type(section).__name__}")
        check_section(section)


def check_section(section: Section) -> None:
    """Raises :class:`ReportError`, which names the section, for what makes no sense in it."""
    check_word(section.title, f"a {type(section).__name__.lower()}'s title")
    where = f"{type(section).__name__.lower()} {section.title!r}"
    if isinstance(section, Table):
        _check_table(section, where)
    elif isinstance(section, Curve):
        _check_curve(section, where)
    elif isinstance(section, Histogram):
        _check_histogram(section, where)
    elif isinstance(section, Gallery):
        _check_gallery(section, where)
    else:
        check_word(section.body, f"{where}: its body")


def _check_table(table: Table, where: str) -> None:
    columns = list(table.columns)
    if not columns or not table.rows:
        raise ReportError(f"{where} has {len(columns)} columns and {len(table.rows)} rows; it needs one of each")
    for column in columns:
        check_word(column, f"{where}: a column's name")
    if twice := {x for x in columns if columns.count(x) > 1}:
        raise ReportError(f"{where}: the column {min(twice)!r} stands there twice")
    for name in ("better", "formats"):
        if unknown := [x for x in getattr(table, name) if x not in columns]:
            raise ReportError(f"{where}: {name} names {unknown[0]!r}; its columns are {', '.join(columns)}")
    if wrong := [x for x in table.better.values() if x not in ARROWS]:
        raise ReportError(f"{where}: better must be 'higher' or 'lower', got {wrong[0]!r}")
    for label, cells in table.rows:
        check_word(label, f"{where}: a row's label")
        if unknown := [x for x in cells if x not in columns]:
            raise ReportError(f"{where}, row {label!r}: no column {unknown[0]!r}; there are {', '.join(columns)}")
        for column in columns:
            try:
                words(table, column, as_cell(cells.get(column)))
            except ValueError as error:
                raise ReportError(f"{where}, row {label!r}, column {column!r}: {error}") from error
    counts = [count for _, count in table.groups]
    for title, count in table.groups:
        check_word(title, f"{where}: a group's heading")
        if not isinstance(count, int) or count < 0:
            raise ReportError(f"{where}: the group {title!r} cannot have {count!r} rows")
    if table.groups and sum(counts) != len(table.rows):
        raise ReportError(f"{where}: groups of {counts} rows, but there are {len(table.rows)} rows")


def _check_curve(curve: Curve, where: str) -> None:
    check_word(curve.x_label, f"{where}: x_label")
    check_word(curve.y_label, f"{where}: y_label")
    if not curve.series:
        raise ReportError(f"{where} has no series")
    names = [series.name for series in curve.series]
    for series in curve.series:
        check_word(series.name, f"{where}: a series' name")
        if names.count(series.name) > 1:
            raise ReportError(f"{where}: two series are called {series.name!r}")
        if not series.points:
            raise ReportError(f"{where}: the series {series.name!r} has no points")


def _check_histogram(histogram: Histogram, where: str) -> None:
    check_word(histogram.x_label, f"{where}: x_label")
    check_word(histogram.y_label, f"{where}: y_label")
    edges = list(histogram.edges)
    for edge in edges:
        check_number(edge, f"{where}: an edge")
    if len(edges) < 2 or any(a >= b for a, b in itertools.pairwise(edges)):
        raise ReportError(f"{where}: its edges are {edges}; expected two numbers or more, each larger than the last")
    if not histogram.counts:
        raise ReportError(f"{where} counts nothing")
    for name, counts in histogram.counts.items():
        check_word(name, f"{where}: the name of what is counted")
        if len(counts) != len(edges) - 1:
            raise ReportError(f"{where}: {len(counts)} counts of {name!r} for {len(edges) - 1} bins")
        if wrong := [x for x in counts if type(x) is not int or x < 0]:
            raise ReportError(f"{where}: a count of {name!r} is {wrong[0]!r}; expected a whole number from 0 on")
    for name, x in histogram.lines.items():
        check_word(name, f"{where}: a line's words")
        check_number(x, f"{where}: the line {name!r}")
        if not edges[0] <= x <= edges[-1]:
            raise ReportError(f"{where}: the line {name!r} at {x} is outside of [{edges[0]}, {edges[-1]}]")


def _check_gallery(gallery: Gallery, where: str) -> None:
    images = [x for row in gallery.rows for x in row if x is not None]
    if not images:
        raise ReportError(f"{where} has no images")
    if gallery.labels and len(gallery.labels) != len(gallery.rows):
        raise ReportError(f"{where}: {len(gallery.labels)} labels for {len(gallery.rows)} rows")
    for i, row in enumerate(gallery.rows):
        if gallery.columns and len(row) != len(gallery.columns):
            raise ReportError(f"{where}: row {i} has {len(row)} places, and there are {len(gallery.columns)} columns")
    for shown in images:
        if not isinstance(shown, GalleryImage):
            raise ReportError(f"{where}: a {type(shown).__name__} stands where a GalleryImage should")
        if not isinstance(shown.image, (Image.Image, Path, str)):
            raise ReportError(f"{where}: an image must be a PIL image or a path, got {type(shown.image).__name__}")
        for name, score in shown.scores.items():
            if not isinstance(score, str):
                check_number(score, f"{where}: the score {name!r} of {shown.caption!r}")


# ---- words and figures of a table


def as_cell(value: Cell | float | str | None) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def words(table: Table, column: str, cell: Cell) -> tuple[str, ...]:
    """The value and, if there is one, the interval, as they are printed."""
    if cell.value is None or isinstance(cell.value, str):
        return (cell.value or "-",)
    form = table.formats.get(column, ".3f" if isinstance(cell.value, float) else ",")
    value = format(cell.value, form)
    return (value,) if cell.low is None else (value, f"[{format(cell.low, form)}, {format(cell.high, form)}]")


def headings(table: Table) -> dict[int, str]:
    """Index of a group's first row -> the group's heading."""
    starts = itertools.accumulate((count for _, count in table.groups), initial=0)
    return {start: title for start, (title, count) in zip(starts, table.groups, strict=False) if count}


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def terminal_width(text: str) -> int:
    """Columns that a text takes: wide characters two, combining ones none."""
    return sum(0 if unicodedata.combining(x) else 2 if unicodedata.east_asian_width(x) in "WF" else 1 for x in text)
