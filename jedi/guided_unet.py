"""One guided network prediction for a batch of sets: what happens inside a sampling step.

Letters as in :mod:`jedi.pipeline`: ``b`` sets of ``k`` references and ``m`` targets, ``c h w`` latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from jedi.attention import ATTENTION_MODES, ReferenceCache
from jedi.conditioning import network_input
from jedi.guidance import Guidance, rescale
from jedi.inpainting import Inpainting
from jedi.text import EncodedText
from jedi.unet import JointUNet

BRANCHES = {"none": (False, False), "refs": (True, False), "text": (False, True), "full": (True, True)}
"""Guidance branch -> (are the references in the set, is the prompt given)."""


@dataclass
class References:
    """The given members of each set: a cache, or what enters every network call."""

    count: int
    """k."""
    cache: ReferenceCache | None = None
    latents: Tensor | None = None
    """``[k c h w]``, clean."""
    text: EncodedText | None = None
    """``[k ...]``."""
    noise: Tensor | None = None
    """``[b k c h w]``: one fixed noise a set, by which the references follow the targets' noise level; None if they
    stay clean."""


@dataclass
class Conditions:
    """Everything that the network is told besides latents and timestep; the same in every step."""

    mode: str
    """A name of ``jedi.attention.ATTENTION_MODES``."""
    text: EncodedText
    """``[b m ...]``: the prompts."""
    negative: EncodedText
    """``[1 ...]``, ``[m ...]`` or ``[b m ...]``: what stands for "no prompt", the empty caption by default."""
    references: References
    edit: Inpainting | None = None
    """For images of which a part is given."""
    attention_kwargs: Mapping[str, Any] | None = None
    """As :meth:`jedi.unet.JointUNet.forward` takes them."""

    @property
    def prompts(self) -> dict[str, Tensor]:
        """The texts of each image ``[(b m) l d]``, by diffusers' names."""
        sets = self.text.embeds.shape[:2]
        texts = {"prompt_embeds": self.text, "negative_prompt_embeds": self.negative.expand(*sets)}
        return {name: text.embeds.flatten(0, 1) for name, text in texts.items()}

    def change_prompts(self, changed: Mapping[str, Any]) -> None:
        """Takes over those of :attr:`prompts` that are there."""
        sets = self.text.embeds.shape[:2]
        new = {name: changed[name].unflatten(0, sets) for name in self.prompts if name in changed}
        if "prompt_embeds" in new:
            self.text = replace(self.text, embeds=new["prompt_embeds"])
        if "negative_prompt_embeds" in new:
            self.negative = replace(self.negative.expand(*sets), embeds=new["negative_prompt_embeds"])


class GuidedUNet:
    """The network with its conditions, as a function of latents and timestep."""

    def __init__(self, unet: JointUNet, scheduler: Any, conditions: Conditions) -> None:
        self.unet, self.scheduler, self.conditions = unet, scheduler, conditions
        self.dtype = unet.unet.dtype

    def __call__(
        self, latents: Tensor, t: Tensor, rule: Guidance, s_text: float, s_refs: float, rescaled: float = 0.0
    ) -> Tensor:
        """Guided prediction ``[(b m) c h w]`` for ``latents [(b m) c h w]`` at timestep ``t``.

        With both scales 1 guidance is off, and the network runs once. ``rescaled``: see :func:`jedi.guidance.rescale`.
        """
        if s_text == s_refs == 1:
            return self.predict(("full",), latents, t)["full"]
        if not rescaled:
            return rule.combine(self.predict(rule.branches, latents, t), s_text, s_refs)
        predicted = self.predict((*rule.branches, "full"), latents, t)
        return rescale(rule.combine(predicted, s_text, s_refs), predicted["full"], rescaled)

    def predict(self, branches: Sequence[str], latents: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Predictions ``[(b m) c h w]`` of the branches, float32.

        Branches with one set size are one network call; without references `refs` is `none`, `full` is
        `text`.
        """
        text, references = self.conditions.text, self.conditions.references
        (b, m), k = text.embeds.shape[:2], references.count
        targets = self._target_input(rearrange(latents, "(b m) c h w -> b m c h w", b=b), t)
        wanted = {name: (BRANCHES[name][0] and k > 0, BRANCHES[name][1]) for name in branches}
        predicted: dict[tuple[bool, bool], Tensor] = {}
        for with_references in sorted({x for x, _ in wanted.values()}):
            parts = sorted({part for part in wanted.values() if part[0] == with_references})
            captions = [text if with_text else self.conditions.negative.expand(b, m) for _, with_text in parts]
            out = self._call(targets.repeat(len(parts), 1, 1, 1, 1), EncodedText.cat(captions), t, with_references)
            out = rearrange(out, "b m c h w -> (b m) c h w").float()
            predicted |= zip(parts, out.chunk(len(parts)), strict=True)
        return {name: predicted[part] for name, part in wanted.items()}

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0) in the scheduler's own scale, ``[n c h w]``; see :func:`jedi.schedulers.check_sampler`."""
        return self.scheduler.add_noise(clean, noise, t.expand(len(clean)))

    def _call(self, sample: Tensor, text: EncodedText, t: Tensor, with_references: bool) -> Tensor:
        """One network call. ``[b m 2c+1 h w], [b m ...]`` -> ``[b m c h w]``; b counts the branches too."""
        mode, references = self.conditions.mode, self.conditions.references
        b, k = len(sample), references.count
        timestep, more = t.expand(b), self.conditions.attention_kwargs
        if not with_references:
            return self.unet(sample, timestep, text, mode=mode, attention_kwargs=more)
        if references.cache is not None:
            cache = references.cache
            cache = cache if cache.batch == 1 else cache.repeat(b // cache.batch)
            return self.unet(sample, timestep, text, mode=mode, cache=cache, attention_kwargs=more)
        noisy = self._reference_input(t)
        assert references.text is not None
        sample = torch.cat([noisy.repeat(b // len(noisy), 1, 1, 1, 1), sample], dim=1)
        text = EncodedText.cat([references.text.expand(b, k), text], dim=1)
        return self.unet(sample, timestep, text, k, mode, attention_kwargs=more)[:, k:]

    def _target_input(self, latents: Tensor, t: Tensor) -> Tensor:
        """Network input ``[b m 2c+1 h w]`` of the targets ``[b m c h w]``."""
        noisy = self.scheduler.scale_model_input(latents, t)
        mask, given = torch.ones_like(noisy[:, :, :1]), torch.zeros_like(noisy)
        if (edit := self.conditions.edit) is not None:
            mask, given = edit.mask.expand_as(mask), edit.latents.expand_as(given)
        return network_input(noisy, mask, given).to(self.dtype)

    def _reference_input(self, t: Tensor) -> Tensor:
        """Network input of the references: ``[1 k 2c+1 h w]``, clean, or ``[b k 2c+1 h w]`` at noise level ``t``."""
        references = self.conditions.references
        assert references.latents is not None
        if references.noise is None:
            noisy = clean = references.latents[None]
        else:
            clean = references.latents.expand_as(references.noise)
            noisy = self.add_noise(clean.flatten(0, 1), references.noise.flatten(0, 1), t).view_as(clean)
            noisy = self.scheduler.scale_model_input(noisy, t)
        mask = torch.full_like(clean[:, :, :1], not ATTENTION_MODES.get(self.conditions.mode).given)
        return network_input(noisy, mask, clean).to(self.dtype)
