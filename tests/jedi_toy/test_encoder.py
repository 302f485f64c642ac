"""The benchmark's encoder: what it is trained by, how it is kept, and what the one that ships can do."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, CLIPModel

from jedi.errors import InputError
from jedi.io.config import ConfigError
from jedi.rng import keyed_generator
from jedi_toy.benchmark.cases import read_cases
from jedi_toy.benchmark.judge import Judge, PairJudge
from jedi_toy.encoder import training
from jedi_toy.encoder.__main__ import main
from jedi_toy.encoder.config import EncoderConfig, VisionTowerConfig
from jedi_toy.encoder.network import Probes, SubjectEncoder
from jedi_toy.encoder.training import Sets, soften, subject_loss, text_loss, train
from jedi_toy.tiny_base.config import TextTowerConfig
from tests.jedi.sampling import random_image
from tests.jedi_toy.toy_world import write_encoder, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("world") / "data", 12, 6, "resolution=32", "emoji.mixture=[]")


def settings(world: Path, out: Path, **changes) -> EncoderConfig:
    small = {
        "vision": VisionTowerConfig(width=16, layers=1, heads=2),
        "text": TextTowerConfig(width=16, layers=1, heads=2, vocabulary=260, length=24),
        "embedding": 12,
        "subject_width": 8,
        "steps": 4,
        "drawings": 3,
        "recoloured": 1,
        "images_per_set": 2,
        "checkpoint_every": 2,
    }
    return EncoderConfig(data=str(world), out=str(out), **(small | changes))


def test_subject_loss_wants_one_subject_together():
    names = ["a", "a", "b", "b"]
    apart = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    mixed = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    # For each image one positive among three: softmax of (1, 0, 0) / 0.5 and of (0, 1, 0) / 0.5.
    assert float(subject_loss(apart, names, 0.5)) == pytest.approx(math.log(math.exp(2) + 2) - 2, abs=1e-5)
    assert float(subject_loss(mixed, names, 0.5)) == pytest.approx(math.log(math.exp(2) + 2), abs=1e-5)
    assert subject_loss(3 * apart, names, 0.5) == subject_loss(apart, names, 0.5)


def test_text_loss_takes_equal_captions_as_equally_right():
    unit, scale = torch.eye(2)[[0, 0, 1]], torch.tensor(5.0)
    assert float(text_loss(unit, unit, ["a", "a", "b"], scale)) == pytest.approx(2 / 3 * math.log(2), abs=1e-3)
    assert float(text_loss(unit, unit.roll(1, 0), ["a", "a", "b"], scale)) > 10


def test_batches_are_a_function_of_the_step(world):
    sets = Sets(str(world), "train", 4, 100)
    assert sets.batch(0, 3, 5, 2) == sets.batch(0, 3, 5, 2) != sets.batch(0, 4, 5, 2)
    drawings = [sets.subjects[i].rpartition("-")[0] for i in sets.batch(0, 3, 5, 0)]
    assert len(set(drawings)) == 5
    assert sets.pixels([0, 2]).shape == (8, 3, 32, 32) and sets.pixels([0]).abs().max() <= 1
    assert len(Sets(str(world), "train", 4, 7).subjects) == 7
    with pytest.raises(ConfigError, match="no set of 11 images"):
        Sets(str(world), "train", 11, 100)


def test_softened_images_stay_images():
    pixels = torch.rand(16, 3, 8, 8) * 2 - 1
    soft = soften(pixels, 0.7, keyed_generator(0, "x"))
    same = (soft == pixels).flatten(1).all(1)
    assert same.any() and not same.all()
    assert (soft - pixels).abs().mean() < 0.5
    assert torch.equal(soft, soften(pixels, 0.7, keyed_generator(0, "x")))
    assert torch.equal(soften(pixels, 0.0, keyed_generator(0, "x")), pixels)


def test_training_goes_on_where_it_was_stopped(world, tmp_path, monkeypatch):
    whole = train(settings(world, tmp_path / "whole"))
    original, steps = training.subject_loss, []

    def stop_at_the_fourth(*arguments):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "subject_loss", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train(settings(world, tmp_path / "parts"))
    assert not (tmp_path / "parts").exists()
    with pytest.raises(ConfigError, match="run with other settings"):
        train(settings(world, tmp_path / "parts", seed=1))
    monkeypatch.setattr(training, "subject_loss", original)
    last = list((tmp_path / "parts.training" / "checkpoints").glob("*.ckpt"))
    data = {path: path.read_bytes() for path in last}
    for path in last:
        path.write_bytes(data[path][:-1])
    with pytest.raises(InputError, match="is damaged.*remove"):
        train(settings(world, tmp_path / "parts"))
    for path in last:
        path.write_bytes(data[path])
    parts = train(settings(world, tmp_path / "parts"))
    assert not (tmp_path / "parts.training").exists()
    for name in ("model.safetensors", "probes.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert set(json.loads((whole / "training.json").read_text())["on held-out subjects"]) == {"subject", "background"}


def test_a_stored_encoder_is_a_plain_clip(tmp_path):
    folder = write_encoder(tmp_path / "made")
    read = SubjectEncoder.load(folder)
    images = [random_image(1), random_image(2), random_image(3, (50, 20))]
    seen = read.read(images, batch_size=2)
    assert seen.subject.shape == (3, 12) and seen.embedding.shape == (3, 16)
    assert torch.allclose(seen.subject.norm(dim=1), torch.ones(3))
    assert torch.allclose(read.embed_images(images), seen.subject, atol=1e-5)
    assert set(seen.words) == {"background"} and set(seen.words["background"]) <= {
        "beach",
        "city",
        "night",
        "snow",
    }
    stock, processor = CLIPModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert stock.dtype == torch.float32
    inputs = processor(text=["an animal at night"], images=images[:1], return_tensors="pt", padding="max_length")
    with torch.no_grad():
        found = stock(**inputs)
    assert torch.allclose(found.image_embeds, seen.embedding[:1], atol=1e-5)
    assert torch.allclose(found.text_embeds, read.embed_texts(["an animal at night"]), atol=1e-5)


def test_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json; an encoder is made by"):
        SubjectEncoder.load(tmp_path)
    folder = write_encoder(tmp_path / "made")
    config = json.loads((folder / "config.json").read_text())
    del config["subject_width"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="not trained on subjects"):
        SubjectEncoder.load(folder)


def test_probes_keep_their_words(tmp_path):
    probes = Probes(4, {"size": ["large", "small"], "background": ["a", "b", "c"]})
    probes.save(tmp_path / "probes.safetensors")
    read = Probes.load(tmp_path / "probes.safetensors")
    vectors = torch.randn(5, 4)
    assert read.words == probes.words
    assert all(torch.equal(read(vectors)[name], probes(vectors)[name]) for name in probes.words)


def test_mistakes_are_named(world, tmp_path, capsys):
    with pytest.raises(ValueError, match="subject_width=13: it must be at most embedding=12"):
        settings(world, tmp_path, subject_width=13)
    assert main([f"data={tmp_path}", f"out={tmp_path / 'x'}"]) == 2
    assert "no data folder" in capsys.readouterr().err
    assert main([f"data={tmp_path}", f"out={tmp_path}", "stepps=2"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_encoder_that_ships_tells_held_out_subjects_apart(root, tmp_path):
    """The oracle's figures on a small world: 80 real images in the gallery of 60 sets' subjects."""
    encoder = SubjectEncoder.load(root / "models/emoji-clip")
    cases = read_cases(write_world(tmp_path / "data", 0, 72), subjects=40)
    scores = Judge(encoder, cases).score(cases.single, [cases.image(case, case.target) for case in cases.single])
    mean = lambda key: sum(x[key] for x in scores if x[key] is not None) / sum(x[key] is not None for x in scores)
    assert len(scores) == 40
    assert mean("subject") >= 0.9 and mean("background") >= 0.97 and mean("pose") >= 0.97
    pairs = PairJudge(encoder, cases).score(cases.pairs, [cases.image(case, case.target) for case in cases.pairs])
    assert sum(x["each"] for x in pairs) / len(pairs) >= 0.7
    wrong = [cases.image(other, other.target) for other in cases.single[1:] + cases.single[:1]]
    assert sum(x["subject"] for x in Judge(encoder, cases).score(cases.single, wrong)) <= 2
    size = sum(file.stat().st_size for file in (root / "models/emoji-clip").iterdir())
    assert size < 10_000_000
