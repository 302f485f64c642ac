"""Small models of the real classes with random weights: everything a test needs that is not about quality.

The sizes differ from one another on purpose (4 latent channels, 8 x 8 latents, 16 tokens), so that code which
mixes two of them up fails.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

PIXELS = 32
LATENT_CHANNELS = 4
LATENT_SIDE = PIXELS // 4
TEXT_WIDTH = 32
TEXT_LENGTH = 16
WORDS = ("a", "the", "red", "blue", "cat", "dog", "bird", "cup", "on", "in", "with", "and", "grass", "beach")


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows a few whole words and falls back to single characters for the rest."""
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*characters, *(character + "</w>" for character in characters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            left, right, *rest = parts
            merges.append(f"{left} {right}")
            pieces.append(left + right)
            parts = [left + right, *rest]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    pairs = [tuple(merge.split()) for merge in dict.fromkeys(merges)]
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=TEXT_LENGTH)


def text_encoder(vocabulary: int, width: int = TEXT_WIDTH, kind: type = CLIPTextModel) -> CLIPTextModel:
    """A two-layer CLIP text encoder; token ids run to `vocabulary`, the end token being the last one."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=64,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return kind(config).eval()


def vae() -> AutoencoderKL:
    """An f4 autoencoder: [b 3 H W] pixels to [b 4 H/4 W/4] latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        sample_size=PIXELS,
        scaling_factor=0.5,
    ).eval()


def unet(in_channels: int = LATENT_CHANNELS, text_width: int = TEXT_WIDTH, **config) -> UNet2DConditionModel:
    """A stock two-level UNet, attention at both; `in_channels` is c (plain) or 2c + 1 (inpainting)."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=in_channels,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=text_width,
        attention_head_dim=2,  # diffusers' name for the number of heads
        **config,
    ).eval()


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, v-prediction, no clipping."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def components(seed: int = 0, in_channels: int = LATENT_CHANNELS) -> dict:
    """vae, text_encoder, tokenizer, unet, scheduler under `seed`; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer()
        return {
            "vae": vae(),
            "text_encoder": text_encoder(len(words)),
            "tokenizer": words,
            "unet": unet(in_channels),
            "scheduler": scheduler(),
        }


def xl_components(seed: int = 0, in_channels: int = LATENT_CHANNELS) -> dict:
    """The parts of a SD-XL: a second text encoder (of another width), a UNet that reads pooled text and sizes."""
    parts = components(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        second, words = 24, len(parts["tokenizer"])
        xl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        xl["projection_class_embeddings_input_dim"] = second + 6 * 8
        return parts | {
            "text_encoder_2": text_encoder(words, second, CLIPTextModelWithProjection),
            "tokenizer_2": tokenizer(),
            "unet": unet(in_channels, TEXT_WIDTH + second, **xl),
        }


def save_base(parts: dict, folder: Path, pipeline: str = "StableDiffusionPipeline") -> Path:
    """Writes `parts` as the folder of a plain pipeline, as a base model comes."""
    index = {"_class_name": pipeline, "_diffusers_version": "0.42.0"}
    index["requires_safety_checker"] = False
    for name in ("safety_checker", "feature_extractor", "image_encoder"):
        index[name] = [None, None]
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "transformers" if type(part).__module__.startswith("transformers") else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder
