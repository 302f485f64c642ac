"""The data of a training run: batches from the step where it stands, the latents that are kept on disk."""

from __future__ import annotations

import signal
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from jedi.conditioning import CONDITIONING_POLICIES
from jedi.data import BatchPlan, SetDataset, StepSampler, collate
from jedi.io.base import Base
from jedi.streaming import StreamDataset
from jedi.training.config import TrainConfig
from jedi.training.latents import LatentCache, encode_all
from jedi.training.sources import stream_plan, training_index, training_plan
from jedi.training.text_cache import TextCache, encode_all_text


class JointData(L.LightningDataModule):
    """Training batches from the step that the trainer stands at; the held-out sets."""

    def __init__(self, config: TrainConfig, base: Base) -> None:
        super().__init__()
        self.config, self.base = config, base
        self.stream = stream_plan(config)
        self.latents: LatentCache | None = None
        self.text: TextCache | None = None
        images: dict[tuple[int, int], float] = {}  # of each size in latents, over many steps
        if self.stream is not None:
            self.fingerprint = self.stream.fingerprint
            numbers = {self.stream.set_size}
            for place, (width, height) in enumerate(self.stream.sizes):
                images[base.latent_size(width, height)] = -place
        else:
            self.index = training_index(config.data)
            self.plan = training_plan(config, self.index)
            self.fingerprint = self.index.fingerprint
            numbers = {bucket.n for plan in self.plan.plans for bucket in plan.used}
            for plan, share in zip(self.plan.plans, self.plan.shares, strict=True):
                for bucket in plan.used:
                    size, count = base.latent_size(bucket.width, bucket.height), bucket.n * len(plan.buckets[bucket])
                    images[size] = images.get(size, 0) + share * count / sum(len(plan.buckets[x]) for x in plan.used)
            if config.data.cache_latents:
                self.latents = LatentCache.of_run(config, self.index, base)
            if config.data.cache_text:
                self.text = TextCache.of_run(config, self.index, base)
        self.latent_size = max(images, key=images.__getitem__)
        """Height and width that most images have, in latents: the model's size from now on."""
        self.max_references = max(numbers) - 1
        if weighty := [k for k, weight in enumerate(config.conditioning.reference_weights) if weight > 0]:
            self.max_references = min(self.max_references, max(weighty))
        policy = CONDITIONING_POLICIES.get(config.conditioning.policy)
        for n in sorted(numbers):  # refused now, not at the first step with such a set
            policy(config.seed, 0, n, config.conditioning)

    def summary(self) -> str:
        """One line: how much there is, and what is left out."""
        if self.stream is not None:
            return f"{len(self.stream.urls)} tars are streamed; a resumed run goes on at the beginning of a shard"
        count = f"{len(self.index.sets)} sets in {len(self.index.shards)} shards"
        if not self.config.data.sources:
            return f"{count}; {_epoch(self.plan.plans[0])}"
        parts = zip(self.config.data.sources, self.plan.shares, self.plan.plans, strict=True)
        return "; ".join([count, *(f"{share:.1%} of the steps from {x.path}: {_epoch(p)}" for x, share, p in parts)])

    def setup(self, stage: str) -> None:
        """Encodes what is missing, on all ranks; none goes on before all is there, and none waits in a collective
        operation meanwhile, which would time out."""
        if self.latents is not None:
            vae = self.base.vae.to(self.trainer.strategy.root_device)
            encode_all(self.latents, vae, show=self.trainer.is_global_zero and not self.latents.complete)
        if self.text is not None:
            for encoder in self.base.text_encoders:
                encoder.to(self.trainer.strategy.root_device)
            encode_all_text(self.text, self.base, show=self.trainer.is_global_zero and not self.text.complete)

    def train_dataloader(self) -> DataLoader:
        trainer, config = self.trainer, self.config
        common: dict[str, Any] = {
            "num_workers": config.data.workers,
            "worker_init_fn": _outlive_signals,
            "pin_memory": trainer.strategy.root_device.type == "cuda",
        }
        if self.stream is not None:
            ranks = (trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)
            batches = StreamDataset(self.stream, *ranks, start=trainer.global_step, stop=config.max_steps)
            return DataLoader(batches, batch_size=None, **common)
        sampler = StepSampler(
            self.plan,
            trainer.global_rank,
            trainer.world_size,
            trainer.accumulate_grad_batches,
            start=trainer.global_step,
            stop=config.max_steps,
        )
        return DataLoader(
            SetDataset(self.index, config.seed, self.latents),
            batch_sampler=sampler,
            collate_fn=collate,
            **common,
        )


def _epoch(plan: BatchPlan) -> str:
    """How long an epoch is, and what is left out of it."""
    dropped = f"{plan.dropped_per_epoch} sets left over, others each time" if plan.dropped_per_epoch else "no rest"
    never = f"; {plan.never_used} sets never used, too few of their size" if plan.never_used else ""
    never += f"; {plan.merged} sets with fewer images than they have" if plan.merged else ""
    return f"an epoch is {plan.steps_per_epoch} steps, {dropped}{never}"


def _outlive_signals(worker: int) -> None:
    """In a data worker: who wants to stop the training may tell all its processes (Slurm does), but to finish
    the step the training process needs its workers. A worker that is told to end has ten seconds left.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(10))
