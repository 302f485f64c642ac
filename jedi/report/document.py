"""What a report is made of: tables with intervals, charts, galleries, text. Each part checks itself when it is made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from jedi.errors import InputError

ARROWS = {"higher": "\u2191", "lower": "\u2193"}


class ReportError(InputError):
    """A report that makes no sense; the message names the place and what would be right."""


def require(right: object, message: str) -> None:
    if not right:
        raise ReportError(message)


def require_text(text: Any, what: str) -> None:
    require(isinstance(text, str) and text.strip(), f"{what} must be a text that is not empty, got {text!r}")


def require_number(value: Any, what: str) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(is_number, f"{what} must be a number of Python, got {value!r} ({type(value).__name__})")
    require(math.isfinite(value), f"{what} is {value}; what was not measured is None")


def _require_interval(value: Any, low: Any, high: Any, what: str) -> None:
    if low is None and high is None:
        return
    require(low is not None and high is not None, f"{what} needs both ends of its interval, got [{low}, {high}]")
    for x in (value, low, high):
        require_number(x, f"{what} with an interval")
    slack = 1e-6 * max(1.0, abs(value))  # the mean of equal values may differ from them in the last digits
    inside = low - slack <= value <= high + slack
    require(inside, f"{what}: the value {value} is outside its interval [{low}, {high}]")


def _require_axes(chart: LineChart | Histogram, what: str) -> None:
    require_text(chart.x_label, f"{what}: x_label")
    require_text(chart.y_label, f"{what}: y_label")


def _name(section: Section) -> str:
    """How messages call a section, whose title is checked."""
    kind = type(section).__name__.lower()
    require_text(section.title, f"a {kind}'s title")
    return f"{kind} {section.title!r}"


@dataclass(frozen=True)
class Cell:
    """A number, where known with its interval ``[low, high]``; or a text; or ``None``: not measured."""

    value: float | str | None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not isinstance(self.value, str):
            require_number(self.value, "a cell")
        _require_interval(self.value, self.low, self.high, "a cell")


@dataclass
class Table:
    """Rows of numbers and texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Mapping[str, Cell | float | str | None]]]
    """Label, and cells by column; a column that a row lacks was not measured."""
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()
    """Headings, and how many rows stand under each; a heading without rows is not shown."""
    better: Mapping[str, str] = field(default_factory=dict)
    """Column -> "higher" or "lower": an arrow says so; the best row of the first group (or of all) is bold."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Column -> Python's format, as ".1%"; without one a float gets three digits."""

    def __post_init__(self) -> None:
        where, columns, names = _name(self), list(self.columns), ", ".join(map(str, self.columns))
        size = f"{where} has {len(columns)} columns and {len(self.rows)} rows; it needs one of each"
        require(columns and self.rows, size)
        for column in columns:
            require_text(column, f"{where}: a column's name")
            require(columns.count(column) == 1, f"{where}: the column {column!r} is there twice")
        for argument in ("better", "formats"):
            for column in getattr(self, argument):
                require(column in columns, f"{where}: {argument} names {column!r}; its columns are {names}")
        for direction in self.better.values():
            require(direction in ARROWS, f"{where}: better must be 'higher' or 'lower', got {direction!r}")
        for label, row in self.rows:
            require_text(label, f"{where}: a row's label")
            for column, value in row.items():
                require(column in columns, f"{where}, row {label!r}: no column {column!r}; there are {names}")
                try:
                    self.words(column, _cell(value))
                except ValueError as error:
                    raise ReportError(f"{where}, row {label!r}, column {column!r}: {error}") from error
        for title, count in self.groups:
            require_text(title, f"{where}: a group's heading")
            right = isinstance(count, int) and count >= 0
            require(right, f"{where}: the group {title!r} cannot have {count!r} rows")
        counts = [count for _, count in self.groups]
        right = not self.groups or sum(counts) == len(self.rows)
        require(right, f"{where}: groups of {counts} rows, but there are {len(self.rows)} rows")

    def cells(self) -> list[tuple[str, dict[str, Cell]]]:
        """The rows, with a cell for each column."""
        return [(label, {column: _cell(row.get(column)) for column in self.columns}) for label, row in self.rows]

    def words(self, column: str, cell: Cell) -> tuple[str, str]:
        """The value and its interval ("" without one), as they are printed."""
        if cell.value is None or isinstance(cell.value, str):
            return cell.value or "-", ""
        form = self.formats.get(column, ".3f" if isinstance(cell.value, float) else ",")
        interval = "" if cell.low is None else f"[{format(cell.low, form)}, {format(cell.high, form)}]"
        return format(cell.value, form), interval

    def headings(self) -> dict[int, str]:
        """Index of a group's first row -> the group's heading."""
        starts = itertools.accumulate((count for _, count in self.groups), initial=0)
        return {start: title for start, (title, count) in zip(starts, self.groups, strict=False) if count}


def _cell(value: Cell | float | str | None) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


@dataclass(frozen=True)
class Point:
    """One point of a line chart; ``[low, high]`` is the interval of ``y``."""

    x: float
    y: float
    label: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        require_number(self.x, "a point's x")
        require_number(self.y, "a point's y")
        _require_interval(self.y, self.low, self.high, "a point's y")


@dataclass
class Series:
    """Points joined in the order given. A single point is a mark, labelled with the series' name."""

    name: str
    points: Sequence[Point]


