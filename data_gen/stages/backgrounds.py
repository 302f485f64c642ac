"""Images to set subjects before: given ones, generated ones, or the painted scenes of the toy world.

Background number j is a pure function of the configuration and j: whichever process needs it gets the same one.
Those that are generated are made when they are first asked for, in blocks whose composition never changes, and kept
in memory for the process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from PIL import Image, ImageOps

from data_gen.context import Context
from data_gen.sources.prompted import GenerationSettings, Generator
from data_gen.sources.subjects import check_apart, check_template
from data_gen.stages import Stage, dealt
from data_gen.stages.phrases import PLACES
from jedi.io.config import ConfigError
from jedi.io.files import file_sha256
from jedi.io.images import ImageError, find_images, load_image
from jedi.io.ranges import Range
from jedi.io.texts import read_text
from jedi.rng import keyed_seed, seeded_generator

if TYPE_CHECKING:
    from random import Random


@dataclass
class BackgroundSettings:
    """Exactly one of `folder` (images; what a caption may say of X.jpg stands in X.txt beside it, for instance "on
    a sandy beach"), `generate.model` (any text-to-image pipeline of diffusers) and `painted` (the procedural scenes
    of the emoji source; needs nothing)."""

    folder: str = ""
    painted: bool = False
    generate: GenerationSettings = field(default_factory=lambda: GenerationSettings(model=""))
    count: Annotated[int, Range(1, 100_000)] = 64
    """Different backgrounds, generated or painted; 64 of 512 px take 48 MiB in each process."""
    prompts: list[str] = field(default_factory=lambda: list(PLACES))
    """Where, for the model; said in captions, too."""
    template: str = "a photo of an empty scene {background}, nobody there"
    """The model's prompt."""
    batch_size: Annotated[int, Range(1, 1024)] = 4
    """With another number a GPU's bits differ."""
    licence: str = ""
    """Of the folder's images."""

    def check(self, key: str) -> None:
        """Raises ConfigError that names the values as parts of `key`."""
        check_template(f"{key}.template", self.template, ("background",))
        check_places(f"{key}.prompts", self.prompts)
        if self.generate.model:
            self.generate.check(f"{key}.generate")

    def check_chosen(self, key: str) -> None:
        """Raises ConfigError unless one kind is chosen; for when backgrounds are really wanted."""
        kinds = {"folder": self.folder, "generate.model": self.generate.model, "painted": self.painted}
        chosen = [f"{key}.{name}" for name, value in kinds.items() if value]
        if len(chosen) != 1:
            found = f"{' and '.join(chosen)} are set" if chosen else "none is set"
            raise ConfigError(
                f"{key}: {found}; set exactly one of {key}.folder=DIR (images), {key}.generate.model=NAME (a "
                f"text-to-image pipeline) and {key}.painted=true (drawn scenes)"
            )


class Background(NamedTuple):
    image: Image.Image
    """RGB, of the size asked for."""
    phrase: str
    """Completes "a fox ..."; "" where nothing is known of it."""
    origin: dict[str, Any]
    """JSON."""


