"""Loading pipelines: the device, the dtype, and what is refused."""

import json
import shutil

import pytest
import torch

from data_gen.models import device_of, load_pipeline
from jedi.io.config import ConfigError
from tests import tiny
from tests.data_gen.pipelines import context, save_flux


def test_a_folder_loads_in_the_dtype_and_without_bars(tiny_base, capfd):
    pipe = load_pipeline("collage.model", str(tiny_base), "text2image", context(dtype="bfloat16"))
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
    pipe("a red cat", height=32, width=32, num_inference_steps=2)
    assert "it/s" not in capfd.readouterr().err


def test_kinds_are_told_apart(tiny_base, tmp_path):
    inpaint = load_pipeline("augment.model", str(tiny_base), "inpaint", context())
    assert type(inpaint).__name__ == "StableDiffusionInpaintPipeline"
    flux = load_pipeline("collage.model", str(save_flux(tmp_path / "flux")), "text2image", context())
    assert type(flux).__name__ == "FluxPipeline"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "is empty"),
        ("/nowhere/at/all", "no such folder"),
        ("nowhere", "OWNER/NAME"),
        ("no-such-owner/no-such-model", "the model hub does not give it"),
    ],
)
def test_a_model_that_cannot_be_had(source, said):
    with pytest.raises(ConfigError, match=said) as error:
        load_pipeline("collage.model", source, "text2image", context())
    assert str(error.value).startswith("collage.model")


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(ConfigError, match="not a diffusers folder.*model_index.json"):
        load_pipeline("collage.model", str(tmp_path), "text2image", context())
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConfigError, match="names no pipeline class"):
        load_pipeline("collage.model", str(tmp_path), "text2image", context())
    (tmp_path / "model.ckpt").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        load_pipeline("collage.model", str(tmp_path / "model.ckpt"), "text2image", context())


def test_a_pipeline_of_another_kind(root, tmp_path):
    with pytest.raises(ConfigError, match="is a JediPipeline; expected a text-to-image pipeline"):
        load_pipeline("collage.model", str(root / "models" / "jedi-tiny"), "text2image", context())
    folder = tiny.save_base(tiny.components(in_channels=9), tmp_path)
    with pytest.raises(ConfigError, match="takes 9 channels for latents of 4"):
        load_pipeline("collage.model", str(folder), "text2image", context())
    assert load_pipeline("augment.model", str(folder), "inpaint", context()).unet.config.in_channels == 9


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_pickles_are_not_read(tiny_base, tmp_path, part):
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    (weights,) = (folder / part).glob("*.safetensors")
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match=f"the weights of {part} are a pickle"):
        load_pipeline("collage.model", str(folder), "text2image", context())
    weights.with_suffix(".bin").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        load_pipeline("collage.model", str(folder), "text2image", context())


def test_a_part_that_does_not_load(tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["diffusers", "NoSuchClass"]}))
    with pytest.raises(ConfigError, match="StableDiffusionPipeline does not load: .*NoSuchClass"):
        load_pipeline("collage.model", str(folder), "text2image", context())


def test_devices():
    assert device_of(context(device="cpu")) == "cpu"
    assert device_of(context(device="auto")) == ("cuda" if torch.cuda.is_available() else "cpu")
    for wish in ("tpu", "cuda:x", "meta"):
        with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
            device_of(context(device=wish))
    with pytest.raises(ConfigError, match="CUDA devices"):
        device_of(context(device=f"cuda:{torch.cuda.device_count()}"))