@dataclass
class LineChart:
    """Series over common axes, for instance identity against prompt as guidance varies."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    note: str = ""

    def __post_init__(self) -> None:
        where, names = _name(self), [series.name for series in self.series]
        _require_axes(self, where)
        require(self.series, f"{where} has no series")
        for series in self.series:
            require_text(series.name, f"{where}: a series' name")
            require(names.count(series.name) == 1, f"{where}: two series are called {series.name!r}")
            require(series.points, f"{where}: the series {series.name!r} has no points")


@dataclass
class Histogram:
    """How many values lie in each of n bins."""

    title: str
    x_label: str
    y_label: str
    edges: Sequence[float]
    """n + 1 rising numbers."""
    counts: Mapping[str, Sequence[int]]
    """n whole numbers for each kind of thing, kinds stacked in this order."""
    lines: Mapping[str, float] = field(default_factory=dict)
    """Upright lines with their labels, a threshold for instance: ``{"min_mean 0.7": 0.7}``."""
    note: str = ""

    def __post_init__(self) -> None:
        where, edges = _name(self), list(self.edges)
        _require_axes(self, where)
        for edge in edges:
            require_number(edge, f"{where}: an edge")
        rising = len(edges) > 1 and all(a < b for a, b in itertools.pairwise(edges))
        require(rising, f"{where}: its edges are {edges}; expected two numbers or more, each larger than the last")
        require(self.counts, f"{where} counts nothing")
        for name, counts in self.counts.items():
            require_text(name, f"{where}: the name of what is counted")
            right = len(counts) == len(edges) - 1
            require(right, f"{where}: {len(counts)} counts of {name!r} for {len(edges) - 1} bins")
            for count in counts:
                right = type(count) is int and count >= 0
                require(right, f"{where}: a count of {name!r} is {count!r}; expected a whole number from 0 on")
        for name, x in self.lines.items():
            require_text(name, f"{where}: a line's label")
            require_number(x, f"{where}: the line {name!r}")
            right = edges[0] <= x <= edges[-1]
            require(right, f"{where}: the line {name!r} at {x} is outside of [{edges[0]}, {edges[-1]}]")


@dataclass(frozen=True)
class GalleryImage:
    """An image with a caption and scores under it."""

    image: Image.Image | Path
    caption: str = ""
    scores: Mapping[str, float | str] = field(default_factory=dict)
    reference: bool = False
    """Whether it was given, not made: it is marked so."""

    def __post_init__(self) -> None:
        right = isinstance(self.image, (Image.Image, Path))
        require(right, f"an image must be a PIL image or a path, got {type(self.image).__name__}")
        for name, score in self.scores.items():
            if not isinstance(score, str):
                require_number(score, f"the score {name!r} of {self.caption!r}")


@dataclass
class Gallery:
    """Rows of images; ``None`` is an empty place."""

    title: str
    rows: Sequence[Sequence[GalleryImage | None]]
    labels: Sequence[str] = ()
    """One for each row, or none at all."""
    columns: Sequence[str] = ()
    """A heading for each place of a row: the images form a grid. Without, a long row goes on in the next line."""
    note: str = ""

    def __post_init__(self) -> None:
        where, images = _name(self), [x for row in self.rows for x in row if x is not None]
        require(images, f"{where} has no images")
        right = not self.labels or len(self.labels) == len(self.rows)
        require(right, f"{where}: {len(self.labels)} labels for {len(self.rows)} rows")
        for i, row in enumerate(self.rows):
            right = not self.columns or len(row) == len(self.columns)
            require(right, f"{where}: row {i} has {len(row)} places, and there are {len(self.columns)} columns")
        for shown in images:
            right = isinstance(shown, GalleryImage)
            require(right, f"{where}: expected a GalleryImage, found {type(shown).__name__}")


@dataclass
class Text:
    """Plain text."""

    title: str
    body: str
    """An empty line begins a new paragraph; a paragraph indented by four spaces is code."""

    def __post_init__(self) -> None:
        require_text(self.body, f"{_name(self)}: its body")

    def paragraphs(self) -> list[str]:
        return [x.rstrip() if x.startswith("    ") else x.strip() for x in self.body.split("\n\n") if x.strip()]


Section = Table | LineChart | Histogram | Gallery | Text


@dataclass
class Report:
    """One page: what was found, in a few sentences, then the sections."""

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    details: Mapping[str, str] = field(default_factory=dict)
    """How it came about: model, data, encoders, versions, command, date. Shown last."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Text -> address of a file near the page, relative to it."""

    def __post_init__(self) -> None:
        require_text(self.title, "the report's title")
        require(not isinstance(self.summary, str), "summary must be a list of sentences, got one string")
        for i, sentence in enumerate(self.summary):
            require_text(sentence, f"summary[{i}]")
        for name, value in self.details.items():
            require_text(name, "a detail's name")
            require_text(value, f"the detail {name!r}")
        for text, address in self.links.items():
            require_text(text, "a link's text")
            require_text(address, f"the link {text!r}")
            right = ":" not in address and not address.startswith("/")
            require(right, f"the link {text!r} leads to {address!r}; expected an address relative to the page")
        require(self.sections, f"the report {self.title!r} has no sections")
        for i, section in enumerate(self.sections):
            kinds = "Table, LineChart, Histogram, Gallery or Text"
            require(isinstance(section, Section), f"sections[{i}] must be a {kinds}, got {type(section).__name__}")
