"""A run -> a diffusers folder: the averaged weights, everything needed for sampling, whole or not at all."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

import train
from jedi.attention import ATTENTION_MODES
from jedi.errors import InputError
from jedi.io import config as configs
from jedi.io.base import Base, load_base
from jedi.io.hub import is_hub_name
from jedi.pipeline import JediPipeline
from jedi.training import export as exporting
from jedi.training.config import TrainConfig
from jedi.training.export import export
from jedi.training.load_run import base_of, is_run, load_run
from jedi.training.run import write_run
from tests.conftest import write_shard
from tests.jedi.sampling import close, latents, random_image


def trained(folder, base, shards, *options):
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "base": str(base),
                "out": str(folder / "run"),
                "data": {"path": str(shards), "workers": 0},
                "max_steps": 2,
                "batch_size": 2,
                "conditioning": {"mutual_prob": 0.0, "reference_weights": [1, 1, 1]},
                "optimizer": {"lr": 1e-2, "warmup_steps": 0},
                "validation": {"every_steps": 0},
                "samples": {"every_steps": 0},
                "log": {"loggers": []},
                "hardware": {"accelerator": "cpu", "precision": "32-true"},
                "sampling_defaults": {"num_inference_steps": 7},
            }
        )
    )
    assert train.main(["--config", str(recipe), *options]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_base, shards):
    """Two steps of training in mode one_way with at most two references."""
    return trained(tmp_path_factory.mktemp("export"), tiny_base, shards)


@pytest.mark.slow
def test_the_folder_holds_the_averaged_weights_and_the_run_s_settings(run, tmp_path, tiny_base):
    out = export(run, tmp_path / "model")
    state = torch.load(run / "checkpoints" / "step-00000002.ckpt", weights_only=True)["state_dict"]
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    averaged = {name[16:]: value for name, value in state.items() if name.startswith("ema.module.unet.")}
    assert weights.keys() == averaged.keys()
    assert all(torch.equal(weights[name], averaged[name]) for name in weights)
    assert not torch.equal(weights["conv_in.weight"], state["unet.unet.conv_in.weight"])
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".py", ".md"}
    texts = [path.read_text() for path in files if path.suffix != ".safetensors"]
    assert not [text for text in texts if str(tiny_base.parent) in text or str(run.parent) in text]  # no place of ours

    pipe = JediPipeline.from_pretrained(out)
    assert pipe.config.trained_modes == ["one_way"]
    assert pipe.config.max_trained_references == 2
    assert pipe.sampling_defaults["num_inference_steps"] == 7
    assert pipe.unet.config.in_channels == 2 * pipe.unet.config.out_channels + 1
    vae = load_file(tiny_base / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, vae[name]) for name, value in pipe.vae.state_dict().items())


def test_a_run_and_its_export_sample_the_same(run, tmp_path):
    direct, folder = load_run(run), JediPipeline.from_pretrained(export(run, tmp_path / "model"))
    images = []
    for pipe in (direct, folder):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipe(prompt="a cat", num_inference_steps=2, generator=generator, output_type="latent").images)
    torch.testing.assert_close(images[0], images[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "side"),
    [({32: 4, 64: 8}, 64), ({32: 8, 64: 4}, 32)],
)
def test_the_size_that_is_trained_is_recorded_sampled_and_exported(tmp_path, tiny_base, sizes, side):
    """A base for 32 pixels, trained on 64, went on sampling at 32. Of mixed sizes the most common one counts."""
    for i, (pixels, count) in enumerate(sizes.items()):
        write_shard(tmp_path / "data" / "train", f"{i:05d}", [3] * count, pixels, seed=i)
        write_shard(tmp_path / "data" / "heldout", f"{i:05d}", [3] * count, pixels, seed=i + 9)
    run = trained(tmp_path, tiny_base, tmp_path / "data", "max_steps=1", "samples.every_steps=1", "samples.steps=1")
    assert list((run / "samples").glob("*.png"))
    pipe = load_run(run)
    out = export(run, tmp_path / "model")
    config = json.loads((out / "unet" / "config.json").read_text())
    assert config["sample_size"] == side // 4
    for found in (pipe, JediPipeline.from_pretrained(out)):
        found.set_progress_bar_config(disable=True)
        assert found.image_size == (side, side)
        assert found("a cat", [random_image(1)], num_inference_steps=1).images[0].size == (side, side)


@pytest.mark.slow
def test_images_of_other_sides_are_recorded_as_they_are(tmp_path, tiny_base, shards, monkeypatch):
    monkeypatch.setattr(Base, "latent_size", lambda self, width, height: (height // 4, width // 2))
    run = trained(tmp_path, tiny_base, shards, "max_steps=1")
    pipe = load_run(run)
    assert (pipe.unet.config.sample_size, pipe.image_size) == ([8, 16], (32, 64))
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a cat", [random_image(1)], num_inference_steps=1).images[0].size == (64, 32)


def test_sizes_that_the_vae_cannot_take_are_refused_at_once(tmp_path, tiny_base):
    write_shard(tmp_path / "data" / "train", "00000", [3] * 4, 30, seed=1)
    with pytest.raises(AssertionError):  # exit code 2
        trained(tmp_path, tiny_base, tmp_path / "data")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="images of 30 x 30 pixels: the vae of base .* takes multiples of 4"):
        load_base(tiny_base).latent_size(30, 30)


@pytest.mark.slow
def test_a_mode_of_an_extension_from_training_to_sampling(tmp_path, tiny_base, shards, monkeypatch):
    options = ["extensions=[tests.extensions]", "conditioning.policy=alone", "conditioning.modes=[alone]"]
    run = trained(tmp_path, tiny_base, shards, *options, "max_steps=1")
    monkeypatch.delitem(sys.modules, "tests.extensions")  # as in the next process: the run's settings name it
    monkeypatch.delitem(ATTENTION_MODES._parts, "alone")
    pipe = JediPipeline.from_pretrained(export(run, tmp_path / "model"))
    assert pipe.config.trained_modes == ["alone"]
    pipe.set_progress_bar_config(disable=True)
    assert close(latents(pipe), latents(pipe, references=[random_image(8), random_image(9)]), 0)
    with pytest.raises(ValueError, match="this model was trained in alone"):
        latents(pipe, mode="mutual")


@pytest.mark.slow
def test_nothing_is_overwritten_and_nothing_half_done_is_left(run, tmp_path, monkeypatch, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").touch()
    with pytest.raises(ValueError, match="taken exists already"):
        export(run, taken)
    save = JediPipeline.save_pretrained

    def fails(self, folder, **options):
        save(self, folder, **options)
        raise error

    monkeypatch.setattr(JediPipeline, "save_pretrained", fails)
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        export(run, tmp_path / "model")
    error = Exception("Error while serializing: I/O error: No space left on device (os error 28)")  # safetensors'
    assert exporting.main([str(run), str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "model") in said and "No space left on device" in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [taken]


def test_what_is_not_a_run_is_refused_in_one_line(run, tmp_path, capsys, tiny_base):
    assert is_run(run) and not is_run(tiny_base)
    for arguments, message in (
        ([str(tiny_base), str(tmp_path / "x")], "is not the folder of a training run"),
        ([str(run), str(tmp_path / "x"), "--checkpoint", "best"], "has no checkpoint 'best'; there: step-00000002"),
    ):
        assert exporting.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert exporting.main([str(run), str(tmp_path / "x")]) == 0
    assert json.loads((tmp_path / "x" / "model_index.json").read_text())["_class_name"] == ["pipeline", "JediPipeline"]


@pytest.mark.slow
def test_a_run_finds_its_base_from_anywhere_and_after_a_move(run, tmp_path, monkeypatch):
    copy, base = tmp_path / "there" / "runs" / "x", tmp_path / "there" / "models" / "base"
    shutil.copytree(run, copy)
    config = configs.load(TrainConfig, copy / "config.yaml")
    shutil.copytree(config.base, base)
    monkeypatch.chdir(tmp_path / "there")
    config = replace(config, base="models/base", out="runs/x")
    identity = json.loads((copy / "identity.json").read_text())
    write_run(config, identity, SimpleNamespace(is_global_zero=True, loggers=[]))
    monkeypatch.chdir("/")
    load_run(copy)
    (tmp_path / "there").rename(tmp_path / "moved")
    load_run(tmp_path / "moved" / "runs" / "x")
    shutil.copytree(tmp_path / "moved" / "models" / "base", base)  # another one takes the old place
    other = base / "scheduler" / "scheduler_config.json"
    other.write_text(other.read_text().replace("0.012", "0.013"))
    assert base_of(tmp_path / "moved" / "runs" / "x", config).samefile(tmp_path / "moved" / "models" / "base")
    shutil.rmtree(tmp_path / "moved" / "models")
    with pytest.raises(InputError, match=f"was trained on another base than {base}, where it was"):
        load_run(tmp_path / "moved" / "runs" / "x")
    shutil.rmtree(base)
    with pytest.raises(InputError, match="was trained on base models/base, which is neither"):
        load_run(tmp_path / "moved" / "runs" / "x")


def test_the_base_of_a_run_may_be_a_name_on_the_hub(run, tmp_path, tiny_base, monkeypatch):
    identity = json.loads((run / "identity.json").read_text())
    asked = []
    monkeypatch.setattr("jedi.training.load_run.find_folder", lambda name, *_: asked.append(name) or tiny_base)
    for base in (str(tmp_path), "owner/name"):  # first a folder, then the same from the hub
        config = configs.load(TrainConfig, None, [f"base={base}", f"out={tmp_path / 'run'}", "data.path=x"])
        write_run(config, identity, SimpleNamespace(is_global_zero=True, loggers=[]))
    assert base_of(tmp_path / "run", config) == tiny_base and asked == ["owner/name"]


@pytest.mark.parametrize(
    "name", ["runs/tiny-base", "models/x", "/a/b", "./x/y", "../x", "a/b/c", "x", "here/x", "-a/b"]
)
def test_what_looks_like_a_path_is_not_asked_of_the_hub(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_hub_name(name) and is_hub_name("stabilityai/stable-diffusion-2.1_base")
