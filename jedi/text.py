"""Encoded captions on their way to the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedText:
    """Encoded captions, and what else SD-XL is told of an image. Dots are the same leading dimensions in all."""

    embeds: Tensor
    """``[... l d]``: a caption by its tokens."""
    pooled: Tensor | None = None
    """``[... p]``: a caption as a whole; SD-XL only."""
    time_ids: Tensor | None = None
    """``[... 6]``, of :meth:`sized`; SD-XL only."""

    @property
    def added_cond_kwargs(self) -> dict[str, Tensor] | None:
        """What a UNet of SD-XL takes by this name; None for the others."""
        if self.pooled is None:
            return None
        assert self.time_ids is not None, "EncodedText.sized comes before the network"
        return {"text_embeds": self.pooled, "time_ids": self.time_ids}

    def sized(self, height: int, width: int, origins: Tensor | None = None) -> EncodedText:
        """For SD-XL: of images of this size in pixels. The same text for other models.

        ``origins [... 4]``: height and width that each was made at, and where it was cropped
        (:func:`jedi.shards.origins_of`); None: made at this size, not cropped.
        """
        if self.pooled is None:
            return self
        size = torch.tensor([height, width])
        origins = torch.tensor([height, width, 0, 0]) if origins is None else origins
        time_ids = torch.cat([origins, size.to(origins.device).expand(*origins.shape[:-1], 2)], dim=-1)
        return replace(self, time_ids=time_ids.to(self.pooled).expand(*self.pooled.shape[:-1], 6))

    def map(self, function: Callable[[Tensor], Tensor]) -> EncodedText:
        """``function`` of each tensor."""
        tensors = ((field.name, getattr(self, field.name)) for field in fields(self))
        return EncodedText(**{name: function(tensor) for name, tensor in tensors if tensor is not None})

    def __getitem__(self, index: Any) -> EncodedText:
        """By the leading dimensions."""
        return self.map(lambda tensor: tensor[index])

    def expand(self, *leading: int) -> EncodedText:
        """As ``Tensor.expand`` of the leading dimensions."""
        dims = self.embeds.ndim - 2
        return self.map(lambda tensor: tensor.expand(*leading, *tensor.shape[dims:]))

    @staticmethod
    def cat(texts: Sequence[EncodedText], dim: int = 0) -> EncodedText:
        """As ``torch.cat`` along a leading dimension."""
        columns = {field.name: [getattr(text, field.name) for text in texts] for field in fields(EncodedText)}
        return EncodedText(**{name: torch.cat(x, dim) for name, x in columns.items() if x[0] is not None})
