"""The sections `filter.NAME` of our filters. A filter is off while its thresholds are null; one that nothing can
miss (-1, or 0 where no score is negative) measures without dropping, for the report's histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jedi.io.config import ConfigError
from jedi.io.ranges import Range, Share

Cosine = Annotated[float, Range(-1, 1)]

# Encoders are named as for jedi.encoders.load_encoder: dinov2:X, clip:X, timm:X, efficientnet-lite0, ...


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


@dataclass
class TextSettings:
    """Does each image fit its caption? The cosine of CLIP's embeddings. Real photographs with their captions
    get about 0.3, other captions about 0.15 to 0.2."""

    min_score: Cosine | None = None
    encoder: str = "clip:openai/clip-vit-base-patch32"


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


@dataclass
class SharpnessSettings:
    """The variance of the Laplacian (4 x[i, j] less its four neighbours) of the grey image in 0 to 255, its
    shorter side first brought to `resolution`: so it says how sharp the image will be in the shard, and is
    low for one that was enlarged. At 512 pixels all of DreamBench's photographs get more than 53, and none
    does that was blurred by a Gaussian of 2 pixels or enlarged from 128 (benchmarks/filter.py)."""

    min_score: Annotated[float, Range(0, 1e6)] | None = 50.0


@dataclass
class DuplicatesSettings:
    """Is an image nearly a copy of an earlier one of its set? Such a set teaches copying. `max_copy`: the copy
    score (jedi.metrics.copy_score, no model: the same pixels, shifted or mirrored); over 0.75 is a
    near-duplicate. `max_cosine`: of whole images' embeddings by `encoder`."""

    max_copy: Share | None = 0.75
    max_cosine: Cosine | None = None
    encoder: str = "dinov2:facebook/dinov2-base"


@dataclass
class PeopleSettings:
    """Are there people in the image? The highest probability of a detection called `label`; `model` is a folder
    or hub name of an object detector of transformers. Not for subjects that are people."""

    max_score: Share | None = None
    """0.5 drops what the detector is sure of."""
    model: str = "hustvl/yolos-tiny"
    label: str = "person"


@dataclass
class NsfwSettings:
    """Stable Diffusion's safety checker: by how much the nearest of its 17 concepts is over that concept's own
    threshold, so over 0 is what it would black out. `model` is a folder (safety_checker of a diffusers
    pipeline) or a hub name, with safetensors."""

    max_score: Annotated[float, Range(-2, 2)] | None = None
    model: str = "CompVis/stable-diffusion-safety-checker"
