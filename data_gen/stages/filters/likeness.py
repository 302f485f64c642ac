"""Filters that compare the images of a set with one another: one subject, but not one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_gen.samples import SubjectSet
from data_gen.stages.filters import ENCODER_PACKAGES, FILTERS, Cosine, Filter, Images, Verdict, too_high
from jedi.io.config import ConfigError
from jedi.io.ranges import Share

if TYPE_CHECKING:
    from torch import Tensor


def pair_cosines(embeddings: Tensor) -> Tensor:
    """``[n d]``, rows of length 1 -> the cosines of all pairs ``[n (n - 1) / 2]``."""
    import torch

    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    return (embeddings[first] * embeddings[second]).sum(-1)


@dataclass
class IdentitySettings:
    """Do all images show one subject? The cosines of the embeddings of all pairs: `min_mean` for their mean,
    `min_pair` for the least of them, which one stranger among many images cannot hide from. `masked`:
    compared are cut-outs, cropped to the subject, on white (it needs masks); else whole images, whose
    backgrounds then count. 0.7 with DINOv2 is SynCD's threshold (ICCV 2025). Other encoders need other
    thresholds: benchmarks/filter.py chooses them from a curve."""

    min_mean: Cosine | None = 0.7
    min_pair: Cosine | None = None
    encoder: str = "dinov2:facebook/dinov2-base"
    masked: bool = True


@FILTERS.register("identity")
class Identity(Filter):
    """Score: `mean` and `min` of the pairs' cosines; None for a single image, which has nothing to differ from."""

    Settings, packages = IdentitySettings, ENCODER_PACKAGES
    thresholds = (("identity.mean", "min_mean"), ("identity.min", "min_pair"))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"masks"} if self.settings.masked else ())

    def judge(self, images: Images) -> list[Verdict]:
        for sample in images.sets:
            if sample.subject.get("subjects"):
                raise ConfigError(
                    f"filter.identity: set {sample.key} shows several subjects, which cannot be compared as one; "
                    "put filter before compose in stages, or set filter.identity.min_mean=null"
                )
        rows = images.embed("filter.identity.encoder", self.settings.encoder, self.settings.masked)
        return [self._judge(x) for x in rows]

    def _judge(self, embeddings: Tensor) -> Verdict:
        if len(embeddings) < 2:
            return Verdict(None)
        cosines = pair_cosines(embeddings)
        mean, least = cosines.mean().item(), cosines.min().item()
        reason = None
        if self.settings.min_mean is not None and mean < self.settings.min_mean:
            reason = f"identity below {self.settings.min_mean:g}"
        elif self.settings.min_pair is not None and least < self.settings.min_pair:
            reason = f"identity of a pair below {self.settings.min_pair:g}"
        return Verdict({"mean": mean, "min": least}, reason)


@dataclass
class DuplicatesSettings:
    """Is an image nearly a copy of an earlier one of its set? Such a set teaches copying. `max_copy`: the copy
    score (jedi.metrics.copy_score, no model: the same pixels, shifted or mirrored); over 0.75 is a
    near-duplicate. `max_cosine`: of whole images' embeddings by `encoder`."""

    max_copy: Share | None = 0.75
    max_cosine: Cosine | None = None
    encoder: str = "dinov2:facebook/dinov2-base"


@FILTERS.register("duplicates")
class Duplicates(Filter):
    """Score: of the two most alike images `copy` and `cosine`, as far as they are asked for. Of copies the first
    may stay."""

    Settings = DuplicatesSettings
    thresholds = (("duplicates.copy", "max_copy"), ("duplicates.cosine", "max_cosine"))

    @property
    def uses_model(self) -> bool:
        return self.settings.max_cosine is not None

    @property
    def packages(self) -> tuple[str, ...]:
        return ENCODER_PACKAGES if self.uses_model else ("torch",)

    def judge(self, images: Images) -> list[Verdict]:
        likeness: list[dict[str, list[float]]] = [{} for _ in images.sets]
        if self.settings.max_copy is not None:
            for found, sample in zip(likeness, images.sets, strict=True):
                found["copy"] = _copies(sample)
        if self.settings.max_cosine is not None:
            rows = images.embed("filter.duplicates.encoder", self.settings.encoder)
            for found, embeddings in zip(likeness, rows, strict=True):
                found["cosine"] = _like_earlier(embeddings)
        return [self._judge(found) for found in likeness]

    def _judge(self, likeness: dict[str, list[float]]) -> Verdict:
        bad: dict[int, str] = {}
        for name, values in reversed(likeness.items()):  # of two reasons the first one counts
            bad |= too_high(f"duplicates ({name})", values, getattr(self.settings, f"max_{name}"))
        return Verdict({name: max(values[1:], default=None) for name, values in likeness.items()}, images=bad)


def _copies(sample: SubjectSet) -> list[float]:
    """Of each image the highest copy score with an earlier one; -1 of the first."""
    from jedi.metrics import copy_score

    images = sample.images
    return [-1.0, *(copy_score(images[i : i + 1], images[:i]).item() for i in range(1, len(images)))]


def _like_earlier(embeddings: Tensor) -> list[float]:
    """Of each image the highest cosine with an earlier one; -1 of the first."""
    cosines = embeddings @ embeddings.mT
    return [-1.0, *(cosines[i, :i].max().item() for i in range(1, len(embeddings)))]
