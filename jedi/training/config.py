"""What a training run is: every setting of `train.py`, with its default and its reason.

The numbers here suit fine-tuning a Stable Diffusion 1.x UNet; `configs/train/` holds whole configurations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jedi.conditioning import ConditioningConfig
from jedi.errors import InputError
from jedi.io.ranges import Count, Decay, NotNegative, Positive, Range, Share, Whole


@dataclass
class DataSourceConfig:
    """One of several sources of training data."""

    path: str
    """Of `sets`: a folder with ``train/`` shards. Of `images`: a folder of tars."""
    weight: Positive = 1.0
    """Its share of the steps, against the other sources' weights."""
    loss_weight: Positive = 1.0
    """Of the loss in its steps, against 1: prior preservation has one, for images that the base model made."""
    kind: Literal["sets", "images"] = "sets"
    """`images`: plain single images (n = 1) with captions, in webdataset tars of other people: KEY.jpg, .png or .webp
    with KEY.txt or KEY.json ("caption"). An index is made once and kept."""
    sizes: list[list[Count]] = field(default_factory=list)
    """Of `images`: [[width, height], ...] that they are cropped to, each to the nearest; those of the sets of the other
    sources if not given."""
    index_folder: str | None = None
    """Of `images`: where their index is kept; ``path/index`` if not given."""

    def __post_init__(self) -> None:
        if any(len(size) != 2 for size in self.sizes):
            raise InputError(f"data.sources: sizes are [[width, height], ...], got {self.sizes}")


@dataclass
class StreamConfig:
    """Data that are streamed, for what fits on no disk; resuming is weaker (docs/training.md)."""

    urls: list[str] = field(default_factory=list)
    """Tars of sets or of single images: [https://host/{000..999}.tar, data/*.tar]; also gs://, hf://. Empty: nothing is
    streamed, ``path`` or ``sources`` are trained on."""
    sizes: list[list[Count]] = field(default_factory=list)
    """[[width, height], ...] that images are cropped to; the first is the model's size from now on."""
    samples_per_shard: Count = 1000
    """About; says in which shard a run goes on."""
    shuffle: Whole = 100
    """Samples that each data worker holds to draw from, as they lie in the tar; 0: the order of the tars."""
    allow_pipe: bool = False
    """Whether ``pipe:COMMAND`` is run."""

    def __post_init__(self) -> None:
        if self.urls and not (self.sizes and all(len(size) == 2 for size in self.sizes)):
            raise InputError(f"data.stream.sizes are [[width, height], ...] for what is streamed, got {self.sizes}")


