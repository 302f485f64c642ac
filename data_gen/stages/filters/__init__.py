"""By what sets are judged. Each filter scores every set of a unit and says which sets, or images, will not do.

To add one: write a subclass of `Filter`, decorate it with `@FILTERS.register("name")`, and name its module under
`extensions:` in the configuration, whose section `filter.NAME` then holds its settings (docs/extending.md).

A filter is off while its thresholds are null; a threshold that nothing can miss (-1, or 0 where no score is negative)
measures without dropping, for the report's histograms. Encoders are named as for `jedi.encoders.load_encoder`:
dinov2:X, clip:X, timm:X, efficientnet-lite0, ...
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image

from data_gen.context import Context
from data_gen.parts import Part
from data_gen.samples import SubjectSet
from jedi.errors import InputError
from jedi.io.config import ConfigError
from jedi.io.ranges import Range
from jedi.io.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a filter says of one set. `score` is JSON: a number, a dict of numbers, or a list with a number for each
    image; it is written into the set, dropped or not. Rounded to 4 digits by the stage."""

    score: Any
    reason: str | None = None
    """Why the set as a whole will not do: "identity below 0.7"."""
    images: Mapping[int, str] = field(default_factory=dict)
    """Why single images, by position, will not do: the set goes, or they alone (`filter.drop_images`)."""


class Filter(Part, ABC):
    """Its section is `filter.NAME`. Models are loaded when the first set is judged, not before."""

    needs: frozenset[str] = frozenset()
    """"masks", or nothing."""

    @property
    def on(self) -> bool:
        """Whether the settings ask for it: unless all of its `thresholds` are null."""
        values = [getattr(self.settings, key) for _, key in self.thresholds]
        return not values or any(value is not None for value in values)

    @abstractmethod
    def judge(self, images: Images) -> Sequence[Verdict]:
        """One for each set, in order, whatever other filters say of it."""


class ImageFilter(Filter):
    """A filter with one threshold (`thresholds = (("NAME", "min_score"),)`) for the score of each image by itself."""

    @abstractmethod
    def scores(self, images: Images) -> Sequence[float]:
        """One for each image of all sets."""

    def judge(self, images: Images) -> list[Verdict]:
        ((name, key),) = self.thresholds
        outside = too_low if key.startswith("min") else too_high
        limit = getattr(self.settings, key)
        return [Verdict(x, images=outside(name, x, limit)) for x in images.by_set(self.scores(images))]


FILTERS: Registry[type[Filter]] = Registry("filter")
ENCODER_PACKAGES = ("torch", "transformers", "timm")
Cosine = Annotated[float, Range(-1, 1)]


class Encoders:
    """Encoders of one process, each loaded when it is first asked for."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._loaded: dict[str, Any] = {}

    def get(self, key: str, spec: str, kind: str = "embed_images") -> Any:
        """The encoder that `spec` names (`jedi.encoders.load_encoder`); it must have the method `kind`.

        Raises:
            ConfigError: it is not available; `key` is the configuration's name for it.
        """
        from data_gen.models import device_of
        from jedi.encoders import EncoderError, load_encoder

        if spec not in self._loaded:
            try:
                self._loaded[spec] = load_encoder(spec, device_of(self.context))
            except EncoderError as error:
                raise ConfigError(f"{key}: {error}") from None
        if not hasattr(self._loaded[spec], kind):
            raise ConfigError(f"{key}={spec}: this encoder has no {kind}; texts and images together are for clip:X")
        return self._loaded[spec]


class Images:
    """The sets of a unit, and what encoders say of their images: each is asked once for all images together,
    and once only however many filters want to know."""

    def __init__(self, sets: Sequence[SubjectSet], encoders: Encoders) -> None:
        self.sets, self.encoders = sets, encoders
        self._embedded: dict[tuple[str, bool], list[Tensor]] = {}

    @property
    def images(self) -> list[Image.Image]:
        """Of all sets, one after another; `by_set` divides what belongs to them."""
        return [image for sample in self.sets for image in sample.images]

    def by_set(self, values: Any) -> list[Any]:
        """A sequence with one value for each image -> its slices, one for each set."""
        slices, start = [], 0
        for sample in self.sets:
            slices.append(values[start : start + len(sample.images)])
            start += len(sample.images)
        return slices

    def embed(self, key: str, spec: str, masked: bool = False) -> list[Tensor]:
        """For each set ``[n d]``, rows of length 1; `masked`: of the subject's cut-out, cropped, on white.

        Raises:
            ConfigError: the encoder that `key` names is not available; a mask is missing.
        """
        encoder = self.encoders.get(key, spec)
        if (spec, masked) not in self._embedded:
            images = self._crops(key) if masked else self.images
            self._embedded[spec, masked] = self.by_set(encoder.embed_images(images))
        return self._embedded[spec, masked]

    def _crops(self, key: str) -> list[Image.Image]:
        from jedi.metrics import cut_subject

        crops = []
        for sample in self.sets:
            for i, (image, mask) in enumerate(zip(sample.images, sample.masks, strict=True)):
                if mask is None:
                    section = key.rpartition(".")[0]
                    remedy = f"put segment before filter in stages, or set {section}.masked=false"
                    raise ConfigError(f"{section}: image {i} of set {sample.key} has no mask; {remedy}")
                crops.append(cut_subject(image, mask, crop=True))
        return crops


def too_low(name: str, values: Sequence[float], least: float | None) -> dict[int, str]:
    """Positions of the values under `least` (None: of none), each with the reason."""
    if least is None:
        return {}
    return {i: f"{name} below {least:g}" for i, value in enumerate(values) if value < least}


def too_high(name: str, values: Sequence[float], most: float | None) -> dict[int, str]:
    """Positions of the values over `most` (None: of none), each with the reason."""
    if most is None:
        return {}
    return {i: f"{name} above {most:g}" for i, value in enumerate(values) if value > most}


def rounded(score: Any) -> Any:
    """The score with its numbers rounded to 4 digits. InputError for one that is not finite: it would pass any
    threshold, and JSON has no word for it."""
    if isinstance(score, Mapping):
        return {name: rounded(value) for name, value in score.items()}
    if isinstance(score, list | tuple):
        return [rounded(value) for value in score]
    if score is None:
        return None
    if not math.isfinite(score):
        raise InputError(f"the score is {score}")
    return round(float(score), 4)
