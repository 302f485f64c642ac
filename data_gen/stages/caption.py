"""The stage `caption`: what each image's caption says, by its prompt or by a captioner, in varied words.

A prompt says what an image should have shown; a captioner says what it sees. A model that is told the truth about its
images follows prompts better (DALL-E 3's report found this), but a captioner calls every subject "a dog" or "a toy",
may see none, and may begin to stammer: what it says is checked, and where it fails the prompt stays.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from PIL import Image

from data_gen.context import Context
from data_gen.models import load_network
from data_gen.samples import SubjectSet
from data_gen.sources.subjects import NAMES, check_template
from data_gen.stages import STAGES, Stage, in_batches
from data_gen.stages.phrases import begins_with_determiner, noun_of, subjects_in, words_for
from jedi.errors import InputError
from jedi.io.config import ConfigError
from jedi.io.ranges import OneOf, Range
from jedi.io.registry import Registry

# What says nothing at the beginning of a caption; `openings` put their own there.
_OPENING = re.compile(
    r"^(?:(?:this|here|it)\s+is\s+|there\s+(?:is|are)\s+|(?:an?|the)\s+(?:photo|photograph|image|image)\s+of\s+)+",
    re.IGNORECASE,
)
# What says something: an opening before it would be wrong.
_STYLE = re.compile(
    r"^(?:an?|the)\s+(?:[\w-]+\s+){0,2}(?:drawing|painting|sketch|cartoon|view|shot|close-?up)\s+of\b", re.I
)
# Up to four words that follow themselves, as in "a dog on a dog on a dog".
_STAMMER = re.compile(r"(?<!\S)((?:\S+\s+){0,3}\S+)(?:\s+\1)+(?!\S)", re.IGNORECASE)
_ENDS_BADLY = {
    "a", "an", "the", "of", "in", "on", "at", "by", "to", "with", "and", "or", "near", "next", "from", "is", "are",
    "its", "under", "over", "behind", "beside",
}  # fmt: skip


@dataclass
class CaptionSettings:
    """`method`: "keep" (each image's prompt, or what `augment` made of it) or "captioner" (what `captioner` says of
    the image). `captioner` is KIND:SOURCE, the source a folder or a hub name:
    blip:Salesforce/blip-image-captioning-base.

    `noun`: "name" or "class" if each caption must say that word of its subject: one that does not gets it put in front.
    """

    method: Annotated[str, OneOf(("keep", "captioner"))] = "keep"
    captioner: str = ""
    begin: str = "a photo of {a_class}"
    """What the captioner is made to begin with: {name}, {a_name}, {class}, {a_class}. "" lets it begin as it likes."""
    noun: Annotated[str, OneOf(("", "class", "name"))] = ""
    openings: list[str] = field(default_factory=lambda: ["", "", "a photo of", "an image of"])
    """One is drawn for each caption that begins with its subject, in place of what it begins with; "" is none."""
    max_words: Annotated[int, Range(3, 300)] = 40
    """CLIP reads 77 tokens, about 50 words; what is longer is cut."""
    lowercase: bool = False
    beams: Annotated[int, Range(1, 32)] = 3
    """1: greedy."""
    max_new_tokens: Annotated[int, Range(1, 512)] = 30
    batch_size: Annotated[int, Range(1, 4096)] = 16
    """With another number a GPU's bits differ."""

    def __post_init__(self) -> None:
        if not self.openings:
            raise ConfigError("caption.openings is empty: name at least one, '' for none")
        check_template("caption.begin", self.begin, NAMES)


class Captioner(Protocol):
    """Made once in each process when it is first needed, as `factory(source, settings, context)`: what stands after the
    colon, and the settings of the section `caption`."""

    def describe(self, images: Sequence[Image.Image], beginnings: Sequence[str]) -> Sequence[str]:
        """A caption for each RGB image (of any size), beginning with its text where that is not empty. The same
        for the same images, always: no sampling."""
        ...


CAPTIONERS: Registry[Callable[[str, CaptionSettings, Context], Captioner]] = Registry("captioner")


@CAPTIONERS.register("blip")
class BlipCaptioner:
    """`BlipForConditionalGeneration` of transformers, safetensors only, by beam search. *Li et al. 2022, arXiv
    2201.12086.*"""

    def __init__(self, source: str, settings: CaptionSettings, context: Context) -> None:
        import torch
        from transformers import BlipForConditionalGeneration, BlipImageProcessor

        from jedi.encoders import load_processor, load_tokenizer

        self.settings, key = settings, f"caption.captioner={settings.captioner}"
        model = load_network(BlipForConditionalGeneration, key, source, ("blip",), context)
        self.model = model.to(getattr(torch, context.dtype))
        side = self.model.config.vision_config.image_size
        self.preprocess = load_processor(source, BlipImageProcessor(size={"height": side, "width": side}), side)
        self.tokenizer, self.context = load_tokenizer(source, self.model.config.text_config)

    def describe(self, images: Sequence[Image.Image], beginnings: Sequence[str]) -> list[str]:
        """A caption for each image. Batches hold beginnings of one number of tokens: the model reads the last token
        of each row as the word to go on from, which must not be padding."""
        longest = self.context // 2
        tokens = [self.tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in beginnings]
        items = [(image, ids[:-1]) for image, ids in zip(images, tokens, strict=True)]  # without the end
        return in_batches(items, self.settings.batch_size, self._say, lambda item: len(item[1]))

    def _say(self, items: Sequence[tuple[Image.Image, list[int]]]) -> list[str]:
        import torch

        images, tokens = zip(*items, strict=True)
        device, end = self.model.device, self.model.config.text_config.sep_token_id
        room = self.context - len(tokens[0])
        output = self.model.generate(
            pixel_values=self.preprocess(images).to(device, self.model.dtype),
            input_ids=torch.tensor([[*ids, end] for ids in tokens], device=device),  # generate() takes the last one off
            num_beams=self.settings.beams,
            do_sample=False,
            max_new_tokens=max(1, min(self.settings.max_new_tokens, room)),
        )
        return self.tokenizer.batch_decode(output, skip_special_tokens=True)


