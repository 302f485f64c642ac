"""The data set's report: what is in it, what it looks like, what was dropped, how the thresholds cut, how it was made.

The page shows all of it; the data card (`DATA_CARD.md`) is the same without charts and images.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_gen.config import DataConfig, config_hash, content
from data_gen.plan import Plan
from data_gen.report import gallery
from data_gen.report.collect import BINS, Stored, Survey
from data_gen.samples import SPLITS
from data_gen.sources import SOURCES
from data_gen.stages.filter import FilterSets
from jedi.io.config import to_dict
from jedi.report.document import Histogram, Report, Section, Table, Text

COLUMNS = {"train": "train", "heldout": "held out"}
ROWS = 40
"""Rows of a table of classes or of pairs; what is more is told as one row."""
VALUES = 12
"""Rows of an attribute."""
_MODEL_KEYS = ("encoder", "model", "head")

Statistics = Mapping[str, Any]
Rows = list[tuple[str, dict[str, Any]]]


def data_report(
    config: DataConfig, stored: Stored, survey: Survey, statistics: Statistics, shown: gallery.Shown
) -> Report:
    """The whole report. Sections that would be empty are left out."""
    where = gallery.find_examples(stored, survey)
    sections: list[Section] = [about(config), counts(statistics, survey), *gallery.sets(shown)]
    sections += [*classes(statistics), *caption_lengths(statistics), *attributes(statistics)]
    sections += [*drops(config, statistics, survey), scores(statistics)]
    for name in sorted(survey.spreads):
        sections += [histogram(survey, name), *gallery.examples(stored, survey, where, name, config.resolution)]
    sections += [*duplicates(config, stored), *gallery.duplicates(stored, where, config.resolution)]
    sections += [*prompts_table(config), *licences(config, statistics), how_to_repeat(config, stored)]
    return Report(
        f"Data set from the source {config.source}",
        summary(stored, survey, statistics),
        sections,
        details(config, stored, statistics),
        {"The data card": "../DATA_CARD.md", "Throughput by stage": "../logs/throughput.html"},
    )


def summary(stored: Stored, survey: Survey, statistics: Statistics) -> list[str]:
    said = [unfinished] if (unfinished := how_far(stored, survey)) else []
    for split, which in (("train", "training"), ("heldout", "held-out")):
        part = statistics["splits"][split]
        if part["sets"]:
            said.append(f"{part['sets']:,} {which} sets: {part['images']:,} images of {part['subjects']:,} subjects.")
    if dropped := survey.drops.total():
        ((reason, count),) = _reasons(survey).most_common(1)
        share = f"{dropped:,} of {survey.begun:,} sets ({dropped / survey.begun:.1%})"
        said.append(f"Dropped: {share}, most often: {reason} ({count:,}).")
    elif survey.begun:
        said.append("No set was dropped.")
    said += [f"Not used: {count:,} files, {why}." for why, count in statistics["left_out_files"].items()]
    if shared := statistics["subjects_in_both_splits"]:
        said.append(f"{len(shared):,} subjects are in both splits, {shared[0]} for instance.")
    return said + [f"Licence: {name}." for name in statistics["licences"][:3]]


def how_far(stored: Stored, survey: Survey) -> str:
    """A sentence on a data set that is not finished; nothing of one that is."""
    units = f"{survey.done:,} of {survey.units:,} units are done"
    if not stored.is_packed and not any(stored.tars.values()):
        return f"Nothing is packed and no set can be read yet: {units}."
    if not stored.is_packed:
        return f"Not finished: {units} and no shard is packed. What follows is read from the units."
    if survey.done < survey.units or not stored.is_complete:
        return f"Not finished: {units}, and not all shards are packed. What follows is read from those that are."
    return ""


def about(config: DataConfig) -> Text:
    stages = f" and passed through {', '.join(config.stages)}" if config.stages else ""
    body = (
        f"Sets of images of one subject each ({_pixels(config)}, at most {config.images_per_set} a set), each with its "
        f"caption, for training joint-image diffusion. The images come from the source {config.source}{stages}. Shards "
        "are plain webdataset tars, each with a manifest beside it; each set's JSON holds its licence and its scores. "
        "report/report.html shows images, statistics.json has all counts."
    )
    return Text("What it is", body)


def _pixels(config: DataConfig) -> str:
    side = config.resolution
    if "resize" in config.stages and config.section("resize").shape == "keep_aspect":
        return f"one size a set, of at most {side * side:,} pixels"
    return f"{side} x {side} pixels"


# ---- what is in it


def _by_split(statistics: Statistics, *keys: str) -> dict[str, Any]:
    """A row's cells: for each split what stands under these keys, or else 0."""
    cells = {}
    for split, column in COLUMNS.items():
        cells[column] = statistics["splits"][split]
        for key in keys:
            cells[column] = cells[column].get(key, 0)
    return cells


