"""The toy benchmark's scores in words: means with intervals, tables, curves, galleries, one page."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from jedi.evaluation.baselines import UntrainedCoupling
from jedi.evaluation.statistics import bootstrap, difference_interval, ratio_interval
from jedi.report.document import Cell, Gallery, GalleryImage, LineChart, Point, Report, Section, Series, Table, Text
from jedi.report.page import write_report
from jedi_toy.benchmark import cases as benchmark_cases
from jedi_toy.benchmark import edits as benchmark_edits

if TYPE_CHECKING:
    from jedi_toy.benchmark.rows import ToyRun

SCORES = {"subject": "retrieval"} | {name: name for name in ("likeness", "background", "pose", "prompt", "copy")}
"""Scores of an image -> columns of the main table."""
OF_ORACLE, OVER_NONE = "of oracle", "over none"
DIFFERENCE = "difference"
SCORES_OF_FEW = ("subject", "likeness")
"""What fewer and more references are compared by."""
SHARES = ("retrieval", "background", "pose", "each", "both", "either way", "kept", OF_ORACLE)
EXTREMES = 6
"""Rows of the galleries of best and of worst cases."""
EXPLAINED = """\
retrieval: the share of images in which the encoder recognises the right one of {subjects} held-out subjects (chance \
{chance:.1%}), by the mean cosine to {gallery} real images of each that are neither references nor the target. \
of oracle: that share over the oracle's; over none: over the row without references. likeness: the mean cosine itself. \
background: a probe, trained on real images of training subjects only, finds what the prompt asks for. pose: the \
subject's pixels are nearer to the target than to the target mirrored or turned otherwise (the oracle is the target; \
on other real images this is right in {pose:.1%}). prompt: cosine of image and caption. copy: likeness of pixels \
to the most similar of the {references} references; lower is better, and what two images of one subject have anyway \
is the oracle's. Intervals: 95 %, from resampling drawings."""


def summarise(result: Mapping[str, Any], samples: int = 2000) -> dict[str, Any]:
    """Means with intervals of each row of each part: {"rows": {name: {score: {mean, low, high, n, groups}}}, ...}."""
    summary = {part: _means(result[part], samples) for part in ("rows", *TABLES, "curves") if part in result}
    by_name = {row["name"]: row["images"] for row in result["rows"]}
    for name, images in by_name.items():
        for key, other in ((OF_ORACLE, "oracle"), (OVER_NONE, "none")):
            if name not in (other, "oracle"):  # there is no ratio to a row that recognises nothing
                found = any(x["subject"] for x in by_name[other])
                ratio = _compared(ratio_interval, images, by_name[other], "subject", samples) if found else None
                summary["rows"][name][key] = ratio
    if "references" in result:
        few, many = (row["images"] for row in result["references"])
        difference = {score: _compared(difference_interval, many, few, score, samples) for score in SCORES_OF_FEW}
        summary["references"][DIFFERENCE] = difference
    return summary


def _compared(how: Callable, images: Sequence[Mapping], others: Sequence[Mapping], score: str, samples: int) -> dict:
    values = ([x[score] for x in side] for side in (images, others))
    return asdict(how(*values, groups=[x["drawing"] for x in images], samples=samples))


