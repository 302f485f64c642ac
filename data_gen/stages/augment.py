"""The stage `augment`: new backgrounds for some images of each set, the subject as it was.

Same-subject images that were made together have related backgrounds, and a model trained on them learns to copy
these from its references. JeDi's data engine therefore repaints backgrounds by inpainting (arXiv 2407.06187, S3).
`composite` does the same without an inpainting model, with less natural light and shadows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from PIL import Image

from data_gen.context import Context
from data_gen.samples import SubjectSet
from data_gen.sources.prompted import GenerationSettings, Generator
from data_gen.sources.subjects import NAMES, check_template
from data_gen.stages import STAGES, in_batches
from data_gen.stages.backgrounds import Backgrounds, BackgroundSettings, OnBackgrounds, check_places
from data_gen.stages.compositing import (
    EdgesSettings,
    Pixels,
    area,
    cut,
    cut_sides,
    grown,
    is_hidden,
    paste,
    resized,
    where,
)
from data_gen.stages.phrases import PLACES, fill, place_of, subjects_in, words_for
from jedi.io.config import ConfigError
from jedi.io.ranges import Interval, OneOf, Range, Share
from jedi.rng import keyed_seed, seeded_generator

STEP = 16  # diffusion models want sides that are multiples of 8, FLUX of 16
_WORDS = (*NAMES, "background")
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

    method: Annotated[str, OneOf(("inpaint", "composite"))] = "inpaint"
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
        check_template("augment.caption", self.caption, _WORDS)
        self.backgrounds.check("augment.backgrounds")
        if self.inpaint.model:
            self.inpaint.check("augment.inpaint")
        if self.method == "inpaint" and (self.scale != [1.0, 1.0] or self.shift):
            raise ConfigError("augment.scale and augment.shift move cut-outs: set augment.method=composite for them")


class Job(NamedTuple):
    """One image that is to get a new background."""

    sample: SubjectSet
    number: int
    """Of the image in its set."""
    phrase: str = ""
    """inpaint: the place."""
    background: int = -1
    """composite: the background's number."""

    @property
    def image(self) -> Image.Image:
        return self.sample.images[self.number]

    @property
    def mask(self) -> Image.Image:
        return self.sample.masks[self.number]


class Result(NamedTuple):
    image: Image.Image
    mask: Image.Image
    phrase: str
    made_by: dict[str, Any]
    moved: bool = False