@STAGES.register("caption")
class Caption(Stage):
    """New captions. `caption_from` in each image's attributes says whose words they are: "prompt" or "captioner", or
    "name" where both say nothing."""

    Settings = CaptionSettings

    def __init__(self, settings: CaptionSettings, context: Context) -> None:
        super().__init__(settings, context)
        if self.settings.method == "keep":
            return
        self.kind, _, self.source = self.settings.captioner.partition(":")
        if not self.settings.captioner:
            raise ConfigError("caption.captioner is empty: name one, as blip:FOLDER, or set caption.method=keep")
        try:
            CAPTIONERS.get(self.kind)
        except InputError as error:
            raise ConfigError(f"caption.captioner={self.settings.captioner}: {error}") from None

    @property
    def uses_model(self) -> bool:
        return self.settings.method == "captioner"

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet]:
        """All sets, in order; the captioner sees the images of all of them in common batches."""
        said = self._describe(sets) if self.settings.method == "captioner" else [None] * len(sets)
        return [self._captioned(sample, texts) for sample, texts in zip(sets, said, strict=True)]

    @functools.cached_property
    def captioner(self) -> Captioner:
        try:
            return CAPTIONERS.get(self.kind)(self.source, self.settings, self.context)
        except ConfigError:
            raise
        except InputError as error:  # jedi.encoders.EncoderError: no such model, or one of another kind
            raise ConfigError(f"caption.captioner={self.settings.captioner}: {error}") from None

    def _describe(self, sets: Sequence[SubjectSet]) -> list[list[str]]:
        images = [image for sample in sets for image in sample.images]
        beginnings = [self._beginning(sample, i) for sample in sets for i in range(len(sample.images))]
        captions = iter(self.captioner.describe(images, beginnings) if images else [])
        return [[next(captions) for _ in sample.images] for sample in sets]

    def _beginning(self, sample: SubjectSet, image: int) -> str:
        return self.settings.begin.format(**words_for(subjects_in(sample, image)))

    def _captioned(self, sample: SubjectSet, said: Sequence[str] | None) -> SubjectSet:
        rng = random.Random(f"{self.context.seed}/{sample.key}/caption")
        members, troubles, seen = [], Counter(), set()
        for i, (prompt, image, mask, described) in enumerate(sample.members):
            text, origin = self._tidy(prompt), "prompt"
            if said is not None:
                found = self._tidy(_STAMMER.sub(r"\1", " ".join(said[i].split())))
                trouble = self._trouble(sample, i, found, seen)
                if trouble and text:
                    troubles[trouble] += 1
                elif found:
                    text, origin = found, "captioner"
                seen.add(found.lower())
            text = self._with_noun(sample, i, text)
            if not text:
                text, origin = words_for(subjects_in(sample, i))["a_name"], "name"
            if begins_with_determiner(text) and not _STYLE.match(text):
                text = f"{rng.choice(self.settings.openings).strip()} {text}".strip()
            text = text.lower() if self.settings.lowercase else text
            members.append((text, image, mask, {**described, "caption_from": origin}))
        record: dict[str, Any] = {"method": self.settings.method}
        if said is not None:
            record |= {"captioner": self.settings.captioner, "said": list(said), "prompts_kept": dict(troubles)}
        return sample.with_members(members, provenance={**sample.provenance, "caption": record})

    def _tidy(self, text: str) -> str:
        """One line without an opening or a full stop, of at most `max_words` words."""
        words = _OPENING.sub("", " ".join(text.split())).split()
        if len(words) > self.settings.max_words:
            words = words[: self.settings.max_words]
            while words and words[-1].lower().strip(",.;") in _ENDS_BADLY:
                words.pop()
        return " ".join(words).rstrip(" .,;:")

    def _trouble(self, sample: SubjectSet, image: int, caption: str, seen: set[str]) -> str:
        """Why the prompt is the better caption; "" where it is not."""
        if not caption:
            return "empty"
        if caption.lower() == self._tidy(self._beginning(sample, image)).lower():
            return "says no more than its beginning"
        return "repeated" if caption.lower() in seen else ""

    def _with_noun(self, sample: SubjectSet, image: int, caption: str) -> str:
        if not self.settings.noun:
            return caption
        nouns = [noun_of(subject, self.settings.noun) for subject in subjects_in(sample, image)]
        missing = [noun for noun in nouns if not re.search(rf"\b{re.escape(noun)}(?:e?s)?\b", caption, re.IGNORECASE)]
        if not missing:
            return caption
        subjects = [x for x in subjects_in(sample, image) if noun_of(x, self.settings.noun) in missing]
        front = words_for(subjects)[f"a_{self.settings.noun}"]
        return f"{front}, {caption}" if caption else front
