"""Scores of images as tables, a chart and galleries: what ``dreambench`` and ``scores`` print and write.

``result`` is everywhere what ``scores.json`` holds: ``label``, ``columns``, ``rows`` (means with intervals), ``images``
(a record for each image), ``encoders``, ``deviations``; and of a benchmark ``model``, ``settings``, ``references``.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jedi.evaluation.dreambench import PUBLISHED, Benchmark, BenchmarkError
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
    identity_column,
)
from jedi.io.ranges import evenly_spaced
from jedi.report.document import Cell, Gallery, GalleryImage, LineChart, Point, Report, Section, Series, Table, Text
from jedi.report.page import write_report
from jedi.report.text import text_table

Result = Mapping[str, Any]

EXTREMES = 7
"""Images in each of the rows of best and worst cases."""
EXAMPLES, PROMPTS = 10, 5
"""Rows of the gallery of examples, and generated images in each."""
PRINTED = {"DINO": "DINO ViT-S/16", "CLIP-I": "CLIP-I ViT-B/32", "CLIP-T": "CLIP-T ViT-B/32"}
"""Columns of published tables -> the score that they are."""
ROWS = {
    MODEL: "{label}",
    WITHOUT: "{label}, no reference",
    COPIED: "the reference returned (copy)",
    ORACLE: "real images (oracle)",
}
"""The rows' names in tables."""
SCALES = ("guidance_scale", "image_guidance_scale", "guidance")
"""Settings that may differ along a line of the chart."""
METHOD = """\
Given to the model: {references}. Each subject's prompts name its class noun, without an identifier. Identity: the \
cosine of an image's embedding and those of the subject's real images, averaged. Text score: the plain cosine of the \
embeddings of an image and its prompt. A real image (oracle) is compared with the others of its subject. The copy row \
is the first reference, scored against every prompt. The copy score compares small versions of the images themselves: \
1 for the reference, about 0 for another scene."""


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


def read_scores(folder: str | Path, benchmark: str) -> dict[str, Any]:
    """The ``scores.json`` of another finished run. Raises ``BenchmarkError`` where there is none of this benchmark."""
    path = Path(folder) / "scores.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchmarkError(f"--beside {folder}: no scores.json there; the run is not finished") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BenchmarkError(f"{path}: not readable as JSON ({error})") from None
    found = result.get("benchmark") if isinstance(result, dict) else None
    if found != benchmark:
        raise BenchmarkError(f"--beside {folder}: expected scores of {benchmark}, found {found}")
    return result


def other_encoders(encoders: Sequence[Encoder]) -> list[str]:
    """A remark if the scores that papers print are not all among those of ``encoders``."""
    columns = [column for encoder in encoders for column in encoder.columns]
    absent = [score for score in PRINTED.values() if not any(column.startswith(score) for column in columns)]
    return [f"other encoders: without {', '.join(absent)} nothing compares with published figures"] if absent else []


def report(
    result: Result,
    groups: Sequence[ScoredSubject],
    out: str | Path,
    command: str = "",
    benchmark: Benchmark | None = None,
    others: Sequence[Result] = (),
) -> Path:
    """Prints the tables, writes the page and ``scores.json``; returns the page's path.

    Args:
        groups: what was scored.
        command: how the run was made.
        benchmark: adds a table of published figures, and other runs' results ``others`` to tables and chart.
    """
    scores, kinds, protocol = scores_table(result, others), {}, []
    sections: list[Section] = [scores]
    if benchmark is not None:
        kinds = {subject.name: subject.kind for subject in benchmark.subjects}
        sections += [*chart(result, others), published_table(result, others)]
        protocol = [Text("How these figures are made", METHOD.format(references=benchmark.references))]
    for section in sections:
        if isinstance(section, Table):
            print(f"\n{text_table(section)}")
    print()
    sections += [subjects_table(result, kinds), examples(result, groups), *extremes(result, groups), *protocol]
    title = f"{benchmark.name if benchmark else 'Scores'}: {result['label']}"
    return write_report(Report(title, summary(result), sections, details(result, command)), out, scores=result)


# ---- tables