@STAGES.register("augment")
class Augment(OnBackgrounds):
    """New backgrounds. Which images, which backgrounds and all noise are drawn by the seed and the set's key."""

    Settings = AugmentSettings
    needs = frozenset({"images", "masks"})

    def __init__(self, settings: AugmentSettings, context: Context) -> None:
        super().__init__(settings, context)
        if self.settings.method == "composite":
            self.backgrounds = Backgrounds("augment", self.settings.backgrounds, context)
        elif not self.settings.inpaint.model:
            raise ConfigError(
                "augment.inpaint.model is empty: name an inpainting pipeline (a diffusers folder, or OWNER/NAME on the "
                "model hub), or set augment.method=composite"
            )
        self.generator = Generator("augment.inpaint", self.settings.inpaint, context, "inpaint")

    @property
    def rights(self) -> str:
        return self.settings.inpaint.rights() if self.backgrounds is None else self.backgrounds.rights

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet]:
        """All sets, in order; the images of all of them are repainted in common batches."""
        chosen = [self._choose(sample) for sample in sets]
        jobs = [job for jobs, _ in chosen for job in jobs]
        if self.backgrounds is None:
            size = self.settings.inpaint.batch_size
            results = iter(in_batches(jobs, size, self._inpaint, lambda job: self._working_size(job.image.size)))
        else:
            results = map(self._composite, jobs)
        changed = []
        for sample, (jobs, left) in zip(sets, chosen, strict=True):
            made = {job.number: next(results) for job in jobs}
            refused = {i: "the model's safety checker refused it" for i, result in made.items() if result is None}
            changed.append(self._changed(sample, made, {**left, **refused}))
        return changed

    def _choose(self, sample: SubjectSet) -> tuple[list[Job], dict[int, str]]:
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
            return [Job(sample, i, background=j) for i, j in zip(chosen, numbers, strict=True)], left
        phrases = self._phrases(sample, chosen, rng)
        return [Job(sample, i, phrase) for i, phrase in zip(chosen, phrases, strict=True)], left

    def _phrases(self, sample: SubjectSet, chosen: Sequence[int], rng: random.Random) -> list[str]:
        """Where each chosen image will be set, different places as far as there are enough."""
        prompts = self.settings.inpaint.prompts
        drawn = rng.sample(prompts, len(prompts)) * (len(chosen) // len(prompts) + 1)
        if not self.settings.inpaint.scenes:
            return drawn[: len(chosen)]
        places = [place_of(caption) for caption in sample.captions]
        phrases = []
        for i, otherwise in zip(chosen, drawn, strict=False):
            others = [place for place in places if place and place != places[i]]
            phrases.append(rng.choice(others) if others else otherwise)
        return phrases

    def _composite(self, job: Job) -> Result:
        background = self.backgrounds.get(job.background, job.image.size)
        made_by = {"backdrop": job.background, **background.origin}
        # Where several subjects stand, their places are recorded one by one: they stay.
        alone = len(subjects_in(job.sample, job.number)) == 1
        if alone and (placed := self._placed(job, background.image)) is not None:
            return Result(*placed, background.phrase, made_by, moved=True)
        image = Image.composite(job.image, background.image, self.settings.edges.alpha(job.mask))
        return Result(image, job.mask, background.phrase, made_by)

    def _placed(self, job: Job, behind: Image.Image) -> tuple[Image.Image, Image.Image] | None:
        """The subject in another size at another place, and its mask; None where it stays as it stands.

        A side at which the image's border cuts the subject stays at the border: elsewhere the cut would show.
        """
        rng = random.Random(f"{self.context.seed}/{job.sample.key}/{job.number}/place")
        scale = rng.uniform(*self.settings.scale)
        shift = [rng.uniform(-self.settings.shift, self.settings.shift) for _ in range(2)]
        cutout, sides = cut(job.image, job.mask, self.settings.edges), cut_sides(job.mask)
        if cutout is None or (scale == 1 and not any(shift)):
            return None
        if {"left", "right"} <= sides or {"top", "bottom"} <= sides:
            return None
        old, whole = self.settings.edges.alpha(job.mask).getbbox(), job.image.size
        size = tuple(max(1, round(length * scale)) for length in cutout.size)
        if size[0] > whole[0] or size[1] > whole[1]:
            size = cutout.size
        corner = []
        for axis, (first, last) in enumerate((("left", "right"), ("top", "bottom"))):
            slack = whole[axis] - size[axis]
            middle = (old[axis] + old[axis + 2] - size[axis]) / 2 + shift[axis] * whole[axis]
            corner.append(0 if first in sides else slack if last in sides else round(min(max(middle, 0), slack)))
        result, (mask,) = paste(behind, [resized(cutout, size)], [tuple(corner)])
        return result, mask

    def _inpaint(self, jobs: Sequence[Job]) -> list[Result | None]:
        """Images of one working size. None: refused by the safety checker."""
        size = self._working_size(jobs[0].image.size)
        alphas = [self.settings.edges.alpha(job.mask) for job in jobs]
        holes = [self._hole(alpha).resize(size, Image.Resampling.BOX) for alpha in alphas]
        prompts = [self._words(self.settings.inpaint.prompt, job.sample, job.number, job.phrase) for job in jobs]
        seeds = [keyed_seed(self.context.seed, job.sample.key, job.number, "inpaint") for job in jobs]
        painted, unsafe = self.generator(
            prompts,
            [seeded_generator(seed) for seed in seeds],
            image=[job.image.resize(size, Image.Resampling.LANCZOS) for job in jobs],
            mask_image=[hole.point(lambda value: 255 * (value > 0)) for hole in holes],
            width=size[0],
            height=size[1],
        )
        results: list[Result | None] = []
        for job, alpha, new, prompt, seed in zip(jobs, alphas, painted, prompts, seeds, strict=True):
            image = Image.composite(job.image, new.resize(job.image.size, Image.Resampling.LANCZOS), alpha)
            made_by = {"model": self.settings.inpaint.model, "prompt": prompt, "seed": seed}
            results.append(Result(image, job.mask, job.phrase, made_by))
        return [None if refused else result for refused, result in zip(unsafe, results, strict=True)]

    def _hole(self, alpha: Image.Image) -> Image.Image:
        """What the model repaints (255): all that does not stay wholly, and `dilate` pixels more."""
        pixels = self.settings.inpaint.dilate * min(alpha.size) / 512
        return grown(alpha.point(lambda value: 255 * (value < 255)), pixels)

    def _working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The nearest sides that models take."""
        scale = 1.0 if self.settings.inpaint.side is None else self.settings.inpaint.side / min(size)
        return tuple(max(STEP, round(length * scale / STEP) * STEP) for length in size)

    def _words(self, template: str, sample: SubjectSet, image: int, phrase: str) -> str:
        return fill(template, **words_for(subjects_in(sample, image)), background=phrase)

    def _changed(self, sample: SubjectSet, made: dict[int, Result | None], left: dict[int, str]) -> SubjectSet:
        members, made_by = [], {}
        for i, (caption, image, mask, described) in enumerate(sample.members):
            if i in left:
                described = {**described, "not_augmented": left[i]}
            elif result := made.get(i):
                caption = self._words(self.settings.caption, sample, i, result.phrase)
                image, mask, made_by[str(i)] = result.image, result.mask, result.made_by
                stale = {*_STALE, *(_MOVED if result.moved else ())}
                described = {name: value for name, value in described.items() if name not in stale}
                described |= {"background": result.phrase, "augmented": self.settings.method}
                described |= where(mask) if result.moved else {}
            members.append((caption, image, mask, described))
        record = {"method": self.settings.method, "images": made_by}
        rights = self.rights if made_by else ""
        return sample.with_members(
            members,
            licence=f"{sample.licence}; backgrounds: {rights}" if rights else sample.licence,
            provenance={**sample.provenance, "augment": record},
        )
