"""The training data that a configuration names: one index, one plan, whatever the number of sources."""

from __future__ import annotations

from jedi.data import BatchPlan, DataError, SetIndex
from jedi.io.sizes import Size
from jedi.mixture import MixedPlan
from jedi.single_images import read_single_images
from jedi.streaming import StreamPlan, expand
from jedi.training.config import DataSourceConfig, TrainConfig, TrainDataConfig


def training_index(data: TrainDataConfig) -> SetIndex:
    """The index of ``data.path``, or of all ``data.sources``."""
    if not data.sources:
        return SetIndex.read(data.path, "train", data.verify)
    sets = {i: SetIndex.read(x.path, "train", data.verify) for i, x in enumerate(data.sources) if x.kind == "sets"}
    sizes = sorted({(record.width, record.height) for index in sets.values() for record in index.sets})
    return SetIndex.join([sets[i] if i in sets else _images(x, sizes) for i, x in enumerate(data.sources)])


def _images(source: DataSourceConfig, others: list[Size]) -> SetIndex:
    sizes = [(width, height) for width, height in source.sizes] or others
    if not sizes:
        raise DataError(f"data.sources: no source has sets, so give {source.path} its sizes, for instance [[512, 512]]")
    return read_single_images(source.path, sizes, source.index_folder)


def stream_plan(config: TrainConfig) -> StreamPlan | None:
    """What is streamed; None where nothing is."""
    data, stream = config.data, config.data.stream
    if not stream.urls or data.set_size is None:
        return None
    sizes = tuple((width, height) for width, height in stream.sizes)
    urls = expand(stream.urls, stream.allow_pipe)
    options = (data.set_size, stream.samples_per_shard, stream.shuffle)
    return StreamPlan(urls, sizes, config.batch_size, config.seed, *options)


def training_plan(config: TrainConfig, index: SetIndex) -> MixedPlan:
    """Which sets make up each step."""
    data = config.data

    def plan(source: range | None, name: str) -> BatchPlan:
        try:
            options = (data.set_size, data.merge_small_buckets, source)
            return BatchPlan(index, config.batch_size, config.seed, *options)
        except DataError as error:
            raise DataError(f"{name}: {error}" if name else str(error)) from None

    if not data.sources:
        return MixedPlan([plan(None, "")], [1.0])
    plans = [plan(part, source.path) for part, source in zip(index.sources, data.sources, strict=True)]
    return MixedPlan(plans, [source.weight for source in data.sources])