def _means(rows: Sequence[Mapping[str, Any]], samples: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {row["name"]: {} for row in rows}
    for row in rows:
        for score in (key for key in row["images"][0] if key not in ("id", "drawing")):
            if values := [(float(x[score]), x["drawing"]) for x in row["images"] if x[score] is not None]:
                found[row["name"]][score] = asdict(bootstrap(*zip(*values, strict=True), samples))
    return found


# ---- tables

TABLES: dict[str, tuple[str, dict[str, str], str]] = {
    "references": (
        "More references",
        {key: SCORES[key] for key in SCORES_OF_FEW},
        (
            "{images} images in each row: several noises for each subject, the same ones in both rows. The difference"
            " is paired by subject and noise; where its interval leaves out 0, it counts."
        ),
    ),
    "pairs": (
        "Two subjects in one image",
        {"each": "each", "both": "both", "either way": "either way", "background": "background", "copy": "copy"},
        (
            "Each subject is cut out where the real image has it and recognised among all subjects of all pairs. each: "
            "the share of subjects that are there; both: images with both (the minimum); either way: both, also where "
            "they have changed places."
        ),
    ),
    "edits": (
        "Editing",
        {"subject": "retrieval", "likeness": "likeness", "kept": "kept", "decoded": "decoded, dB", "vae": "VAE, dB"},
        (
            "A subject is painted over another one. Inside of the mask: is it recognised among all? Outside: kept is "
            "the share of images whose every pixel there is the scene's, without loss; decoded is the model's own "
            "image before it is pasted into the scene, against the scene, and VAE what coding the scene costs by "
            "itself. Their difference is the decoder's: its filters look across the border of the mask."
        ),
    ),
    "diversity": (
        "Diversity",
        {"diversity": "diversity"},
        (
            "The mean of 1 - cosine over pairs of images, by the judge's whole embedding. The model's differ in their "
            "noise only; real images of one subject in other scenes are about the most that could be wished for."
        ),
    ),
}
"""What may be measured besides the main table: title, score -> column, note."""


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The main table, one row for each way of answering the prompts, and those of the parts that were measured."""
    columns = {"subject": "retrieval", OF_ORACLE: OF_ORACLE, OVER_NONE: OVER_NONE} | SCORES
    note = EXPLAINED.format(
        subjects=result["gallery"], chance=1 / result["gallery"], pose=result["judge"]["pose"],
        gallery=benchmark_cases.GALLERY, references=benchmark_cases.REFERENCES,
    )  # fmt: skip
    title = f"{len(result['rows'][0]['images'])} held-out subjects, pose and background other than the references'"
    found = [_table(title, columns, note, result["rows"], result["summary"]["rows"])]
    for part, (title, columns, note) in TABLES.items():
        if part in result:
            rows = result[part]
            note = note.format(images=len(rows[0]["images"]))
            if part == "references":
                few, many = rows
                label = f"{many['references']} minus {few['references']}"
                rows = [many, few, {"name": DIFFERENCE, "label": label, "kind": DIFFERENCE}]
            found.append(_table(title, columns, note, rows, result["summary"][part]))
    return found


def _table(
    title: str, columns: Mapping[str, str], note: str, rows: Sequence[Mapping[str, Any]], means: Mapping[str, Any]
) -> Table:
    """``columns``: score -> its name. The model's rows come first, under a heading of their own."""
    used = {score: name for score, name in columns.items() if any(score in means[row["name"]] for row in rows)}
    rows = sorted(rows, key=lambda row: row["kind"] != "model")
    ours = sum(row["kind"] == "model" for row in rows)
    return Table(
        title,
        list(used.values()),
        [(row["label"], {name: _cell(means[row["name"]].get(key)) for key, name in used.items()}) for row in rows],
        note,
        groups=[("This model", ours), ("For comparison", len(rows) - ours)],
        better={name: "lower" if name == "copy" else "higher" for name in used.values()},
        formats={x: ".1%" for x in used.values() if x in SHARES} | {x: ".1f" for x in used.values() if x == OVER_NONE},
    )


def _cell(found: Mapping[str, Any] | None) -> Cell | None:
    if found is None:
        return None
    known = found["low"] is not None and found["high"] is not None
    return Cell(found["mean"], found["low"], found["high"]) if known else Cell(found["mean"])


# ---- chart and sentences


def chart(result: Mapping[str, Any]) -> LineChart:
    """Identity against prompt as a guidance scale varies, and the oracle as a mark."""
    means, points = result["summary"]["curves"], result["curves"]
    own = points[0]
    series = []
    for name in dict.fromkeys(point["varied"] for point in points if point["varied"]):
        chosen = sorted((x for x in points if x["varied"] in (None, name)), key=lambda x: x["scales"][name])
        series.append(Series(name, [_point(means[x["name"]], f"{x['scales'][name]:g}") for x in chosen]))
    series = series or [Series(own["label"], [_point(means[own["name"]])])]
    oracle = next(row for row in result["rows"] if row["kind"] == "oracle")
    series.append(Series(oracle["label"], [_point(result["summary"]["rows"][oracle["name"]])]))
    note = f"{own['label']}, {len(own['images'])} subjects; the oracle has all. Copy and no reference are far away."
    return LineChart("Identity against prompt as guidance varies", "prompt", "likeness", series, note)


def _point(found: Mapping[str, Any], label: str = "") -> Point:
    likeness = _cell(found["likeness"])
    return Point(found["prompt"]["mean"], likeness.value, label, likeness.low, likeness.high)


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What was found, in short."""
    rows = result["summary"]["rows"]
    main, oracle, none = (rows[name] for name in (result["main"], "oracle", "none"))
    label = next(row["label"] for row in result["rows"] if row["name"] == result["main"])
    share = lambda x: f"{x['mean']:.1%}" + (f" [{x['low']:.1%}, {x['high']:.1%}]" if x["low"] is not None else "")
    others = f"oracle {share(oracle['subject'])}, no reference {share(none['subject'])}"
    text = [f"{label}: {share(main['subject'])} of the subjects are recognised; {others}."]
    if main.get(OF_ORACLE):
        text.append(f"That is {share(main[OF_ORACLE])} of the oracle's.")
    if main.get(OVER_NONE):
        text.append(f"It is {main[OVER_NONE]['mean']:.1f} times the row without references.")
    asked = [f"{x} {share(main[x])} (oracle {share(oracle[x])})" for x in ("background", "pose") if x in main]
    text.append(f"As asked for: {', '.join(asked)}.")
    text.append(f"Copy score {main['copy']['mean']:.3f}; real images of the subject have {oracle['copy']['mean']:.3f}.")
    if "references" in result:
        more, (few, many) = result["summary"]["references"][DIFFERENCE], result["references"]
        text.append(
            f"{many['references']} references instead of {few['references']}: retrieval {_signed(more['subject'])}, "
            f"likeness {_signed(more['likeness'])}."
        )
    if "pairs" in result:
        name = next(row["name"] for row in result["pairs"] if row["kind"] == "model")
        text.append(f"Two subjects: both are there in {share(result['summary']['pairs'][name]['either way'])}.")
    if "edits" in result:
        found = result["summary"]["edits"][result["main"]]
        text.append(
            f"Editing: {share(found['subject'])} recognised inside; {share(found['kept'])} unchanged outside "
            f"(before pasting {found['decoded']['mean']:.1f} dB, the VAE alone {found['vae']['mean']:.1f} dB)."
        )
    return [*text, *(f"Left out: {reason}." for reason in result["skipped"])]


def _signed(found: Mapping[str, Any]) -> str:
    interval = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{found['mean']:+.3f}{interval}"


# ---- galleries and the page


def galleries(result: Mapping[str, Any], run: ToyRun) -> list[Gallery]:
    """Best and worst cases of the main row, with all rows beside one another; then two subjects, and edits."""
    cases, image = run.shown["rows"][0], run.cases.image
    main = next(row for row in result["rows"] if row["name"] == result["main"])
    ranked = sorted(range(len(cases)), key=lambda i: -main["images"][i]["likeness"])
    note = f"By likeness of the row '{main['label']}'. Above each row is its prompt."
    given = lambda case: [image(case, x) for x in case.references[:2]]
    two = ("reference 1", "reference 2")
    of_edit = lambda edit: [image(edit.scene, edit.scene.target), image(edit.case, edit.case.references[0])]
    first = range(EXTREMES)
    wanted = [
        ("Best cases", "rows", ranked, two, given, "likeness", note),
        ("Worst cases", "rows", ranked[::-1], two, given, "likeness", note),
        ("Two subjects", "pairs", first, two, run.cases.references, "each", ""),
        ("Edits", "edits", first, ("scene", "reference 1"), of_edit, "likeness", ""),
    ]
    return [_gallery(result, run, *gallery) for gallery in wanted if gallery[1] in run.shown]


def _gallery(
    result: Mapping[str, Any],
    run: ToyRun,
    title: str,
    part: str,
    chosen: Sequence[int],
    heads: Sequence[str],
    given: Callable[[Any], Sequence[Image.Image]],
    score: str,
    note: str,
) -> Gallery:
    """For the first of the ``chosen`` cases what was ``given``, under ``heads``, and all rows' images with their
    score."""
    cases, made = run.shown[part]
    rows = [x for x in result[part] if x["kind"] != "copy" and x["name"] in made]
    rows.sort(key=lambda x: x["kind"] != "oracle")
    word, images, labels = {"each": "there"}.get(score, score), [], []
    for i in chosen[:EXTREMES]:
        if i < len(cases):
            answers = [GalleryImage(made[x["name"]][i], scores={word: x["images"][i][score]}) for x in rows]
            images.append([*(GalleryImage(x, reference=True) for x in given(cases[i])), *answers])
            labels.append(cases[i].prompt)
    return Gallery(title, images, labels, [*heads, *(row["label"] for row in rows)], note)


def write(result: Mapping[str, Any], run: ToyRun, out: Path, method: str) -> Path:
    """Writes ``report.html``, ``report.json`` and ``scores.json``; returns the page's path.

    ``method``: how the benchmark works, paragraphs after a first one that is left out.
    """
    first, *others = tables(result)
    charts = [chart(result)] if "curves" in result else []
    sections: list[Section] = [first, *charts, *others, *galleries(result, run)]
    sections.append(Text("How it is measured", _plain(method)))
    named = lambda values: ", ".join(f"{key} {value}" for key, value in values.items())
    details = {
        "model": result["model"]["name"],
        "weights (sha256)": named({name: digest[:12] for name, digest in result["model"]["sha256"].items()}),
        "settings": named(result["settings"]),
        "judge": f"{result['judge']['name']}, sha256 {result['judge']['sha256'][:12]}",
        "data": f"{result['data']['name']}, {result['data']['fingerprint'][:12]}",
        "sets without a question": ", ".join(f"{n} ({why})" for why, n in result["data"]["left_out"].items()) or "none",
        "versions": named(result["versions"]),
        "date": datetime.date.today().isoformat(),
        **({"command": result["command"]} if result["command"] else {}),
    }
    return write_report(Report("Toy benchmark", sentences(result), sections, details), out, scores=result)


def _plain(method: str) -> str:
    """The benchmark's own words, without the marks of code."""
    texts = [
        *method.split("\n\n")[1:],
        f"Editing: {benchmark_edits.__doc__.split(chr(10) * 2, 1)[1]}",
        f"Untrained coupling: {UntrainedCoupling.__doc__}",
    ]
    items = [item for text in texts for item in re.split(r"\n- |^- ", text)]
    paragraphs = [" ".join(item.split()) for item in items if item.strip()]
    return re.sub(r" \(:mod:`\w+`\)|[`*]", "", "\n\n".join(paragraphs))
