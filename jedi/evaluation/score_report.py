"""Scores of images as tables and galleries. What ``dreambench`` and ``scores`` have in common.

``result`` is everywhere what ``scores.json`` holds: ``label``, ``columns``, ``rows`` (means with intervals), ``images``
(a record for each image), ``encoders``, ``deviations``.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jedi.evaluation.score import (
    COPIED,
    COPY,
    MODEL,
    ORACLE,
    WITHOUT,
    Encoder,
    ScoredSubject,
    aggregate,
    by_subject,
    columns_of,
)
from jedi.report.document import Cell, Gallery, GalleryImage, Table

EXTREMES = 7
"""Images in each of the rows of best and worst cases."""
_EXAMPLES, _PROMPTS = 10, 5  # rows of the gallery, and generated images in each
_WORDS = {
    MODEL: "{label}",
    WITHOUT: "{label}, no reference",
    COPIED: "the reference returned (copy)",
    ORACLE: "real images (oracle)",
}


def result_of(
    records: Sequence[Mapping[str, Any]], encoders: Sequence[Encoder], label: str, samples: int
) -> dict[str, Any]:
    """What every ``scores.json`` holds: the figures and the encoders that they come from."""
    columns = columns_of(encoders)
    table = aggregate(records, columns, samples)
    return {
        "label": label,
        "encoders": [
            {"source": x.network.source, "name": x.network.name, "sha256": x.sha256, "columns": x.columns}
            for x in encoders
        ],
        "columns": columns,
        "rows": {row: {column: vars(x) for column, x in found.items()} for row, found in table.items()},
        "images": list(records),
    }


def scores_table(result: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> Table:
    """All scores of all rows, with their intervals; other runs' models under the model."""
    columns = list(result["columns"])
    cells = lambda found: {name: Cell(x["mean"], x["low"], x["high"]) for name, x in found.items() if name in columns}
    names = run_names([result, *others])
    rows = [(name, cells(run["rows"][MODEL])) for name, run in zip(names, (result, *others), strict=True)]
    models = len(rows)
    rows += [
        (row_words(row, result), cells(result["rows"][row]))
        for row in (WITHOUT, COPIED, ORACLE)
        if result["rows"].get(row)
    ]
    lost = sorted({x for other in others for x in columns if x not in other["columns"]})
    note = "Means over images; in brackets 95 % intervals, by resampling subjects. Identity averages over all real "
    note += "images of the subject, or over the given references only. A copy scores high: read its row and the "
    note += f"column {COPY!r} with it."
    note += f" Other runs lack: {', '.join(lost)}." * bool(lost)
    for name, run in zip(names[1:], others, strict=True):
        if run["deviations"] != result["deviations"]:
            note += f" {name}: {'; '.join(run['deviations']) or 'the full protocol'}."
    better = {name: "higher" for name in columns if name != COPY} | {COPY: "lower"}
    kinds = [("Models", models), ("For comparison", len(rows) - models)]
    return Table("Scores", columns, rows, partial_words(result) + note, kinds, better)


def subjects_table(result: Mapping[str, Any], kinds: Mapping[str, str] | None = None) -> Table:
    """The model's mean scores for each subject, grouped by its kind."""
    means = by_subject(result["images"], MODEL, result["columns"])
    kinds = kinds or {}
    rows, headings = [], []
    for kind in dict.fromkeys(kinds.get(name, "") for name in means):
        names = [name for name in means if kinds.get(name, "") == kind]
        rows += [(name, means[name]) for name in names]
        headings += [(kind, len(names))] if kind else []
    return Table(f"Each subject: {row_words(MODEL, result)}", result["columns"], rows, groups=headings)


def examples(result: Mapping[str, Any], groups: Sequence[ScoredSubject]) -> Gallery:
    """For some subjects the references, then the model's first image of some prompts, evenly chosen."""
    chosen = _evenly(groups, _EXAMPLES)
    rows, most = [], max(len(group.references) for group in chosen)
    for group in chosen:
        given: list[GalleryImage | None] = [GalleryImage(path, "", reference=True) for path in group.references]
        made = [case for case in group.cases if case.row == MODEL]
        firsts = list({case.prompt or case.id: case for case in reversed(made)}.values())[::-1]
        images = [GalleryImage(case.image, case.prompt or "") for case in _evenly(firsts, _PROMPTS)]
        rows.append([*given, *[None] * (most - len(given)), *images])
    note = "The references (marked), then the first image of some prompts: chosen by their numbers, not by looks."
    return Gallery("Examples", rows, [group.subject.replace("_", " ") for group in chosen], note=note)


