"""Small pipelines of the real classes with random weights, a prompt book and a configuration, for tests of sources."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from data_gen.context import Context
from data_gen.prompts import PromptSet, Subject
from data_gen.prompts.prompt_set import save
from tests import tiny

SUBJECTS = ("red cat", "blue bird", "dog", "cup", "red fox", "teapot", "robot", "candle", "duck", "clock")
PLACES = ("on the grass", "on the beach", "in a cup", "with a bird", "and a dog", "in the red", "on the blue")


def context(out: Path | str = "unused", **changes) -> Context:
    """What a source reads of the configuration, its own section aside."""
    common = {"sets": 6, "heldout_sets": 2, "images_per_set": 2, "resolution": 32, "device": "cpu"}
    return Context(str(out), **{**common, **changes})


def save_flux(folder: Path) -> Path:
    """A FluxPipeline folder: a transformer of two blocks, CLIP and T5, images of 32 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip_words = tiny.tokenizer()
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
        pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
        t5_words = T5Tokenizer(vocab=pieces, extra_ids=0)
        t5 = T5Config(
            vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=0
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=32,
            scaling_factor=1.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
        transformer = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=tiny.TEXT_WIDTH, axes_dims_rope=(4, 4, 8),
        )  # fmt: skip
        pipe = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=vae,
            text_encoder=tiny.text_encoder(len(clip_words)),
            tokenizer=clip_words,
            text_encoder_2=T5EncoderModel(t5).eval(),
            tokenizer_2=t5_words,
            transformer=transformer,
        )
    pipe.save_pretrained(folder)
    return folder


def save_inpainting(folder: Path) -> Path:
    """A StableDiffusionInpaintPipeline folder: its UNet has 9 input channels."""
    tiny.save_base(tiny.components(in_channels=9), folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"))
    return folder


def write_book(folder: Path, subjects: Sequence[str] = SUBJECTS, scenes: int = 6) -> Path:
    """A folder with the prompts.json of these subjects; of the usual ones, "robot" is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [
        Subject(
            id=name.replace(" ", "-"),
            name=name,
            category="thing",
            scenes=[f"a {name} {place}" for place in PLACES[:scenes]],
            collage=f"a collage of a {name}",
            look=f"a {name} with a hat",
        )
        for name in subjects
    ]
    save(PromptSet(found), folder)
    return folder


def save_plain_jedi(root: Path, folder: Path) -> Path:
    """models/jedi-tiny as a plain text-to-image pipeline: real images, from a UNet that never saw a reference.

    Of its input layer the channels of the noisy latents stay; those of the mask, which is 1 everywhere where nothing
    is given, go into the bias (exact but for the outermost pixels), and those of the given latents (0) go.
    """
    model = root / "models" / "jedi-tiny"
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    c, joint = unet.config.out_channels, unet.conv_in
    unet.conv_in = torch.nn.Conv2d(c, joint.out_channels, 3, padding=1)
    with torch.no_grad():
        unet.conv_in.weight.copy_(joint.weight[:, :c])
        unet.conv_in.bias.copy_(joint.bias + joint.weight[:, c].sum((1, 2)))
    unet.register_to_config(in_channels=c)
    parts = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "tokenizer": CLIPTokenizer}
    parts = {name: kind.from_pretrained(model / name) for name, kind in parts.items()}
    return tiny.save_base(
        parts | {"unet": unet, "scheduler": DDIMScheduler.from_pretrained(model / "scheduler")}, folder
    )
