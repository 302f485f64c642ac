"""Guidance by text and by references (docs/method.md §5): pure functions of the predictions of up to four branches.

A branch is a network call ``e(references, text)``; names say what it is given:

==========  =============  ==========================================================================
``full``    e(refs, text)
``refs``    e(refs, 0)     the empty caption
``text``    e(0, text)     the references are removed from the set: a call of its own (other key length)
``none``    e(0, 0)
==========  =============  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jedi.io.registry import Registry

GUIDANCE: Registry[Guidance] = Registry("guidance")


class Guidance(NamedTuple):
    """A rule: the branches it needs, and ``combine(branches, guidance_scale, image_guidance_scale)``.

    With ``guidance_scale = image_guidance_scale = 1`` every rule but the rescaled one gives ``full``.
    """

    branches: tuple[str, ...]
    combine: Callable[[dict[str, Tensor], float, float], Tensor]

    @property
    def weighs_references(self) -> bool:
        """Whether it weighs the references by themselves, that is uses the image guidance scale."""
        return {"none", "refs"} <= set(self.branches)


def two_branch(e: dict[str, Tensor], guidance_scale: float, image_guidance_scale: float) -> Tensor:
    """e(refs,0) + s_text [e(refs,text) - e(refs,0)] (docs/method.md eq. 6); the image guidance scale is not used."""
    return e["refs"] + guidance_scale * (e["full"] - e["refs"])


def plain(e: dict[str, Tensor], guidance_scale: float, image_guidance_scale: float) -> Tensor:
    """e(0,0) + s [e(refs,text) - e(0,0)] (eq. 7): one scale for both; the image guidance scale is not used."""
    return e["none"] + guidance_scale * (e["full"] - e["none"])


def three_branch(e: dict[str, Tensor], guidance_scale: float, image_guidance_scale: float) -> Tensor:
    """e(0,0) + s_image [e(refs,0) - e(0,0)] + s_text [e(refs,text) - e(refs,0)] (eq. 5; arXiv 2211.09800)."""
    return e["none"] + image_guidance_scale * (e["refs"] - e["none"]) + guidance_scale * (e["full"] - e["refs"])


def three_branch_rescaled(e: dict[str, Tensor], guidance_scale: float, image_guidance_scale: float) -> Tensor:
    """Like ``three_branch``, both differences shortened to the norm of the smaller one (SynCD, arXiv 2502.01720).

    Against over-exposure at high image guidance scales. The norm is an image's, over ``c h w``. With scales of 1 and
    norms that differ this is not ``full``: the shortening is the point (the pipeline takes two scales of 1 as "no
    guidance").
    """
    by_reference, by_text = e["refs"] - e["none"], e["full"] - e["refs"]
    norms = [x.flatten(-3).norm(dim=-1)[..., None, None, None] for x in (by_reference, by_text)]
    # A difference of nothing (there are no references) must not shorten the other one to nothing.
    both = (norms[0] > 0) & (norms[1] > 0)
    least = torch.where(both, norms[0].minimum(norms[1]), norms[0].maximum(norms[1]))
    by_reference, by_text = (
        x * least / norm.clamp(min=1e-8) for x, norm in zip((by_reference, by_text), norms, strict=True)
    )
    return e["none"] + image_guidance_scale * by_reference + guidance_scale * by_text


GUIDANCE.register("two_branch")(Guidance(("refs", "full"), two_branch))
GUIDANCE.register("plain")(Guidance(("none", "full"), plain))
GUIDANCE.register("three_branch")(Guidance(("none", "refs", "full"), three_branch))
GUIDANCE.register("three_branch_rescaled")(Guidance(("none", "refs", "full"), three_branch_rescaled))


def rescale(guided: Tensor, full: Tensor, share: float) -> Tensor:
    """``share`` (0 to 1) of the guided prediction with the standard deviation that ``full`` has, image by image.

    Against over-exposure, with zero terminal SNR above all: diffusers' `guidance_rescale`, arXiv 2305.08891 §3.4.
    """
    deviation = lambda x: x.flatten(-3).std(dim=-1)[..., None, None, None]
    return share * guided * (deviation(full) / deviation(guided)) + (1 - share) * guided


def in_interval(index: int, num_steps: int, interval: tuple[float, float]) -> bool:
    """Whether step ``index`` of ``num_steps`` lies in an interval given in shares of the run: ``(0, 1)`` is all of it.

    Guidance that is on in a part of the steps only: arXiv 2404.07724.
    """
    start, end = interval
    return start <= (index + 0.5) / num_steps <= end
