"""Models of the real classes, so small that they cost next to nothing: what remains is the code around them.

Their weights are random; `text_to_image` alone is as large as the shipped model. Each function writes a folder.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTextModel,
    CLIPTokenizer,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
)

JEDI = Path(__file__).resolve().parent.parent / "models" / "jedi-tiny"
LAYERS = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION = {**LAYERS, "image_size": 32, "patch_size": 8}
WIDTH = 16  # of CLIP's embeddings


def text_to_image(folder: Path) -> Path:
    """A StableDiffusionPipeline with the parts of models/jedi-tiny and a UNet of its shape: images of 64 pixels."""
    settings = UNet2DConditionModel.load_config(JEDI / "unet")
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(JEDI / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(JEDI / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(JEDI / "tokenizer"),
        unet=UNet2DConditionModel.from_config({**settings, "in_channels": settings["out_channels"]}),
        scheduler=DDIMScheduler.from_pretrained(JEDI / "scheduler"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def inpainting(folder: Path) -> Path:
    """A StableDiffusionInpaintPipeline with a UNet and a VAE of few channels; its class wants latents of four."""
    text_to_image(folder)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    UNet2DConditionModel(
        sample_size=16, in_channels=9, out_channels=4, cross_attention_dim=128, block_out_channels=(16, 16),
        layers_per_block=1, norm_num_groups=8, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        attention_head_dim=8,
    ).save_pretrained(folder / "unet")  # fmt: skip
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionInpaintPipeline"}))
    return folder


def clip(folder: Path) -> Path:
    """A CLIPModel."""
    words = CLIPTokenizer.from_pretrained(JEDI / "tokenizer")
    CLIPModel(CLIPConfig(text_config=_text(words), vision_config=VISION, projection_dim=WIDTH)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def aesthetic_head(file: Path) -> Path:
    """A linear head over the embeddings of `clip`."""
    save_file({"weight": torch.randn(1, WIDTH), "bias": torch.zeros(1)}, file)
    return file


def clipseg(folder: Path) -> Path:
    """A CLIPSegForImageSegmentation."""
    words = CLIPTokenizer.from_pretrained(JEDI / "tokenizer")
    config = CLIPSegConfig(
        text_config=_text(words), vision_config=VISION, projection_dim=WIDTH, extract_layers=[0, 1], reduce_dim=12,
        decoder_num_attention_heads=3, decoder_intermediate_size=16,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def captioner(folder: Path) -> Path:
    """A BlipForConditionalGeneration of a few words."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "dog", "cat", "on", "the", "beach"]
    text = {**LAYERS, "vocab_size": len(vocabulary), "encoder_hidden_size": 24, "max_position_embeddings": 40}
    text |= {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    return folder


def detector(folder: Path) -> Path:
    """A YolosForObjectDetection that knows persons."""
    config = YolosConfig(
        **LAYERS, image_size=[32, 32], patch_size=8, num_detection_tokens=5, id2label={0: "chair", 1: "person"},
        label2id={"chair": 0, "person": 1},
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def safety_checker(folder: Path) -> Path:
    """A StableDiffusionSafetyChecker."""
    StableDiffusionSafetyChecker(CLIPConfig(vision_config=VISION, projection_dim=WIDTH)).save_pretrained(folder)
    return folder


def _text(words: CLIPTokenizer) -> dict[str, int]:
    """A text tower for this tokenizer."""
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    return {**LAYERS, **ends, "vocab_size": len(words), "max_position_embeddings": words.model_max_length}
