"""The data of a training run: batches from the step where it stands, the latents that are kept on disk."""

from __future__ import annotations

import signal

import lightning as L
from torch.utils.data import DataLoader

from jedi.conditioning import CONDITIONING_POLICIES
from jedi.data import BatchPlan, SetDataset, SetIndex, StepSampler, collate
from jedi.io.base import Base
from jedi.training.config import TrainConfig
from jedi.training.latents import LatentCache, encode_all


class JointData(L.LightningDataModule):
    """Training batches from the step that the trainer stands at; the held-out sets."""

    def __init__(self, config: TrainConfig, base: Base) -> None:
        super().__init__()
        self.config, self.base = config, base
        self.index = SetIndex.read(config.data.path, "train", config.data.verify)
        data = config.data
        self.plan = BatchPlan(self.index, config.batch_size, config.seed, data.set_size, data.merge_small_buckets)
        self.max_references = max(bucket.n for bucket in self.plan.used) - 1
        if used := [k for k, weight in enumerate(config.conditioning.reference_weights) if weight > 0]:
            self.max_references = min(self.max_references, max(used))
        policy = CONDITIONING_POLICIES.get(config.conditioning.policy)
        for bucket in self.plan.used:  # refused now, not at the first step with such a set
            policy(config.seed, 0, bucket.n, config.conditioning)
        images: dict[tuple[int, int], int] = {}  # of each size in latents
        for bucket in self.plan.used:
            size = base.latent_size(bucket.width, bucket.height)
            images[size] = images.get(size, 0) + bucket.n * len(self.plan.buckets[bucket])
        self.latent_size = max(images, key=images.__getitem__)
        """Height and width that most images have, in latents: the model's size from now on."""
        self.latents = None
        if config.data.cache_latents:
            self.latents = LatentCache.of_run(config, self.index, base)

    def summary(self) -> str:
        """One line: how much there is, and what is left out."""
        plan, count = self.plan, len(self.index.sets)
        dropped = f"{plan.dropped_per_epoch} sets left over, others each time" if plan.dropped_per_epoch else "no rest"
        never = f"; {plan.never_used} sets never used, too few of their size" if plan.never_used else ""
        never += f"; {plan.merged} sets with fewer images than they have" if plan.merged else ""
        epoch = f"an epoch is {plan.steps_per_epoch} steps, {dropped}{never}"
        return f"{count} sets in {len(self.index.shards)} shards; {epoch}"

    def setup(self, stage: str) -> None:
        """Encodes what is missing, on all ranks; none goes on before all is there, and none waits in a collective
        operation meanwhile, which would time out."""
        if self.latents is not None:
            vae = self.base.vae.to(self.trainer.strategy.root_device)
            encode_all(self.latents, vae, show=self.trainer.is_global_zero and not self.latents.complete)

    def train_dataloader(self) -> DataLoader:
        trainer, config = self.trainer, self.config
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
            num_workers=config.data.workers,
            worker_init_fn=_outlive_signals,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )


def _outlive_signals(worker: int) -> None:
    """In a data worker: who wants to stop the training may tell all its processes (Slurm does), but to finish
    the step the training process needs its workers. A worker that is told to end has ten seconds left.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(10))
