"""Captions encoded once: parts that are whole or not there, found by what they say, the same training."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

import train
from jedi.captions import encode_captions
from jedi.data import DataError, SetDataset, SetIndex
from jedi.io.base import load_base
from jedi.training import latents, text_cache
from jedi.training.config import TrainConfig, TrainDataConfig
from jedi.training.module import JointTraining
from jedi.training.text_cache import TextCache, encode_all_text
from tests import tiny
from tests.test_train import state, write_recipe


@pytest.fixture
def small_parts(monkeypatch):
    """Of a few sets each."""
    monkeypatch.setattr(text_cache, "PART_CAPTIONS", 12)


def captions_of(index: SetIndex) -> list[str]:
    data = SetDataset(index)
    return sorted({caption for i in range(len(index.sets)) for caption in data.record(i)["captions"]})


@pytest.mark.parametrize("xl", [False, True])
def test_what_is_read_is_what_the_encoders_say(xl, tmp_path, shards, small_parts):
    parts = tiny.xl_components() if xl else tiny.components()
    base = load_base(tiny.save_base(parts, tmp_path / "base", f"StableDiffusion{'XL' * xl}Pipeline"))
    index = SetIndex.read(shards, "train")
    cache = TextCache(index, tmp_path / "cache", "encoders")
    encode_all_text(cache, base, show=False)
    assert cache.complete and len(cache.parts) > 2
    captions = captions_of(index)
    found = TextCache(index, tmp_path / "cache", "encoders").read([*captions, "never seen"])
    assert sorted(found) == captions
    with torch.no_grad():
        wanted = encode_captions(base, captions)
    for i, caption in enumerate(captions):
        for name in ("embeds", "pooled") if xl else ("embeds",):
            value = getattr(found[caption], name)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, getattr(wanted, name)[i].half().float(), rtol=0, atol=2e-3)


def test_interrupted_it_keeps_its_parts(tmp_path, shards, tiny_base, small_parts):
    base, index, asked = load_base(tiny_base), SetIndex.read(shards, "train"), []

    def encode(captions):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(captions)
        return encode_captions(base, captions)

    cache = TextCache(index, tmp_path, "x")
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        cache.fill(encode)
    finished = [part for part in cache.parts if part.path.exists()]
    assert finished and not cache.complete
    before = {part: part.path.stat().st_mtime_ns for part in finished}
    encode_all_text(cache, base, show=False)
    assert cache.complete and before == {part: part.path.stat().st_mtime_ns for part in finished}


@pytest.mark.parametrize("change", ["cut", "number", "head"])
def test_a_damaged_file_is_named(change, tmp_path, shards, tiny_base):
    base, index = load_base(tiny_base), SetIndex.read(shards, "train")
    cache = TextCache(index, tmp_path, "x")
    encode_all_text(cache, base, show=False)
    path = cache.parts[0].path
    data = bytearray(path.read_bytes())
    data[{"cut": 0, "number": cache._layout(cache.parts[0])["embeds"][0], "head": 8}[change]] ^= 1
    path.write_bytes(data[:-10] if change == "cut" else data)
    again = TextCache(index, tmp_path, "x")
    with pytest.raises(DataError, match=r"damaged .*; delete it"):
        again.read(captions_of(index))


def test_what_is_cached_and_what_is_not_go_together_on_another_device(tiny_base, monkeypatch):
    """In validation the text encoders are on the training device, the cache's rows on the CPU; `meta` as a GPU here."""
    base = load_base(tiny_base)
    module = JointTraining(TrainConfig(str(tiny_base), "unused", TrainDataConfig("unused", cache_text=True)), base)
    with torch.no_grad():
        rows = {"cached": encode_captions(base, ["cached"])[0]}
    read = lambda captions: {caption: rows[caption] for caption in captions if caption in rows}
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(text=SimpleNamespace(read=read)))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which knows no `meta`
    for part in (module, base.text_encoder):
        part.to("meta")
    embeds = module.encode_text([["cached", "held out"], ["held out", ""]], 32, 32).embeds
    assert embeds.device.type == "meta" and embeds.shape[:2] == (2, 2)


@pytest.mark.slow
def test_training_with_it_is_training_without_it_but_for_rounding(tmp_path, tiny_base, shards, monkeypatch):
    recipe = write_recipe(tmp_path, tiny_base, shards)
    run = lambda *options: train.main(["--config", str(recipe), "max_steps=2", *options])
    assert run(f"out={tmp_path / 'plain'}") == 0
    assert latents.main(["--config", str(recipe), "data.cache_text=true"]) == 0
    seen = []
    spy = lambda base, captions: seen.extend(captions) or encode_captions(base, captions)
    monkeypatch.setattr("jedi.training.module.encode_captions", spy)
    options = ("data.cache_text=true", "validation.every_steps=2", "validation.sets=2", "samples.every_steps=2")
    assert run(f"out={tmp_path / 'cached'}", *options, "samples.steps=1", "data.cache_latents=true") == 0
    heldout = captions_of(SetIndex.read(shards, "heldout"))
    assert set(seen) <= {"", *heldout} and len(seen) == len(set(seen))
    plain, cached = state(tmp_path / "plain"), state(tmp_path / "cached")
    for name, value in plain.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-2, atol=2e-3)