def _most_first(counts: Mapping[str, int]) -> list[str]:
    return [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def _total(statistics: Statistics, key: str) -> Counter[str]:
    """What is counted under a key, of both splits together."""
    return sum((Counter(part[key]) for part in statistics["splits"].values()), Counter())


def _reasons(survey: Survey, stage: str | None = None) -> Counter[str]:
    """Drops by reason, of one stage or of all."""
    reasons: Counter[str] = Counter()
    for (_, where, reason), count in survey.drops.items():
        reasons[reason] += count if stage in (None, where) else 0
    return +reasons


def counts(statistics: Statistics, survey: Survey) -> Table:
    parts, several = statistics["splits"].values(), _by_split(statistics, "sets_of_several_subjects")
    sizes = sorted({int(size) for part in parts for size in part["sets_by_images"]})
    rows: Rows = [(key, _by_split(statistics, key)) for key in ("sets", "images", "subjects")]
    rows.append(("classes", {column: len(x) for column, x in _by_split(statistics, "classes").items()}))
    rows += [(f"sets of {size} images", _by_split(statistics, "sets_by_images", str(size))) for size in sizes]
    if len(shapes := sorted({size for part in parts for size in part["sets_by_pixels"]})) > 1:
        rows += [(f"sets of {size} pixels", _by_split(statistics, "sets_by_pixels", size)) for size in shapes]
    rows += [("sets of several subjects", several)] if any(several.values()) else []
    dropped = _by_split(statistics, "dropped")
    rows.append(("dropped sets", {column: sum(x.values()) for column, x in dropped.items()}))
    rows += [(key, _by_split(statistics, key)) for key in ("shards", "bytes")]
    note = f"{survey.done:,} of {survey.units:,} units are done."
    return Table("Counts", list(COLUMNS.values()), rows, note=note)


def classes(statistics: Statistics) -> list[Section]:
    names = _most_first(_total(statistics, "classes"))
    what = {"subjects": "subjects_by_class", "sets": "classes"}
    columns = {f"{COLUMNS[split]} {word}": (split, key) for split in SPLITS for word, key in what.items()}

    def row(label: str, chosen: Sequence[str]) -> tuple[str, dict[str, Any]]:
        parts = {column: statistics["splits"][split][key] for column, (split, key) in columns.items()}
        return label, {column: sum(part.get(name, 0) for name in chosen) for column, part in parts.items()}

    rows = [row(name, [name]) for name in names[:ROWS]]
    rows += [row(f"{len(names) - ROWS:,} more", names[ROWS:])] if names[ROWS:] else []
    return [Table("Classes", list(columns), rows)] if rows else []


def caption_lengths(statistics: Statistics) -> list[Section]:
    lengths = _by_split(statistics, "captions_by_words")
    found = [int(words) for counted in lengths.values() for words in counted]
    if not max(found, default=0):
        return []
    width = math.ceil((max(found) - min(found) + 1) / BINS)
    bins = range(min(found), max(found) + 1, width)
    counted = {
        column: [sum(part.get(str(words), 0) for words in range(low, low + width)) for low in bins]
        for column, part in lengths.items()
        if part
    }
    edges = [low - 0.5 for low in (*bins, bins[-1] + width)]
    said = f"All captions together use {statistics['vocabulary_size']:,} different words."
    coarse = _by_split(statistics, "coarse_captions")
    shares = [f"{share:.1%} ({column})" for column, share in coarse.items() if share is not None]
    said += f" They say no more than the subject's class in {', '.join(shares)} of the images." if shares else ""
    return [Histogram("Words in a caption", "words", "captions", edges, counted, note=said)]


def attributes(statistics: Statistics) -> list[Section]:
    parts = {COLUMNS[split]: part for split, part in statistics["splits"].items()}
    many = {name for part in parts.values() for name in part["attributes_of_many_values"]}
    rows: Rows = []
    groups = []
    for name in sorted({name for part in parts.values() for name in part["attributes"]} - many):
        counted = {column: Counter(part["attributes"].get(name, {})) for column, part in parts.items()}
        total = sum(counted.values(), Counter())
        if len(total) > max(VALUES, total.total() / 4):  # nearly every image has its own: a file's name, say
            many.add(name)
            continue
        values = _most_first(total)
        rows += [(x, {column: counter[x] for column, counter in counted.items()}) for x in values[:VALUES]]
        if more := values[VALUES:]:
            rows.append((f"{len(more):,} more", {c: sum(counter[x] for x in more) for c, counter in counted.items()}))
        groups.append((name, min(len(values), VALUES + 1)))
    note = f"Left out, since they have too many values: {', '.join(sorted(many))}." if many else ""
    return [Table("Attributes of the images", list(parts), rows, groups=groups, note=note)] if rows else []


# ---- what was dropped, and by what scores


def drops(config: DataConfig, statistics: Statistics, survey: Survey) -> list[Section]:
    """By stage, in the order of the work, and reason."""
    rows: Rows = []
    groups = []
    for stage in dict.fromkeys(["source", *config.stages, "finish"]):
        reasons = _reasons(survey, stage)
        for reason in _most_first(reasons):
            values = {column: survey.drops[split, stage, reason] for split, column in COLUMNS.items()}
            rows.append((reason, {**values, "share of all sets": reasons[reason] / survey.begun}))
        groups.append((stage, len(reasons)))
    single = sorted({reason for part in statistics["splits"].values() for reason in part["left_out_images"]})
    rows += [(reason, _by_split(statistics, "left_out_images", reason)) for reason in single]
    groups.append(("single images left out of sets that stayed", len(single)))
    columns, formats = [*COLUMNS.values(), "share of all sets"], {"share of all sets": ".2%"}
    note = f"{survey.begun:,} sets were started, by the units that are done."
    return [Table("Why sets were dropped", columns, rows, note, groups, formats=formats)] if rows else []


def scores(statistics: Statistics) -> Section:
    rows: Rows = []
    for name, score in statistics["scores"].items():
        limits = "; ".join(f"{x['key']}={x['value']:g}: {x['failing']:,} past it" for x in score["thresholds"])
        quantiles = {key: f"{value:.4g}" for key, value in score["quantiles"].items()}
        values = {"kept": score["kept"], "dropped": score["dropped"], **quantiles, "thresholds": limits or None}
        rows.append((f"{name} (of {score['of']})", values))
    if not rows:
        return Text("Scores", "None: no filter judged the sets.")
    note = "Quantiles are over kept and dropped sets together; a set that an earlier stage dropped has no score of a "
    return Table("Scores", list(rows[0][1]), rows, note=f"{note}later one.")


def histogram(survey: Survey, name: str) -> Histogram:
    spread, limits = survey.spreads[name], survey.limits.get(name, ())
    edges, counted, outside = spread.bins(limits)
    lines = {limit.words: limit.value for limit in limits if edges[0] <= limit.value <= edges[-1]}
    said = ["Kept or dropped is what became of the set (or of the image, left out alone), for whatever reason."]
    said += [f"{limit.words} is outside the range of the chart." for limit in limits if limit.words not in lines]
    if outside:
        said.append(f"{outside:,} values are beyond the ends and are counted in the outermost bars.")
    what = "images" if spread.of_images else "sets"
    return Histogram(f"Score {name}", name, what, edges, counted, lines, " ".join(said))


def duplicates(config: DataConfig, stored: Stored) -> list[Section]:
    distance, found = config.finish.duplicate_distance, stored.duplicates
    if distance is None:
        return []
    said = f"Compared were all sets, by the difference hashes of their images: {distance} of 64 bits may differ."
    if not found:
        return [Text("Near-duplicates across sets", f"{said} No set was dropped.")]
    rows: Rows = [(row["key"], {"is nearly": row["of"]}) for row in found[:ROWS]]
    count = "One set was" if len(found) == 1 else f"{len(found):,} sets were"
    more = f"; here are the first {ROWS}, finish.json has all" if len(found) > ROWS else ""
    return [Table("Near-duplicates across sets", ["is nearly"], rows, note=f"{said} {count} dropped{more}.")]


# ---- how it was made


def prompts_table(config: DataConfig) -> list[Section]:
    found = prompts(config)
    if found is None:
        return []
    categories, answers = found["categories"], found["counts"]
    rows: Rows = [(name, {"count": count}) for name, count in [*categories.items(), *answers.items()]]
    groups = [("Subjects by category", len(categories)), ("Answers and refusals", len(answers))]
    by = ", ".join(f"{key}={value}" for key, value in found["backend"].items())
    return [Table("Prompts", ["count"], rows, groups=groups, note=f"{found['subjects']:,} subjects; written by {by}.")]


def licences(config: DataConfig, statistics: Statistics) -> list[Section]:
    rows: Rows = [(name, _by_split(statistics, "licences", name)) for name in statistics["licences"]]
    note = f"Counted are sets. {SOURCES.get(config.source).attribution}".strip()
    return [Table("Licences", list(COLUMNS.values()), rows, note=note)] if rows else []


def how_to_repeat(config: DataConfig, stored: Stored) -> Text:
    versions = ", ".join(f"{name} {version}" for name, version in stored.plan.versions.items())
    body = (
        f"    {command(config)}\n\nplan.json holds all settings. With these versions it comes out byte for byte, on a "
    )
    body += f"CPU: {versions}. Where models are used, that holds for the same model files and as many threads."
    return Text("How to make it again", body)


def details(config: DataConfig, stored: Stored, statistics: Statistics) -> dict[str, str]:
    inputs = json.loads((Path(config.out) / "plan.json").read_text(encoding="utf-8"))["inputs"]
    none = "No model had a part in it."
    return {
        "Source": config.source,
        "Stages": ", ".join(config.stages) or "none",
        "Settings": "\n".join(overrides(config)) or "the defaults",
        "Models": "\n".join(f"{name}: {part}" for name, part in models(config, statistics).items()) or none,
        "Held out": SOURCES.get(config.source).heldout_rule(config.section(config.source)),
        "Limits": "\n".join(limits(config, statistics)) or "none known",
        "Inputs": "\n".join(f"{name}: sha256 {digest}" for name, digest in inputs.items()) or "none",
        "Configuration": f"sha256 {config_hash(config)}",
        "Plan": f"sha256 {stored.plan.hash}",
    }


def overrides(config: DataConfig) -> list[str]:
    """`key=value` for all settings that decide the data and are not their default."""
    usual = {**to_dict(type(config)(out="FOLDER", source="")), "generation": None}
    return list(_changed(content(config), usual))


def _changed(settings: Mapping[str, Any], usual: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        default = usual.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping) and default:
            yield from _changed(value, default, f"{prefix}{name}.")
        elif value != default and f"{prefix}{name}" != "generation":
            yield f"{prefix}{name}={_written(value)}"


def _written(value: Any) -> str:
    """As the command line takes it back."""
    with contextlib.suppress(yaml.YAMLError):
        if isinstance(value, str) and yaml.safe_load(f"[{value}]") == [value]:
            return value  # needs no quotes
    return json.dumps(value, ensure_ascii=False)


def command(config: DataConfig) -> str:
    """What makes the data set again, in another folder."""
    return " ".join(["python -m data_gen run out=FOLDER", *map(shlex.quote, overrides(config))])


def models(config: DataConfig, statistics: Mapping[str, Any]) -> dict[str, str]:
    """Every model that had a part in the data -> the part: from the sets' provenance, the filters that are on, and the
    prompts. Several parts are joined."""
    made_by = _total(statistics, "made_by")
    found = {name: [f"had a part in {n:,} sets (their provenance says which)"] for name, n in made_by.items()}
    if "filter" in config.stages:
        for name in _filters(config):
            settings = getattr(config.section("filter"), name, None)
            for key in _MODEL_KEYS:
                if value := getattr(settings, key, ""):
                    found.setdefault(value, []).append(f"filter.{name}.{key}")
    if answered := prompts(config):
        backend = answered["backend"]
        found.setdefault(backend.get("model") or backend.get("backend", "?"), []).append("wrote the prompts")
    return {name: "; ".join(used) for name, used in found.items()}


def _filters(config: DataConfig) -> list[str]:
    """Those that are on and use a model."""
    return [x for x, one in FilterSets(config.section("filter"), config.context).filters.items() if one.uses_model]


def prompts(config: DataConfig) -> dict[str, Any] | None:
    """`prompts.json` without its texts: who answered, what was counted, subjects by category. None if there is none."""
    if not SOURCES.get(config.source).reads_prompts:
        return None
    from data_gen.prompts import read_prompts
    from data_gen.prompts.prompt_set import NAME

    if not (Path(config.out) / NAME).is_file():
        return None
    book = read_prompts(config.out)
    categories = Counter(subject.category for subject in book.subjects)
    return {"backend": book.backend, "counts": book.counts, "categories": categories, "subjects": len(book.subjects)}


def limits(config: DataConfig, statistics: Mapping[str, Any]) -> list[str]:
    """What nobody should expect of the data, as far as the configuration tells."""
    source = SOURCES.get(config.source)
    said, on = list(source.limits), []
    if "filter" in config.stages:
        on = _filters(config)
        by_an_encoder = "That a set shows one subject is what an encoder says, not a person: some sets will show two."
        by_nobody = "No filter judged whether the images of a set show one subject."
        said.append(by_an_encoder if "identity" in on else by_nobody)
    elif not source.exact:
        said.append("No filter judged the sets: nothing but the source vouches for identity, sharpness and captions.")
    unseen = {"people": "people", "nsfw": "what a safety checker would black out"}
    if not source.exact and (missing := [words for name, words in unseen.items() if name not in on]):
        said.append(f"Nothing looked for {' or '.join(missing)} in the images.")
    if config.finish.duplicate_distance is None and not source.exact:
        said.append("Sets were not compared with one another: near-duplicates across sets are possible.")
    if shared := statistics["subjects_in_both_splits"]:
        said.append(f"{len(shared)} subjects are in both splits ({shared[0]}, ...): the split is not a fair test.")
    if "caption" in config.stages and config.section("caption").method == "captioner":
        said.append("Captions come from a captioner: they name what it saw, which may be wrong.")
    elif source.reads_prompts:
        said.append("A caption is the prompt of its image: it says what was asked for, not what came.")
    return said


# ---- how long it took: apart from all that must be the same in every run


def throughput(plan: Plan) -> dict[str, Any]:
    """Seconds by step over the units that have a log, added up over processes; images of the sets that arrived."""
    seconds: Counter[str] = Counter()
    units, sets, images, slowest = 0, 0, 0, ("", 0.0)
    for unit in plan.units:
        if (log := plan.log(unit)) is not None:
            taken = log["seconds"]
            sets, images, units = sets + log["items"], images + log["images"], units + 1
            seconds.update(taken)
            slowest = max(slowest, (unit.name, sum(taken.values())), key=lambda pair: pair[1])
    return {
        "units": units,
        "units_planned": len(plan.units),
        "sets_begun": sets,
        "images": images,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "slowest_unit": {"name": slowest[0], "seconds": round(slowest[1], 3)},
    }


def throughput_report(result: Mapping[str, Any], source: str) -> Report | None:
    """The same as a page; None where no unit has a log."""
    seconds, images, slowest = result["seconds"], result["images"], result["slowest_unit"]
    total = sum(seconds.values())
    if not total:
        return None
    rows = [
        (name, {"seconds": value, "share": value / total, "images/s": images / value if value else None})
        for name, value in [*seconds.items(), ("all steps", total)]
    ]
    table = Table(
        "Throughput by stage",
        ["seconds", "share", "images/s"],
        rows,
        note="Seconds of a process at work, added up over all units: w processes together took about 1/w of them. "
        "Images are those of the sets that arrived. The first unit of a process also loads the models. "
        f"The slowest unit was {slowest['name']}: {slowest['seconds']:.1f} s.",
        formats={"seconds": ",.1f", "share": ".1%", "images/s": ",.1f"},
        groups=[("Steps, in their order", len(seconds)), ("Together", 1)],
    )
    done = f"{result['units']:,} of {result['units_planned']:,} units, {result['sets_begun']:,} sets started"
    return Report(
        f"Throughput of the data set from the source {source}",
        [f"{done}, {images:,} images: {images / total:,.1f} a second and process."],
        [table],
        links={"The data set's report": "../report/report.html"},
    )
