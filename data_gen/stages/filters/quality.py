"""Filters of single images: do they fit their captions, do they look good, are they sharp?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from PIL import Image

from data_gen.stages.filters import ENCODER_PACKAGES, FILTERS, Cosine, Filter, ImageFilter, Images, Verdict, too_low
from jedi.io.config import ConfigError
from jedi.io.ranges import Range


@dataclass
class TextSettings:
    """Does each image fit its caption? The cosine of CLIP's embeddings. Real photographs with their captions
    get about 0.3, other captions about 0.15 to 0.2."""

    min_score: Cosine | None = None
    encoder: str = "clip:openai/clip-vit-base-patch32"


@FILTERS.register("text")
class TextAgreement(ImageFilter):
    """Score: of each image the cosine with its caption."""

    Settings, packages = TextSettings, ENCODER_PACKAGES
    thresholds = (("text", "min_score"),)

    def scores(self, images: Images) -> list[float]:
        import torch

        from jedi.metrics import clip_t

        key, spec = "filter.text.encoder", self.settings.encoder
        encoder = images.encoders.get(key, spec, "embed_texts")
        captions = [caption for sample in images.sets for caption in sample.captions]
        return clip_t(torch.cat(images.embed(key, spec)), encoder.embed_texts(captions)).tolist()


@dataclass
class AestheticSettings:
    """LAION's predictor over CLIP ViT-L/14, the mean over the set, about 1 to 10; SynCD drops sets under 6.
    `head` is the file of its weights (sac+logos+ava1-l14-linearMSE or the linear one; .safetensors or .pth)."""

    min_mean: Annotated[float, Range(-100, 100)] | None = None
    encoder: str = "clip:openai/clip-vit-large-patch14"
    head: str = ""

    def __post_init__(self) -> None:
        if self.min_mean is not None and not self.head:
            raise ConfigError(
                "filter.aesthetic.head is empty; name the file of LAION's aesthetic predictor, for instance "
                "filter.aesthetic.head=/models/sac+logos+ava1-l14-linearMSE.pth, or set filter.aesthetic.min_mean=null"
            )


@FILTERS.register("aesthetic")
class Aesthetic(Filter):
    """Score: LAION's aesthetic score of each image; the set's mean decides."""

    Settings, packages = AestheticSettings, ENCODER_PACKAGES
    thresholds = (("aesthetic.mean", "min_mean"),)
    _head: Any = None

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


@dataclass
class SharpnessSettings:
    """The variance of the Laplacian (4 x[i, j] less its four neighbours) of the grey image in 0 to 255, its
    shorter side first brought to `resolution`: so it says how sharp the image will be in the shard, and is
    low for one that was enlarged. At 512 pixels all of DreamBench's photographs get more than 53, and none
    does that was blurred by a Gaussian of 2 pixels or enlarged from 128 (benchmarks/filter.py)."""

    min_score: Annotated[float, Range(0, 1e6)] | None = 50.0


@FILTERS.register("sharpness")
class Sharpness(ImageFilter):
    """Score: `sharpness` of each image."""

    Settings, uses_model = SharpnessSettings, False
    thresholds = (("sharpness", "min_score"),)

    def scores(self, images: Images) -> list[float]:
        return [sharpness(image, self.context.resolution) for image in images.images]


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