def scores_table(result: Result, others: Sequence[Result] = ()) -> Table:
    """All scores of all rows, with their intervals; other runs' models under the model."""
    columns, runs = list(result["columns"]), [result, *others]
    cells = lambda found: {name: _cell(x) for name, x in found.items() if name in columns}
    names = run_names(runs)
    rows = [(name, cells(run["rows"][MODEL])) for name, run in zip(names, runs, strict=True)]
    beside = [row for row in (WITHOUT, COPIED, ORACLE) if result["rows"].get(row)]
    rows += [(_row_name(row, result), cells(result["rows"][row])) for row in beside]
    note = f"{_deviations(result)}Means over images; in brackets 95 % intervals, by resampling subjects. Identity "
    note += "averages over all real images of the subject, or over the given references only. A copy scores high: "
    note += f"read its row and the column {COPY!r} with it."
    if lost := sorted({x for other in others for x in columns if x not in other["columns"]}):
        note += f" Other runs lack: {', '.join(lost)}."
    for name, run in zip(names[1:], others, strict=True):
        if run["deviations"] != result["deviations"]:
            note += f" {name}: {'; '.join(run['deviations']) or 'the full protocol'}."
    better = {name: "higher" for name in columns if name != COPY} | {COPY: "lower"}
    return Table("Scores", columns, rows, note, [("Models", len(runs)), ("For comparison", len(beside))], better)


def published_table(result: Result, others: Sequence[Result] = ()) -> Table:
    """This run in the columns that papers print, beside what they printed."""
    rows, runs, columns = [], [result, *others], ["references", *PRINTED, "source"]
    for name, run in zip(run_names(runs), runs, strict=True):
        cells: dict[str, Any] = {"references": run["reference_count"] or "own list", "source": "this run"}
        for column, score in PRINTED.items():
            key = score if column == "CLIP-T" else identity_column(score, "all_real")
            if found := run["rows"][MODEL].get(key):
                cells[column] = _cell(found)
        rows.append((name, cells))
    for x in PUBLISHED:
        cells = dict(zip(columns, (x.references, x.dino, x.clip_i, x.clip_t, x.source), strict=True))
        rows.append((x.method, cells))
    note = "Published: DINO ViT-S/16 and CLIP ViT-B/32 on DreamBench. Some average over all real images, as the rows "
    note += "of this run, some (Kosmos-G's code) over the given reference only."
    if result["benchmark"] != "DreamBench":
        note = f"{result['benchmark']} has other images and prompts: the figures do not compare. {note}"
    groups = [("These runs" if others else "This run", len(runs)), ("Published", len(PUBLISHED))]
    return Table("Beside published figures", columns, rows, _deviations(result) + note, groups)


def subjects_table(result: Result, kinds: Mapping[str, str]) -> Table:
    """The model's mean scores for each subject, grouped by its kind."""
    means = by_subject(result["images"], MODEL, result["columns"])
    ordered = {kind: [x for x in means if kinds.get(x, "") == kind] for kind in (kinds.get(x, "") for x in means)}
    rows = [(name, means[name]) for names in ordered.values() for name in names]
    groups = [(kind, len(names)) for kind, names in ordered.items() if kind]
    return Table(f"Each subject: {_row_name(MODEL, result)}", result["columns"], rows, groups=groups)


def _cell(found: Mapping[str, Any]) -> Cell:
    return Cell(found["mean"], found["low"], found["high"])


# ---- chart


def chart(result: Result, others: Sequence[Result]) -> list[LineChart]:
    """Identity against prompt: a point for each run, joined where only the guidance differs. None for a single run."""
    identity, text = main_columns(result)
    runs = [x for x in (result, *others) if {identity, text} <= set(x["rows"][MODEL])]
    if identity is None or text is None or len(runs) < 2:
        return []
    lines: dict[str, list[Result]] = {}
    for x in runs:
        fixed = {key: value for key, value in x["settings"].items() if key not in SCALES}
        key = json.dumps([x["model"]["sha256"], x["references"], fixed], sort_keys=True)
        lines.setdefault(key, []).append({**x, "fixed": fixed})
    names = run_names([{**members[0], "settings": members[0]["fixed"]} for members in lines.values()])
    series = []
    for name, members in zip(names, lines.values(), strict=True):
        points = []
        for x in sorted(members, key=lambda x: [x["settings"][key] for key in SCALES]):
            found, prompt = x["rows"][MODEL][identity], x["rows"][MODEL][text]
            label = f"{x['settings']['guidance_scale']:g} / {x['settings']['image_guidance_scale']:g}"
            points.append(Point(prompt["mean"], found["mean"], label, found["low"], found["high"]))
        series.append(Series(name, points))
    for row in (WITHOUT, COPIED):
        found = result["rows"].get(row, {})
        if {identity, text} <= set(found):
            series.append(Series(_row_name(row, result), [Point(found[text]["mean"], found[identity]["mean"])]))
    note = "Labels: guidance scale / image guidance scale. Up: more like the subject; right: more like the prompt."
    return [LineChart("Identity against prompt", text, identity, series, note)]


# ---- galleries


