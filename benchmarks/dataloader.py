"""What does the exact order cost? Sets a second of our reader against plain webdataset on the same shards.

    python -m benchmarks.dataloader --data data/tiny

Ours reads members by offset in the order of the batch plan (shuffled, whatever the workers);
webdataset reads each tar from its beginning, unshuffled, masks included. Both decode the same images with the
same function.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from itertools import islice

import torch
import webdataset
from torch.utils.data import DataLoader

from benchmarks.timing import measure, report
from jedi.data import BatchPlan, SetDataset, SetIndex, StepSampler, collate
from jedi.io.images import load_image, to_tensor


def ours(index: SetIndex, batch: int, workers: int) -> Callable[[], Iterable]:
    """Batches of `jedi.data`, without end."""
    plan, dataset = BatchPlan(index, batch, seed=0), SetDataset(index)

    def batches() -> Iterable:
        return DataLoader(dataset, batch_sampler=StepSampler(plan), num_workers=workers, collate_fn=collate)

    return batches


def decode(sample: dict) -> tuple[torch.Tensor, list[str]]:
    """A webdataset sample -> images [n 3 H W] and captions."""
    captions = json.loads(sample["json"])["captions"]
    images = [load_image(sample[f"{i}.png"]) for i in range(len(captions))]
    return to_tensor(images), captions


def plain(index: SetIndex, batch: int, workers: int) -> Callable[[], Iterable]:
    """The same batches as most people would read them with webdataset."""
    shards = [str(shard) for shard in index.shards]

    def batches() -> Iterable:
        samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).map(decode)
        return DataLoader(samples, batch_size=batch, num_workers=workers, collate_fn=list)

    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/tiny", help="a folder that `python -m data_gen run` made")
    parser.add_argument("--batch", type=int, default=16, help="sets a batch")
    parser.add_argument("--batches", type=int, default=20, help="batches a measurement")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    index = SetIndex.read(options.data)
    batches = min(options.batches, len(index.sets) // options.batch)
    if not batches:
        parser.error(f"{options.data} holds {len(index.sets)} sets, fewer than --batch {options.batch}")

    def first(source: Callable[[], Iterable]) -> Callable[[], None]:
        def read() -> None:
            count = sum(1 for _ in islice(source(), batches))
            if count != batches:
                raise RuntimeError(f"{count} batches read, {batches} wanted")

        return read

    runs = {
        "ours": first(ours(index, options.batch, options.workers)),
        "webdataset": first(plain(index, options.batch, options.workers)),
    }
    print(f"{batches} batches of {options.batch} sets, {options.workers} workers")
    report(measure(runs, options.repeats), batches * options.batch, "sets", "ours")


if __name__ == "__main__":
    main()
