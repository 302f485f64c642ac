"""Self-attention coupled over a set, within masks found on the way: what `shared_attention` puts into a frozen UNet.

The coupling is `jedi.attention`'s; this module adds to it where to look in the other images. Instead of a mask over
`(n l) x (n l)` scores, the other images' keys and values outside of their subject are left out: it is the same sum,
needs no memory, and is faster the smaller the subject is.

Letters as in jedi.attention: ``b`` sets (twice as many under guidance: first all without, then all with the prompt),
``n`` images a set, ``l`` tokens an image, ``h`` heads, ``d`` channels of a head; ``H W`` is the grid of the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from jedi.attention import JointAttnProcessor, JointContext, install_joint_attention
from jedi.errors import InputError


@dataclass
class SharedContext(JointContext):
    """What one call of a *pipeline* tells its attention layers; :meth:`end_step` after each step."""

    shared: bool = True
    """Whether images attend to one another in this step."""
    grid: tuple[int, int] = (0, 0)
    """H, W of the latents."""
    words: Tensor | None = None
    """``[(b n) t]``, bool: the tokens of each prompt that name the subject; None: no masks."""
    mask: Tensor | None = None
    """``[(b n) H W]``, bool: where the subject is, as far as is known after the last step."""
    _maps: Tensor | None = None
    """``[(b n) H W]``: sum over layers and steps of the share of attention that goes to the subject's words."""

    def add_map(self, attn: nn.Module, hidden_states: Tensor, text: Tensor) -> None:
        """Adds a cross-attention layer's map: ``[(b n) l d], [(b n) t d]``. Under guidance the prompts are last."""
        count = self.words.shape[0]
        query, key = attn.to_q(hidden_states[-count:]), attn.to_k(text[-count:])
        query, key = (rearrange(x, "bn l (h d) -> bn h l d", h=attn.heads) for x in (query, key))
        scores = (query.float() @ key.float().transpose(-1, -2)) * query.shape[-1] ** -0.5
        share = (scores.softmax(-1) * self.words.to(scores.device)[:, None, None]).sum(-1).mean(1)
        height, width = grid_of(share.shape[-1], self.grid)
        share = rearrange(share, "bn (h w) -> bn 1 h w", h=height, w=width)
        share = F.interpolate(share, self.grid, mode="bilinear").squeeze(1)
        self._maps = share if self._maps is None else self._maps + share

    def end_step(self) -> None:
        """Makes the next step's mask from all that has been seen."""
        if self._maps is not None:
            self.mask = grow(above_otsu(self._maps))


class MaskedSharedAttnProcessor(JointAttnProcessor):
    """jedi's processor; with a :class:`SharedContext` that holds a mask, the other images are seen within it only."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        joint: SharedContext | None = None,
    ) -> Tensor:
        """``[(b n) l d] -> [(b n) l d]``. ``joint`` arrives through the UNet's ``cross_attention_kwargs``."""
        if encoder_hidden_states is not None and joint is not None and joint.words is not None:
            joint.add_map(attn, hidden_states, encoder_hidden_states)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, joint)

    def _coupled(self, query: Tensor, key: Tensor, value: Tensor, joint: SharedContext) -> Tensor:
        if not joint.shared:
            return self.kernel(query, key, value)
        if joint.mask is None:
            return super()._coupled(query, key, value, joint)
        length = query.shape[2]
        mask = F.adaptive_max_pool2d(joint.mask.float()[:, None], grid_of(length, joint.grid)).flatten(1).bool()
        mask = mask.repeat(query.shape[0] // mask.shape[0], 1)  # the same for the branches of guidance
        return attend_within(query, key, value, mask, joint.num_images, self.kernel)


def attend_within(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, n: int, attend: Callable) -> Tensor:
    """Each image attends to all of itself, and to the others of its set where their ``mask`` ``[(b n) l]`` is on.

    ``[(b n) h l d]``, three times -> the same shape.
    """
    out = []
    for i in range(query.shape[0]):
        first = i - i % n
        seen = [(x, slice(None) if x == i else mask[x]) for x in range(first, first + n)]
        keys, values = (torch.cat([part[x][:, where] for x, where in seen], dim=1) for part in (key, value))
        out.append(attend(query[i : i + 1], keys[None], values[None]))
    return torch.cat(out)


def grid_of(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a layer with so many tokens, in a UNet that halves ``grid`` (rounding up) level by level."""
    height, width = grid
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise InputError(f"an attention layer of {tokens} tokens does not fit latents of {grid[0]} x {grid[1]}")
    return height, width


def above_otsu(maps: Tensor) -> Tensor:
    """``[m H W]`` -> bool: what lies above the threshold that parts a map's values best in two (Otsu, 1979: the
    largest variance between the classes). A map of one value is on everywhere."""
    values = maps.flatten(1).double().sort(dim=1).values
    count, total = values.shape[1], values.sum(1, keepdim=True)
    below = torch.arange(1, count, device=maps.device)
    sums = values.cumsum(1)[:, :-1]
    between = (below / count) * (1 - below / count) * ((total - sums) / (count - below) - sums / below) ** 2
    threshold = values.gather(1, between.argmax(1, keepdim=True))
    flat = values[:, :1] == values[:, -1:]
    return ((maps.flatten(1).double() > threshold) | flat).view_as(maps)


def grow(mask: Tensor) -> Tensor:
    """``[m H W]``, bool: on wherever a neighbour (of eight) is on."""
    return F.max_pool2d(mask.float()[:, None], 3, stride=1, padding=1)[:, 0].bool()


def install_masked_shared_attention(unet: nn.Module) -> None:
    """Puts :class:`MaskedSharedAttnProcessor` on every attention of a UNet. Raises ``InputError`` as
    ``jedi.attention.install_joint_attention`` does."""
    install_joint_attention(unet)  # refuses layers that are not plain
    unet.set_attn_processor(
        {name: MaskedSharedAttnProcessor(name.removesuffix(".processor")) for name in unet.attn_processors}
    )
