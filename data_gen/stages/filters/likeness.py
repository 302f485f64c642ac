"""Filters that compare the images of a set with one another: one subject, but not one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_gen.samples import SubjectSet
from data_gen.stages.filters import ENCODER_PACKAGES, FILTERS, Filter, Images, Verdict, too_high
from data_gen.stages.filters.settings import DuplicatesSettings, IdentitySettings
from jedi.io.config import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def pair_cosines(embeddings: Tensor) -> Tensor:
    """``[n d]``, rows of length 1 -> the cosines of all pairs ``[n (n - 1) / 2]``."""
    import torch

    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    return (embeddings[first] * embeddings[second]).sum(-1)


@FILTERS.register("identity")
class Identity(Filter):
    """Score: `mean` and `min` of the pairs' cosines; None for a single image, which has nothing to differ from."""

    Settings, packages = IdentitySettings, ENCODER_PACKAGES
    thresholds = (("identity.mean", "min_mean"), ("identity.min", "min_pair"))

    @property
    def on(self) -> bool:
        return self.settings.min_mean is not None or self.settings.min_pair is not None

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


@FILTERS.register("duplicates")
class Duplicates(Filter):
    """Score: of the two most alike images `copy` and `cosine`, as far as they are asked for. Of copies the first
    may stay."""

    Settings = DuplicatesSettings
    thresholds = (("duplicates.copy", "max_copy"), ("duplicates.cosine", "max_cosine"))

    @property
    def on(self) -> bool:
        return self.settings.max_copy is not None or self.uses_model

    @property
    def uses_model(self) -> bool:
        return self.settings.max_cosine is not None

    @property
    def packages(self) -> tuple[str, ...]:
        return ENCODER_PACKAGES if self.uses_model else ("torch",)

    def judge(self, images: Images) -> list[Verdict]:
        likeness: dict[str, list[list[float]]] = {}
        if self.settings.max_copy is not None:
            likeness["copy"] = [_copies(sample) for sample in images.sets]
        if self.settings.max_cosine is not None:
            rows = images.embed("filter.duplicates.encoder", self.settings.encoder)
            likeness["cosine"] = [_like_earlier(x) for x in rows]
        bounds = {"copy": self.settings.max_copy, "cosine": self.settings.max_cosine}
        verdicts = []
        for n in range(len(images.sets)):
            values = {name: of_sets[n] for name, of_sets in likeness.items()}
            bad: dict[int, str] = {}
            for name, of_images in values.items():
                bad = {**too_high(f"duplicates ({name})", of_images, bounds[name]), **bad}
            scores = {name: max(of_images[1:], default=None) for name, of_images in values.items()}
            verdicts.append(Verdict(scores, images=bad))
        return verdicts


def _copies(sample: SubjectSet) -> list[float]:
    """Of each image the highest copy score with an earlier one; -1 of the first."""
    from jedi.metrics import copy_score

    images = sample.images
    return [-1.0, *(copy_score(images[i : i + 1], images[:i]).item() for i in range(1, len(images)))]


def _like_earlier(embeddings: Tensor) -> list[float]:
    """Of each image the highest cosine with an earlier one; -1 of the first."""
    cosines = embeddings @ embeddings.mT
    return [-1.0, *(cosines[i, :i].max().item() for i in range(1, len(embeddings)))]
