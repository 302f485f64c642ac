"""Forms of an export: dtypes and variants, one file, plain diffusers, the model card, the hub."""

import json
from dataclasses import replace

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file

from jedi.errors import InputError
from jedi.io.base import load_base
from jedi.io.config import load
from jedi.io.kinds import detect
from jedi.pipeline import JediPipeline
from jedi.training import checkpoints
from jedi.training import export as exporting
from jedi.training.card import CardFacts, data_summary, licence_of, model_card
from jedi.training.config import TrainConfig
from jedi.training.export import export
from jedi.training.load_run import load_run
from tests.forked import python
from tests.forked import run as run_child
from tests.jedi.training.test_export import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_base, shards):
    """One step of training, with a validation and a grid of samples."""
    options = ["max_steps=1", "validation.every_steps=1", "validation.sets=2", "validation.bins=1"]
    options += ["samples.every_steps=1", "samples.steps=1", "samples.subjects=1", "samples.prompts=1"]
    return trained(tmp_path_factory.mktemp("forms"), tiny_base, shards, *options)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """The run's export. Read only."""
    return export(run, tmp_path_factory.mktemp("model") / "model")


@pytest.mark.slow
def test_a_variant_in_half_precision(run, tmp_path):
    out = export(run, tmp_path / "model", dtype="float16", variant="fp16")
    names = {path.name for path in out.rglob("*.safetensors")}
    assert names == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}
    assert {x.dtype for x in load_file(out / "unet" / "diffusion_pytorch_model.fp16.safetensors").values()} == {
        torch.float16
    }
    found, expected = JediPipeline.from_pretrained(out).unet, load_run(run).unet
    pairs = zip(found.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(value, wanted.half().float()) for value, wanted in pairs)


@pytest.mark.slow
def test_one_file_in_the_original_layout(run, tmp_path, tiny_base, capsys):
    file = tmp_path / "model.safetensors"
    assert exporting.main([str(run), "--single-file", str(file)]) == 0
    assert capsys.readouterr().out == f"wrote {file}\n"
    found, expected = load_base(file, config=str(tiny_base)), load_run(run)
    for name in ("unet", "vae", "text_encoder"):
        weights = getattr(found, name).state_dict()
        assert all(torch.equal(weights[key], value) for key, value in getattr(expected, name).state_dict().items())
    assert found.unet.config.in_channels == 9
    assert found.scheduler.config.prediction_type == "v_prediction"
    for arguments, message in (
        ([str(run), "--single-file", str(file)], "expected the name of a new file that ends in .safetensors"),
        ([str(run), "--single-file", str(tmp_path / "x.ckpt")], "expected the name of a new file that ends in"),
        ([str(run)], "nothing to write: give a folder, or --single-file FILE"),
        ([str(run), "--push-to-hub", "a/b"], "--push-to-hub needs the folder to write"),
        ([str(run), str(tmp_path / "out"), "--push-to-hub", "../b"], "--push-to-hub ../b: expected OWNER/NAME"),
    ):
        assert exporting.main(arguments) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_plain_diffusers_opens_the_folder(model, tmp_path):
    code = (
        "import os, sys; from diffusers import DiffusionPipeline\n"
        "from diffusers.utils import dynamic_modules_utils as code\n"
        "code.HF_MODULES_CACHE = os.path.abspath('modules')\n"
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(type(pipe).__mro__[1].__module__, pipe.config.trained_modes, pipe.unet.config.in_channels)\n"
        "print(pipe('a cat', num_inference_steps=1).images[0].size)\n"
    )
    status, said = run_child(python(["-c", code, str(model)], tmp_path))
    assert status == 0, said
    assert "jedi.pipeline ['one_way'] 9\n" in said and "(32, 32)\n" in said
    assert list((tmp_path / "modules").rglob("pipeline.py"))


def test_without_jedi_the_folder_says_what_it_needs(model):
    source = (model / "pipeline.py").read_text().replace("jedi.pipeline", "no_such_package.pipeline")
    with pytest.raises(
        ImportError, match=r"this model needs the package jedi-diffusion .*: pip install jedi-diffusion"
    ):
        exec(source, {})


