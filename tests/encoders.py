"""Folders with small encoders of the real classes, whose weights depend on nothing but their names.

Neither the order in which a library makes its layers nor its initialisation matters, so scores can be pinned. The
weights are large: with the usual small ones all images would get nearly the same embedding.
"""

from pathlib import Path

import timm
import torch
from PIL import Image, ImageDraw
from torch import nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from jedi.rng import keyed_seed
from tests import tiny

SIDE = 32
CAPTION_WORDS = (*tiny.WORDS, "photo", "of", "animal", "food", "thing", "fox", "apple")
"""All that the captioner can say."""
LAYERS = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3}


def fill(model: nn.Module) -> nn.Module:
    """Sets every weight by its name."""
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if not weight.is_floating_point() or not weight.dim():
                continue
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(keyed_seed(0, name)))
            if weight.dim() > 1:
                weight.copy_(noise * 1.5 / weight[0].numel() ** 0.5)
            else:  # what multiplies stays near 1, what is added near 0
                factor = name.endswith((".weight", ".lambda1", ".running_var"))
                weight.copy_(factor + 0.1 * noise)
    return model.eval()


def save_clip(folder: Path) -> Path:
    """A CLIPModel of two layers a side, with its tokenizer; its processor is the class's default for 32 pixels."""
    words = tiny.tokenizer()
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = {**LAYERS, **ends, "vocab_size": len(words), "max_position_embeddings": tiny.TEXT_LENGTH}
    vision = {**LAYERS, "image_size": SIDE, "patch_size": 8}
    fill(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_dino(folder: Path) -> Path:
    """A ViTModel without a pooling layer, as DINO's come."""
    config = ViTConfig(**LAYERS, image_size=SIDE, patch_size=8)
    fill(ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path) -> Path:
    """A Dinov2Model; ``image_size`` is not what images are cropped to, as in the published ones (518 and 224)."""
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=70, patch_size=14)
    fill(Dinov2Model(config)).save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    """A BlipForImageTextRetrieval with a tokenizer of a few words."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tiny.WORDS]
    text = {**LAYERS, "vocab_size": len(vocabulary), "encoder_hidden_size": 24, "max_position_embeddings": 12}
    text |= {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**LAYERS, "image_size": SIDE, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)
    fill(BlipForImageTextRetrieval(config)).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    return folder


def save_captioner(folder: Path) -> Path:
    """A BlipForConditionalGeneration with a tokenizer of a few words and a processor."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *CAPTION_WORDS]
    text = {**LAYERS, "vocab_size": len(vocabulary), "encoder_hidden_size": 24, "max_position_embeddings": 24}
    text |= {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 2, "pad_token_id": 0}
    settings = BlipConfig(text_config=text, vision_config={**LAYERS, "image_size": 32, "patch_size": 8})
    fill(BlipForConditionalGeneration(settings)).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_timm(folder: Path) -> Path:
    """A small convolutional model of timm with its own preprocessing."""
    model = fill(timm.create_model("test_resnet", num_classes=5))
    data = {
        "input_size": [3, 40, 40],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "mean": [0.4] * 3,
        "std": [0.3] * 3,
    }
    timm.models.save_for_hf(
        model, folder, model_config={"pretrained_cfg": {**data, "num_classes": 5}}, safe_serialization=True
    )
    return folder


def images() -> list[Image.Image]:
    """Four fixed drawings, wide, high and square: crops and squeezes show."""
    drawings = []
    for i, size in enumerate([(60, 40), (40, 60), (48, 48), (90, 30)]):
        image = Image.linear_gradient("L").resize(size).convert("RGB")
        draw = ImageDraw.Draw(image)
        width, height = size
        draw.rectangle(
            (2, 3, width // 3, height - 5), fill=((200, 30, 40), (30, 160, 60), (20, 40, 220), (240, 200, 0))[i]
        )
        draw.rectangle((width // 2, height // 4, width - 4, height // 2), fill=(250 - 60 * i, 40 * i, 90))
        drawings.append(image)
    return drawings
