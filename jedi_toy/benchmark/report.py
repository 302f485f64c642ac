"""The toy benchmark's scores in words: means with intervals, tables, curves, galleries, one page."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jedi.evaluation.statistics import Interval, bootstrap, difference_interval, ratio_interval
from jedi.report.document import (
    Cell,
    Gallery,
    GalleryImage,
    LineChart,
    Point,
    Report,
    Series,
    Table,
    Text,
)
from jedi.report.page import write_report

if TYPE_CHECKING:
    from jedi_toy.benchmark.rows import ToyRun

SCORES = {
    "subject": "retrieval",
    "likeness": "likeness",
    "background": "background",
    "pose": "pose",
    "prompt": "prompt",
    "copy": "copy",
}
"""Scores of an image -> columns of the main table."""
OF_ORACLE, OVER_NONE = "of oracle", "over none"
DIFFERENCE = "difference"
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
    summary: dict[str, Any] = {"rows": _means(result["rows"], samples)}
    by_name = {row["name"]: row["images"] for row in result["rows"]}
    for name, images in by_name.items():
        for key, other in ((OF_ORACLE, "oracle"), (OVER_NONE, "none")):
            if name not in (other, "oracle"):
                summary["rows"][name][key] = _ratio(images, by_name[other], samples)
    for part in ("references", "curves", "pairs", "edits", "diversity"):
        if part in result:
            summary[part] = _means(result[part], samples)
    if "references" in result:
        few, many = (row["images"] for row in result["references"])
        summary["references"][DIFFERENCE] = {
            score: _difference(many, few, score, samples) for score in ("subject", "likeness")
        }
    return summary


def _difference(images: Sequence[Mapping], others: Sequence[Mapping], score: str, samples: int) -> dict[str, Any]:
    groups = [x["drawing"] for x in images]
    return asdict(difference_interval([x[score] for x in images], [x[score] for x in others], groups, samples))


def _means(rows: Sequence[Mapping[str, Any]], samples: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        images = row["images"]
        found[row["name"]] = {}
        for score in (key for key in images[0] if key not in ("id", "drawing")):
            values = [(float(x[score]), x["drawing"]) for x in images if x[score] is not None]
            if values:
                numbers, groups = zip(*values, strict=True)
                found[row["name"]][score] = asdict(bootstrap(numbers, groups, samples))
    return found


def _ratio(images: Sequence[Mapping], others: Sequence[Mapping], samples: int) -> dict[str, Any] | None:
    """``None`` where the other row recognises nothing: there is no ratio to 0."""
    groups = [x["drawing"] for x in images]
    below = [x["subject"] for x in others]
    if not any(below):
        return None
    return asdict(ratio_interval([x["subject"] for x in images], below, groups, samples=samples))


def _cell(found: Mapping[str, Any] | None) -> Cell | None:
    if found is None:
        return None
    x = Interval(**found)
    return Cell(x.mean) if x.low is None or x.high is None else Cell(x.mean, x.low, x.high)


def _table(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    means: Mapping[str, Any],
    columns: Mapping[str, str],
    note: str = "",
    lower: Sequence[str] = ("copy",),
) -> Table:
    """``columns``: score -> its name. The model's rows come first, under a heading of their own."""
    used = {score: name for score, name in columns.items() if any(score in means[row["name"]] for row in rows)}
    rows = sorted(rows, key=lambda row: row["kind"] != "model")
    ours = sum(row["kind"] == "model" for row in rows)
    formats = {name: ".1%" for name in used.values() if name in SHARES}
    return Table(
        title,
        list(used.values()),
        [(row["label"], {name: _cell(means[row["name"]].get(key)) for key, name in used.items()}) for row in rows],
        note,
        groups=[("This model", ours), ("For comparison", len(rows) - ours)],
        better={name: "lower" if name in lower else "higher" for name in used.values()},
        formats=formats | ({OVER_NONE: ".1f"} if OVER_NONE in used.values() else {}),
    )


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The main table, and those of the parts that were measured."""
    parts = {"references": references_table, "pairs": pair_table, "edits": edit_table, "diversity": diversity_table}
    return [main_table(result), *(table(result) for part, table in parts.items() if part in result)]


def main_table(result: Mapping[str, Any]) -> Table:
    """One row for each way of answering the prompts."""
    columns = {"subject": "retrieval", OF_ORACLE: OF_ORACLE, OVER_NONE: OVER_NONE} | SCORES
    from jedi_toy.benchmark.cases import GALLERY, REFERENCES

    count = result["gallery"]
    pose = result["judge"]["pose"]
    note = EXPLAINED.format(subjects=count, chance=1 / count, gallery=GALLERY, references=REFERENCES, pose=pose)
    title = f"{len(result['rows'][0]['images'])} held-out subjects, pose and background other than the references'"
    return _table(title, result["rows"], result["summary"]["rows"], columns, note)


def references_table(result: Mapping[str, Any]) -> Table:
    """What more references bring."""
    few, many = result["references"]
    label = f"{many['references']} minus {few['references']}"
    rows = [many, few, {"name": DIFFERENCE, "label": label, "kind": DIFFERENCE}]
    columns = {key: SCORES[key] for key in ("subject", "likeness")}
    note = (
        f"{len(many['images'])} images in each row: several noises for each subject, the same ones in both rows. The "
        "difference is paired by subject and noise; where its interval leaves out 0, it counts."
    )
    return _table("More references", rows, result["summary"]["references"], columns, note)


def pair_table(result: Mapping[str, Any]) -> Table:
    """Two subjects in one image."""
    columns = {"each": "each", "both": "both", "either way": "either way", "background": "background", "copy": "copy"}
    note = (
        "Each subject is cut out where the real image has it and recognised among all subjects of all pairs. each: "
        "the share of subjects that are there; both: images with both (the minimum); either way: both, also where "
        "they have changed places."
    )
    return _table("Two subjects in one image", result["pairs"], result["summary"]["pairs"], columns, note)


def edit_table(result: Mapping[str, Any]) -> Table:
    """A subject painted over another one."""
    columns = {
        "subject": "retrieval",
        "likeness": "likeness",
        "kept": "kept",
        "decoded": "decoded, dB",
        "vae": "VAE, dB",
    }
    note = (
        "A subject is painted over another one. Inside of the mask: is it recognised among all? Outside: kept is the "
        "share of images whose every pixel there is the scene's, without loss; decoded is the model's own image "
        "before it is pasted into the scene, against the scene, and VAE what coding the scene costs by itself. Their "
        "difference is the decoder's: its filters look across the border of the mask."
    )
    return _table("Editing", result["edits"], result["summary"]["edits"], columns, note, lower=())


def diversity_table(result: Mapping[str, Any]) -> Table:
    """How different images of one prompt are."""
    note = (
        "The mean of 1 - cosine over pairs of images, by the judge's whole embedding. The model's differ in their "
        "noise only; real images of one subject in other scenes are about the most that could be wished for."
    )
    return _table("Diversity", result["diversity"], result["summary"]["diversity"], {"diversity": "diversity"}, note)


def curve(result: Mapping[str, Any]) -> LineChart:
    """Identity against prompt as a guidance scale varies, and the oracle as a mark."""
    means, points = result["summary"]["curves"], result["curves"]
    own = points[0]
    series = []
    for name in dict.fromkeys(point["varied"] for point in points if point["varied"]):
        chosen = sorted((x for x in points if x["varied"] in (None, name)), key=lambda x: x["scales"][name])
        series.append(Series(name, [_point(means[x["name"]], f"{x['scales'][name]:g}") for x in chosen]))
    if not series:
        series = [Series(own["label"], [_point(means[own["name"]])])]
    oracle = next(row for row in result["rows"] if row["kind"] == "oracle")
    series.append(Series(oracle["label"], [_point(result["summary"]["rows"][oracle["name"]])]))
    note = f"{own['label']}, {len(own['images'])} subjects; the oracle has all. Copy and no reference lie far away."
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
    asked = [
        f"{name} {share(main[name])} (oracle {share(oracle[name])})" for name in ("background", "pose") if name in main
    ]
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


def galleries(result: Mapping[str, Any], answers: ToyRun) -> list[Gallery]:
    """Best and worst cases of the main row, with all rows beside one another; then two subjects, and edits."""
    rows = {row["name"]: row for row in sorted(result["rows"], key=_oracle_first) if row["kind"] != "copy"}
    main = rows[result["main"]]
    cases, made = answers.shown["rows"]
    scores = {name: row["images"] for name, row in rows.items()}
    columns = ["reference 1", "reference 2", *(row["label"] for row in rows.values())]

    def line(i: int) -> list[GalleryImage]:
        given = [GalleryImage(answers.cases.image(cases[i], x), reference=True) for x in cases[i].references[:2]]
        return given + [GalleryImage(made[name][i], scores={"likeness": scores[name][i]["likeness"]}) for name in rows]

    ranked = sorted(range(len(cases)), key=lambda i: -main["images"][i]["likeness"])
    note = f"By likeness of the row '{main['label']}'. Above each row stands its prompt."
    found = [
        Gallery(title, [line(i) for i in part], [cases[i].prompt for i in part], columns, note)
        for title, part in (("Best cases", ranked[:EXTREMES]), ("Worst cases", ranked[::-1][:EXTREMES]))
    ]
    if "pairs" in answers.shown:
        found.append(_pair_gallery(result, answers))
    if "edits" in answers.shown:
        found.append(_edit_gallery(result, answers))
    return found


def _oracle_first(row: Mapping[str, Any]) -> bool:
    return row["kind"] != "oracle"


def _pair_gallery(result: Mapping[str, Any], answers: ToyRun) -> Gallery:
    cases, made = answers.shown["pairs"]
    rows = [row for row in sorted(result["pairs"], key=_oracle_first) if row["kind"] != "copy"]
    images, labels = [], []
    for i, case in enumerate(cases[:EXTREMES]):
        given = [GalleryImage(x, reference=True) for x in answers.cases.references(case)]
        images.append(
            given + [GalleryImage(made[x["name"]][i], scores={"there": x["images"][i]["each"]}) for x in rows]
        )
        labels.append(case.prompt)
    return Gallery("Two subjects", images, labels, ["reference 1", "reference 2", *(row["label"] for row in rows)])


def _edit_gallery(result: Mapping[str, Any], answers: ToyRun) -> Gallery:
    edits, made = answers.shown["edits"]
    rows = [row for row in result["edits"] if row["name"] in made]
    images, labels = [], []
    for i, edit in enumerate(edits[:EXTREMES]):
        scene = answers.cases.image(edit.scene, edit.scene.target)
        given = [scene, answers.cases.image(edit.case, edit.case.references[0])]
        images.append(
            [GalleryImage(x, reference=True) for x in given]
            + [GalleryImage(made[x["name"]][i], scores={"likeness": x["images"][i]["likeness"]}) for x in rows]
        )
        labels.append(edit.prompt)
    return Gallery("Edits", images, labels, ["scene", "reference 1", *(row["label"] for row in rows)])


def write(result: Mapping[str, Any], answers: ToyRun, out: Path) -> Path:
    """Writes ``report.html``, ``report.json`` and ``scores.json``; returns the page's path."""
    sections: list[Any] = tables(result)
    if "curves" in result:
        sections.insert(1, curve(result))
    sections += [*galleries(result, answers), Text("How it is measured", _method())]
    facts = {
        "model": result["model"]["name"],
        "weights (sha256)": ", ".join(f"{name} {digest[:12]}" for name, digest in result["model"]["sha256"].items()),
        "settings": ", ".join(f"{key} {value}" for key, value in result["settings"].items()),
        "judge": f"{result['judge']['name']}, sha256 {result['judge']['sha256'][:12]}",
        "data": f"{result['data']['name']}, {result['data']['fingerprint'][:12]}",
        "sets without a question": ", ".join(f"{n} ({why})" for why, n in result["data"]["left_out"].items()) or "none",
        "versions": ", ".join(f"{key} {value}" for key, value in result["versions"].items()),
        "date": datetime.date.today().isoformat(),
    }
    if result["command"]:
        facts["command"] = result["command"]
    return write_report(Report("Toy benchmark", sentences(result), sections, facts), out, scores=result)


def _method() -> str:
    """The benchmark's own words, without the marks of code."""
    from jedi.evaluation import baselines
    from jedi_toy.benchmark import command, edits

    editing = edits.__doc__.split("\n\n", 1)[1]
    texts = [
        *command.__doc__.split("\n\n")[1:],
        f"Editing: {editing}",
        f"Untrained coupling: {baselines.UntrainedCoupling.__doc__}",
    ]
    items = [item for text in texts for item in re.split(r"\n- |^- ", text)]
    paragraphs = [" ".join(item.split()) for item in items if item.strip()]
    return re.sub(r" \(:mod:`\w+`\)|[`*]", "", "\n\n".join(paragraphs))
