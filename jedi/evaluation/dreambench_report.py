"""DreamBench's scores on the terminal and as a page: beside published figures, and as a curve over several runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jedi.evaluation import score_report as common
from jedi.evaluation.dreambench import PUBLISHED, Benchmark, BenchmarkError
from jedi.evaluation.score import COPIED, MODEL, WITHOUT, Encoder, ScoredSubject, identity_column
from jedi.report.document import Cell, LineChart, Point, Report, Series, Table, Text
from jedi.report.page import write_report
from jedi.report.text import text_table

FIELD = {"DINO": "DINO ViT-S/16", "CLIP-I": "CLIP-I ViT-B/32", "CLIP-T": "CLIP-T ViT-B/32"}
"""Columns of published tables -> the score that they are."""


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


def other_encoders(encoders: Sequence[Encoder]) -> list[str]:
    """A remark if the scores that papers print are not all among those of ``encoders``."""
    columns = [column for encoder in encoders for column in encoder.columns]
    absent = [score for score in FIELD.values() if not any(column.startswith(score) for column in columns)]
    return [f"other encoders: without {', '.join(absent)} nothing compares with published figures"] if absent else []


def report(
    result: Mapping[str, Any],
    benchmark: Benchmark,
    groups: Sequence[ScoredSubject],
    others: Sequence[Mapping[str, Any]],
    out: str | Path,
    command: str = "",
) -> Path:
    """Prints the tables, writes the page and ``scores.json``; returns the page's path.

    Args:
        result: what ``scores.json`` holds.
        groups: what was scored.
        others: the results of other runs, for the table and the curve.
        command: how the run was made.
    """
    scores, beside = common.scores_table(result, others), published_table(result, others)
    for table in (scores, beside):
        print(f"\n{text_table(table)}")
    print()
    kinds = {subject.name: subject.kind for subject in benchmark.subjects}
    sections = [scores, *curve(result, others), beside, common.subjects_table(result, kinds)]
    sections += [common.examples(result, groups), *common.extremes(result, groups), how_made(benchmark)]
    title = f"{benchmark.name}: {result['label']}"
    return write_report(Report(title, common.summary(result), sections, facts(result, command)), out, scores=result)


def published_table(result: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> Table:
    """This run in the columns that papers print, beside what they printed."""
    rows = []
    for name, run in zip(common.run_names([result, *others]), (result, *others), strict=True):
        cells: dict[str, Any] = {"references": run["reference_count"] or "own list", "source": "this run"}
        for column, score in FIELD.items():
            key = score if column == "CLIP-T" else identity_column(score, "all_real")
            if found := run["rows"][MODEL].get(key):
                cells[column] = Cell(found["mean"], found["low"], found["high"])
        rows.append((name, cells))
    models = len(rows)
    for x in PUBLISHED:
        cells = {"references": x.references, "DINO": x.dino, "CLIP-I": x.clip_i, "CLIP-T": x.clip_t, "source": x.source}
        rows.append((x.method, cells))
    note = "Published: DINO ViT-S/16 and CLIP ViT-B/32 on DreamBench. Some average over all real images, as the rows "
    note += "of this run, some (Kosmos-G's code) over the given reference only."
    if result["benchmark"] != "DreamBench":
        note = f"{result['benchmark']} has other images and prompts: the figures do not compare. {note}"
    kinds = [("This run" if models == 1 else "These runs", models), ("Published", len(PUBLISHED))]
    columns = ["references", *FIELD, "source"]
    return Table("Beside published figures", columns, rows, common.partial_words(result) + note, kinds)


def curve(result: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """Identity against prompt: a point for each run, joined where only the guidance differs. None for a single run."""
    identity, text = common.main_columns(result)
    runs = [x for x in (result, *others) if {identity, text} <= set(x["rows"][MODEL])]
    if len(runs) < 2:
        return []
    free = ("guidance_scale", "image_guidance_scale", "guidance")
    fixed = lambda x: {key: value for key, value in x["settings"].items() if key not in free}
    series: dict[str, list[Mapping[str, Any]]] = {}
    for x in runs:
        series.setdefault(json.dumps([x["model"]["sha256"], x["references"], fixed(x)], sort_keys=True), []).append(x)
    lines = []
    names = common.run_names([{**members[0], "settings": fixed(members[0])} for members in series.values()])
    for name, members in zip(names, series.values(), strict=True):
        points = []
        for x in sorted(members, key=lambda x: [x["settings"][key] for key in free]):
            found, prompt = x["rows"][MODEL][identity], x["rows"][MODEL][text]
            label = f"{x['settings']['guidance_scale']:g} / {x['settings']['image_guidance_scale']:g}"
            points.append(Point(prompt["mean"], found["mean"], label, found["low"], found["high"]))
        lines.append(Series(name, points))
    for row in (WITHOUT, COPIED):
        found = result["rows"].get(row, {})
        if {identity, text} <= set(found):
            lines.append(Series(common.row_words(row, result), [Point(found[text]["mean"], found[identity]["mean"])]))
    note = "Labels: guidance scale / reference scale. Up: more like the subject; right: more like the prompt."
    return [LineChart("Identity against prompt", text, identity, lines, note)]


def facts(result: Mapping[str, Any], command: str = "") -> dict[str, str]:
    """What the page rests on."""
    settings = result["settings"]
    wanted = ("mode", "num_inference_steps", "guidance", "guidance_scale", "image_guidance_scale", "device", "dtype")
    return {
        "model": f"{result['model']['name']}, sha256 of its UNet {result['model']['sha256'].get('unet', '?')[:16]}",
        "references": result["references"],
        "sampling": ", ".join(f"{key} {settings[key]}" for key in wanted),
        "versions": ", ".join(f"{key} {value}" for key, value in result["versions"].items()),
        **common.facts(result, command),
    }


def how_made(benchmark: Benchmark) -> Text:
    """The protocol, for a reader who sees the page alone."""
    body = (
        f"Given to the model: {benchmark.references}. Each subject's prompts name its class noun, without an "
        "identifier. Identity: the cosine of an image's embedding and those of the subject's real images, averaged. "
        "Text score: the plain cosine of the embeddings of an image and its prompt. A real image (oracle) is "
        "compared with the others of its subject. The copy row is the first reference, scored against every prompt. "
        "The copy score compares small versions of the images themselves: 1 for the reference, about 0 for another "
        "scene."
    )
    return Text("How these figures are made", body)
