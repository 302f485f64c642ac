"""The settings of ``python -m jedi_toy.tiny_base``. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from jedi.io.ranges import Count, NotNegative, Positive, Share, Whole


@dataclass
class UNetConfig:
    """UNet2DConditionModel."""

    block_out_channels: list[Count] = field(default_factory=lambda: [64, 128])
    attention: list[bool] = field(default_factory=lambda: [False, True])
    """Whether level i has attention."""
    layers_per_block: Count = 1
    attention_heads: Count = 4


@dataclass
class TextTowerConfig:
    """CLIP's text transformer and its tokenizer, whose vocabulary is learnt from the captions."""

    vocabulary: Count = 1200
    length: Count = 40
    width: Count = 128
    layers: Count = 2
    heads: Count = 4


@dataclass
class TextEncoderConfig(TextTowerConfig):
    """CLIPTokenizer and CLIPTextModel, and how the latter is trained: captions predict thumbnails of images."""

    vocabulary: Count = 1500
    thumbnail: Count = 8
    """Side of the thumbnails in pixels."""
    steps: Count = 3000
    batch_size: Count = 64
    learning_rate: Positive = 1e-3


@dataclass
class VaeConfig:
    """AutoencoderKL with ``2 ** (levels - 1)`` pixels a latent, and its training."""

    block_out_channels: list[Count] = field(default_factory=lambda: [32, 64, 64])
    latent_channels: Count = 8
    whitening: Share = 0.5
    """0: latents keep their variances (mostly colour), 1: all channels have the same."""
    linear_encoder: bool = False
    """The encoder is the projection on the principal components, exactly; only the decoder is trained."""
    steps: Count = 1500
    batch_size: Count = 16
    learning_rate: Positive = 2e-3
    bf16: bool = False
    """Mixed precision: worth it on CPUs with AVX512-BF16 or AMX, very slow on others."""
    latent_noise: NotNegative = 0.1
    """Standard deviation of noise added before decoding, so that the decoder forgives a sampler's small errors."""
    gradient: NotNegative = 0.0
    """Weight of the error of differences between neighbouring pixels, at two scales: lines stay lines."""
    crop: Whole = 0
    """Side in pixels of the squares that training cuts out of the images, a multiple of a patch; 0 takes them whole.
    The last fifth of the steps sees whole images (fewer, as many pixels) in any case: the normalisation looks at all
    of an image."""


@dataclass
class TinyBaseConfig:
    """What ``python -m jedi_toy.tiny_base --config FILE`` takes."""

    data: str
    """Folder of shards (``python -m data_gen run``); its training split is used."""
    out: str
    seed: Whole = 0
    images: Count = 8192
    """Images, with their captions, that the VAE, the tokenizer and the text encoder are trained on."""
    vae: VaeConfig = field(default_factory=VaeConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
