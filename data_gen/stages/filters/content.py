"""Filters of what should not be in an image: people, and what a safety checker would black out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image

from data_gen.models import load_network
from data_gen.stages.filters import FILTERS, ImageFilter, Images
from jedi.io.config import ConfigError
from jedi.io.ranges import Range, Share, batches

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 8
"""Images in one forward pass."""


@dataclass
class PeopleSettings:
    """Are there people in the image? The highest probability of a detection called `label`; `model` is a folder
    or hub name of an object detector of transformers. Not for subjects that are people."""

    max_score: Share | None = None
    """0.5 drops what the detector is sure of."""
    model: str = "hustvl/yolos-tiny"
    label: str = "person"


@FILTERS.register("people")
class People(ImageFilter):
    """Score: of each image the highest probability of a detection with the label; 0 to 1."""

    Settings, packages = PeopleSettings, ("torch", "transformers")
    thresholds = (("people", "max_score"),)

    def scores(self, images: Images) -> list[float]:
        return [score for batch in batches(images.images, BATCH) for score in self._detect(batch)]

    def _detect(self, images: Sequence[Image.Image]) -> list[float]:
        import torch

        model, processor, label = self._parts
        inputs = processor(images=list(images), return_tensors="pt").to(model.device)
        with torch.no_grad():
            answer = model(**inputs)
        sizes = torch.tensor([image.size[::-1] for image in images])
        detections = processor.post_process_object_detection(answer, threshold=0.0, target_sizes=sizes)
        return [
            x["scores"][x["labels"] == label].float().amax().item() if label in x["labels"] else 0.0 for x in detections
        ]

    @cached_property
    def _parts(self) -> tuple[Any, Any, int]:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
        from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

        key, source = "filter.people.model", self.settings.model
        kinds = tuple(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)
        model = load_network(AutoModelForObjectDetection, key, source, kinds, self.context)
        labels = {name: number for number, name in model.config.id2label.items()}
        if self.settings.label not in labels:
            known = ", ".join(list(labels)[:8])
            raise ConfigError(
                f"filter.people.label is {self.settings.label!r}, which {source} has not; it has {known}, ..."
            )
        try:
            return model, AutoImageProcessor.from_pretrained(source, backend="pil"), labels[self.settings.label]
        except OSError as error:
            raise ConfigError(f"{key}={source}: its image processor is not there ({error})") from None


@dataclass
class NsfwSettings:
    """Stable Diffusion's safety checker: by how much the nearest of its 17 concepts is over that concept's own
    threshold, so over 0 is what it would black out. `model` is a folder (safety_checker of a diffusers
    pipeline) or a hub name, with safetensors."""

    max_score: Annotated[float, Range(-2, 2)] | None = None
    model: str = "CompVis/stable-diffusion-safety-checker"


@FILTERS.register("nsfw")
class Nsfw(ImageFilter):
    """Score: of each image by how much it is over the threshold of the checker's nearest concept; over 0 is flagged.

    The decision is that of diffusers' `StableDiffusionSafetyChecker`, which says yes or no and blackens images;
    here its cosines are read, to have a number and the images as they are.
    """

    Settings = NsfwSettings
    thresholds = (("nsfw", "max_score"),)

    def scores(self, images: Images) -> list[float]:
        import torch

        model, preprocess = self._parts
        pixels = (preprocess(batch).to(model.device) for batch in batches(images.images, BATCH))
        with torch.no_grad():
            return [score for x in pixels for score in concept_margins(model, x).tolist()]

    @cached_property
    def _parts(self) -> tuple[Any, Callable[[Sequence[Image.Image]], Tensor]]:
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        from jedi.encoders import load_processor

        source = self.settings.model
        model = load_network(StableDiffusionSafetyChecker, "filter.nsfw.model", source, ("clip",), self.context)
        side = model.config.vision_config.image_size
        default = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        return model, load_processor(source, default, side)


def concept_margins(checker: Any, pixels: Tensor) -> Tensor:
    """Pixels ``[n 3 H W]`` -> ``[n]``: the largest of cosine - threshold over the checker's concepts, 0.01 stricter
    where one of its concepts of special care is met, as in its `forward`."""
    from torch.nn.functional import normalize

    seen = normalize(checker.visual_projection(checker.vision_model(pixels)[1]), dim=-1)

    def margins(concepts: Tensor, thresholds: Tensor) -> Tensor:
        return seen @ normalize(concepts, dim=-1).mT - thresholds

    # The checker itself rounds to 3 digits before it compares with 0.
    special = margins(checker.special_care_embeds, checker.special_care_embeds_weights).round(decimals=3)
    strict = 0.01 * (special > 0).any(-1, keepdim=True)
    return (margins(checker.concept_embeds, checker.concept_embeds_weights) + strict).amax(-1).float().cpu()
