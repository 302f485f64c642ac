"""Sets from a frozen text-to-image model whose self-attention is coupled over the images of a set.

What JeDi trains is here used on the untrained base (`jedi.attention`, mode `mutual`): all images of a set are made at
once, each from its own prompt, and every image attends to every image at every self-attention layer. The same subject
then appears in all of them without a collage that has to be cut up. SynCD (arXiv 2502.01720) makes its sets in this
way and calls it masked shared attention: an image sees *itself* whole, and of the others only where their subject
is, or else backgrounds mix as well. Its mask is used here too: where the pixels look at the subject's words in
cross-attention, averaged over heads, layers and the steps so far, cut at Otsu's threshold, grown by one place; there is
none for the first step. It is rough (the grid of the latents) and no part of the sets: `segment` makes masks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from data_gen.samples import Dropped, Item, SubjectSet
from data_gen.sources import SOURCES
from data_gen.sources.prompted import GenerationSettings, PromptedSource
from data_gen.sources.subjects import NAMES, check_template, names
from jedi.errors import InputError
from jedi.io.config import ConfigError
from jedi.io.ranges import Interval, Range, batches

_PLACEHOLDERS = ("scene", "look", *NAMES)
_CALL = ("cross_attention_kwargs", "callback_on_step_end")


@dataclass
class SharedAttentionSettings(GenerationSettings):
    """Sets of the `shared_attention` source."""

    model: str = "stabilityai/stable-diffusion-xl-base-1.0"
    """As for collages. Any model with a UNet of plain attention layers will do: SD 1.x, SD 2.x, SDXL."""
    prompt: str = "{scene}"
    """Around a scene of prompts.json; also {look}, {name}, {a_name}, {class}, {a_class}."""
    masked: bool = True
    """Attend to the other images only where their subject is."""
    shared_steps: Annotated[list[float], Interval(0, 1)] = field(default_factory=lambda: [0.0, 1.0])
    """From, to: share of the steps; SynCD: all."""
    sets_per_batch: Annotated[int, Range(1, 256)] = 1
    """A set's images are one batch already; another number may make a GPU's bits differ."""

    def __post_init__(self) -> None:
        self.check("shared_attention")
        check_template("shared_attention.prompt", self.prompt, _PLACEHOLDERS)
        if ours := sorted(set(_CALL).intersection(self.call)):
            raise ConfigError(f"shared_attention.call: {ours[0]!r} is not for this key: the source sets it itself")


@SOURCES.register("shared_attention")
class SharedAttention(PromptedSource):
    """n images of one subject in n scenes; `captions` are the scenes. Sets whose scenes don't name their subject in
    the words that the model reads have no mask, and are dropped where one is wanted."""

    Settings, section_name = SharedAttentionSettings, "shared_attention"
    _ready = False

    def sizes(self) -> dict[str, int]:
        sizes, n = super().sizes(), self.context.images_per_set
        for split, size in sizes.items():
            for subject in self.subjects[split][:size]:
                if (found := len(subject.scenes)) < n:
                    raise ConfigError(
                        f"{self.context.out}/prompts.json has {found} scenes of {subject.id!r}, and each image of a "
                        f"set shows another: ask for more scenes, or set images_per_set={found}"
                    )
        return sizes

    def make(self, items: Sequence[Item]) -> Iterator[SubjectSet | Dropped]:
        """Each image from noise of its own seed. Raises ConfigError where the model is not available or usable."""
        self._prepare()
        for batch in batches(items, self.settings.sets_per_batch):
            scenes = {item: self._scenes(item) for item in batch}
            prompts = {item: [self._prompt(item, scene) for scene in scenes[item]] for item in batch}
            words = {item: self._words(item, prompts[item]) for item in batch}
            named = [item for item in batch if words[item] is not None]
            images = dict(zip(named, self._images(named, prompts, words), strict=True)) if named else {}
            for item in batch:
                if item not in images:
                    yield Dropped(item.key, "subject not named in its scene")
                else:
                    yield self._set(item, scenes[item], prompts[item], images[item])

    def _images(self, batch: Sequence[Item], prompts: dict, words: dict) -> list[list[Any] | None]:
        """The images of each set; None for a set of which the safety checker has blackened one."""
        import torch

        from data_gen.masked_shared_attention import SharedContext
        from jedi.rng import keyed_generator

        n, pipe, masked = self.context.images_per_set, self.generator.pipe, self.settings.masked
        first, last = self.settings.shared_steps
        context = SharedContext(
            num_images=n,
            mode="mutual",
            shared=first == 0 < last,
            grid=_latent_size(pipe, self.settings),
            words=torch.tensor([row for item in batch for row in words[item]]) if masked else None,
        )

        def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            context.end_step()
            context.shared = first <= (step + 1) / pipe.num_timesteps < last
            return tensors

        images, unsafe = self.generator(
            [prompt for item in batch for prompt in prompts[item]],
            [keyed_generator(self.context.seed, item.key, i) for item in batch for i in range(n)],
            cross_attention_kwargs={"joint": context},
            callback_on_step_end=after_step,
        )
        return [None if any(bad) else x for x, bad in zip(batches(images, n), batches(unsafe, n), strict=True)]

    def _set(self, item: Item, scenes: list[str], prompts: list[str], images: list[Any] | None) -> SubjectSet | Dropped:
        from jedi.rng import keyed_seed

        if images is None:
            return Dropped(item.key, "unsafe")
        return self.made(
            item, scenes, images,
            prompts=prompts,
            seeds=[keyed_seed(self.context.seed, item.key, i) for i in range(len(images))],
            shared_steps=list(self.settings.shared_steps),
            masked=self.settings.masked,
        )  # fmt: skip

    def _scenes(self, item: Item) -> list[str]:
        rng = random.Random(f"{self.context.seed}/{item.key}/scenes")
        return rng.sample(list(self.subject(item).scenes), self.context.images_per_set)

    def _prompt(self, item: Item, scene: str) -> str:
        subject = self.subject(item)
        return self.settings.prompt.format(scene=scene, look=subject.look, **names(subject.name, subject.category))

    def _words(self, item: Item, prompts: list[str]) -> list[list[bool]] | None:
        """For each prompt, which tokens name the subject; None if one does not, and masks are wanted."""
        if not self.settings.masked:
            return []
        subject = self.subject(item)
        tokenizer = self.generator.pipe.tokenizer
        found = [find_words(tokenizer, prompt, (subject.name, subject.category)) for prompt in prompts]
        return found if all(any(row) for row in found) else None

    def _prepare(self) -> None:
        """Loads the pipeline and prepares its attention. Raises ConfigError where it is not of a shape that can be
        coupled."""
        pipe = self.generator.pipe
        if self._ready:
            return
        from data_gen.masked_shared_attention import install_masked_shared_attention

        key = f"shared_attention.model={self.settings.model}"
        if not hasattr(pipe, "unet"):
            raise ConfigError(
                f"{key}: {type(pipe).__name__} has no UNet; attention can be shared in models of the shape of "
                "SD 1.x, SD 2.x and SDXL (the source collage takes any)"
            )
        try:
            install_masked_shared_attention(pipe.unet)
        except InputError as error:
            raise ConfigError(f"{key}: {error}") from None
        self._ready = True


def find_words(tokenizer: Any, prompt: str, wanted: Sequence[str]) -> list[bool]:
    """Which of the tokens that a text encoder gets for `prompt` belong to the first of the `wanted` names that it
    holds: a whole name, or else its last word ("fox" of "red fox"). All False where it holds none."""
    length = tokenizer.model_max_length
    tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    for text in [x for name in wanted for x in (name, name.split()[-1])]:
        word, marked = tokenizer(text, add_special_tokens=False).input_ids, [False] * len(tokens)
        for start in range(len(tokens) - len(word) + 1):
            if tokens[start : start + len(word)] == word:
                marked[start : start + len(word)] = [True] * len(word)
        if any(marked):
            return marked
    return [False] * len(tokens)


def _latent_size(pipe: Any, settings: SharedAttentionSettings) -> tuple[int, int]:
    """Height and width of the latents."""
    usual = pipe.unet.config.sample_size
    usual = (usual, usual) if isinstance(usual, int) else usual
    given = (settings.height, settings.width)
    return tuple(x // pipe.vae_scale_factor if x else y for x, y in zip(given, usual, strict=True))
