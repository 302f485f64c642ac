"""`DATA_CARD.md`: what whoever trains on the data set should know. No times and no names of machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_gen.config import config_hash
from data_gen.report import about
from data_gen.report.page import how_far
from data_gen.report.stored import Stored
from data_gen.report.survey import Survey
from data_gen.samples import SPLITS
from data_gen.sources import SOURCES

if TYPE_CHECKING:
    from data_gen.config import DataConfig


def data_card(config: DataConfig, stored: Stored, found: Survey, statistics: Mapping[str, Any]) -> str:
    parts = [
        [f"# Data set from the source {config.source}", _what(config, statistics)],
        [f"**{unfinished}**"] if (unfinished := how_far(stored, found)) else [],
        ["## Counts", _counts(statistics)],
        ["## Subjects", about.heldout_rule(config), _subjects(statistics)],
        ["## What was dropped", *_drops(statistics, stored)],
        ["## Scores", *_scores(statistics)],
        ["## Licences", *_licences(config, statistics)],
        ["## Models", _models(config, statistics)],
        *([["## Prompts", *_prompts(answered)]] if (answered := about.prompts(config)) else []),
        ["## Known limits", _list(about.limits(config, statistics)) or "None are known."],
        ["## How to make it again", *_again(config, stored)],
    ]
    return "\n\n".join(text for part in parts for text in part) + "\n"


def _what(config: DataConfig, statistics: Mapping[str, Any]) -> str:
    stages = f" and passed through {', '.join(config.stages)}" if config.stages else ""
    size = f"{config.resolution} x {config.resolution}"
    return (
        f"Sets of images of one subject each ({size} pixels, at most {config.images_per_set} a set), each with "
        "its caption, for training joint-image diffusion. "
        f"The images come from the source `{config.source}`{stages}. "
        "Shards are plain webdataset tars, each with a manifest beside it. `report/report.html` shows the images."
    )


def _counts(statistics: Mapping[str, Any]) -> str:
    keys = {"sets": "sets", "images": "images", "subjects": "subjects", "shards": "shards", "bytes": "bytes"}
    parts = statistics["splits"]
    rows = [[label, *(f"{parts[split][key]:,}" for split in SPLITS)] for key, label in keys.items()]
    rows.append(["dropped sets", *(f"{sum(parts[split]['dropped'].values()):,}" for split in SPLITS)])
    sizes = [", ".join(f"{count:,} of {n}" for n, count in parts[x]["sets_by_images"].items()) or "-" for x in SPLITS]
    rows.append(["sets by their images", *sizes])
    return _table(["", "train", "held out"], rows)


def _subjects(statistics: Mapping[str, Any]) -> str:
    parts = statistics["splits"]
    keys = ("subjects_by_class", "classes")
    kinds = sorted({kind for split in SPLITS for key in keys for kind in parts[split][key]})
    rows = []
    for kind in kinds:
        values = [parts[split][key].get(kind, 0) for split in SPLITS for key in keys]
        rows.append([kind, *(f"{value:,}" for value in values)])
    return _table(["class", "train subjects", "train sets", "held-out subjects", "held-out sets"], rows)


def _drops(statistics: Mapping[str, Any], stored: Stored) -> Iterable[str]:
    rows = [[x["stage"], x["reason"], x["split"], f"{x['sets']:,}"] for x in statistics["drops"]]
    yield _table(["stage", "reason", "split", "sets"], rows) if rows else "No set."
    for split in SPLITS:
        if left_out := statistics["splits"][split]["left_out_images"]:
            said = ", ".join(f"{count:,} ({reason})" for reason, count in left_out.items())
            yield f"Single images left out of {split} sets that stayed: {said}."
    if files := statistics["left_out_files"]:
        yield f"Files that were not used: {', '.join(f'{count:,} ({why})' for why, count in files.items())}."
    if stored.duplicates:
        yield f"`finish.json` says of {len(stored.duplicates):,} near-duplicates which set each is like."


def _scores(statistics: Mapping[str, Any]) -> Iterable[str]:
    if not statistics["scores"]:
        yield "None: no filter judged the sets."
        return
    rows = []
    for name, score in statistics["scores"].items():
        limits = "; ".join(f"`{x['key']}={x['value']:g}`: {x['failing']:,} past it" for x in score["thresholds"])
        values = [f"{value:.4g}" for value in score["quantiles"].values()]
        rows.append([name, score["of"], f"{score['kept']:,}", f"{score['dropped']:,}", *values, limits or "none"])
    quantiles = next(iter(statistics["scores"].values()))["quantiles"]
    yield _table(["score", "of", "kept", "dropped", *quantiles, "thresholds"], rows)
    yield "Quantiles are over kept and dropped together. Each set's JSON holds its scores."


def _licences(config: DataConfig, statistics: Mapping[str, Any]) -> Iterable[str]:
    names = statistics["licences"]
    parts = [statistics["splits"][split]["licences"] for split in SPLITS]
    yield _table(["licence", "sets"], [[name, f"{sum(part.get(name, 0) for part in parts):,}"] for name in names])
    if said := SOURCES.get(config.source).attribution:
        yield said
    yield "Each set's JSON names its licence."


def _models(config: DataConfig, statistics: Mapping[str, Any]) -> str:
    models = about.models(config, statistics)
    return _list(f"`{name}`: {part}" for name, part in models.items()) or "No model had a part in it."


def _prompts(found: Mapping[str, Any]) -> Iterable[str]:
    by = ", ".join(f"{key} `{value}`" for key, value in found["backend"].items())
    yield f"{found['subjects']:,} subjects, written by {by}."
    yield _table(["category", "subjects"], [[name, f"{count:,}"] for name, count in found["categories"].items()])
    if found["counts"]:
        yield _table(["answers and refusals", "count"], [[name, f"{n:,}"] for name, n in found["counts"].items()])


def _again(config: DataConfig, stored: Stored) -> Iterable[str]:
    yield f"```\n{about.command(config)}\n```"
    inputs = json.loads((Path(config.out) / "plan.json").read_text(encoding="utf-8"))["inputs"]
    rows = [["configuration", f"`{config_hash(config)}`"], ["plan", f"`{stored.plan.hash}`"]]
    yield _table(["sha256 of", ""], [*rows, *([name, f"`{digest}`"] for name, digest in inputs.items())])
    versions = ", ".join(f"{name} {version}" for name, version in stored.plan.versions.items())
    yield f"`plan.json` holds all settings. With these versions it comes out byte for byte, on a CPU: {versions}."
    yield "Where models are used, that holds for the same model files and as many threads."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    """On one line, and not the end of its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _list(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)