@dataclass
class TrainDataConfig:
    """Which sets are trained on, and how they are read."""

    path: str = ""
    """Folder with ``train/`` and ``heldout/`` shards."""
    sources: list[DataSourceConfig] = field(default_factory=list)
    """Several sources of training data, each step of one of them: [{path: ..., weight: 2}, ...]. These are trained on,
    not ``path/train``; the held-out sets are still those of ``path``, or, if it is not given, of the first source."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """Instead of ``path/train`` and ``sources``; the held-out sets are still those of ``path``."""
    set_size: Count | None = None
    """At most so many images of each set are used (drawn anew each time); all of them if not given."""
    merge_small_buckets: bool = False
    """Where there are fewer sets of some number of images and size than ``batch_size``, they are trained with fewer of
    their images, beside others of that size. False: they are never used, which is said."""
    workers: Annotated[int, Range(0, 1024)] = 2
    """Processes that read and decode, per rank; 0 reads in the training process."""
    cache_latents: bool = False
    """Encode all images once and keep the latents on disk, instead of encoding at every step. All processes encode, in
    parts that stay when the run is interrupted; ``python -m jedi.training.latents`` does it before the training."""
    cache_text: bool = False
    """The same of the captions, in float16: 0.12 MB a caption with Stable Diffusion 1.x, 0.32 MB with SD-XL. What is
    cached needs neither VAE nor text encoders on the GPU, but for validation and samples."""
    latents_folder: str | None = None
    """Where cached latents and captions lie; ``path/latents`` if not given. All nodes must see it."""
    verify: bool = False
    """Check the sha256 of each shard of sets at the start."""

    def __post_init__(self) -> None:
        if self.stream.urls and (self.sources or self.cache_latents or self.cache_text):
            raise InputError("data.stream goes with none of data.sources, data.cache_latents and data.cache_text")
        if self.stream.urls and self.set_size is None:
            raise InputError("data.set_size is required with data.stream: the most images that a set has")
        if not self.path and not self.sources and not self.stream.urls:
            raise InputError("data.path is required: put it into the YAML file or pass data.path=...")

    @property
    def folder(self) -> str:
        """Where the held-out sets lie, and the latents, if nothing else is said; "" where all is streamed."""
        return self.path or next((source.path for source in self.sources), "")


@dataclass
class LossConfig:
    """What is minimised."""

    weighting: str = "min_snr"
    """A name of ``jedi.diffusion.LOSS_WEIGHTINGS``."""
    gamma: NotNegative = 5.0
    """Of `min_snr`: the signal-to-noise ratio above which a timestep weighs no more."""


@dataclass
class OptimizerConfig:
    """The optimiser, its learning rate over time, clipping."""

    name: str = "adamw"
    """A name of ``jedi.training.optimizer.OPTIMIZERS``: `adamw`; with a smaller state `adamw_8bit` (bitsandbytes),
    `adamw_8bit_torchao`, `adamw_4bit_torchao`, `adafactor`."""
    lr: NotNegative = 1e-5
    betas: list[Decay] = field(default_factory=lambda: [0.9, 0.999])
    """Of the AdamW kind."""
    eps: Positive = 1e-8
    """Of the AdamW kind."""
    weight_decay: NotNegative = 0.01
    """Decays matrices and kernels only, never biases and gains."""
    warmup_steps: Whole = 1000
    """The learning rate rises linearly over so many steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How it falls afterwards, up to ``max_steps``."""
    decay_steps: Count | None = None
    """The fall takes the last so many steps (constant before); all after the warm-up if not given."""
    final_lr: Share = 0.0
    """Where the fall ends, as a share of ``lr``."""
    clip_grad_norm: NotNegative = 1.0
    """Gradients are shortened to this norm; 0 leaves them."""

    def __post_init__(self) -> None:
        if len(self.betas) != 2:
            raise InputError(f"optimizer.betas are two numbers from 0 to below 1, got {self.betas}")


@dataclass
class EmaConfig:
    """The averaged weights: what is validated, sampled and exported."""

    decay: Decay = 0.9999
    """Share of the old average kept at each step; it rises to this as (1 + step) / (10 + step). 0: no average is kept,
    and the trained weights themselves are validated, sampled and exported."""
    every_steps: Count = 1
    """Updated every so many steps, then with the share that is kept over all of them."""
    device: Literal["auto", "cpu"] = "auto"
    """Where it is kept: with the trained weights, or in the CPU's memory: that much less on the GPU (3.4 GB for Stable
    Diffusion's UNet), but a copy at each update: take every_steps=10 or so. It is on the GPU while it validates."""


@dataclass
class CheckpointConfig:
    """What is in ``checkpoints/``: step-N.ckpt to resume from, best-N.ckpt, kept-N.ckpt."""

    every_steps: Count = 1000
    """A run that is killed loses so many steps at most; one that is told to stop saves first."""
    keep: Count = 2
    """How many of those there are: if the newest is damaged, the run resumes from the one before."""
    keep_every_steps: Count | None = None
    """Every so many steps one is kept for good."""
    weights_only: bool = True
    """The best and those kept for good hold the averaged weights only, which is what is sampled from and exported, not
    the optimiser: with Stable Diffusion's UNet 3.4 GB instead of 14."""


