"""What sources of generated images share: the subjects of prompts.json dealt out to sets, a pipeline and its call."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from data_gen.context import Context
from data_gen.samples import SPLITS, Item, SubjectSet
from data_gen.sources import Source
from data_gen.sources.subjects import heldout_rule, split_of
from jedi.io.config import ConfigError
from jedi.io.files import file_sha256
from jedi.io.ranges import Range

if TYPE_CHECKING:
    from data_gen.prompts import PromptSet, Subject

_SETTINGS = ("width", "height", "num_inference_steps", "guidance_scale")
_OURS = (*_SETTINGS, "negative_prompt", "prompt", "generator", "output_type", "return_dict", "num_images_per_prompt")


@dataclass
class GenerationSettings:
    """A text-to-image model and its call. What is None is as the pipeline's own call has it: the steps, guidance and
    size that suit a model differ, from SD 1.5 (50, 7.5, 512) to FLUX-schnell (few, none, 1024)."""

    model: str
    """A diffusers folder, or OWNER/NAME on the model hub."""
    negative_prompt: str = ""
    width: Annotated[int, Range(16, 8192)] | None = None
    """Pixels."""
    height: Annotated[int, Range(16, 8192)] | None = None
    num_inference_steps: Annotated[int, Range(1, 1000)] | None = None
    guidance_scale: Annotated[float, Range(0, 100)] | None = None
    call: dict[str, Any] = field(default_factory=dict)
    """More arguments of the pipeline's call."""
    licence: str = ""
    """Of the images; empty: "that of the model ..."."""

    def check(self, section: str) -> None:
        """Raises ConfigError, naming the section's key, for what no pipeline takes."""
        if not self.model:
            raise ConfigError(f"{section}.model is empty: name a diffusers folder, or OWNER/NAME on the model hub")
        if ours := sorted(set(_OURS).intersection(self.call)):
            raise ConfigError(f"{section}.call: {ours[0]!r} is not for this key: {section} sets it itself")

    def arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's call, but for the prompts and generators."""
        return {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None} | self.call

    def recorded(self, pipe: Any) -> dict[str, Any]:
        """What made an image, for its provenance."""
        said = {"model": self.model, "pipeline": type(pipe).__name__, **self.arguments()}
        return said | ({"negative_prompt": self.negative_prompt} if self.negative_prompt else {})

    def rights(self) -> str:
        return self.licence or f"that of the model {self.model}"


class Generator:
    """A pipeline, loaded when it is first called, behind the arguments that a section sets. `kind` is "text2image"
    or "inpaint"."""

    def __init__(self, section: str, settings: GenerationSettings, context: Context, kind: str = "text2image") -> None:
        self.section, self.settings, self.context, self.kind = section, settings, context, kind

    @functools.cached_property
    def pipe(self) -> Any:
        """Raises ConfigError where the model is not available, or its call does not take what the section sets.

        Pipelines differ (some FLUX classes know no negative_prompt), and some swallow what they don't know.
        """
        from data_gen.models import load_pipeline

        pipe = load_pipeline(f"{self.section}.model", self.settings.model, self.kind, self.context)
        known = inspect.signature(pipe.__call__).parameters
        wanted = [*self.settings.arguments(), *(["negative_prompt"] if self.settings.negative_prompt else [])]
        for name in wanted:
            if name not in known:
                key = f"{self.section}.{'call' if name in self.settings.call else name}"
                takes = ", ".join(sorted(set(known) - {"kwargs"}))
                raise ConfigError(f"{key}: {type(pipe).__name__} takes no {name!r}; it takes {takes}")
        return pipe

    def __call__(self, prompts: list[str], generators: list[Any], **arguments: Any) -> tuple[list[Any], list[bool]]:
        """One RGB image a prompt, and whether the pipeline's safety checker has blackened it. Raises ConfigError
        where the pipeline refuses the arguments."""
        import torch

        if self.settings.negative_prompt:
            arguments["negative_prompt"] = [self.settings.negative_prompt] * len(prompts)
        try:
            with torch.inference_mode():
                output = self.pipe(prompt=prompts, generator=generators, **self.settings.arguments(), **arguments)
        except (ValueError, TypeError) as error:  # sizes that do not divide, a scheduler's limits
            raise ConfigError(f"{self.section}: {type(self.pipe).__name__} refuses these settings: {error}") from error
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(prompts)
        return [image.convert("RGB") for image in output.images], list(unsafe)


class PromptedSource(Source):
    """Set number i of a split shows its subject number i, beginning again after the last; subjects are split by the
    sha256 of their ids (data_gen.sources.subjects). The file is read when it is first needed."""

    reads_prompts: ClassVar[bool] = True
    limits = ("Every image was made by a model: its habits, its biases and its licence are the data set's.",)

    section_name: ClassVar[str]

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        self.generator = Generator(self.section_name, settings, context)

    @classmethod
    def heldout_rule(cls, settings: Any) -> str:
        return heldout_rule("its id")

    @functools.cached_property
    def prompts(self) -> PromptSet:
        from data_gen.prompts import read_prompts

        return read_prompts(Path(self.context.out))

    @functools.cached_property
    def subjects(self) -> dict[str, list[Subject]]:
        """The subjects of each split, in the order of the file."""
        return {split: [x for x in self.prompts.subjects if split_of(x.id) == split] for split in SPLITS}

    def subject(self, item: Item) -> Subject:
        subjects = self.subjects[item.split]
        return subjects[item.index % len(subjects)]

    def made(self, item: Item, captions: list[str], images: list[Any], **provenance: Any) -> SubjectSet:
        """The set of these images, with what made them."""
        subject = self.subject(item)
        return SubjectSet(
            key=item.key,
            subject={"id": subject.id, "name": subject.name, "class": subject.category},
            captions=captions,
            images=images,
            masks=[None] * len(images),
            attributes=[{} for _ in images],
            licence=self.settings.rights(),
            provenance={**self.settings.recorded(self.generator.pipe), **provenance},
        )

    def sizes(self) -> dict[str, int]:
        """As many sets as the configuration wants. ConfigError where a split wants sets and has no subject."""
        sizes = {"train": self.context.sets, "heldout": self.context.heldout_sets}
        for split, size in sizes.items():
            if size and not self.subjects[split]:
                key = {"train": "sets", "heldout": "heldout_sets"}[split]
                raise ConfigError(
                    f"none of the {len(self.prompts.subjects)} subjects in {self.context.out}/prompts.json is a "
                    f"{split} subject (one in ten is held out, by the sha256 of its id): ask for more subjects, or set "
                    f"{key}=0"
                )
        return sizes

    def inputs(self) -> dict[str, str]:
        _ = self.prompts  # an error of its own where there is none
        return {"prompts.json": file_sha256(Path(self.context.out) / "prompts.json")}
