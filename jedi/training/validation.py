"""Does the coupling work? The held-out loss with the right references, with another subject's, and with none.

The *reference gain* is the relative drop of that loss. Nothing else shows early whether a model has learnt
to look at its references: neither its images nor its total loss do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jedi.conditioning import SetDraws, StepPlan
from jedi.data import SetDataset, SetIndex
from jedi.diffusion import NoiseSchedule
from jedi.errors import InputError
from jedi.io.ranges import evenly_spaced
from jedi.loss import joint_loss
from jedi.rng import keyed_generator
from jedi.text import EncodedText

CONDITIONS = ("right", "wrong", "none")


@dataclass(frozen=True)
class HeldOutSets:
    """``b`` held-out sets of ``k`` references and one target each, encoded once."""

    latents: Tensor
    """``[b k+1 c h w]``, scaled, references first."""
    text: EncodedText
    """``[b ...]``, the target's caption."""
    empty: EncodedText
    """``[1 ...]``, the empty caption: what references are given, as in sampling."""
    wrong: Tensor
    """int64 ``[b]``: for each set another one whose references are the wrong ones."""

    @classmethod
    def encode(
        cls,
        data: SetDataset,
        members: Sequence[int],
        k: int,
        encode_images: Callable[[Tensor], Tensor],
        encode_text: Callable[[list[list[str]], int, int], EncodedText],
    ) -> HeldOutSets:
        """The sets at these positions of ``data``, their first ``k`` images as references, the next as target.

        ``encode_images``: ``[b n 3 H W]`` in -1 to 1 -> scaled latents ``[b n c h w]``. ``encode_text``: lists of
        captions, one a set, and the images' height and width in pixels -> ``[b n ...]``.
        """
        records = [data.record(i) for i in members]
        size = (data.index.sets[members[0]].height, data.index.sets[members[0]].width)
        return cls(
            torch.cat([encode_images(data.images(i, range(k + 1))[None]) for i in members]),
            encode_text([[record["captions"][k]] for record in records], *size)[:, 0],
            encode_text([[""]], *size)[0],
            wrong_partners([record["subject"]["id"] for record in records]),
        )

    def __len__(self) -> int:
        return len(self.latents)


def choose_sets(
    index: SetIndex, count: int, references: int | None, targets: int, max_references: int | None = None
) -> tuple[list[int], int]:
    """``count`` held-out sets that have ``k`` references and ``targets`` more images, of one size; and ``k``.

    ``k`` is ``references`` or, if not given, what the largest sets leave, up to ``max_references`` (but 1 at least).
    The sets are spread over the split.

    Raises:
        InputError: no set is large enough.
    """
    largest = max(record.n for record in index.sets)
    k = references
    if k is None:
        k = largest - targets if max_references is None else max(1, min(largest - targets, max_references))
    if k < 1 or k + targets > largest:
        raise InputError(
            f"held-out sets have at most {largest} images, too few for {max(k, 1)} references and {targets} "
            "more: lower validation.references, samples.references or samples.prompts, or make larger sets"
        )
    large = {i: (record.width, record.height) for i, record in enumerate(index.sets) if record.n >= k + targets}
    sizes = list(large.values())
    commonest = max(dict.fromkeys(sizes), key=sizes.count)
    fit = [i for i, size in large.items() if size == commonest]
    return evenly_spaced(fit, count), k


