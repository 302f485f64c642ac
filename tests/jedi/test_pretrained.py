"""JediPipeline from a folder, one file or the hub, with diffusers' arguments; and the same through the commands."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

import sample
from jedi.errors import InputError
from jedi.io.kinds import detect
from jedi.io.original_layout import write_original
from jedi.pipeline import JediPipeline
from jedi.training.export import export, write_single
from jedi.training.load_run import load_run
from tests import tiny
from tests.jedi.sampling import close, latents
from tests.jedi.training.test_export import trained


@pytest.fixture
def file(tiny_model, tmp_path) -> Path:
    """A trained model in one file."""
    pipe = JediPipeline.from_pretrained(tiny_model)
    pipe.register_to_config(sampling_defaults={"num_inference_steps": 3})
    write_single(pipe, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_one_file_is_the_model(file, tiny_model, tiny_base):
    """Modes, scheduler and size are in the file; JSON and tokenizer come from a base."""
    expected = JediPipeline.from_pretrained(tiny_model)
    for load in (JediPipeline.from_single_file, JediPipeline.from_pretrained):
        found = load(file, config=tiny_base)
        assert found.config.trained_modes == ["one_way", "mutual"] and found.config.max_trained_references == 3
        assert found.sampling_defaults["num_inference_steps"] == 3
        assert found.image_size == expected.image_size and found.dtype == torch.float32
        assert dict(found.scheduler.config) == dict(expected.scheduler.config)
    found.set_progress_bar_config(disable=True)
    expected.set_progress_bar_config(disable=True)
    assert close(latents(found), latents(expected), 0)
    with pytest.raises(InputError, match=r"absent.safetensors: no such file"):
        JediPipeline.from_single_file("absent.safetensors")


def test_a_link_to_a_file_on_the_hub(file, tiny_base, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *x, **options: asked.append((*x, options)) or str(file)
    )
    link = "https://huggingface.co/owner/name/blob/main/a/model.safetensors"
    assert JediPipeline.from_single_file(link, config=tiny_base, token="t").config.max_trained_references == 3
    assert asked == [("owner/name", "a/model.safetensors", {"revision": "main", "token": "t"})]


def test_sd_xl_in_one_file(tmp_path):
    parts = tiny.xl_components(in_channels=9)
    folder = tiny.save_base(parts, tmp_path / "base", "StableDiffusionXLPipeline")
    expected = JediPipeline(**parts, trained_modes=["mutual"], force_zeros_for_empty_prompt=True)
    write_single(expected, tmp_path / "xl.safetensors")
    found = JediPipeline.from_single_file(tmp_path / "xl.safetensors", config=folder)
    assert found.config.trained_modes == ["mutual"] and found.config.force_zeros_for_empty_prompt
    for pipe in (found, expected):
        pipe.set_progress_bar_config(disable=True)
    assert close(latents(found), latents(expected), 0)


def test_dtypes_by_either_name(tiny_model):
    assert JediPipeline.from_pretrained(tiny_model, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert JediPipeline.from_pretrained(tiny_model, dtype=torch.float16).dtype == torch.float16


def test_what_is_asked_of_the_hub(tiny_model, monkeypatch):
    asked = []
    download = lambda name, parts, *args, **options: asked.append((name, *args, options)) or tiny_model
    monkeypatch.setattr("jedi.io.base.download", download)
    options = {"cache_dir": "c", "token": "t", "local_files_only": True, "force_download": False}
    JediPipeline.from_pretrained("owner/name", revision="v2", **options)
    assert asked == [("owner/name", "v2", None, options)]


def test_an_untrained_inpainting_base_is_not_a_trained_model(tmp_path, caplog):
    """It has the same channels; it was taken for a model that knows both modes, and sampled without a word."""
    parts = tiny.components(in_channels=9)
    folder = tiny.save_base(parts, tmp_path / "base")
    single = write_original(parts, tmp_path / "base.safetensors", {}, torch.float32)
    with caplog.at_level(logging.WARNING, "jedi"):
        assert JediPipeline.from_pretrained(folder).config.trained_modes == ["reference_only"]
        assert JediPipeline.from_single_file(single, config=folder).config.trained_modes == ["reference_only"]
    for file in ("model_index.json", "base.safetensors"):
        assert f"which JeDi has not trained (its {file} names no mode that it was trained in)" in caplog.text
    JediPipeline.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert not detect(tmp_path / "saved").trained and not detect(folder).trained
    assert JediPipeline.from_pretrained(tmp_path / "saved").config.trained_modes == ["reference_only"]
    assert JediPipeline.from_pretrained(folder, trained_modes=["mutual"]).config.trained_modes == ["mutual"]


def test_the_index_of_an_export_is_read(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    values = json.loads((model / "model_index.json").read_text()) | {"_class_name": ["pipeline", "JediPipeline"]}
    (model / "model_index.json").write_text(json.dumps(values))
    (model / "pipeline.py").write_text("raise SystemExit('run without being trusted')\n")
    assert JediPipeline.from_pretrained(model).config.trained_modes == ["one_way", "mutual"]


@pytest.mark.slow
def test_from_one_file_to_images(tmp_path, tiny_base, shards, capsys):
    """A base in one file: trained on, resumed, exported to one file, sampled by the command."""
    single = write_original(tiny.components(), tmp_path / "base.safetensors", {}, torch.float16)
    options = [f"base_config={tiny_base}", "max_steps=1"]
    run = trained(tmp_path, single, shards, *options)
    trained(tmp_path, single, shards, options[0], "max_steps=2")
    out = tmp_path / "trained.safetensors"
    export(run, tmp_path / "folder", single_file=out)
    weights = load_run(run).unet.state_dict()
    found = JediPipeline.from_single_file(out, config=str(tiny_base)).unet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    arguments = ["--model", str(out), "--model-config", str(tiny_base), "--prompt", "a cat", "--steps", "1"]
    assert sample.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["request"]["model_config"] == str(tiny_base) and record["settings"]["mode"] == "one_way"
    capsys.readouterr()
    assert sample.main(["--model", str(out), "--prompt", "a cat", "--out", str(tmp_path / "again")]) == 2
    assert (
        "holds weights only; its settings and tokenizer are those of stable-diffusion-v1-5/" in capsys.readouterr().err
    )
