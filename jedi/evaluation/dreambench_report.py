"""DreamBench's scores as tables, a curve and galleries: on the terminal, and as a page through :mod:`report`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jedi.evaluation.protocol import PUBLISHED, Benchmark, BenchmarkError
from jedi.evaluation.report import (
    Cell,
    Curve,
    Gallery,
    Picture,
    Point,
    Report,
    Series,
    Table,
    Text,
    text_table,
    write_report,
)
from jedi.evaluation.scoring import COPY, by_subject, identity_column

FIELD = {"DINO": "DINO ViT-S/16", "CLIP-I": "CLIP-I ViT-B/32", "CLIP-T": "CLIP-T ViT-B/32"}
"""Columns of published tables -> the score that they are."""
WORDS = {
    "model": "{label}",
    "no_reference": "{label}, no reference",
    "copy": "the reference returned (copy)",
    "oracle": "real pictures (oracle)",
}
EXTREMES = 8
"""Pictures in each of the rows of best and worst cases."""
_EXAMPLES, _PROMPTS = 10, 5  # rows of the gallery, and generated pictures in each


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
        raise BenchmarkError(f"--beside {folder}: scores of {found}, wanted is {benchmark}")
    return result


def report(
    result: Mapping[str, Any],
    benchmark: Benchmark,
    others: Sequence[Mapping[str, Any]],
    out: str | Path,
    command: str = "",
) -> Path:
    """Prints the tables and writes the page; returns its path.

    Args:
        result: what ``scores.json`` holds.
        others: the same of other runs, for the table and the curve.
        command: how the run was made.
    """
    scores, beside = scores_table(result, others), published_table(result, others)
    for table in (scores, beside):
        print(f"\n{text_table(table)}\n")
    sections = [scores, *curve(result, others), beside, subjects_table(result, benchmark)]
    sections += [examples(result, benchmark, out), *extremes(result, benchmark, out), how_made(benchmark)]
    page = Report(f"{benchmark.name}: {result['label']}", summary(result), sections, facts(result, command))
    return write_report(page, out)


def scores_table(result: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> Table:
    """All scores of all rows, with their intervals; other runs' models under the model."""
    columns = list(result["columns"])
    cells = lambda found: {name: Cell(x["mean"], x["low"], x["high"]) for name, x in found.items() if name in columns}
    rows = [(_words("model", result), cells(result["rows"]["model"]))]
    rows += [(_words("model", other), cells(other["rows"]["model"])) for other in others]
    models = len(rows)
    for row in ("no_reference", "copy", "oracle"):
        if result["rows"].get(row):
            rows.append((_words(row, result), cells(result["rows"][row])))
    lost = sorted({x for other in others for x in columns if x not in other["columns"]})
    note = "Means over pictures; in brackets 95 % intervals, by resampling subjects. Identity averages over all real "
    note += "pictures of the subject, or over the given references only. A copy scores high: read its row and the "
    note += f"column {COPY!r} with it."
    note += f" Other runs lack: {', '.join(lost)}." * bool(lost)
    better = {name: "higher" for name in columns if name != COPY} | {COPY: "lower"}
    kinds = [("Models", models), ("For comparison", len(rows) - models)]
    return Table("Scores", columns, rows, _partial(result) + note, kinds, better)


def published_table(result: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> Table:
    """This run in the columns that papers print, beside what they printed."""
    rows = []
    for run in (result, *others):
        cells: dict[str, Any] = {"references": _references(run)}
        for column, score in FIELD.items():
            name = score if column == "CLIP-T" else identity_column(score, "all_real")
            if found := run["rows"]["model"].get(name):
                cells[column] = Cell(found["mean"], found["low"], found["high"])
        rows.append((_words("model", run), cells))
    models = len(rows)
    for x in PUBLISHED:
        cells = {"references": x.references, "DINO": x.dino, "CLIP-I": x.clip_i, "CLIP-T": x.clip_t, "source": x.source}
        rows.append((x.method, cells))
    note = "Published: DINO ViT-S/16 and CLIP ViT-B/32 on DreamBench. Some average over all real pictures, as the rows "
    note += "of this run, some (Kosmos-G's code) over the given reference only."
    absent = [score for score in FIELD.values() if not any(x.startswith(score) for x in result["columns"])]
    if absent:
        note = f"This run has no {', '.join(absent)}: its encoders are others, and nothing compares. {note}"
    if result["benchmark"] != "DreamBench":
        note = f"{result['benchmark']} has other pictures and prompts: the figures do not compare. {note}"
    kinds = [("This run", models), ("Published", len(PUBLISHED))]
    columns = ["references", *FIELD, "source"]
    return Table("Beside published figures", columns, rows, _partial(result) + note, kinds)


def subjects_table(result: Mapping[str, Any], benchmark: Benchmark) -> Table:
    """The model's mean scores for each subject, by kind."""
    means = by_subject(result["images"], "model", result["columns"])
    rows, kinds = [], []
    for kind in dict.fromkeys(subject.kind for subject in benchmark.subjects):
        names = [subject.name for subject in benchmark.subjects if subject.kind == kind]
        rows += [(name, means[name]) for name in names]
        kinds.append((kind, len(names)))
    return Table(f"Each subject: {_words('model', result)}", result["columns"], rows, groups=kinds)


def curve(result: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Identity against prompt: a point for each run, joined where only the guidance differs. None for a single run."""
    identity, text = _main_columns(result)
    runs = [x for x in (result, *others) if {identity, text} <= set(x["rows"]["model"])]
    if not others or not runs or identity is None or text is None:
        return []
    series: dict[str, list[Mapping[str, Any]]] = {}
    for x in runs:
        free = ("guidance_scale", "reference_scale", "guidance")
        fixed = {key: value for key, value in x["settings"].items() if key not in free}
        series.setdefault(json.dumps([x["model"]["sha256"], x["references"], fixed], sort_keys=True), []).append(x)
    lines = []
    for members in series.values():
        members = sorted(members, key=lambda x: (x["settings"]["guidance_scale"], x["settings"]["reference_scale"]))
        points = []
        for x in members:
            found, prompt = x["rows"]["model"][identity], x["rows"]["model"][text]
            label = f"{x['settings']['guidance_scale']:g} / {x['settings']['reference_scale']:g}"
            points.append(Point(prompt["mean"], found["mean"], label, found["low"], found["high"]))
        lines.append(Series(_words("model", members[0]), points))
    for row in ("no_reference", "copy"):
        found = result["rows"].get(row, {})
        if {identity, text} <= set(found):
            lines.append(Series(_words(row, result), [Point(found[text]["mean"], found[identity]["mean"])]))
    note = "Labels: guidance scale / reference scale. Up: more like the subject; right: more like the prompt."
    return [Curve("Identity against prompt", text, identity, lines, note)]


def examples(result: Mapping[str, Any], benchmark: Benchmark, out: str | Path) -> Gallery:
    """For some subjects the references, then the model's first picture of some prompts, evenly chosen."""
    subjects = _evenly(benchmark.subjects, _EXAMPLES)
    rows, most = [], max(len(x.references) for x in subjects)
    for subject in subjects:
        given: list[Picture | None] = [Picture(path, "", reference=True) for path in subject.references]
        made = [x for x in result["images"] if x["row"] == "model" and x["subject"] == subject.name]
        firsts = list({x["prompt"]: x for x in reversed(made)}.values())[::-1]
        rows.append([*given, *[None] * (most - len(given)), *(_picture(x, out) for x in _evenly(firsts, _PROMPTS))])
    note = "The references (marked), then the first picture of some prompts: chosen by their numbers, not by looks."
    return Gallery("Examples", rows, [subject.name.replace("_", " ") for subject in subjects], note=note)


def extremes(result: Mapping[str, Any], benchmark: Benchmark, out: str | Path) -> list[Gallery]:
    """The model's best and worst pictures by identity, by prompt and by being a copy."""
    galleries = []
    references = {subject.name: subject.references[0] for subject in benchmark.subjects}
    for column in (*_main_columns(result), COPY):
        found = [x for x in result["images"] if x["row"] == "model" and column in x["scores"]]
        if not found:
            continue
        ordered = sorted(found, key=lambda x: (x["scores"][column], x["id"]))
        count = min(EXTREMES, (len(ordered) + 1) // 2)
        ends = [ordered[::-1][:count], ordered[:count]]
        labels = ["most a copy", "least a copy"] if column == COPY else ["best", "worst"]
        rows: list[list[Picture | None]] = []
        for end in ends:
            rows.append([_picture(x, out, column) for x in end])
            rows.append([Picture(references[x["subject"]], "", reference=True) for x in end])
        names = [label for name in labels for label in (name, "their references")]
        galleries.append(Gallery(f"Best and worst by {column}" if column != COPY else "Nearest to a copy", rows, names))
    return galleries


def summary(result: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences."""
    identity, text = _main_columns(result)
    rows, sentences = result["rows"], []
    if result["deviations"]:
        sentences.append(f"Not the full protocol: {'; '.join(result['deviations'])}.")
    for name in filter(None, (identity, text)):
        parts = [f"{_words(row, result)} {x[name]['mean']:.3f}" for row, x in rows.items() if name in x]
        sentences.append(f"{name}: {'; '.join(parts)}.")
    sentences.append(
        f"Copy score: {_words('model', result)} {rows['model'][COPY]['mean']:.3f}"
        + (f"; real pictures {rows['oracle'][COPY]['mean']:.3f}." if COPY in rows.get("oracle", {}) else ".")
    )
    return sentences


def facts(result: Mapping[str, Any], command: str = "") -> dict[str, str]:
    """What the page rests on."""
    settings = result["settings"]
    wanted = ("mode", "num_inference_steps", "guidance", "guidance_scale", "reference_scale", "device", "dtype")
    found = {
        "model": f"{result['model']['name']}, unet sha256 {result['model']['sha256'].get('unet', '?')[:16]}",
        "references": result["references"],
        "sampling": ", ".join(f"{key} {settings[key]}" for key in wanted),
        "encoders": "; ".join(f"{x['name']}: {x['source']}, sha256 {x['sha256'][:16]}" for x in result["encoders"]),
        "versions": ", ".join(f"{key} {value}" for key, value in result["versions"].items()),
        "pictures": ", ".join(f"{row} {sum(x['row'] == row for x in result['images'])}" for row in result["rows"]),
        "date": datetime.date.today().isoformat(),
    }
    return found | ({"command": command} if command else {})


def how_made(benchmark: Benchmark) -> Text:
    """The protocol, for a reader who sees the page alone."""
    body = (
        f"Given to the model: {benchmark.references}. Each subject's prompts name its class noun, without an "
        "identifier. Identity: the cosine of a picture's embedding and those of the subject's real pictures, averaged. "
        "Text score: the plain cosine of the embeddings of a picture and its prompt. A real picture (oracle) is "
        "compared with the others of its subject. The copy row is the first reference, scored against every prompt. "
        "The copy score compares small versions of the pictures themselves: 1 for the reference, about 0 for another "
        "scene."
    )
    return Text("How these figures are made", body)


def _main_columns(result: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The identity score to look at first (DINO, which DreamBooth prefers, else the first), and the text score."""
    identities = [x for x in result["columns"] if x.endswith(", all real")]
    texts = [x for x in result["columns"] if x.startswith(("CLIP-T", "BLIP-ITM"))]
    identities.sort(key=lambda x: not x.startswith("DINO "))
    return (identities or [None])[0], (texts or [None])[0]


def _words(row: str, result: Mapping[str, Any]) -> str:
    given = f", {_references(result)} ref." if row == "model" else ""
    return WORDS[row].format(label=result["label"] + given)


def _references(result: Mapping[str, Any]) -> str:
    first = str(result["references"]).split()[0]
    return first if first.isdecimal() else "own"


def _partial(result: Mapping[str, Any]) -> str:
    return f"Not the full protocol: {'; '.join(result['deviations'])}. " * bool(result["deviations"])


def _picture(record: Mapping[str, Any], out: str | Path, column: str | None = None) -> Picture:
    scores = {} if column is None else {column: record["scores"][column]}
    return Picture(Path(out) / "images" / f"{record['id']}.png", record["prompt"], scores)


def _evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of them, at even distances."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
