"""The settings of ``python -m jedi_toy.encoder``. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from jedi.errors import InputError
from jedi.io.ranges import Count, NotNegative, Positive, Share, Whole
from jedi_toy.tiny_base.config import TextTowerConfig


@dataclass
class VisionTowerConfig:
    """CLIP's vision transformer."""

    width: Count = 192
    layers: Count = 4
    heads: Count = 6
    patch: Count = 8


@dataclass
class EncoderConfig:
    """What ``python -m jedi_toy.encoder --config FILE`` takes."""

    data: str
    """Folder of shards: its training split is learnt, its held-out split only watched."""
    out: str
    """The folder to write; checkpoints lie in ``OUT.training`` until it is done."""
    seed: Whole = 0
    sets: Count = 10_000
    """At most so many training sets are held in memory (50 kB each at 64 pixels)."""
    vision: VisionTowerConfig = field(default_factory=VisionTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    embedding: Count = 192
    subject_width: Count = 128
    """Leading channels of an image embedding that tell the subject."""
    steps: Count = 1600
    drawings: Count = 24
    """Different drawings in a batch ..."""
    recoloured: Whole = 8
    """... of which so many are there in a second recolouring."""
    images_per_set: Count = 4
    learning_rate: Positive = 1e-3
    temperature: Positive = 0.1
    """Of the contrast between subjects."""
    text_weight: NotNegative = 0.5
    probe_weight: NotNegative = 0.3
    softness: Share = 0.7
    """Images are blurred by up to this share and get a little noise, as a VAE's decoder shows them."""
    bf16: bool = False
    """Mixed precision: worth it on CPUs with AVX512-BF16 or AMX, very slow on others."""
    checkpoint_every: Count = 100
    """Steps; an interrupted command resumes from the newest checkpoint."""

    def __post_init__(self) -> None:
        if self.subject_width > self.embedding:
            raise InputError(f"subject_width={self.subject_width}: it must be at most embedding={self.embedding}")
        if self.recoloured > self.drawings:
            raise InputError(f"recoloured={self.recoloured}: it must be at most drawings={self.drawings}")