@dataclass
class NetworkConfig:
    """How the UNet is run, and what of it is trained."""

    attention: str = "sdpa"
    """A name of ``jedi.attention.ATTENTION_BACKENDS``: `sdpa` (PyTorch's), `xformers`, ..."""
    gradient_checkpointing: bool = False
    """Less memory, about a third more time."""
    compile: bool = False
    """torch.compile; pays off on GPUs and long runs."""
    channels_last: bool = False
    """Weights and activations with their channels innermost: faster convolutions on GPUs in half precision."""
    trainable: list[str] = field(default_factory=list)
    """What of the UNet is trained, if not all of it: `attention`, `self_attention`, `cross_attention`, `transformers`
    (attention with the layers around it), or patterns of parameters' names, `up_blocks.*` for instance. A plain base's
    ``conv_in``, which gets new channels, is always trained."""


@dataclass
class LoraSettings:
    """LoRA adapters (peft's) are trained instead of the UNet; a plain base's ``conv_in`` is trained too, in full."""

    rank: Count | None = None
    """Of the adapters' matrices; not given: no adapters, the UNet itself is trained."""
    alpha: Count | None = None
    """The adapters' output is scaled by alpha / rank; ``rank`` if not given."""
    dropout: Decay = 0.0
    """Share of an adapter's inputs that are dropped in training."""
    target_modules: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    """Layers that get an adapter, by the ends of their names: the projections of all attention; `all` means all linear
    and convolutional layers."""


@dataclass
class ValidationConfig:
    """Held-out loss and reference gain, always with the same sets, noise and timesteps."""

    every_steps: Whole = 1000
    """0 switches it off (and the best checkpoint with it)."""
    sets: Count = 32
    """Held-out sets that are scored."""
    references: Whole | None = None
    """k; if not given, one less than the images of a set, but no more than are trained."""
    bins: Count = 4
    """Timestep bins; each set is scored once in each."""
    batch_size: Count = 8
    """Sets per network call; the losses do not depend on it."""

    def __post_init__(self) -> None:
        if self.every_steps and self.sets < 2:
            raise InputError(f"validation.sets is {self.sets}: the reference gain needs sets of two subjects or more")


@dataclass
class SamplesConfig:
    """Images of held-out subjects, always with the same seeds."""

    every_steps: Whole = 1000
    """0 switches them off."""
    subjects: Count = 4
    """Rows of the contact sheet."""
    prompts: Count = 2
    """Images of each subject."""
    references: Whole | None = None
    """k; if not given, what the set has beyond the prompts' images, but no more than are trained."""
    steps: Count = 30
    """Denoising steps."""
    guidance_scale: NotNegative | None = None
    """Weight of the prompt; the pipeline's default if not given."""
    image_guidance_scale: NotNegative | None = None
    """Weight of the references; the pipeline's default if not given."""


@dataclass
class LogConfig:
    """Where numbers go."""

    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Any of tensorboard, csv, wandb."""
    every_steps: Count = 20
    """Optimiser steps between two records."""
    project: str = "jedi"
    """W&B's project."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.loggers) - {"tensorboard", "csv", "wandb"}):
            raise InputError(f"log.loggers: {', '.join(unknown)} is unknown; known are tensorboard, csv, wandb")


@dataclass
class HardwareConfig:
    """What Lightning's Trainer is told of the machines; the result does not depend on it but for rounding."""

    accelerator: str = "auto"
    """`auto`, `cpu`, `gpu`, or another name that Lightning knows."""
    devices: str = "auto"
    """How many per node, or `auto`."""
    nodes: Count = 1
    """Machines."""
    strategy: str = "auto"
    """`auto` or `ddp`: the average of the weights is kept whole, so strategies that shard them do not fit."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """`auto`: bf16-mixed on GPUs that have it and on CPUs that compute in it (AVX512-BF16 or AMX; there it takes 70 to
    87 % of the time), else 32-true."""
    frozen_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of what is not trained: text encoders, VAE and, where a part of the UNet or LoRA is trained in mixed precision,
    the rest of the UNet. SD-XL's own VAE overflows in float16: it then computes in float32, with a warning."""

    def __post_init__(self) -> None:
        if self.strategy != "auto" and not self.strategy.startswith("ddp"):
            raise InputError(
                f"hardware.strategy is auto, or ddp or one of its kin (ddp_fork, ...), got {self.strategy!r}: the "
                "average of the weights is kept whole, which strategies that shard them do not do"
            )


