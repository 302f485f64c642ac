"""The paper's source: a text-to-image model is asked for a *collage* of photos of one subject.

Consistency comes from the prompt alone: images that stand on one sheet tend to show the same thing (method.md §6).
Any pipeline of diffusers that makes images from text will do, from Stable Diffusion to FLUX. The stage `split` cuts
the collages up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from data_gen.context import Context
from data_gen.samples import Dropped, Item, SubjectSet
from data_gen.sources import SOURCES
from data_gen.sources.prompted import GenerationSettings, PromptedSource
from data_gen.sources.subjects import NAMES, check_template, names
from jedi.io.ranges import Range, batches

_PLACEHOLDERS = ("collage", "panels", "look", *NAMES)


@dataclass
class CollageSettings(GenerationSettings):
    """Collages of the `collage` source."""

    model: str = "stabilityai/stable-diffusion-xl-base-1.0"
    """1024 pixels a side leave 512 for each of four panels; its weights are open, and it runs in 10 GB."""
    prompt: str = "{collage}"
    """Around that of prompts.json; also {look}, {name}, {a_name}, {class}, {a_class}, {panels}."""
    panels: Annotated[int, Range(2, 64)] | None = None
    """Wanted in a collage, for {panels} and the record; None: images_per_set."""
    batch_size: Annotated[int, Range(1, 1024)] = 4
    """Collages a call: what 24 GB hold with SDXL; another number may make a GPU's bits differ."""

    def __post_init__(self) -> None:
        self.check("collage")
        check_template("collage.prompt", self.prompt, _PLACEHOLDERS)


@SOURCES.register("collage")
class Collage(PromptedSource):
    """One collage an item, still whole: `images` and `captions` hold the collage and its prompt alone.

    `provenance` holds all that made it, `panel_caption` (what every panel shows) and `panel_captions` (the scenes).
    """

    Settings, section_name, gives = CollageSettings, "collage", frozenset({"collage"})

    def __init__(self, settings: CollageSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.panels = settings.panels or context.images_per_set

    def make(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        """Each collage from noise of its own seed. Raises ConfigError where the model is not available or usable."""
        for batch in batches(items, self.settings.batch_size):
            yield from self._batch(batch)

    def _batch(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        from jedi.rng import keyed_generator, keyed_seed

        prompts = [self._prompt(item) for item in items]
        generators = [keyed_generator(self.context.seed, item.key, "collage") for item in items]
        images, unsafe = self.generator(prompts, generators)
        for item, prompt, image, is_unsafe in zip(items, prompts, images, unsafe, strict=True):
            if is_unsafe:
                yield Dropped(item.key, "unsafe")
                continue
            subject = self.subject(item)
            yield self.made(
                item, [prompt], [image],
                prompt=prompt,
                seed=keyed_seed(self.context.seed, item.key, "collage"),
                panels=self.panels,
                panel_caption=f"a photo of {names(subject.name, subject.category)['a_name']}",
                panel_captions=list(subject.scenes),
            )  # fmt: skip

    def _prompt(self, item: Item) -> str:
        subject = self.subject(item)
        about = names(subject.name, subject.category)
        return self.settings.prompt.format(collage=subject.collage, panels=self.panels, look=subject.look, **about)
