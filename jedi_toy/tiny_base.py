"""A whole text-to-image base in Stable Diffusion's form, small enough for a CPU: ``python -m jedi_toy.tiny_base``.

Where no hub can be reached, this makes the folder that ``train.py`` takes as ``base``: a trained VAE, a tokenizer with
its own vocabulary, a small CLIP text encoder, an untrained UNet and a scheduler, all stock classes of diffusers and
transformers. With a real Stable Diffusion at hand none of this is needed.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jedi.io.command_line import Parser, add_settings, exit_code, help_at_once


def make_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(prog="python -m jedi_toy.tiny_base", description=__doc__.split("\n")[0])
    add_settings(parser, "configs/base/tiny.yaml", "out=models/tiny-base")
    return parser


if __name__ == "__main__":
    help_at_once(make_parser)

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jedi.data import SetDataset, SetIndex
from jedi.io.config import of_command, to_dict
from jedi.io.files import atomic, write_json
from jedi.io.ranges import Count, Positive, Whole
from jedi.rng import keyed_generator, seed_global
from jedi_toy.tiny_vae import VaeConfig, train_vae

log = logging.getLogger(__name__)


@dataclass
class UNetConfig:
    """UNet2DConditionModel; ``attention[i]`` says whether level i has attention."""

    block_out_channels: list[Count] = field(default_factory=lambda: [64, 128])
    attention: list[bool] = field(default_factory=lambda: [False, True])
    layers_per_block: Count = 1
    attention_heads: Count = 4


@dataclass
class TextEncoderConfig:
    """CLIPTokenizer and CLIPTextModel, and how the latter is trained: captions foretell thumbnails of images."""

    vocabulary: Count = 1500
    length: Count = 40
    width: Count = 128
    layers: Count = 2
    heads: Count = 4
    thumbnail: Count = 8
    """Side of the thumbnails in pixels."""
    steps: Count = 3000
    batch_size: Count = 64
    learning_rate: Positive = 1e-3


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


def train_tokenizer(captions: Iterable[str], config: TextEncoderConfig) -> CLIPTokenizer:
    """A CLIPTokenizer (byte-pair encoding, lower case, words end in ``</w>``), its vocabulary learnt from captions."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", continuing_subword_prefix="", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.decoder = decoders.BPEDecoder(suffix="</w>")
    bpe.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=config.vocabulary,
            # Word-ending letters come first too: any word can be spelt then, and their numbers (which decide between
            # merges of equal frequency) do not depend on the order in which the trainer's hash map gives the words.
            special_tokens=["<|startoftext|>", "<|endoftext|>", *(letter + "</w>" for letter in letters)],
            initial_alphabet=letters,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learnt = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    return CLIPTokenizer(vocab=learnt["vocab"], merges=merges, model_max_length=config.length)


def train_text_encoder(
    tokenizer: CLIPTokenizer, captions: Sequence[str], images: Tensor, config: TextEncoderConfig, seed: int
) -> CLIPTextModel:
    """A small CLIPTextModel, trained so that its states from the end token on tell what the image looks like.

    The task: a linear map of each such state gives the image's thumbnail. It is learnt in minutes, and a UNet then
    reads from any of these states what a background or a class looks like, where it would spend its first thousands of
    steps on finding out which words matter. ``images`` ``[i 3 H W]``, one caption each.
    """
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            projection_dim=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
    thumbnails = F.adaptive_avg_pool2d(images, config.thumbnail).flatten(1)
    thumbnails = (thumbnails - thumbnails.mean(0)) / thumbnails.std()
    head = nn.Linear(config.width, thumbnails.shape[1])
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    generator = keyed_generator(seed, "text")
    check = max(1, len(tokens) // 16)  # the last ones are kept out, to see what is learnt

    def error(rows: Tensor | slice) -> Tensor:
        states = encoder(tokens[rows]).last_hidden_state
        ended = (tokens[rows] == tokenizer.eos_token_id).float()  # the padding is end tokens too, as in CLIP
        squared = (head(states) - thumbnails[rows, None]).square().mean(-1)
        return (squared * ended).sum() / ended.sum()

    progress = tqdm(range(config.steps), desc="text encoder", unit="step", dynamic_ncols=True)
    for step in progress:
        loss = error(torch.randint(len(tokens) - check, (config.batch_size,), generator=generator))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix_str(f"unexplained {loss.item():.2f}")
    encoder.eval().requires_grad_(False)
    with torch.no_grad():
        log.info(
            "text encoder: %.2f of the thumbnails' variance unexplained, on unseen images", error(slice(-check, None))
        )
    return encoder


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
    text_encoder = parts.get(
        "text_encoder",
        CLIPTextModel,
        lambda: train_text_encoder(tokenizer, captions, images, config.text, config.seed),
    )
    vae = parts.get("vae", AutoencoderKL, lambda: train_vae(images, config.vae, config.seed))
    factor = 2 ** (len(config.vae.block_out_channels) - 1)
    seed_global(config.seed)
    unet = make_unet(config.unet, config.vae.latent_channels, images.shape[-1] // factor, config.text.width)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,  # the last step is pure noise (arXiv 2305.08891): flat images need it
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    base = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with atomic(out) as temporary:
        base.save_pretrained(temporary)
    parts.remove()
    return out


class _Parts:
    """What has been trained of a base, in a folder beside it: an interrupted command goes on after its last part."""

    def __init__(self, out: Path, config: TinyBaseConfig) -> None:
        self.folder, self.seed = out.with_name(f"{out.name}.parts"), config.seed
        settings = {**to_dict(config), "out": out.name, "data": SetIndex.read(config.data).fingerprint}
        record = self.folder / "settings.json"
        kept = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
        if self.folder.exists() and kept != settings:
            log.info("%s holds parts of a base with other settings: they are made anew", self.folder)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: ``--config FILE key=value ...``. Returns the exit code."""
    parser = make_parser()

    def work() -> None:
        if (config := of_command(TinyBaseConfig, parser.parse_args(argv))) is not None:
            logging.basicConfig(level=logging.INFO, format="%(message)s")
            log.info("base model: %s", make(config))

    kept = "; finished parts are kept, the same command goes on"
    return exit_code("tiny_base", work, kept, "smaller batch sizes, or fewer images, need less")


if __name__ == "__main__":
    sys.exit(main())