@dataclass
class TrainConfig:
    """One training run. The same command again resumes the run in ``out``."""

    base: str
    """A diffusers folder or hub name: unet (plain or inpainting), vae, text_encoder, tokenizer, scheduler. Or one
    .safetensors file in Stable Diffusion's original layout."""
    out: str
    """The run's folder: config.yaml, checkpoints/, logs/, samples/."""
    data: TrainDataConfig
    base_revision: str | None = None
    """Of a base on the hub: a branch, a tag or a commit."""
    base_variant: str | None = None
    """Which files of the base's weights are read where there are several, `fp16` for instance; without it the plain
    ones, or what there is. Training is in float32 all the same."""
    base_config: str | None = None
    """Of a base in one file: the folder or hub name of the model that has its JSON and tokenizer files; without it the
    one that diffusers takes the file to be made from."""
    init_from: str | None = None
    """Start from the UNet weights of a model folder or of another run (its averaged weights). When a run resumes it is
    read only if a part of them is not trained (``lora``, ``network.trainable``)."""
    seed: Whole = 0
    """Of all that is drawn: noise, timesteps, conditioning, the order of the data."""
    max_steps: Count = 100_000
    """Optimiser steps of the whole run; may be raised when it resumes."""
    batch_size: Count = 128
    """Sets per optimiser step, over all processes."""
    micro_batch_size: Count | None = None
    """Sets per forward pass of one process; the rest is accumulated. One pass if not given."""
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    log: LogConfig = field(default_factory=LogConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    sampling_defaults: dict[str, Any] = field(default_factory=dict)
    """guidance_scale and the like (``jedi.sampling.SAMPLING_DEFAULTS``) that suit the model; exported."""
    extensions: list[str] = field(default_factory=list)
    """Modules to import: they register loss weightings, conditioning policies, ... by name."""

    def __post_init__(self) -> None:
        if not self.data.folder and (self.validation.every_steps or self.samples.every_steps):
            raise InputError(
                "data.path is required for held-out sets: give it beside data.stream, or set validation.every_steps=0 "
                "and samples.every_steps=0"
            )
        if self.lora.rank is not None and self.network.trainable:
            raise InputError(
                "network.trainable and lora.rank: with adapters nothing else is trained; give one of the two"
            )

    @property
    def trains_part(self) -> bool:
        """Whether weights of the UNet are kept as they are: they are in no checkpoint."""
        return self.lora.rank is not None or bool(set(self.network.trainable) - {"all"})

    def accumulate(self, world_size: int) -> int:
        """Micro batches per optimiser step of one process; ``InputError`` if the batch cannot be cut so."""
        micro = self.micro_batch_size or -(-self.batch_size // world_size)
        if micro < 1 or self.batch_size % (world_size * micro):
            raise InputError(
                f"batch_size={self.batch_size} cannot be cut into micro batches of {micro} on {world_size} "
                f"processes: make it a multiple of {world_size * max(micro, 1)}, or change micro_batch_size"
            )
        return self.batch_size // (world_size * micro)

    @property
    def run(self) -> Path:
        """``out`` as a path."""
        return Path(self.out)

    @property
    def trained_modes(self) -> list[str]:
        """The attention modes that occur in this run, the commoner first."""
        if self.conditioning.modes:
            return list(self.conditioning.modes)
        mutual = self.conditioning.mutual_prob
        modes = [mode for mode, share in (("one_way", 1 - mutual), ("mutual", mutual)) if share > 0]
        return modes[::-1] if mutual > 0.5 else modes
