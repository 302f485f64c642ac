"""Captions through the text encoders, the same in training and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils import logging
from diffusers.utils.torch_utils import get_module_execution_device

from jedi.errors import short
from jedi.text import EncodedText

logger = logging.get_logger(__name__)


def caption_length(tokenizer: Any, text_encoder: Any) -> int:
    """Tokens of a caption: a tokenizer may not know (transformers then says 1e30), the text encoder always does."""
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def encode_captions(
    model: Any, captions: Sequence[str], clip_skip: int | None = None, captions_2: Sequence[str] | None = None
) -> EncodedText:
    """Captions ``[n]`` -> :class:`EncodedText` ``[n ...]``, padded to :func:`caption_length` or cut to it.

    SD 1.x and 2.x read the last hidden state of one text encoder. SD-XL reads the last but one of two, side by side,
    and the pooled text of the second; where the model was trained so, the empty caption is zeros.

    Args:
        model: a pipeline or a base: what has ``tokenizer`` and ``text_encoder``, ``tokenizer_2`` and
            ``text_encoder_2`` or None, and ``force_zeros_for_empty_prompt``.
        clip_skip: so many last layers are passed over, as in diffusers.
        captions_2: what the second text encoder of SD-XL reads instead.
    """
    captions = list(captions)
    if model.text_encoder_2 is None:
        if clip_skip is None:
            return EncodedText(_encode(model.tokenizer, model.text_encoder, captions)[0])
        hidden = _encode(model.tokenizer, model.text_encoder, captions, output_hidden_states=True).hidden_states
        return EncodedText(model.text_encoder.final_layer_norm(hidden[-(clip_skip + 1)]))
    layer = -(2 + (clip_skip or 0))
    first = _encode(model.tokenizer, model.text_encoder, captions, output_hidden_states=True)
    captions_2 = captions if captions_2 is None else list(captions_2)
    second = _encode(model.tokenizer_2, model.text_encoder_2, captions_2, output_hidden_states=True)
    embeds = torch.cat([first.hidden_states[layer], second.hidden_states[layer].to(first[0].device)], dim=-1)
    text = EncodedText(embeds, second.text_embeds)
    if not model.force_zeros_for_empty_prompt:
        return text
    given = torch.tensor([any(both) for both in zip(captions, captions_2, strict=True)])
    return text.map(lambda x: x * given.view(-1, *[1] * (x.ndim - 1)).to(x))


def _encode(tokenizer: Any, text_encoder: Any, captions: list[str], **options: Any) -> Any:
    limit = caption_length(tokenizer, text_encoder)
    lengths = [len(ids) for ids in tokenizer(captions).input_ids]
    if too_long := [x for x, length in zip(captions, lengths, strict=True) if length > limit]:
        logger.warning(f"cut to {limit} tokens, captions: {len(too_long)} ({short(too_long[0])})")
    tokens = tokenizer(captions, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    return text_encoder(tokens.input_ids.to(get_module_execution_device(text_encoder)), **options)
