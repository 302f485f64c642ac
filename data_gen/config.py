"""The configuration of `python -m data_gen`: every field can be set in the YAML file or as `key=value`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from data_gen.checks import check_number, without_later
from data_gen.finish import FinishConfig
from data_gen.prompts.config import PromptsConfig
from data_gen.sources import SOURCES
from data_gen.sources.collage import CollageConfig
from data_gen.sources.folder import FolderConfig
from data_gen.sources.shared_attention import SharedAttentionConfig
from data_gen.sources.subjects200k import Subjects200kConfig
from data_gen.sources.syncd import SyncdConfig
from data_gen.stages.augment import AugmentConfig
from data_gen.stages.caption import CaptionConfig
from data_gen.stages.compose import ComposeConfig
from data_gen.stages.filters.settings import FilterConfig
from data_gen.stages.segment import SegmentConfig
from data_gen.stages.split import SplitConfig
from data_gen.stages.square import SquareConfig
from jedi.io.config import ConfigError, to_dict
from jedi_toy.emoji_config import EmojiConfig

# The settings that change no byte of the data: another value goes on in the same folder.
# (With models, the device changes bits, and on a CPU the number of threads: `workers` shares the cores out.)
FREE_KEYS = ("out", "workers", "device", "keep_units", "contact_sheet_rows")
GENERATION = 5  # raised whenever the same settings begin to give other bytes, so that no folder mixes both


@dataclass
class DataConfig:
    """One data set: sets of `images_per_set` square images of `resolution` pixels, made by a source, passed
    through stages, packed in shards. The sections of sources and stages that are not named are not looked at."""

    out: str
    source: str = "emoji"
    stages: list[str] = field(default_factory=list)  # in this order
    seed: int = 0
    sets: int = 12_000  # to be made for training; fewer arrive where stages drop some. Of sources that make sets
    heldout_sets: int = 400
    images_per_set: int = 4
    resolution: int = 64
    sets_per_unit: int = 100  # work that is done or not done; a unit's images are in memory together
    sets_per_shard: int = 500
    workers: int = 0  # processes; 0: one a core, with models one a GPU (or one with all cores)
    device: str = "auto"  # of models: auto, cpu, cuda, cuda:1
    dtype: str = "float32"  # of models: float32, bfloat16, float16
    keep_units: bool = False  # keep the units' tars when they are packed, for looking into
    contact_sheet_rows: int = 12
    extensions: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)  # for sources and stages that extensions add
    # Sources.
    prompts: PromptsConfig = field(default_factory=PromptsConfig)  # read by collage and shared_attention
    collage: CollageConfig = field(default_factory=CollageConfig)
    shared_attention: SharedAttentionConfig = field(default_factory=SharedAttentionConfig)
    folder: FolderConfig = field(default_factory=FolderConfig)
    emoji: EmojiConfig = field(default_factory=EmojiConfig)
    syncd: SyncdConfig = field(default_factory=SyncdConfig)
    subjects200k: Subjects200kConfig = field(default_factory=Subjects200kConfig)
    # Stages.
    split: SplitConfig = field(default_factory=SplitConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    square: SquareConfig = field(default_factory=SquareConfig)
    # The pass at the end.
    finish: FinishConfig = field(default_factory=FinishConfig)

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is empty; give the folder to write to, for instance out=data/mine")
        check_number("seed", self.seed, 0, 2**63 - 1)
        check_number("sets", self.sets, 1, 10**9)
        check_number("heldout_sets", self.heldout_sets, 0, 10**9)
        check_number("images_per_set", self.images_per_set, 1, 64)
        check_number("resolution", self.resolution, 16, 2048)
        check_number("sets_per_unit", self.sets_per_unit, 1, 10**6)
        check_number("sets_per_shard", self.sets_per_shard, 1, 10**6)
        check_number("workers", self.workers, 0, 1024)
        check_number("contact_sheet_rows", self.contact_sheet_rows, 1, 200)
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype is {self.dtype!r}; expected float32, bfloat16 or float16")


def content(config: DataConfig) -> dict[str, Any]:
    """The settings that decide the data's bytes: a section counts when its source or stage is named."""
    reads_prompts = config.source in SOURCES and getattr(SOURCES.get(config.source), "reads_prompts", False)
    named = {config.source, *config.stages, "finish", *(("prompts",) if reads_prompts else ())}
    settings = {}
    for name, value in to_dict(config).items():
        section = getattr(config, name)
        if is_dataclass(section) and name in named:
            settings[name] = without_later(section, value)
        elif not is_dataclass(section) and name not in FREE_KEYS:
            settings[name] = value
    return {"generation": GENERATION, **settings}


def config_hash(config: DataConfig) -> str:
    """sha256 (hexadecimal) over the settings that decide the data's bytes."""
    return hashlib.sha256(json.dumps(content(config), sort_keys=True).encode()).hexdigest()