def wrong_partners(subjects: Sequence[str]) -> Tensor:
    """For each set one of another subject, from the other half of the list (neighbours are often alike).

    Raises:
        InputError: there is only one subject.
    """
    count, partners = len(subjects), []
    for i, subject in enumerate(subjects):
        others = ((i + count // 2 + shift) % count for shift in range(count))
        partner = next((j for j in others if subjects[j] != subject), None)
        if partner is None:
            raise InputError(f"the reference gain needs sets of two subjects or more, all {count} are of {subject!r}")
        partners.append(partner)
    return torch.tensor(partners)


@torch.no_grad()
def reference_losses(
    unet: nn.Module,
    schedule: NoiseSchedule,
    sets: HeldOutSets,
    modes: Sequence[str] = ("one_way",),
    bins: int = 4,
    batch_size: int = 8,
    seed: int = 0,
    only: Sequence[int] | None = None,
    stop: Callable[[], object] = lambda: False,
) -> Tensor:
    """Unweighted loss of every held-out target, ``[b modes 3 bins]`` in the order of ``CONDITIONS``.

    Noise and timesteps are functions of (seed, set, bin), the same for all conditions, modes and models.
    ``only`` names the sets to score (the others stay 0): ranks share the work and add up. ``stop`` is asked before each
    batch: where it says so, the rest stays 0 too.
    """
    b, n, *shape = sets.latents.shape
    device = sets.latents.device
    losses = torch.zeros(b, len(modes), len(CONDITIONS), bins, device=device)
    chosen = list(range(b)) if only is None else list(only)
    cells = [(i, bin) for i in chosen for bin in range(bins)]
    for start in range(0, len(cells), batch_size):
        if stop():
            break
        part = cells[start : start + batch_size]
        i, bin = (torch.tensor(column, device=device) for column in zip(*part, strict=True))
        draws = [_draw(schedule.num_timesteps, bins, (n, *shape), seed, *cell) for cell in part]
        timestep, noise = (torch.stack(column).to(device) for column in zip(*draws, strict=True))
        target, text = sets.latents[i, -1:], sets.text[i, None]
        empty = sets.empty.expand(len(part), n - 1)
        partner = sets.wrong.to(device)[i]
        for m, mode in enumerate(modes):
            for c, references in enumerate((sets.latents[i, :-1], sets.latents[partner, :-1], None)):
                if references is None and m:
                    losses[i, m, c, bin] = losses[i, 0, c, bin]  # one image alone: all modes are the same
                    continue
                k = 0 if references is None else n - 1
                latents = target if references is None else torch.cat([references, target], dim=1)
                captions = text if references is None else EncodedText.cat([empty, text], dim=1)
                mask = torch.ones(len(part), k + 1, 1, *shape[1:], device=device)
                mask[:, :k] = 0
                fixed = SetDraws(timestep, noise[:, n - 1 - k :], mask, torch.zeros(len(part), k + 1, dtype=torch.bool))
                result = joint_loss(unet, schedule, latents, captions, fixed, StepPlan(k, mode))
                losses[i, m, c, bin] = result.per_target[:, 0].to(losses)
    return losses


def reference_gain(losses: Tensor, modes: Sequence[str]) -> dict[str, float]:
    """Metrics from :func:`reference_losses`, each overall and per timestep bin (0 = the cleanest).

    ``heldout/loss`` (right references, mean over modes), ``heldout/loss/MODE``, ``gain/wrong``,
    ``gain/none``: how much lower the loss is with the right references than with another subject's or none,
    as a share of that.
    """
    mean = losses.double().mean(0)  # [modes 3 bins]
    right, wrong, none = mean.mean(0).unbind(0)

    def gain(other: Tensor, right: Tensor) -> float:
        return float(1 - right.mean() / other.mean())

    metrics = {
        "heldout/loss": float(right.mean()),
        "gain/wrong": gain(wrong, right),
        "gain/none": gain(none, right),
    }
    for bin in range(losses.shape[-1]):
        metrics[f"heldout/loss/bin{bin}"] = float(right[bin])
        metrics[f"gain/wrong/bin{bin}"] = gain(wrong[bin], right[bin])
        metrics[f"gain/none/bin{bin}"] = gain(none[bin], right[bin])
    for m, mode in enumerate(modes):
        metrics[f"heldout/loss/{mode}"] = float(mean[m, 0].mean())
        for bin in range(losses.shape[-1]):
            metrics[f"heldout/loss/{mode}/bin{bin}"] = float(mean[m, 0, bin])
        metrics[f"gain/wrong/{mode}"] = gain(mean[m, 1], mean[m, 0])
        metrics[f"gain/none/{mode}"] = gain(mean[m, 2], mean[m, 0])
    return metrics


def _draw(num_timesteps: int, bins: int, shape: tuple[int, ...], seed: int, i: int, bin: int) -> tuple[Tensor, Tensor]:
    generator = keyed_generator(seed, "heldout", i, bin)
    place = (bin + torch.rand((), generator=generator)) / bins
    timestep = (place * num_timesteps).long().clamp(max=num_timesteps - 1)
    return timestep, torch.randn(shape, generator=generator)
