"""Captions through the text encoder, the same in training and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.utils import logging
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from jedi.errors import short

logger = logging.get_logger(__name__)


def caption_length(tokenizer: Any, text_encoder: Any) -> int:
    """Tokens of a caption: a tokenizer may not know (transformers then says 1e30), the text encoder always does."""
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def encode_captions(tokenizer: Any, text_encoder: Any, captions: Sequence[str]) -> Tensor:
    """Captions ``[n]`` -> the text encoder's last hidden state ``[n l d]``, padded to :func:`caption_length`.

    A longer caption is cut, with a warning.
    """
    captions, limit = list(captions), caption_length(tokenizer, text_encoder)
    lengths = [len(ids) for ids in tokenizer(captions).input_ids]
    if too_long := [x for x, length in zip(captions, lengths, strict=True) if length > limit]:
        logger.warning(f"cut to {limit} tokens, captions: {len(too_long)} ({short(too_long[0])})")
    tokens = tokenizer(captions, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    return text_encoder(tokens.input_ids.to(get_module_execution_device(text_encoder)))[0]