def examples(result: Result, groups: Sequence[ScoredSubject]) -> Gallery:
    """For some subjects the references, then the model's first image of some prompts, evenly chosen."""
    chosen = evenly_spaced(groups, EXAMPLES)
    rows, most = [], max(len(group.references) for group in chosen)
    for group in chosen:
        given: list[GalleryImage | None] = [GalleryImage(path, reference=True) for path in group.references]
        made = [case for case in group.cases if case.row == MODEL]
        firsts = list({case.prompt or case.id: case for case in reversed(made)}.values())[::-1]
        images = [GalleryImage(case.image, case.prompt or "") for case in evenly_spaced(firsts, PROMPTS)]
        rows.append([*given, *[None] * (most - len(given)), *images])
    note = "The references (marked), then the first image of some prompts: chosen by their numbers, not by looks."
    return Gallery("Examples", rows, [group.subject.replace("_", " ") for group in chosen], note=note)


def extremes(result: Result, groups: Sequence[ScoredSubject]) -> list[Gallery]:
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
            rows.append([GalleryImage(references[x["subject"]], reference=True) for x in end])
        labels = ("most a copy", "least a copy") if column == COPY else ("best", "worst")
        names = [name for label in labels for name in (label, "their references")]
        title = "Nearest to a copy" if column == COPY else f"Best and worst by {column}"
        galleries.append(Gallery(title, rows, names))
    return galleries


def _spread(records: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The first ``count``, but of each subject no more than its share: one easy subject would fill the row."""
    share = -(-count // len({x["subject"] for x in records}))
    taken: list[Mapping[str, Any]] = []
    for x in records:
        if len(taken) < count and sum(other["subject"] == x["subject"] for other in taken) < share:
            taken.append(x)
    return taken


# ---- words


def summary(result: Result) -> list[str]:
    """What was found, in sentences."""
    sentences = [_deviations(result).strip()] if result["deviations"] else []
    for name in filter(None, (*main_columns(result), COPY)):
        parts = [f"{_row_name(row, result)} {x[name]['mean']:.3f}" for row, x in result["rows"].items() if name in x]
        sentences.append(f"{name[0].upper()}{name[1:]}: {'; '.join(parts)}.")
    return sentences


def details(result: Result, command: str = "") -> dict[str, str]:
    """What the figures rest on: of a benchmark model, references and sampling; encoders, images, date, command."""
    found = {}
    if result["benchmark"]:
        settings = result["settings"]
        wanted = ("mode", "num_inference_steps", "guidance", "guidance_scale", "image_guidance_scale")
        found = {
            "model": f"{result['model']['name']}, sha256 of its UNet {result['model']['sha256'].get('unet', '?')[:16]}",
            "references": result["references"],
            "sampling": ", ".join(f"{key} {settings[key]}" for key in (*wanted, "device", "dtype")),
            "versions": ", ".join(f"{key} {value}" for key, value in result["versions"].items()),
        }
    found |= {
        "encoders": "; ".join(f"{x['name']}: {x['source']}, sha256 {x['sha256'][:16]}" for x in result["encoders"]),
        "images": ", ".join(f"{row} {sum(x['row'] == row for x in result['images'])}" for row in result["rows"]),
        "date": datetime.date.today().isoformat(),
    }
    return found | ({"command": command} if command else {})


def main_columns(result: Result) -> tuple[str | None, str | None]:
    """The identity score to look at first (DINO, which DreamBooth prefers, else the first), and the text score."""
    identities = [x for x in result["columns"] if x.endswith(", all real")]
    texts = [x for x in result["columns"] if x.startswith(("CLIP-T", "BLIP-ITM"))]
    identities.sort(key=lambda x: not x.startswith("DINO "))
    return (identities or [None])[0], (texts or [None])[0]


def _row_name(row: str, result: Result) -> str:
    given = result.get("reference_count")
    return ROWS[row].format(label=result["label"]) + (f", {given} ref." if row == MODEL and given else "")


def run_names(runs: Sequence[Result]) -> list[str]:
    """A name for each run's model: with the settings in which runs of one name differ, or else with a number."""
    names = [_row_name(MODEL, run) for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        same = [i for i, other in enumerate(names) if other == name]
        settings = [runs[i].get("settings", {}) for i in same]
        keys = [key for key in settings[0] if any(x.get(key) != settings[0][key] for x in settings)]
        plain = [key for key in keys if not isinstance(settings[0][key], dict)]
        for i, found in zip(same, settings, strict=True):
            names[i] += "".join(f", {key.replace('_', ' ')} {found.get(key)}" for key in plain)
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name + f" ({count})" * (count > 1) for name, count in zip(names, counts, strict=True)]


def _deviations(result: Result) -> str:
    """That it is not the full protocol, and why; empty if it is."""
    return f"Not the full protocol: {'; '.join(result['deviations'])}. " * bool(result["deviations"])


def label_of(name: str | None) -> str:
    """A model's name in tables: that of its folder."""
    return Path(name).name if name and Path(name).name else "model"
