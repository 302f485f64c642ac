"""A small toy world for tests: the shipped benchmark's data with fewer sets, an encoder that was not trained."""

from pathlib import Path

import torch

from data_gen.config import load_config
from data_gen.plan import make_parts
from data_gen.samples import Item
from data_gen.shards import encode, write_shard
from jedi_toy.encoder.config import EncoderConfig, VisionTowerConfig
from jedi_toy.encoder.network import Probes, save
from jedi_toy.encoder.training import make_model
from jedi_toy.tiny_base.config import TextTowerConfig
from jedi_toy.tiny_base.text_encoder import train_tokenizer
from tests.paths import ROOT

CONFIG = ROOT / "configs/data_gen/benchmark.yaml"
WORDS = {"background": ["beach", "city", "night", "snow"]}


def write_world(folder: Path, train: int = 0, heldout: int = 24, *overrides: str) -> Path:
    """Shards as ``python -m data_gen run --config configs/data_gen/benchmark.yaml`` writes them, with fewer sets."""
    config = load_config(CONFIG, [f"out={folder}", f"sets={max(1, train)}", f"heldout_sets={heldout}", *overrides])
    source = make_parts(config).source
    for split, count in (("train", train), ("heldout", heldout)):
        if count:
            (folder / split).mkdir(parents=True)
            sets = source.make([Item(split, i) for i in range(count)])
            records = (encode(one, "emoji", config.seed) for one in sets)
            write_shard(folder / split / "000000.tar", records, {"split": split, "config_hash": "0" * 16})
    return folder


def write_encoder(folder: Path, pixels: int = 32) -> Path:
    """A random encoder of the real classes, as training writes it."""
    config = EncoderConfig(
        data="none",
        out=str(folder),
        vision=VisionTowerConfig(width=32, layers=1, heads=2),
        text=TextTowerConfig(width=16, layers=1, heads=2, vocabulary=250, length=24),
        embedding=16,
        subject_width=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = train_tokenizer(["an animal at night"], TextTowerConfig(vocabulary=250, length=24))
        save(make_model(config, tokenizer, pixels), tokenizer, Probes(64, WORDS), folder, {})
    return folder