class Backgrounds:
    """The backgrounds of one section `key` of the configuration. Raises ConfigError for a folder without images."""

    def __init__(self, key: str, settings: BackgroundSettings, context: Context) -> None:
        settings.check_chosen(f"{key}.backgrounds")
        self.key, self.settings, self.context = f"{key}.backgrounds", settings, context
        self._generator = Generator(f"{self.key}.generate", settings.generate, context)
        self.blocks: dict[int, list[Image.Image]] = {}
        self.files: list[Path] = []
        self.ignored: list[Path] = []
        if settings.folder:
            check_apart(context, f"{self.key}.folder", settings.folder)
            try:
                self.files, self.ignored = find_images([settings.folder])
            except ImageError as error:
                raise ConfigError(f"{self.key}.folder: {error}") from None

    def __len__(self) -> int:
        return len(self.files) or self.settings.count

    def left_out(self) -> dict[str, int]:
        """Files in the folder that are no backgrounds."""
        return {f"in {self.key}.folder, not images": len(self.ignored)} if self.ignored else {}

    def inputs(self) -> dict[str, str]:
        """sha256 over the folder's images and their texts, which decide bytes but are no settings."""
        if not self.files:
            return {}
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name} {file_sha256(file)} {_text_beside(file)}\n".encode())
        return {f"{self.key}.folder": digest.hexdigest()}

    def draw(self, rng: Random, n: int) -> list[int]:
        """The numbers of `n` backgrounds, different ones as far as there are enough."""
        return dealt(rng, range(len(self)), n)

    def get(self, number: int, size: tuple[int, int]) -> Background:
        """Background `number`, cropped and resized to `size` (width, height)."""
        if self.settings.painted:
            return self._painted(number, size)
        if self.settings.generate.model:
            block, place = divmod(number, self.settings.batch_size)
            if block not in self.blocks:
                self.blocks[block] = self._generate(block)
            made_by = {"prompt": self._prompt(number), "seed": self._seed(number)}
            origin = {"model": self.settings.generate.model, **made_by}
            return Background(_fit(self.blocks[block][place], size), self._phrase(number), origin)
        file = self.files[number]
        try:
            image = load_image(file)
        except ImageError as error:
            raise ConfigError(f"{self.key}.folder: {error}; remove or replace this file") from None
        return Background(_fit(image, size), _text_beside(file), {"file": file.name})

    def _painted(self, number: int, size: tuple[int, int]) -> Background:
        from data_gen.drawn_backgrounds import BACKGROUNDS, background, usual_backgrounds

        names = usual_backgrounds()
        variant, place = divmod(number, len(names))
        phrases = BACKGROUNDS.get(names[place]).phrases
        image = _fit(background(names[place], variant, max(size)), size)
        return Background(image, phrases[variant % len(phrases)], {"painted": names[place], "variant": variant})

    @property
    def rights(self) -> str:
        """The licence of the backgrounds; "" of those that are painted here."""
        if self.settings.generate.model:
            return self.settings.generate.rights()
        return (self.settings.licence or "that of the given images") if self.files else ""

    def _generate(self, block: int) -> list[Image.Image]:
        """The backgrounds of a block, always all: in a batch of another make-up their last bits would differ."""
        first = block * self.settings.batch_size
        numbers = range(first, min(first + self.settings.batch_size, len(self)))
        prompts = [self._prompt(number) for number in numbers]
        images, unsafe = self._generator(prompts, [seeded_generator(self._seed(j)) for j in numbers])
        if any(unsafe):
            number = numbers[unsafe.index(True)]
            raise ConfigError(
                f"{self.key}: the model's safety checker refuses background {number} ({self._prompt(number)!r}); "
                f"change {self.key}.prompts or {self.key}.template"
            )
        return images

    def _phrase(self, number: int) -> str:
        return self.settings.prompts[number % len(self.settings.prompts)]

    def _prompt(self, number: int) -> str:
        return self.settings.template.format(background=self._phrase(number))

    def _seed(self, number: int) -> int:
        # The old word in it keeps what a seed draws.
        return keyed_seed(self.context.seed, self.key.replace("backgrounds", "backdrops"), number)


class OnBackgrounds(Stage):
    """A stage that sets subjects before backgrounds."""

    backgrounds: Backgrounds | None = None
    """None: it has other means."""

    @property
    def uses_model(self) -> bool:
        return self.backgrounds is None or bool(self.backgrounds.settings.generate.model)

    def inputs(self) -> dict[str, str]:
        """sha256 of what is given as files."""
        return {} if self.backgrounds is None else self.backgrounds.inputs()

    def left_out(self) -> dict[str, int]:
        """Files in the folder of backgrounds that are none."""
        return {} if self.backgrounds is None else self.backgrounds.left_out()


def check_places(key: str, prompts: list[str]) -> None:
    """Raises ConfigError for an empty list of places, or an empty place."""
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ConfigError(f"{key} is {prompts}; expected places in words, as 'on a sandy beach'")


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest part of the image's middle that has the proportions of `size`, in that size."""
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _text_beside(file: Path) -> str:
    text = file.with_suffix(".txt")
    return " ".join(read_text(text).split()) if text.is_file() else ""
