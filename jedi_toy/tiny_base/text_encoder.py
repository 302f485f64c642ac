"""The small base's tokenizer and text encoder (``python -m jedi_toy.tiny_base``), learnt from captions and images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jedi.rng import keyed_generator
from jedi_toy.fit import fit
from jedi_toy.tiny_base.config import TextEncoderConfig, TextTowerConfig

log = logging.getLogger(__name__)


def train_tokenizer(captions: Iterable[str], config: TextTowerConfig) -> CLIPTokenizer:
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


def text_settings(config: TextTowerConfig, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """What CLIPTextConfig takes."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def train_text_encoder(
    tokenizer: CLIPTokenizer, captions: Sequence[str], images: Tensor, config: TextEncoderConfig, seed: int
) -> CLIPTextModel:
    """A small CLIPTextModel, trained so that its states from the end token on tell what the image looks like.

    The task: a linear map of each such state gives the image's thumbnail. It is learnt in minutes, and a UNet then
    reads from any of these states what a background or a class looks like, where it would spend its first thousands of
    steps on finding out which words matter. ``images`` ``[i 3 H W]``, one caption each.
    """
    encoder = CLIPTextModel(CLIPTextConfig(**text_settings(config, tokenizer), projection_dim=config.width))
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
    thumbnails = F.adaptive_avg_pool2d(images, config.thumbnail).flatten(1)
    thumbnails = (thumbnails - thumbnails.mean(0)) / thumbnails.std()
    head = nn.Linear(config.width, thumbnails.shape[1])
    generator = keyed_generator(seed, "text")
    check = max(1, len(tokens) // 16)  # the last ones are kept out, to see what is learnt

    def error(rows: Tensor | slice) -> Tensor:
        states = encoder(tokens[rows]).last_hidden_state
        ended = (tokens[rows] == tokenizer.eos_token_id).float()  # the padding is end tokens too, as in CLIP
        squared = (head(states) - thumbnails[rows, None]).square().mean(-1)
        return (squared * ended).sum() / ended.sum()

    def loss(step: int) -> tuple[Tensor, str]:
        value = error(torch.randint(len(tokens) - check, (config.batch_size,), generator=generator))
        return value, f"unexplained {value.item():.2f}"

    networks = {"encoder": encoder, "head": head}
    fit("text encoder", networks, loss, config.steps, config.learning_rate, weight_decay=0.01)
    encoder.eval().requires_grad_(False)
    with torch.no_grad():
        log.info(
            "text encoder: %.2f of the thumbnails' variance unexplained, on unseen images", error(slice(-check, None))
        )
    return encoder
