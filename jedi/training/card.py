"""The model card (README.md) of an exported model: its base and licence, its data, its recipe, what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jedi.io.base import settings_folder
from jedi.io.config import load, to_dict
from jedi.io.hub import is_hub_name
from jedi.io.kinds import ModelKind, detect
from jedi.pipeline import JediPipeline
from jedi.report.document import Report, Section, Table, Text
from jedi.report.text import markdown
from jedi.training import checkpoints
from jedi.training.config import TrainConfig
from jedi.training.load_run import base_of

SAMPLES = "samples.png"
_RECIPE = ("max_steps", "batch_size", "seed", "conditioning", "loss", "optimizer", "ema", "network", "lora", "data")
_PLACES = {"path", "latents_folder", "sources"}
"""Of the machine that trained: nobody else's business."""


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from."""

    run: Path
    config: TrainConfig
    step: int
    base: Path
    """Its folder, or its one file."""
    kind: ModelKind
    max_references: int | None
    size: tuple[int, int]
    """Height and width in pixels."""


def write_card(folder: Path, run: Path, checkpoint: str, pipe: JediPipeline) -> None:
    """Writes README.md into the folder of a model that was exported from a run, the run's newest samples beside it."""
    config = load(TrainConfig, run / "config.yaml")
    base = base_of(run, config)
    facts = CardFacts(
        run=run,
        config=config,
        step=_step(run, checkpoint),
        base=base,
        kind=detect(settings_folder(base, config.base_config)),
        max_references=pipe.config.max_trained_references,
        size=pipe.image_size,
    )
    samples = newest_samples(run, facts.step)
    if samples is not None:
        shutil.copy(samples, folder / SAMPLES)
    (folder / "README.md").write_text(model_card(facts, samples is not None), encoding="utf-8")


def _step(run: Path, checkpoint: str) -> int:
    """Of a checkpoint that was found to be whole."""
    if checkpoint == "last":
        return checkpoints.recorded_step(run)
    return max(checkpoints.listed(run, "best")) if checkpoint == "best" else int(checkpoint.rpartition("-")[2])


def licence_of(base: Path) -> str | None:
    """What the card of a base calls its licence, as the hub names licences; None where it has no card that says so."""
    from huggingface_hub.repocard import metadata_load

    try:
        found = (metadata_load(base / "README.md") or {}).get("license")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) and found.isprintable() else None


def data_summary(data: str | Path) -> list[str]:
    """The first paragraphs of a data set's card, its title left out; [] where there is none."""
    try:
        text = (Path(data) / "DATA_CARD.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    head = text.partition("\n## ")[0]
    return [part.strip() for part in head.split("\n\n") if part.strip() and not part.startswith("# ")]


def newest_samples(run: Path, step: int) -> Path | None:
    """The grid of examples that the run made last, up to that step."""
    found = sorted(path for path in run.glob("samples/step-*.png") if path.stem <= f"step-{step:08d}")
    return found[-1] if found else None


def model_card(facts: CardFacts, has_samples: bool) -> str:
    """The card in Markdown, with the hub's settings at its head."""
    from huggingface_hub import ModelCardData

    config, licence = facts.config, licence_of(facts.base)
    on_hub = is_hub_name(config.base)
    data = ModelCardData(
        base_model=config.base if on_hub else None,
        library_name="diffusers",
        license=licence,
        pipeline_tag="text-to-image",
        tags=["jedi-diffusion", "joint-image-diffusion", "subject-driven", "personalization", "stable-diffusion"],
    )
    report = Report(config.run.resolve().name, summary(facts), list(sections(facts, licence)))
    text = markdown(report)
    if has_samples:
        head, rest = text.split("\n## ", 1)
        about = "Held-out subjects, not selected: references on the left, made images on the right."
        text = f"{head}\n![samples]({SAMPLES})\n\n{about}\n\n## {rest}"
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def summary(facts: CardFacts) -> list[str]:
    base = facts.config.base if is_hub_name(facts.config.base) else facts.base.name
    height, width = facts.size
    most = "" if facts.max_references is None else f", at most {facts.max_references} references"
    what = "A joint-image diffusion model: give it images of a subject and a prompt, and it shows that subject"
    modes = ", ".join(facts.config.trained_modes)
    return [
        f"{what}, without any tuning. Trained from {base}: {facts.kind.family}, {facts.kind.prediction_type}.",
        f"Images of {width} x {height} pixels; modes {modes}{most}; step {facts.step:,}.",
    ]


def sections(facts: CardFacts, licence: str | None) -> list[Section]:
    use = (
        "    from jedi.pipeline import JediPipeline  # pip install jedi-diffusion\n"
        '    pipe = JediPipeline.from_pretrained("THIS_MODEL")\n'
        '    pipe("on a beach", references=[image]).images[0]\n\n'
        'Plain diffusers opens it with `DiffusionPipeline.from_pretrained("THIS_MODEL", trust_remote_code=True)`, '
        "where jedi-diffusion is installed."
    )
    found: list[Section] = [Text("Use", use)]
    if metrics := checkpoints.validation(facts.run, facts.step):
        rows = [(name, {"value": float(value)}) for name, value in sorted(metrics.items()) if "/bin" not in name]
        note = "gain/wrong and gain/none: by how much the loss is lower with the right references than with another "
        note += "subject's, or with none. 0: the model does not look at them."
        found.append(Table("Validation on held-out subjects", ["value"], rows, note=note, formats={"value": ".4g"}))
    data = facts.config.data
    sources = [(x.path, f" {Path(x.path).name}, weight {x.weight:g}") for x in data.sources] or [(data.path, "")]
    for place, weight in sources:
        if said := data_summary(place) if place else []:
            found.append(Text(f"Data{weight}", "\n\n".join(said)))
    settings = [(key, {"setting": value}) for key, value in recipe(facts.config).items()]
    found.append(Table("Training", ["setting"], settings))
    about = (
        f"The base's licence, {licence}, holds for this model too"
        if licence
        else "The base's licence is not known here"
    )
    found.append(Text("Licence", f"{about}. What the images that it was trained on allow is said by their data set."))
    return found


def recipe(config: TrainConfig) -> dict[str, str]:
    """The settings of the training that decide its result, flat, as texts."""
    values, flat = to_dict(config), {}
    for key in _RECIPE:
        group = values[key] if isinstance(values[key], Mapping) else {"": values[key]}
        for name, value in group.items():
            if name not in _PLACES and value is not None and (key != "lora" or config.lora.rank):
                flat[f"{key}.{name}".rstrip(".")] = _said(value)
    return flat


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