def test_the_card_of_an_export(model, run):
    text = (model / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    settings = yaml.safe_load(head)
    assert settings["library_name"] == "diffusers" and settings["pipeline_tag"] == "text-to-image"
    assert "base_model" not in settings and "license" not in settings  # a folder, and nothing says it
    assert "modes one_way, at most 2 references; step 1." in body
    assert "| optimizer.lr | 0.01 |" in body and "| conditioning.mutual_prob | 0.0 |" in body
    gain = checkpoints.validation(run, 1)["gain/wrong"]
    assert f"| gain/wrong | {gain:.4g} |" in body and checkpoints.validation(run, 0) == {}
    assert "![samples](samples.png)" in body and (model / "samples.png").is_file()
    assert "The base's licence is not known here" in body


def test_a_card_names_base_licence_and_data(tmp_path, tiny_base):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\ntags:\n- x\n---\n# Stable Diffusion\n")
    assert licence_of(base) == "creativeml-openrail-m" and licence_of(tmp_path) is None
    (tmp_path / "DATA_CARD.md").write_text(
        "# Data set\n\n20 training sets.\n\nLicence: CC0-1.0.\n\n## What it is\n\nx\n"
    )
    assert data_summary(tmp_path) == ["20 training sets.", "Licence: CC0-1.0."] and data_summary(base) == []
    config = load(TrainConfig, None, ["base=owner/name", f"out={tmp_path / 'run'}", f"data.path={tmp_path}"])
    facts = CardFacts(tmp_path / "run", config, 10, base, detect(tiny_base), 3, (32, 64))
    card = model_card(facts, False)
    settings = yaml.safe_load(card.split("---\n")[1])
    assert settings["base_model"] == "owner/name" and settings["license"] == "creativeml-openrail-m"
    assert "20 training sets.\n\nLicence: CC0-1.0." in card and str(tmp_path) not in card
    assert "Images of 64 x 32 pixels" in card
    sources = [f"data.sources=[{{path: {tmp_path}, weight: 2}}, {{path: {tmp_path / 'absent'}}}]"]
    config = load(TrainConfig, None, ["base=owner/name", f"out={tmp_path / 'run'}", *sources])
    card = model_card(replace(facts, config=config), False)
    assert f"## Data {tmp_path.name}, weight 2\n\n20 training sets." in card and str(tmp_path) not in card


class Hub:
    """Stands for the hub: keeps what is uploaded."""

    def __init__(self, folder) -> None:
        self.folder, self.made = folder, []

    def create_repo(self, _, name, *, repo_type, exist_ok, private):
        self.made.append((name, repo_type, exist_ok, private))

    def upload_folder(self, _, *, repo_id, folder_path, repo_type, commit_message, allow_patterns):
        files = [path for path in folder_path.rglob("*") if path.is_file()]
        for path in files:
            target = self.folder / repo_id / path.relative_to(folder_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the hub's place."""
    hub = Hub(tmp_path / "hub")
    for name in ("create_repo", "upload_folder"):
        method = getattr(hub, name)
        monkeypatch.setattr(
            huggingface_hub.HfApi, name, lambda *args, _method=method, **kwargs: _method(*args, **kwargs)
        )
    return hub


def test_an_export_goes_to_the_hub_and_comes_back(run, hub, tmp_path, capsys, monkeypatch):
    arguments = [str(run), str(tmp_path / "model"), "--push-to-hub", "owner/model", "--private"]
    assert exporting.main(arguments) == 0
    assert "uploaded to https://huggingface.co/owner/model" in capsys.readouterr().out
    assert hub.made == [("owner/model", "model", True, True)]
    there = hub.folder / "owner" / "model"
    assert (there / "README.md").is_file() and json.loads((there / "model_index.json").read_text())["trained_modes"]
    assert JediPipeline.from_pretrained(there).config.trained_modes == ["one_way"]


def test_what_the_hub_refuses_is_said_and_the_folder_stays(run, tmp_path, capsys, monkeypatch):
    def refuses(*_, **__):
        raise huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach the hub")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuses)
    assert exporting.main([str(run), str(tmp_path / "model"), "--push-to-hub", "owner/model"]) == 2
    error = capsys.readouterr().err
    assert "model is whole, but the hub did not take it as owner/model: Cannot reach the hub; log in with" in error
    assert (tmp_path / "model" / "model_index.json").is_file()
    with pytest.raises(InputError):
        export(run, tmp_path / "model")
