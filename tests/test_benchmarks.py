"""The benchmarks run, compare what they say they compare, and compute ratios the right way round."""

import time

import pytest
import torch

from benchmarks import attention_backends, dataloader, reference_cache, timing
from jedi.data import SetIndex


def test_measure_takes_turns_and_leaves_the_warm_up_out():
    calls = []
    seconds = timing.measure({"a": lambda: calls.append("a"), "b": lambda: time.sleep(0.02)}, 2, warm_up=1)
    assert calls == ["a"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]
    assert min(seconds["b"]) >= 0.02


def test_report_says_how_many_times_as_fast(capsys):
    timing.report({"ours": [1.0, 2.0, 2.0], "peer": [4.0, 4.0, 8.0]}, 8, "steps", "ours")
    ours, peer = capsys.readouterr().out.splitlines()
    assert "4.00 steps/s  (4.00 to 8.00)" in ours
    assert "2.00 steps/s  (1.00 to 2.00)  ours is 4.00 times as fast (2.00 to 4.00)" in peer


def test_the_three_ways_predict_for_the_same_targets(tiny_model):
    unet = reference_cache.network(str(tiny_model), "cpu")
    ways = reference_cache.ways(unet, references=2, pictures=1, steps=2, tokens=5)
    with torch.no_grad():
        results = {name: way() for name, way in ways.items()}
    assert results["cached"].shape == (2, 1, 4, 8, 8)
    torch.testing.assert_close(results["cached"], results["uncached"], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(results["mutual"], results["uncached"], atol=1e-4)


def test_both_readers_give_the_same_pictures(shards):
    index = SetIndex.read(shards, "heldout")
    ours = next(iter(dataloader.ours(index, 6, workers=0)()))
    plain = next(iter(dataloader.plain(index, 6, workers=0)()))
    assert len(plain) == 6
    # Ours shuffles the sets and each set's members: compare what does not depend on order.
    total = sum(pictures.double().sum() for pictures, _ in plain)
    assert ours.images.double().sum() == pytest.approx(float(total))
    assert sorted(map(sorted, ours.captions)) == sorted(sorted(captions) for _, captions in plain)


@pytest.mark.parametrize("module", [attention_backends, dataloader, reference_cache])
def test_the_programs_run(module, shards, monkeypatch, capsys):
    options = {
        attention_backends: ["--repeats", "1"],
        reference_cache: ["--references", "1", "--steps", "1", "--repeats", "1", "--tokens", "3"],
        dataloader: ["--data", str(shards), "--batch", "5", "--batches", "2", "--repeats", "1"],
    }[module]
    monkeypatch.setattr("sys.argv", [module.__name__, *options])
    module.main()
    assert "times as fast" in capsys.readouterr().out
