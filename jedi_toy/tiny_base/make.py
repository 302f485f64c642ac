"""Trains and writes the small base, part by part; the UNet is left untrained."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from jedi.data import SetDataset, SetIndex
from jedi.io.config import to_dict
from jedi.io.files import atomic, write_json
from jedi.rng import keyed_generator, seed_global
from jedi_toy.tiny_base.config import TinyBaseConfig, UNetConfig
from jedi_toy.tiny_base.text_encoder import train_text_encoder, train_tokenizer
from jedi_toy.tiny_base.vae import train_vae

log = logging.getLogger(__name__)


def make_unet(config: UNetConfig, latent_channels: int, latent_side: int, text_width: int) -> UNet2DConditionModel:
    """An untrained text-to-image UNet whose self-attention starts as a comparison of contents.

    Mimetic initialisation (arXiv 2305.09828, simplified): queries and keys share one orthogonal matrix, values and
    outputs are inverse to each other up to a factor of a half. A token then looks at tokens like itself from the
    first step on and takes over what they hold, which is where copying from a reference begins.
    """
    down = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
    up = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
    unet = UNet2DConditionModel(
        sample_size=latent_side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(config.block_out_channels),
        down_block_types=tuple(down[a] for a in config.attention),
        up_block_types=tuple(up[a] for a in reversed(config.attention)),
        layers_per_block=config.layers_per_block,
        cross_attention_dim=text_width,
        attention_head_dim=config.attention_heads,  # diffusers' name for the number of heads (its issue 2011)
        norm_num_groups=16,
    )
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            nn.init.orthogonal_(module.to_q.weight)
            module.to_k.weight.data.copy_(module.to_q.weight)
            nn.init.orthogonal_(module.to_v.weight, gain=0.7)
            module.to_out[0].weight.data.copy_(module.to_v.weight.T)
    return unet


def read_images(data: str, count: int, seed: int) -> tuple[Tensor, list[str]]:
    """``count`` training images ``[i 3 H W]`` and their captions, from as many sets as there are."""
    index = SetIndex.read(data)
    sets = SetDataset(index)
    order = torch.randperm(len(index.sets), generator=keyed_generator(seed, "images")).tolist()
    largest = max(record.n for record in index.sets)
    chosen = [(i, member) for member in range(largest) for i in order if member < index.sets[i].n][:count]
    images = torch.cat([sets.images(i, [member]) for i, member in chosen])
    return images, [sets.record(i)["captions"][member] for i, member in chosen]


def make(config: TinyBaseConfig) -> Path:
    """Trains and writes the base; returns its folder. Nothing is written under the final name before all is done."""
    out = Path(config.out)
    if (out / "model_index.json").exists():
        log.info("%s is there already", out)
        return out
    images, captions = read_images(config.data, config.images, config.seed)
    parts = _Parts(out, config)
    tokenizer = parts.get("tokenizer", CLIPTokenizer, lambda: train_tokenizer(captions, config.text))
    train_text = lambda: train_text_encoder(tokenizer, captions, images, config.text, config.seed)
    text_encoder = parts.get("text_encoder", CLIPTextModel, train_text)
    vae = parts.get("vae", AutoencoderKL, lambda: train_vae(images, config.vae, config.seed))
    factor = 2 ** (len(config.vae.block_out_channels) - 1)
    seed_global(config.seed)
    unet = make_unet(config.unet, config.vae.latent_channels, images.shape[-1] // factor, config.text.width)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True,  # the last step is pure noise (arXiv 2305.08891): flat images need it
        timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, steps_offset=1,
    )  # fmt: skip
    base = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with atomic(out) as temporary:
        base.save_pretrained(temporary)
    parts.remove()
    return out


class _Parts:
    """What has been trained of a base, in a folder beside it: an interrupted command resumes after its last part."""

    def __init__(self, out: Path, config: TinyBaseConfig) -> None:
        self.folder, self.seed = out.with_name(f"{out.name}.parts"), config.seed
        settings = {**to_dict(config), "out": out.name, "data": SetIndex.read(config.data).fingerprint}
        record = self.folder / "settings.json"
        kept = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
        if self.folder.exists() and kept != settings:
            log.info("%s holds parts of a base with other settings: they are rebuilt", self.folder)
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(record, settings)

    def get(self, name: str, kind: Any, train: Callable[[], Any]) -> Any:
        """The part as it was trained before (a class with ``from_pretrained``), or trained now and kept."""
        if not (self.folder / name).exists():
            seed_global(self.seed)  # each part is the same whether those before it were trained or read
            part = train()
            with atomic(self.folder / name) as temporary:
                part.save_pretrained(temporary)
        part = kind.from_pretrained(self.folder / name)
        return part.eval().requires_grad_(False) if isinstance(part, nn.Module) else part

    def remove(self) -> None:
        shutil.rmtree(self.folder)
