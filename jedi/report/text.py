"""Reports as plain text: a table for a terminal, a report in Markdown or JSON."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from jedi.report.document import ARROWS, Report, Section, Table, Text

_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    """``text`` with a mark in the place of what neither a page nor a terminal should get: control characters other
    than tab and line feed, halves of surrogate pairs, and the characters that change the direction of the text."""
    bad = (x in _DIRECTIONS or (unicodedata.category(x) in ("Cc", "Cs") and x not in "\t\n") for x in text)
    return "".join("\ufffd" if is_bad else x for x, is_bad in zip(text, bad, strict=True))


def text_table(table: Table) -> str:
    """The table for a terminal: aligned columns, intervals in brackets, "-" for what was not measured."""
    lines = [["", *(f"{x} {ARROWS.get(table.better.get(x, ''), '')}" for x in table.columns)]]
    for label, cells in table.cells():
        lines.append([label, *(" ".join(table.words(column, cell)) for column, cell in cells.items())])
    lines = [[_one_line(word) for word in line] for line in lines]
    widths = [max(map(_terminal_width, column)) for column in zip(*lines, strict=True)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    headings = table.headings()
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


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _terminal_width(text: str) -> int:
    """Columns that a text takes: wide characters two, combining ones none."""
    return sum(0 if unicodedata.combining(x) else 2 if unicodedata.east_asian_width(x) in "WF" else 1 for x in text)


def markdown(report: Report) -> str:
    """The report without its charts and images."""
    parts = [f"# {report.title}", *report.summary]
    for section in report.sections:
        if isinstance(section, Text):
            parts += [f"## {section.title}", *section.paragraphs()]
        elif isinstance(section, Table):
            parts += [f"## {section.title}", _markdown_table(section), *([section.note] if section.note else [])]
    lines = []
    for name, value in report.details.items():
        first, *more = value.splitlines()
        lines += [f"- {name}: {first}"] if not more else [f"- {name}:", *(f"  - {line}" for line in (first, *more))]
    return "\n\n".join([*parts, *(["## Details", "\n".join(lines)] if lines else [])]) + "\n"


def _markdown_table(table: Table) -> str:
    heading, headings, rows = "", table.headings(), []
    for i, (label, cells) in enumerate(table.cells()):
        heading = headings.get(i, heading)
        words = [" ".join(filter(None, table.words(column, cell))) for column, cell in cells.items()]
        rows.append([*([heading] if headings else []), label, *words])
    heads = [*([""] if headings else []), "", *table.columns]
    return "\n".join(_markdown_row(row) for row in [heads, ["---"] * len(heads), *rows])


def _markdown_row(words: Iterable[str]) -> str:
    """Each on one line, and not the end of its cell."""
    return f"| {' | '.join(_one_line(word).replace('|', chr(92) + '|') for word in words)} |"


def to_json(value: Any, folder: Path) -> Any:
    """A report, or a part of one, as plain JSON values; images by their path, relative to ``folder``, or null."""
    if isinstance(value, Image.Image):
        return None
    if isinstance(value, Path):
        return Path(os.path.relpath(value, folder)).as_posix()
    if isinstance(value, dict):
        return {key: to_json(x, folder) for key, x in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(x, folder) for x in value]
    if not dataclasses.is_dataclass(value):
        return value
    record = {x.name: to_json(getattr(value, x.name), folder) for x in dataclasses.fields(value)}
    if isinstance(value, Table):
        record["rows"] = [{"label": label, "cells": to_json(cells, folder)} for label, cells in value.cells()]
        record["groups"] = [{"title": title, "rows": count} for title, count in value.groups]
    return {"kind": type(value).__name__.lower(), **record} if isinstance(value, Section) else record
