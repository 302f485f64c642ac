"""Filters of single images: do they fit their captions, do they look good, are they sharp?"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from data_gen.stages.filters import ENCODER_PACKAGES, FILTERS, Filter, Images, Verdict, too_low
from data_gen.stages.filters.settings import AestheticSettings, SharpnessSettings, TextSettings
from jedi.io.config import ConfigError


@FILTERS.register("text")
class TextAgreement(Filter):
    """Score: of each image the cosine with its caption."""

    Settings, packages = TextSettings, ENCODER_PACKAGES
    thresholds = (("text", "min_score"),)

    @property
    def on(self) -> bool:
        return self.settings.min_score is not None

    def judge(self, images: Images) -> list[Verdict]:
        from jedi.metrics import clip_t

        key, spec = "filter.text.encoder", self.settings.encoder
        encoder = images.encoders.get(key, spec, "embed_texts")
        captions = [caption for sample in images.sets for caption in sample.captions]
        texts = images.by_set(encoder.embed_texts(captions))
        scores = [clip_t(*both).tolist() for both in zip(images.embed(key, spec), texts, strict=True)]
        return [Verdict(x, images=too_low("text", x, self.settings.min_score)) for x in scores]


@FILTERS.register("aesthetic")
class Aesthetic(Filter):
    """Score: LAION's aesthetic score of each image; the set's mean decides."""

    Settings, packages = AestheticSettings, ENCODER_PACKAGES
    thresholds = (("aesthetic.mean", "min_mean"),)
    _head: Any = None

    @property
    def on(self) -> bool:
        return self.settings.min_mean is not None

    def judge(self, images: Images) -> list[Verdict]:
        from jedi.metrics import aesthetic

        rows = images.embed("filter.aesthetic.encoder", self.settings.encoder)
        if self._head is None:
            self._head = self._load_head(rows[0].shape[-1])
        return [self._judge(aesthetic(x, self._head).tolist()) for x in rows]

    def _judge(self, scores: list[float]) -> Verdict:
        low = too_low("aesthetic", [sum(scores) / len(scores)], self.settings.min_mean)
        return Verdict(scores, low.get(0))

    def _load_head(self, width: int) -> Any:
        from jedi.encoders import EncoderError, load_aesthetic_head

        try:
            return load_aesthetic_head(self.settings.head, width)
        except (EncoderError, OSError) as error:
            raise ConfigError(f"filter.aesthetic.head: {error}") from None


@FILTERS.register("sharpness")
class Sharpness(Filter):
    """Score: `sharpness` of each image."""

    Settings, uses_model = SharpnessSettings, False
    thresholds = (("sharpness", "min_score"),)

    @property
    def on(self) -> bool:
        return self.settings.min_score is not None

    def judge(self, images: Images) -> list[Verdict]:
        scores = images.by_set([sharpness(image, self.context.resolution) for image in images.images])
        return [Verdict(x, images=too_low("sharpness", x, self.settings.min_score)) for x in scores]


def sharpness(image: Image.Image, side: int) -> float:
    """The variance of 4 x[i, j] - x[i - 1, j] - x[i + 1, j] - x[i, j - 1] - x[i, j + 1] over the inner pixels, x the
    grey image in 0 to 255 with its shorter side resized to `side` pixels (Lanczos). 0 and more.

    The amplitudes of natural images fall as 1 / frequency whatever their scale, so the value depends on the number
    of pixels much less than on sharpness: sharp photographs have a median of 490 at 512 pixels, 2,170 at 64.
    *Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy.*
    """
    scale = side / min(image.size)
    size = (max(3, round(image.width * scale)), max(3, round(image.height * scale)))
    x = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS), dtype=np.float64)
    laplacian = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    return float(laplacian.var())
