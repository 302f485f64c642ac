"""The benchmarks run, compare what they say they compare, and compute ratios the right way round."""

import functools
import importlib.util
import io
import json
import tarfile
import time

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from benchmarks import attention_backends, data_gen, dataloader, gpu, reference_cache, small_models, timing
from jedi.data import SetIndex
from tests.benchmarks_made_up import scene


def test_measure_takes_turns_and_leaves_the_warm_up_out():
    calls = []
    seconds = timing.measure({"a": lambda: calls.append("a"), "b": lambda: time.sleep(0.02)}, 2, warm_up=1)
    assert calls == ["a"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]
    assert min(seconds["b"]) >= 0.02


def test_measure_by_another_clock():
    ticks = iter(range(100))
    seconds = timing.measure({"a": lambda: next(ticks)}, 2, warm_up=1, clock=lambda: float(next(ticks)))
    assert seconds == {"a": [2.0, 2.0]}  # one tick at the end, one of the work


def test_report_says_how_many_times_as_fast(capsys):
    timing.report({"ours": [1.0, 2.0, 2.0], "peer": [4.0, 4.0, 8.0]}, 8, "steps", "ours")
    ours, peer = capsys.readouterr().out.splitlines()
    assert "4.00 steps/s  (4.00 to 8.00)" in ours
    assert "2.00 steps/s  (1.00 to 2.00)  ours is 4.00 times as fast (2.00 to 4.00)" in peer


def test_the_three_ways_predict_for_the_same_targets(tiny_model):
    unet = reference_cache.network(str(tiny_model), "cpu")
    ways = reference_cache.ways(unet, references=2, images=1, steps=2, tokens=5)
    with torch.no_grad():
        results = {name: way() for name, way in ways.items()}
    assert results["cached"].shape == (2, 1, 4, 8, 8)
    torch.testing.assert_close(results["cached"], results["uncached"], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(results["mutual"], results["uncached"], atol=1e-4)


def test_both_readers_give_the_same_images(shards):
    index = SetIndex.read(shards, "heldout")
    ours = next(iter(dataloader.ours(index, 6, workers=0)()))
    plain = next(iter(dataloader.plain(index, 6, workers=0)()))
    assert len(plain) == 6
    # Ours shuffles the sets and each set's members: compare what does not depend on order.
    total = sum(images.double().sum() for images, _ in plain)
    assert ours.images.double().sum() == pytest.approx(float(total))
    assert sorted(map(sorted, ours.captions)) == sorted(sorted(captions) for _, captions in plain)


@pytest.mark.slow
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


OVERHEAD = ["--sets", "3", "--unit", "2", "--batch", "2", "--steps", "1", "--side", "64", "--repeats", "1"]


@pytest.mark.slow
def test_the_bare_pipeline_makes_what_the_engine_keeps(tmp_path, monkeypatch):
    """The same calls, and the engine's images are theirs."""
    options = data_gen.options(["overhead", *OVERHEAD, "--device", "cpu"])
    options.model = str(small_models.text_to_image(tmp_path / "model"))
    work, calls = data_gen.Overhead(options, tmp_path), []
    plain = StableDiffusionPipeline.__call__

    @functools.wraps(plain)  # the engine looks at its arguments
    def called(self, **given):
        output = plain(self, **given)
        calls.append((given["prompt"], [x.initial_seed() for x in given["generator"]], output.images))
        return output

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", called)
    for way in work.ways().values():
        way()
    bare, engine = calls[: len(calls) // 2], calls[len(calls) // 2 :]
    assert [call[:2] for call in bare] == [call[:2] for call in engine] and len(bare) == 2
    collages = [image for call in bare for image in call[2]]
    with tarfile.open(tmp_path / "out-0" / "train" / "train-000000.tar") as tar:
        for number, collage in enumerate(collages):
            last = Image.open(io.BytesIO(tar.extractfile(f"train-{number:08d}.3.png").read()))
            assert last.tobytes() == collage.crop((32, 32, 64, 64)).tobytes()
    assert {"source", "quarters", "encode", "writing units", "shards and report"} <= work.parts[0].keys()


@pytest.mark.slow
def test_the_benchmark_of_the_data_engine_runs(tmp_path, monkeypatch, capsys):
    for subject in range(3):
        (tmp_path / "photos" / f"subject{subject}").mkdir(parents=True)
        for number in range(4):
            scene(subject, number).save(tmp_path / "photos" / f"subject{subject}" / f"{number}.png")
    monkeypatch.setattr(data_gen, "SIDE", 64)
    common = ["--repeats", "1", "--device", "cpu"]
    data_gen.main(["stages", "--photos", str(tmp_path / "photos"), "--sets", "3", *common])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 sets of 4 photos of 64 x 64")
    names = [line.split("  ")[0] for line in lines[1:]]
    assert {"split", "segment (border)", "filter (identity, EfficientNet-Lite0)", "compose", "resize"} <= set(names)
    assert all("images/s" in line for line in lines[1:]) and len(names) == len(set(names)) == 19
    data_gen.main(["overhead", *OVERHEAD, "--device", "cpu"])
    said = capsys.readouterr().out
    wanted = ("bare pipeline is ", "overhead, seconds of the processor: ", "shards and report")
    assert all(part in said for part in wanted)


@pytest.mark.slow
def test_the_gpu_script_runs_and_says_what_failed(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--tiny", "--out", str(file), "--repeats", "1", "--steps", "2"]
    recipes = ["--recipes", "lora", "full, gradient checkpointing, adamw_8bit"]
    assert gpu.main([*options, "--models", "sdxl", "--references", "0", "1", *recipes]) == 0
    rows = {row["name"]: row for row in json.loads(file.read_text())["measurements"]}
    assert rows["kernels reference_only sdpa float32"]["difference"] < 1e-5
    assert 0 < rows["kernels one_way sdpa bfloat16"]["difference"] < 0.1
    trained = rows["train sdxl lora"]
    assert trained["trained"] < trained["weights"] and trained["tflops"] > 0 and trained["seconds"] > 0
    if importlib.util.find_spec("bitsandbytes") is None:
        assert (
            "bitsandbytes, which is not installed"
            in rows["train sdxl full, gradient checkpointing, adamw_8bit"]["error"]
        )
    assert set(rows["frozen sdxl"]["seconds"]) == {"text", "encode", "decode"}
    assert set(rows["sample sdxl"]["times_stock"]) == {"stock", "k=0", "k=1"}
    assert gpu.main([*options, "--parts", "sample", "--models", "sd15", "--seconds", "0"]) == 0
    assert "no time left" in json.loads(file.read_text())["measurements"][0]["skipped"]
