"""The stage `augment`: new backgrounds for some images of each set, the subject as it was.

Same-subject images that were made together have related backgrounds, and a model trained on them learns to copy
these from its references. JeDi's data engine therefore repaints backgrounds by inpainting (arXiv 2407.06187, S3).
`composite` does the same without an inpainting model, with less natural light and shadows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

from PIL import Image

from data_gen.context import Context
from data_gen.samples import SubjectSet
from data_gen.sources.prompted import GenerationSettings, Generator
from data_gen.sources.subjects import check_template
from data_gen.stages import STAGES, Stage
from data_gen.stages.backgrounds import Backgrounds, BackgroundSettings, check_places
from data_gen.stages.compositing import (
    EdgesSettings,
    Pixels,
    area,
    box_and_centre,
    cut,
    cut_sides,
    grown,
    is_hidden,
    keep,
    paste,
    resized,
)
from data_gen.stages.phrases import PLACEHOLDERS, PLACES, fill, place_of, subjects_in, words_for
from jedi.io.config import ConfigError
from jedi.io.ranges import Interval, Range, Share

STEP = 16  # diffusion models want sides that are multiples of 8, FLUX of 16
METHODS = ("inpaint", "composite")
_WORDS = (*PLACEHOLDERS, "background")
# What a source may have noted of surroundings that are gone (the emoji source does).
_STALE = ("background_variant", "companion", "companion_side", "accessory", "caption_says")
_MOVED = ("place", "size", "size_fraction", "centre", "box", "mask_share")  # what is untrue of a subject that was moved


@dataclass
class InpaintSettings(GenerationSettings):
    """The inpainting pipeline, and what it is told. Images keep their size: `width` and `height` are not for it."""

    model: str = ""
    """A diffusers folder, or OWNER/NAME on the model hub."""
    prompts: list[str] = field(default_factory=lambda: list(PLACES))
    """What {background} is drawn from."""
    scenes: bool = False
    """... or what another caption of the set says of its place ("under a tree"), where it does."""
    prompt: str = "{background}"
    """In the words of `caption`; the subject stays out of it, or the model paints it a second time."""
    dilate: Pixels = 4.0
    """Pixels (at 512) beyond the faded rim that are repainted, so that the model joins the two."""
    side: Annotated[int, Range(STEP, 8192)] | None = None
    """The shorter side (pixels) at which the model works; None: each image's own."""
    batch_size: Annotated[int, Range(1, 1024)] = 4
    """With another number a GPU's bits differ."""

    def check(self, section: str) -> None:
        """Raises ConfigError that names the values as parts of `section`."""
        super().check(section)
        if self.width is not None or self.height is not None:
            raise ConfigError(f"{section}.width and .height: images keep their own size; {section}.side scales them")
        check_template(f"{section}.prompt", self.prompt, _WORDS)
        check_places(f"{section}.prompts", self.prompts)


@dataclass
class AugmentSettings:
    """`method`: "inpaint" (an inpainting pipeline repaints all but the subject) or "composite" (the subject is cut
    out and pasted on `backgrounds`).

    An image whose mask is missing, or leaves less than `area[0]` or more than `area[1]` of the image to the subject,
    stays as it is: there the mask is likely to be wrong, or there is hardly a background. Its attributes say so.
    """

    method: str = "inpaint"
    share: Share = 0.5
    """Of a set's images, on average; at least one of each set is left as it is."""
    area: Annotated[list[float], Interval(0, 1)] = field(default_factory=lambda: [0.01, 0.8])
    edges: EdgesSettings = field(default_factory=EdgesSettings)
    caption: str = "{a_name}, {background}"
    """Of an image with a new background: {name} "red fox", {a_name}, {class}, {a_class}, {background} "in the snow"."""
    inpaint: InpaintSettings = field(default_factory=InpaintSettings)
    backgrounds: BackgroundSettings = field(default_factory=BackgroundSettings)
    scale: Annotated[list[float], Interval(0.25, 1.5)] = field(default_factory=lambda: [1.0, 1.0])
    """composite: the subject's new size, drawn between these."""
    shift: Annotated[float, Range(0, 0.5)] = 0.0
    """composite: at most so far (a share of the side) the subject moves, inside of the image."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"augment.method is {self.method!r}; expected one of {', '.join(METHODS)}")
        check_template("augment.caption", self.caption, _WORDS)
        self.backgrounds.check("augment.backgrounds")
        if self.inpaint.model:
            self.inpaint.check("augment.inpaint")
        if self.method == "inpaint" and (self.scale != [1.0, 1.0] or self.shift):
            raise ConfigError("augment.scale and augment.shift move cut-outs: set augment.method=composite for them")


class Job(NamedTuple):
    """One image that is to get a new background."""

    owner: int
    """Number of its set in the unit."""
    image: int
    """Its number in the set."""
    phrase: str
    """inpaint: the place."""
    background: int
    """composite: the background's number."""