def extremes(result: Mapping[str, Any], groups: Sequence[ScoredSubject]) -> list[Gallery]:
    """The model's best and worst images by identity, by prompt and by being a copy, each over its reference.

    No subject has more than its share of a row.
    """
    galleries = []
    references = {group.subject: group.references[0] for group in groups}
    images = {case.id: case.image for group in groups for case in group.cases if case.row == MODEL}
    for column in filter(None, (*main_columns(result), COPY)):
        found = [x for x in result["images"] if x["row"] == MODEL and column in x["scores"]]
        ordered = sorted(found, key=lambda x: (x["scores"][column], x["id"]))
        count = min(EXTREMES, len(ordered) // 2)
        if not count:
            continue
        rows: list[list[GalleryImage | None]] = []
        for end in (_spread(ordered[::-1], count), _spread(ordered, count)):
            rows.append([GalleryImage(images[x["id"]], x["prompt"] or "", {"score": x["scores"][column]}) for x in end])
            rows.append([GalleryImage(references[x["subject"]], "", reference=True) for x in end])
        labels = ("most a copy", "least a copy") if column == COPY else ("best", "worst")
        names = [name for label in labels for name in (label, "their references")]
        title = "Nearest to a copy" if column == COPY else f"Best and worst by {column}"
        galleries.append(Gallery(title, rows, names))
    return galleries


def summary(result: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences."""
    sentences = [partial_words(result).strip()] if result["deviations"] else []
    for name in filter(None, (*main_columns(result), COPY)):
        parts = [f"{row_words(row, result)} {x[name]['mean']:.3f}" for row, x in result["rows"].items() if name in x]
        sentences.append(f"{name[0].upper()}{name[1:]}: {'; '.join(parts)}.")
    return sentences


def facts(result: Mapping[str, Any], command: str = "") -> dict[str, str]:
    """What the figures rest on: encoders, images, date, command."""
    found = {
        "encoders": "; ".join(f"{x['name']}: {x['source']}, sha256 {x['sha256'][:16]}" for x in result["encoders"]),
        "images": ", ".join(f"{row} {sum(x['row'] == row for x in result['images'])}" for row in result["rows"]),
        "date": datetime.date.today().isoformat(),
    }
    return found | ({"command": command} if command else {})


def main_columns(result: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The identity score to look at first (DINO, which DreamBooth prefers, else the first), and the text score."""
    identities = [x for x in result["columns"] if x.endswith(", all real")]
    texts = [x for x in result["columns"] if x.startswith(("CLIP-T", "BLIP-ITM"))]
    identities.sort(key=lambda x: not x.startswith("DINO "))
    return (identities or [None])[0], (texts or [None])[0]


def row_words(row: str, result: Mapping[str, Any]) -> str:
    """A row's name in tables."""
    given = result.get("reference_count")
    return _WORDS[row].format(label=result["label"]) + (f", {given} ref." if row == MODEL and given else "")


def run_names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run's model: with the settings in which runs of one name differ, or else with a number."""
    names = [row_words(MODEL, run) for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        same = [i for i, other in enumerate(names) if other == name]
        settings = [runs[i].get("settings", {}) for i in same]
        keys = [key for key in settings[0] if any(x.get(key) != settings[0][key] for x in settings)]
        plain = [key for key in keys if not isinstance(settings[0][key], dict)]
        for i, found in zip(same, settings, strict=True):
            names[i] += "".join(f", {key.replace('_', ' ')} {found.get(key)}" for key in plain)
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name + f" ({count})" * (count > 1) for name, count in zip(names, counts, strict=True)]


def partial_words(result: Mapping[str, Any]) -> str:
    """That it is not the full protocol, and why; empty if it is."""
    return f"Not the full protocol: {'; '.join(result['deviations'])}. " * bool(result["deviations"])


def _spread(records: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The first ``count``, but of each subject no more than its share: one easy subject would fill the row."""
    share = -(-count // len({x["subject"] for x in records}))
    taken: list[Mapping[str, Any]] = []
    for x in records:
        if len(taken) < count and sum(other["subject"] == x["subject"] for other in taken) < share:
            taken.append(x)
    return taken


def _evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of them, at even distances."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def label_of(name: str | None) -> str:
    """A model's name in tables: that of its folder."""
    return Path(name).name if name and Path(name).name else "model"
