"""The figures in README.md and the cards, from the files in benchmarks/results.

python -m benchmarks.figures    writes them anew; a test compares

A page marks what is filled in. `<!-- table FILE -->` to `<!-- /table -->` holds the table of FILE.json; with `short`
after FILE, the columns and rows that its "short" names. `<!-- figure FILE.ROW FORMAT -->` to `<!-- /figure -->` holds
one value of the first column. The rows of a file are those of evaluate.py's report.json: {"label": ..., "cells":
{column: {"value": ..., "low": ..., "high": ...}}}. Each file says by which command, commit and machine it was made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "benchmarks/README.md", "models/jedi-tiny/MODEL_CARD.md", "models/emoji-clip/README.md")
_TABLE = re.compile(r"(<!-- table (\w+)( short)? -->\n).*?(<!-- /table -->)", re.S)
_FIGURE = re.compile(r"(<!-- figure (\w+)\.(\w+) (\S+) -->).*?(<!-- /figure -->)", re.S)


def filled(text: str) -> str:
    """A page with its tables and figures as the results say them."""
    text = _TABLE.sub(lambda found: found[1] + table(results(found[2]), bool(found[3])) + found[4], text)
    return _FIGURE.sub(lambda found: found[1] + figure(results(found[2]), found[3], found[4]) + found[5], text)


def results(name: str) -> dict[str, Any]:
    """The content of a file in benchmarks/results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def table(content: dict[str, Any], short: bool = False) -> str:
    """A Markdown table, with a line end."""
    columns, rows = content["columns"], content["rows"]
    if short:
        columns = {name: columns[name] for name in content["short"]["columns"]}
        rows = [row for row in rows if row["label"] in content["short"]["rows"]]
    lines = [["", *(title for title, _ in columns.values())], ["---"] * (1 + len(columns))]
    lines += [[row["label"], *(cell(row["cells"].get(name), columns[name][1]) for name in columns)] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(content: dict[str, Any], name: str, form: str) -> str:
    """The value of the row of that name in the first column, formatted as Python does (`.1f`)."""
    (row,) = (row for row in content["rows"] if row.get("name") == name)
    return format(row["cells"][next(iter(content["columns"]))]["value"], form)


def cell(value: dict[str, Any] | None, kind: str) -> str:
    """A value with its interval or range and its note: `83 % [76, 89]`, `.23 [.19, .26]`, `3.26 (3.16 to 3.34)`."""
    if value is None:
        return ""
    number = {
        "percent": lambda x: f"{100 * x:.0f}",
        "percent1": lambda x: f"{100 * x:.1f}",
        "fraction": lambda x: f"{x:.2f}".replace("0.", ".", 1),
        "ratio": lambda x: f"{x:.2f}",
        "gigabytes": lambda x: f"{x:.1f}",
    }[kind]
    text = number(value["value"]) + " %" * kind.startswith("percent")
    if value.get("low") is not None:
        low, high = number(value["low"]), number(value["high"])
        text += f" ({low} to {high})" if kind == "ratio" else f" [{low}, {high}]"
    return f"{text} {value['note']}" if "note" in value else text


def main() -> None:
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