class Result(NamedTuple):
    image: Image.Image
    mask: Image.Image
    phrase: str
    made_by: dict[str, Any]
    moved: bool


@STAGES.register("augment")
class Augment(Stage):
    """New backgrounds. Which images, which backgrounds and all noise are drawn by the seed and the set's key."""

    Settings = AugmentSettings
    needs = frozenset({"images", "masks"})

    def __init__(self, settings: AugmentSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.backgrounds = None
        if self.settings.method == "composite":
            self.backgrounds = Backgrounds("augment", self.settings.backgrounds, context)
        elif not self.settings.inpaint.model:
            raise ConfigError(
                "augment.inpaint.model is empty: name an inpainting pipeline (a diffusers folder, or OWNER/NAME on the "
                "model hub), or set augment.method=composite"
            )
        self.generator = Generator("augment.inpaint", self.settings.inpaint, context, "inpaint")

    @property
    def uses_model(self) -> bool:
        return self.settings.method == "inpaint" or bool(self.settings.backgrounds.generate.model)

    @property
    def rights(self) -> str:
        return self.settings.inpaint.rights() if self.backgrounds is None else self.backgrounds.rights

    def inputs(self) -> dict[str, str]:
        """sha256 of what is given as files."""
        return {} if self.backgrounds is None else self.backgrounds.inputs()

    def left_out(self) -> dict[str, int]:
        """Files in the folder of backgrounds that are none."""
        return {} if self.backgrounds is None else self.backgrounds.left_out()

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet]:
        """All sets, in order; the images of all of them are repainted in common batches."""
        jobs, left = [], []
        for number, sample in enumerate(sets):
            chosen, kept = self._choose(number, sample)
            jobs += chosen
            left.append(kept)
        paint = self._inpaint if self.settings.method == "inpaint" else self._composite
        results = paint(sets, jobs) if jobs else []
        made: list[dict[int, Result]] = [{} for _ in sets]
        for job, result in zip(jobs, results, strict=True):
            if result is None:
                left[job.owner][job.image] = "the model's safety checker refused it"
            else:
                made[job.owner][job.image] = result
        return [self._changed(*sample) for sample in zip(sets, made, left, strict=True)]

    def _choose(self, number: int, sample: SubjectSet) -> tuple[list[Job], dict[int, str]]:
        """The jobs of one set, and why images that cannot be changed are not."""
        rng = random.Random(f"{self.context.seed}/{sample.key}/augment")
        n, left = len(sample.images), {}
        for i, mask in enumerate(sample.masks):
            if mask is None:
                left[i] = "no mask"
            elif not self.settings.area[0] <= area(mask) <= self.settings.area[1]:
                left[i] = "mask too small or too large"
            elif is_hidden(sample.attributes[i]):
                left[i] = "something stands before the subject"
        wanted = self.settings.share * n
        count = int(wanted) + (rng.random() < wanted % 1)  # the share is kept on average
        possible = [i for i in range(n) if i not in left]
        chosen = sorted(rng.sample(possible, min(count, len(possible), n - 1)))
        if self.backgrounds is not None:
            numbers = self.backgrounds.draw(rng, len(chosen))
            return [Job(number, i, "", j) for i, j in zip(chosen, numbers, strict=True)], left
        phrases = self._phrases(sample, chosen, rng)
        return [Job(number, i, phrase, -1) for i, phrase in zip(chosen, phrases, strict=True)], left

    def _phrases(self, sample: SubjectSet, chosen: Sequence[int], rng: random.Random) -> list[str]:
        """Where each chosen image will be set, different places as far as there are enough."""
        prompts = self.settings.inpaint.prompts
        drawn = rng.sample(prompts, len(prompts)) * (len(chosen) // len(prompts) + 1)
        if not self.settings.inpaint.scenes:
            return drawn[: len(chosen)]
        phrases = []
        for i, otherwise in zip(chosen, drawn, strict=False):
            places = [place_of(caption) for j, caption in enumerate(sample.captions) if j != i]
            places = [place for place in places if place and place != place_of(sample.captions[i])]
            phrases.append(rng.choice(places) if places else otherwise)
        return phrases

    def _composite(self, sets: Sequence[SubjectSet], jobs: Sequence[Job]) -> list[Result]:
        results = []
        for job in jobs:
            sample = sets[job.owner]
            image, mask = sample.images[job.image], sample.masks[job.image]
            background = self.backgrounds.get(job.background, image.size)
            made_by = {"backdrop": job.background, **background.origin}
            rng = random.Random(f"{self.context.seed}/{sample.key}/{job.image}/place")
            # Where several subjects stand, their places are recorded one by one: they stay.
            placed = (
                None if len(subjects_in(sample, job.image)) > 1 else self._placed(image, mask, background.image, rng)
            )
            if placed is None:
                result = keep(image, background.image, self.settings.edges.alpha(mask))
                results.append(Result(result, mask, background.phrase, made_by, False))
            else:
                results.append(Result(*placed, background.phrase, made_by, True))
        return results

    def _placed(
        self, image: Image.Image, mask: Image.Image, behind: Image.Image, rng: random.Random
    ) -> tuple[Image.Image, Image.Image] | None:
        """The subject in another size at another place, and its mask; None where it stays as it stands.

        A side at which the image's border cuts the subject stays at the border: elsewhere the cut would show.
        """
        scale = rng.uniform(*self.settings.scale)
        shift = [rng.uniform(-self.settings.shift, self.settings.shift) for _ in range(2)]
        cutout, old = cut(image, mask, self.settings.edges), self.settings.edges.alpha(mask).getbbox()
        if cutout is None or (scale == 1 and not any(shift)):
            return None
        sides = cut_sides(mask)
        if {"left", "right"} <= sides or {"top", "bottom"} <= sides:
            return None
        size = tuple(max(1, round(length * scale)) for length in cutout.size)
        if any(length > whole for length, whole in zip(size, image.size, strict=True)):
            size = cutout.size
        corner = []
        for axis, (first, last) in enumerate((("left", "right"), ("top", "bottom"))):
            slack = image.size[axis] - size[axis]
            middle = (old[axis] + old[axis + 2] - size[axis]) / 2 + shift[axis] * image.size[axis]
            corner.append(0 if first in sides else slack if last in sides else round(min(max(middle, 0), slack)))
        result, (mask,) = paste(behind, [resized(cutout, size)], [tuple(corner)])
        return result, mask

    def _inpaint(self, sets: Sequence[SubjectSet], jobs: Sequence[Job]) -> list[Result | None]:
        """In batches of images of one size, in the order of the unit. None: refused by the safety checker."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for number, job in enumerate(jobs):
            size = self._working_size(sets[job.owner].images[job.image].size)
            sizes.setdefault(size, []).append(number)
        results: list[Result | None] = [None] * len(jobs)
        for size, numbers in sizes.items():
            for start in range(0, len(numbers), self.settings.inpaint.batch_size):
                batch = numbers[start : start + self.settings.inpaint.batch_size]
                painted = self._inpaint_batch(sets, [jobs[number] for number in batch], size)
                for number, result in zip(batch, painted, strict=True):
                    results[number] = result
        return results

    def _inpaint_batch(
        self, sets: Sequence[SubjectSet], jobs: Sequence[Job], size: tuple[int, int]
    ) -> list[Result | None]:
        from jedi.rng import keyed_seed, seeded_generator

        images = [sets[job.owner].images[job.image] for job in jobs]
        masks = [sets[job.owner].masks[job.image] for job in jobs]
        alphas = [self.settings.edges.alpha(mask) for mask in masks]
        holes = [self._hole(alpha).resize(size, Image.Resampling.BOX) for alpha in alphas]
        prompts = [self._words(self.settings.inpaint.prompt, sets[job.owner], job.image, job.phrase) for job in jobs]
        seeds = [keyed_seed(self.context.seed, sets[job.owner].key, job.image, "inpaint") for job in jobs]
        painted, unsafe = self.generator(
            prompts,
            [seeded_generator(seed) for seed in seeds],
            image=[image.resize(size, Image.Resampling.LANCZOS) for image in images],
            mask_image=[hole.point(lambda value: 255 * (value > 0)) for hole in holes],
            width=size[0],
            height=size[1],
        )
        results: list[Result | None] = []
        for job, image, mask, alpha, new, prompt, seed, is_unsafe in zip(
            jobs, images, masks, alphas, painted, prompts, seeds, unsafe, strict=True
        ):
            result = keep(image, new.resize(image.size, Image.Resampling.LANCZOS), alpha)
            made_by = {"model": self.settings.inpaint.model, "prompt": prompt, "seed": seed}
            results.append(None if is_unsafe else Result(result, mask, job.phrase, made_by, False))
        return results

    def _hole(self, alpha: Image.Image) -> Image.Image:
        """What the model repaints (255): all that does not stay wholly, and `dilate` pixels more."""
        pixels = self.settings.inpaint.dilate * min(alpha.size) / 512
        return grown(alpha.point(lambda value: 255 * (value < 255)), pixels)

    def _working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = 1.0 if self.settings.inpaint.side is None else self.settings.inpaint.side / min(size)
        return _whole_steps(size[0] * scale), _whole_steps(size[1] * scale)

    def _words(self, template: str, sample: SubjectSet, image: int, phrase: str) -> str:
        return fill(template, **words_for(subjects_in(sample, image)), background=phrase)

    def _changed(self, sample: SubjectSet, made: dict[int, Result], left: dict[int, str]) -> SubjectSet:
        captions, images, masks = list(sample.captions), list(sample.images), list(sample.masks)
        attributes = [dict(described) for described in sample.attributes]
        for i, why in left.items():
            attributes[i]["not_augmented"] = why
        for i, result in made.items():
            captions[i] = self._words(self.settings.caption, sample, i, result.phrase)
            images[i], masks[i] = result.image, result.mask
            stale = {*_STALE, *(_MOVED if result.moved else ())}
            attributes[i] = {name: value for name, value in attributes[i].items() if name not in stale}
            attributes[i] |= {"background": result.phrase, "augmented": self.settings.method}
            if result.moved:
                box, centre = box_and_centre(result.mask)
                attributes[i] |= {"box": list(box), "centre": list(centre)}
        record = {"method": self.settings.method, "images": {str(i): result.made_by for i, result in made.items()}}
        provenance = {**sample.provenance, "augment": record}
        rights = self.rights if made else ""
        return replace(
            sample,
            captions=captions,
            images=images,
            masks=masks,
            attributes=attributes,
            licence=f"{sample.licence}; backgrounds: {rights}" if rights else sample.licence,
            provenance=provenance,
        )


def _whole_steps(side: float) -> int:
    """The nearest side that models take."""
    return max(STEP, round(side / STEP) * STEP)
