"""A model whose coupling was never trained, for the row of that name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from jedi.attention import ReferenceCache
from jedi.pipeline import JediPipeline
from jedi.rng import keyed_generator


class UntrainedCoupling(JediPipeline):
    """The same network, but targets read the references through key and value projections that were never trained.

    In each self-attention layer the references' keys and values are turned by random rotations, which is what the
    projections drawn anew would give them, at the trained ones' scale. All else is as trained: the images stay good,
    and what the references still bring is what attention to anything brings. For cacheable modes (`one_way`) only:
    there the references stand apart from the targets.
    """

    @classmethod
    def of(cls, pipe: JediPipeline, seed: int = 0) -> UntrainedCoupling:
        """Shares the parts of ``pipe``."""
        made = cls(**pipe.components, **pipe.parameters)
        made.seed = seed
        made.set_progress_bar_config(disable=True)
        return made

    def _encode_references(self, *references: Any) -> ReferenceCache:
        trained = super()._encode_references(*references)
        layers = {
            name: (key @ self._rotation(key, name, 0), value @ self._rotation(value, name, 1))
            for name, (key, value) in trained.layers.items()
        }
        return replace(trained, layers=layers)

    def _rotation(self, x: torch.Tensor, *key: Any) -> torch.Tensor:
        """``[h d d]`` for ``x`` ``[b h l d]``, the same for all references."""
        noise = torch.randn(x.shape[1], x.shape[3], x.shape[3], generator=keyed_generator(self.seed, *key))
        return torch.linalg.qr(noise).Q.to(x)
