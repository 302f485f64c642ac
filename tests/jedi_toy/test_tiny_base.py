"""The small base: tokenizer, text encoder, UNet, and the folder they make."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from jedi_toy.tiny_base import make as making
from jedi_toy.tiny_base.__main__ import main
from jedi_toy.tiny_base.config import TextEncoderConfig, TinyBaseConfig, UNetConfig, VaeConfig
from jedi_toy.tiny_base.make import make, make_unet
from jedi_toy.tiny_base.text_encoder import train_text_encoder, train_tokenizer

CAPTIONS = ["a fox on the beach at night", "a teapot in the snow", "here is a fox in the snow"] * 20


def test_tokenizer_knows_its_words_and_spells_others(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, TextEncoderConfig(vocabulary=400, length=12))
    assert tokenizer.tokenize("A fox in the Snow") == ["a</w>", "fox</w>", "in</w>", "the</w>", "snow</w>"]
    assert tokenizer.decode(tokenizer("a zebra").input_ids, skip_special_tokens=True) == "a zebra"
    ids = tokenizer("a fox", padding="max_length", truncation=True).input_ids
    assert len(ids) == 12 and ids[0] == tokenizer.bos_token_id and ids[3:] == [tokenizer.eos_token_id] * 9
    tokenizer.save_pretrained(tmp_path)
    assert (
        CLIPTokenizer.from_pretrained(tmp_path)("a zebra in the snow").input_ids
        == tokenizer("a zebra in the snow").input_ids
    )


def test_tokenizer_is_a_function_of_the_captions():
    """The trainer's hash maps have another order each time; the vocabulary must not."""
    config = TextEncoderConfig(vocabulary=230)
    vocabularies = [train_tokenizer(CAPTIONS, config).get_vocab() for _ in range(6)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


@pytest.mark.slow
def test_text_encoder_learns_what_captions_look_like():
    captions = [f"{article} fox {when}" for when in ("at night", "by day") for article in ("a", "the")] * 16
    night = torch.tensor(["night" in caption for caption in captions])
    images = torch.where(night[:, None, None, None], -1.0, 1.0) + 0.1 * torch.randn(64, 3, 16, 16)
    config = TextEncoderConfig(
        vocabulary=300, length=10, width=16, heads=2, steps=80, batch_size=16, learning_rate=1e-2
    )
    tokenizer = train_tokenizer(captions, config)
    encoder = train_text_encoder(tokenizer, captions, images, config, seed=0)
    tokens = tokenizer(captions[:4], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        night_a, night_the, day_a, day_the = encoder(tokens).last_hidden_state[:, -1]
    assert not any(p.requires_grad for p in encoder.parameters())
    for article, when in ((night_a - night_the, night_a - day_a), (day_a - day_the, night_the - day_the)):
        assert when.norm() > 2 * article.norm()  # what shows in the images sets states apart, wording does not


def test_unet_starts_as_a_comparison_of_contents():
    unet = make_unet(UNetConfig([16, 32], [False, True], 1, 2), 4, 8, 24)
    layers = [m for name, m in unet.named_modules() if name.endswith("attn1")]
    assert len(layers) == 4  # one down, one in the middle, two up: none at the finest level
    for layer in layers:
        assert torch.equal(layer.to_q.weight, layer.to_k.weight)
        product = layer.to_out[0].weight @ layer.to_v.weight
        torch.testing.assert_close(product, 0.49 * torch.eye(32), atol=1e-5, rtol=1e-5)


def test_the_folder_is_a_stable_diffusion_pipeline(shards, tmp_path, caplog):
    out = tmp_path / "base"
    config = TinyBaseConfig(
        data=str(shards),
        out=str(out),
        images=8,
        vae=VaeConfig([8, 8, 8], 4, steps=2, batch_size=2),
        unet=UNetConfig([16, 32]),
        text=TextEncoderConfig(vocabulary=300, width=16, steps=2, batch_size=2),
    )
    assert make(config) == out
    pipe = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    assert pipe.unet.config.in_channels == 4 and pipe.scheduler.config.prediction_type == "v_prediction"
    image = pipe("a cat", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (pipe.vae.config.sample_size,) * 2 + (3,)
    before = (out / "model_index.json").stat().st_mtime_ns
    make(config)  # the same command again: nothing to do
    assert (out / "model_index.json").stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


@pytest.mark.slow
def test_an_interrupted_base_keeps_its_parts(shards, tmp_path, monkeypatch):
    def config(**changes) -> TinyBaseConfig:
        text = TextEncoderConfig(vocabulary=300, width=16, steps=2, batch_size=2)
        vae = VaeConfig([8, 8, 8], 4, steps=2, batch_size=2)
        parts = {"vae": vae, "unet": UNetConfig([16, 32]), "text": text, **changes}
        return TinyBaseConfig(str(shards), str(tmp_path / "base"), images=8, **parts)

    def weights(folder) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}

    make(config())
    whole = weights(tmp_path / "base")
    (tmp_path / "base").rename(tmp_path / "whole")

    trained = []
    real_text = train_text_encoder
    monkeypatch.setattr(making, "train_text_encoder", lambda *a: trained.append("text") or real_text(*a))
    with monkeypatch.context() as broken:
        broken.setattr(making, "train_vae", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(config())
    assert not (tmp_path / "base").exists()
    make(config())
    assert trained == ["text"]  # once, in the run that was interrupted
    assert weights(tmp_path / "base") == whole  # and the rest is as if nothing had happened
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "whole"]

    (tmp_path / "base").rename(tmp_path / "second")
    with monkeypatch.context() as broken:
        broken.setattr(making, "train_vae", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(config())
    make(config(text=TextEncoderConfig(vocabulary=300, width=32, steps=2, batch_size=2)))
    assert trained == ["text"] * 3  # parts of other settings are of no use


def test_missing_data_is_one_clear_line(tmp_path, capsys):
    assert main([f"data={tmp_path / 'none'}", f"out={tmp_path / 'base'}"]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert main(["data=x", "outt=y"]) == 2
    assert "out" in capsys.readouterr().err
