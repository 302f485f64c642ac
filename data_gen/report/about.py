"""What is to be said of a data set besides its figures: how it is made, by what models, how it is split, its limits."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_gen.config import content
from data_gen.sources import SOURCES
from jedi.io.config import to_dict

if TYPE_CHECKING:
    from data_gen.config import DataConfig

_MODEL_KEYS = ("encoder", "model", "head")


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


def heldout_rule(config: DataConfig) -> str:
    """How it is decided which subjects are kept out of training."""
    return SOURCES.get(config.source).heldout_rule(config.section(config.source))


def models(config: DataConfig, statistics: Mapping[str, Any]) -> dict[str, str]:
    """Every model that had a part in the data -> the part: from the sets' provenance, the filters that are on, and the
    prompts. Several parts are joined."""
    found: dict[str, list[str]] = {}
    for split in statistics["splits"].values():
        for name in split["made_by"]:
            found.setdefault(name, [])
    for name, used in found.items():
        count = sum(split["made_by"].get(name, 0) for split in statistics["splits"].values())
        used.append(f"had a part in {count:,} sets (their provenance says which)")
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
    from data_gen.stages.filter import FilterSets

    return [
        name for name, one in FilterSets(config.section("filter"), config.context).filters.items() if one.uses_model
    ]


def prompts(config: DataConfig) -> dict[str, Any] | None:
    """`prompts.json` without its texts: who answered, what was counted, subjects by category. None if there is none."""
    if not SOURCES.get(config.source).reads_prompts:
        return None
    from data_gen.prompts import read_prompts
    from data_gen.prompts.book import NAME

    if not (Path(config.out) / NAME).is_file():
        return None
    book = read_prompts(config.out)
    categories: dict[str, int] = {}
    for subject in book.subjects:
        categories[subject.category] = categories.get(subject.category, 0) + 1
    return {"backend": book.backend, "counts": book.counts, "categories": categories, "subjects": len(book.subjects)}


def limits(config: DataConfig, statistics: Mapping[str, Any]) -> list[str]:
    """What nobody should expect of the data, as far as the configuration tells."""
    source = SOURCES.get(config.source)
    said, on = list(source.limits), []
    if "filter" in config.stages:
        on = _filters(config)
        judged = "identity" in on
        said.append(
            "That a set shows one subject is what an encoder says, not a person: some sets will show two."
            if judged
            else "No filter judged whether the images of a set show one subject."
        )
    elif not source.exact:
        said.append("No filter judged the sets: nothing but the source vouches for identity, sharpness and captions.")
    unseen = {"people": "people", "nsfw": "what a safety checker would black out"}
    if not source.exact and (missing := [words for name, words in unseen.items() if name not in on]):
        said.append(f"Nothing looked for {' or '.join(missing)} in the images.")
    if config.finish.duplicate_distance is None and not source.exact:
        said.append("Sets were not compared with one another: near-duplicates across sets are possible.")
    if shared := statistics["subjects_in_both_splits"]:
        said.append(f"{len(shared)} subjects are in both splits ({shared[0]}, ...): the split is no fair test.")
    if "caption" in config.stages and config.section("caption").method == "captioner":
        said.append("Captions come from a captioner: they name what it saw, which may be wrong.")
    elif source.reads_prompts:
        said.append("A caption is the prompt of its image: it says what was asked for, not what came.")
    return said
