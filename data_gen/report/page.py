"""The data set's page: what is in it, what it looks like, what was dropped, and how the thresholds cut."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_gen.config import config_hash
from data_gen.report import about, gallery
from data_gen.report.scores import BINS
from data_gen.report.stored import Stored
from data_gen.report.survey import Survey
from data_gen.samples import SPLITS
from jedi.report.document import Histogram, Report, Section, Table, Text

if TYPE_CHECKING:
    from data_gen.config import DataConfig

COLUMNS = {"train": "train", "heldout": "held out"}
ROWS = 40
"""Rows of a table of classes or of pairs; what is more is told as one row."""
VALUES = 12
"""Rows of an attribute."""


def data_report(config: DataConfig, stored: Stored, found: Survey, statistics: Mapping[str, Any]) -> Report:
    """The whole report. Sections that would be empty are left out."""
    wanted = gallery.rows_of(stored, config.contact_sheet_rows)
    sections: list[Section] = [counts(statistics, found)]
    for split in SPLITS:
        sections += gallery.sets(stored, split, wanted[split])
    sections += [*classes(statistics), *caption_lengths(statistics), *attributes(statistics)]
    sections += [*drops(config, statistics, found), *scores(statistics)]
    where = gallery.find_examples(stored, found)
    for name in sorted(found.spreads):
        sections += [histogram(found, name), *gallery.examples(stored, found, where, name, config.resolution)]
    sections += [*duplicates(config, stored), *gallery.duplicates(stored, where, config.resolution), *prompts(config)]
    return Report(
        f"Data set from the source {config.source}",
        summary(config, stored, found, statistics),
        sections,
        facts(config, stored, statistics),
        {"The data card": "../DATA_CARD.md", "Throughput by stage": "../logs/throughput.html"},
    )


def summary(config: DataConfig, stored: Stored, found: Survey, statistics: Mapping[str, Any]) -> list[str]:
    said = [unfinished] if (unfinished := how_far(stored, found)) else []
    for split in SPLITS:
        part, which = statistics["splits"][split], {"train": "training", "heldout": "held-out"}[split]
        if part["sets"]:
            said.append(f"{part['sets']:,} {which} sets: {part['images']:,} images of {part['subjects']:,} subjects.")
    dropped, all_sets = sum(found.drops.values()), sum(found.made.values()) + _before_the_end(found)
    if dropped:
        reason, count = _by_reason(found).most_common(1)[0]
        share = f"{dropped:,} of {all_sets:,} sets ({dropped / all_sets:.1%})"
        said.append(f"Dropped: {share}, most often: {reason} ({count:,}).")
    elif all_sets:
        said.append("No set was dropped.")
    said += [f"Not used: {count:,} files, {why}." for why, count in statistics["left_out_files"].items()]
    if shared := statistics["subjects_in_both_splits"]:
        said.append(f"{len(shared):,} subjects are in both splits, {shared[0]} for instance.")
    said += [f"Licence: {name}." for name in statistics["licences"][:3]]
    return said


def how_far(stored: Stored, found: Survey) -> str:
    """A sentence on a data set that is not finished; nothing of one that is."""
    units = f"{found.done:,} of {found.units:,} units are done"
    if not stored.is_packed and not any(stored.tars.values()):
        return f"Nothing is packed and no set can be read yet: {units}."
    if not stored.is_packed:
        return f"Not finished: {units} and no shard is packed. What follows is read from the units."
    if found.done < found.units or not stored.is_complete:
        return f"Not finished: {units}, and not all shards are packed. What follows is read from those that are."
    return ""


def _before_the_end(found: Survey) -> int:
    """Sets that a source or a stage dropped; those that `finish` dropped had arrived."""
    return sum(count for (_, stage, _), count in found.drops.items() if stage != "finish")


def _by_reason(found: Survey) -> Counter[str]:
    counted: Counter[str] = Counter()
    for (_, _, reason), count in found.drops.items():
        counted[reason] += count
    return counted


def counts(statistics: Mapping[str, Any], found: Survey) -> Table:
    parts = {COLUMNS[split]: part for split, part in statistics["splits"].items()}
    rows: list[tuple[str, dict[str, Any]]] = []

    def add(label: str, values: Mapping[str, Any]) -> None:
        rows.append((label, dict(values)))

    for key in ("sets", "images", "subjects"):
        add(key, {column: part[key] for column, part in parts.items()})
    add("classes", {column: len(part["classes"]) for column, part in parts.items()})
    for size in sorted({int(size) for part in parts.values() for size in part["sets_by_images"]}):
        of_size = {column: part["sets_by_images"].get(str(size), 0) for column, part in parts.items()}
        add(f"sets of {size} images", of_size)
    if any(part["sets_of_several_subjects"] for part in parts.values()):
        add("sets of several subjects", {column: part["sets_of_several_subjects"] for column, part in parts.items()})
    add("dropped sets", {column: sum(part["dropped"].values()) for column, part in parts.items()})
    for key in ("shards", "bytes"):
        add(key, {column: part[key] for column, part in parts.items()})
    note = f"{found.done:,} of {found.units:,} units are done."
    return Table("Counts", list(COLUMNS.values()), rows, note=note)


def classes(statistics: Mapping[str, Any]) -> list[Section]:
    parts = {COLUMNS[split]: part for split, part in statistics["splits"].items()}
    total = sum((Counter(part["classes"]) for part in parts.values()), Counter())
    if not total:
        return []
    names = [name for name, _ in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))]
    columns = [f"{column} {what}" for column in parts for what in ("subjects", "sets")]

    def row(label: str, chosen: Sequence[str]) -> tuple[str, dict[str, Any]]:
        values = {}
        for column, part in parts.items():
            values[f"{column} subjects"] = sum(part["subjects_by_class"].get(name, 0) for name in chosen)
            values[f"{column} sets"] = sum(part["classes"].get(name, 0) for name in chosen)
        return label, values

    rows = [row(name, [name]) for name in names[:ROWS]]
    if more := names[ROWS:]:
        rows.append(row(f"{len(more):,} more", more))
    return [Table("Classes", columns, rows)]


def caption_lengths(statistics: Mapping[str, Any]) -> list[Section]:
    parts = {COLUMNS[split]: part["captions_by_words"] for split, part in statistics["splits"].items()}
    longest = max((int(words) for part in parts.values() for words in part), default=0)
    if not longest:
        return []
    shortest = min(int(words) for part in parts.values() for words in part)
    width = math.ceil((longest - shortest + 1) / BINS)
    bins = range(shortest, longest + 1, width)
    counted = {}
    for column, part in parts.items():
        if part:
            counted[column] = [sum(part.get(str(words), 0) for words in range(low, low + width)) for low in bins]
    edges = [low - 0.5 for low in (*bins, bins[-1] + width)]
    coarse = {COLUMNS[split]: part["coarse_captions"] for split, part in statistics["splits"].items()}
    said = [f"All captions together use {statistics['vocabulary_size']:,} different words."]
    shares = [f"{share:.1%} ({column})" for column, share in coarse.items() if share is not None]
    said += [f"They say no more than the subject's class in {', '.join(shares)} of the images."] if shares else []
    return [Histogram("Words in a caption", "words", "captions", edges, counted, note=" ".join(said))]


def attributes(statistics: Mapping[str, Any]) -> list[Section]:
    parts = {COLUMNS[split]: part for split, part in statistics["splits"].items()}
    names = sorted({name for part in parts.values() for name in part["attributes"]})
    many = {name for part in parts.values() for name in part["attributes_of_many_values"]}
    rows, groups = [], []
    for name in names:
        counted = {column: Counter(part["attributes"].get(name, {})) for column, part in parts.items()}
        total = sum(counted.values(), Counter())
        if len(total) > max(VALUES, total.total() / 4):  # nearly every image has its own: a file's name, say
            many.add(name)
        if name in many:
            continue
        values = [value for value, _ in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))]
        before = len(rows)
        for value in values[:VALUES]:
            rows.append((value, {column: counter[value] for column, counter in counted.items()}))
        if more := values[VALUES:]:
            rows.append((f"{len(more):,} more", {c: sum(counter[x] for x in more) for c, counter in counted.items()}))
        groups.append((name, len(rows) - before))
    if not rows:
        return []
    note = f"Left out, since they have too many values: {', '.join(sorted(many))}." if many else ""
    return [Table("Attributes of the images", list(parts), rows, groups=groups, note=note)]


def drops(config: DataConfig, statistics: Mapping[str, Any], found: Survey) -> list[Section]:
    """By stage, in the order of the work, and reason."""
    begun = sum(found.made.values()) + _before_the_end(found)
    rows, groups = [], []
    for stage in dict.fromkeys(["source", *config.stages, "finish"]):
        reasons = Counter()
        for (_, where, reason), count in found.drops.items():
            reasons[reason] += count * (where == stage)
        before = len(rows)
        for reason, count in sorted((+reasons).items(), key=lambda pair: (-pair[1], pair[0])):
            values = {COLUMNS[split]: found.drops[split, stage, reason] for split in SPLITS}
            rows.append((reason, {**values, "share of all sets": count / begun}))
        groups.append((stage, len(rows) - before))
    left_out = {COLUMNS[split]: part["left_out_images"] for split, part in statistics["splits"].items()}
    single = sorted({reason for part in left_out.values() for reason in part})
    rows += [(reason, {column: part.get(reason, 0) for column, part in left_out.items()}) for reason in single]
    groups += [("single images left out of sets that stayed", len(single))] if single else []
    if not rows:
        return []
    columns = [*COLUMNS.values(), "share of all sets"]
    note = f"{begun:,} sets were begun, by the units that are done."
    formats = {"share of all sets": ".2%"}
    return [Table("Why sets were dropped", columns, rows, note=note, groups=groups, formats=formats)]


def scores(statistics: Mapping[str, Any]) -> list[Section]:
    rows = []
    for name, score in statistics["scores"].items():
        limits = [f"{limit['key']}={limit['value']:g}" for limit in score["thresholds"]]
        past = sum(limit["failing"] for limit in score["thresholds"]) if limits else None
        quantiles = {key: f"{value:.4g}" for key, value in score["quantiles"].items()}
        rows.append((f"{name} (of {score['of']})", {"n": score["kept"] + score["dropped"], **quantiles,
                     "thresholds": ", ".join(limits) or None, "past them": past}))  # fmt: skip
    if not rows:
        return []
    columns = ["n", *next(iter(statistics["scores"].values()))["quantiles"], "thresholds", "past them"]
    note = "Over kept and dropped sets together; a set that an earlier stage dropped has no score of a later one."
    return [Table("Scores", columns, rows, note=note)]


def histogram(found: Survey, name: str) -> Histogram:
    spread, limits = found.spreads[name], found.limits.get(name, ())
    edges, kept, dropped, outside = spread.bins(limits)
    lines = {limit.words: limit.value for limit in limits if edges[0] <= limit.value <= edges[-1]}
    far = [limit.words for limit in limits if limit.words not in lines]
    said = ["Kept or dropped is what became of the set (or of the image, left out alone), for whatever reason."]
    said += [f"{text} lies outside of the drawing." for text in far]
    if outside:
        said.append(f"{outside:,} values lie beyond the ends and are counted in the outermost bars.")
    what = "images" if spread.of_images else "sets"
    return Histogram(f"Score {name}", name, what, edges, {"kept": kept, "dropped": dropped}, lines, " ".join(said))


def duplicates(config: DataConfig, stored: Stored) -> list[Section]:
    distance, rows = config.finish.duplicate_distance, stored.duplicates
    if distance is None:
        return []
    said = f"Compared were all sets, by the difference hashes of their images: {distance} of 64 bits may differ."
    if not rows:
        return [Text("Near-duplicates across sets", f"{said} No set was dropped.")]
    shown = [(row["key"], {"is nearly": row["of"]}) for row in rows[:ROWS]]
    count = "One set was" if len(rows) == 1 else f"{len(rows):,} sets were"
    note = f"{said} {count} dropped{f'; here are the first {ROWS}' if len(rows) > ROWS else ''}."
    return [Table("Near-duplicates across sets", ["is nearly"], shown, note=note)]


def prompts(config: DataConfig) -> list[Section]:
    found = about.prompts(config)
    if found is None:
        return []
    rows = [(name, {"count": count}) for name, count in found["categories"].items()]
    groups = [("Subjects by category", len(rows))]
    rows += [(name, {"count": count}) for name, count in found["counts"].items()]
    groups.append(("Answers and refusals", len(found["counts"])))
    by = ", ".join(f"{key}={value}" for key, value in found["backend"].items())
    return [Table("Prompts", ["count"], rows, groups=groups, note=f"{found['subjects']:,} subjects; written by {by}.")]


def facts(config: DataConfig, stored: Stored, statistics: Mapping[str, Any]) -> dict[str, str]:
    models = "\n".join(f"{name}: {part}" for name, part in about.models(config, statistics).items())
    return {
        "Source": config.source,
        "Stages": ", ".join(config.stages) or "none",
        "Settings": "\n".join(about.overrides(config)) or "the defaults",
        "Models": models or "none",
        "Licences": "\n".join(statistics["licences"]) or "no set yet",
        "Held out": about.heldout_rule(config),
        "Limits": "\n".join(about.limits(config, statistics)) or "none known",
        "Versions": ", ".join(f"{name} {version}" for name, version in stored.plan.versions.items()),
        "Configuration": f"sha256 {config_hash(config)}",
        "Plan": f"sha256 {stored.plan.hash}",
        "Made by": about.command(config),
    }
