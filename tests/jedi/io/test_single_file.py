"""Models in one file, in the original layout: there and back through diffusers' own converter, and what is refused."""

import copy
import json

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from jedi.errors import InputError
from jedi.io.base import load_base, load_unet
from jedi.io.original_layout import original_weights, write_original
from jedi.io.single_file import config_folder, read_metadata
from tests import tiny

NETWORKS = ("unet", "vae", "text_encoder")
DOWN, UP, CROSS_DOWN, CROSS_UP = "DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


def unet_of(family: str, in_channels: int) -> UNet2DConditionModel:
    """The blocks of Stable Diffusion's UNets, narrow."""
    old = {
        "block_out_channels": (8, 16, 16, 16),
        "down_block_types": (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP, CROSS_UP),
        "attention_head_dim": 2,
        "use_linear_projection": family == "2.x",
    }
    return UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, norm_num_groups=4, cross_attention_dim=tiny.TEXT_WIDTH, **old
    )


def vae() -> AutoencoderKL:
    """Stable Diffusion's, narrow: levels are counted from the other end in the original decoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 12, 16),
        layers_per_block=2,
        norm_num_groups=4,
    )


def parts_of(family: str, in_channels: int = 9) -> dict:
    """A model with the blocks of that family, random weights."""
    parts = tiny.components(in_channels=in_channels) | {"unet": unet_of(family, in_channels), "vae": vae()}
    config = copy.deepcopy(parts["text_encoder"].config)
    config.hidden_act = {"1.x": "quick_gelu", "2.x": "gelu"}[family]
    return parts | {"text_encoder": CLIPTextModel(config).eval()}


def equal(found, expected) -> bool:
    """Whether two networks have the same weights, all of them."""
    found, expected = found.state_dict(), expected.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_sd_xl_there_and_back(tmp_path):
    parts = tiny.xl_components(in_channels=9)
    folder = tiny.save_base(parts, tmp_path / "folder", "StableDiffusionXLPipeline")
    file = write_original(parts, tmp_path / "model.safetensors", {}, torch.float32)
    weights = load_file(file)
    assert "model.diffusion_model.label_emb.0.2.weight" in weights and "v_pred" in weights
    assert weights["conditioner.embedders.1.model.text_projection"].shape == (24, 24)
    found = load_base(file, config=str(folder))
    assert all(equal(getattr(found, name), parts[name]) for name in (*NETWORKS, "text_encoder_2"))
    assert found.force_zeros_for_empty_prompt


@pytest.mark.parametrize("family", ["1.x", "2.x"])
def test_there_and_back_all_weights_are_equal(family, tmp_path):
    parts = parts_of(family)
    folder = tiny.save_base(parts, tmp_path / "folder")
    file = write_original(parts, tmp_path / "model.safetensors", {}, torch.float32)
    found = load_base(file, config=str(folder))
    assert all(equal(getattr(found, name), parts[name]) for name in NETWORKS)
    assert found.tokenizer.get_vocab() == parts["tokenizer"].get_vocab()


@pytest.mark.slow
def test_the_stock_inpainting_pipeline_reads_the_file(tmp_path):
    parts = parts_of("1.x")
    folder = tiny.save_base(parts, tmp_path / "folder")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"))
    file = write_original(parts, tmp_path / "model.safetensors", {}, torch.float32)
    pipe = StableDiffusionInpaintPipeline.from_single_file(str(file), config=str(folder), local_files_only=True)
    assert all(equal(getattr(pipe, name), parts[name]) for name in NETWORKS)


def test_names_are_those_of_stable_diffusion():
    """A few of v1-5-pruned.safetensors, one of each kind."""
    names = dict(original_weights(parts_of("1.x")))
    for name in (
        "model.diffusion_model.time_embed.0.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.middle_block.2.out_layers.3.bias",
        "model.diffusion_model.output_blocks.2.1.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight",
        "model.diffusion_model.out.2.bias",
        "first_stage_model.encoder.down.0.downsample.conv.weight",
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight",
        "first_stage_model.decoder.mid.attn_1.proj_out.weight",
        "first_stage_model.decoder.mid.block_2.conv1.weight",
        "first_stage_model.quant_conv.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.q_proj.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    ):
        assert name in names, name
    assert names["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4
    second = dict(original_weights(parts_of("2.x")))
    assert "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight" in second
    assert "cond_stage_model.model.positional_embedding" in second


def test_a_plain_file_with_half_precision(tmp_path, tiny_components, tiny_base):
    """Also with the settings of a plain base for an inpainting file: the file's channels count."""
    for channels in (4, 9):
        parts = tiny.components(in_channels=channels)
        file = write_original(parts, tmp_path / f"{channels}.safetensors", {}, torch.float16)
        found = load_base(file, config=str(tiny_base))
        assert found.unet.config.in_channels == channels
        for name in NETWORKS:
            pairs = zip(getattr(found, name).parameters(), parts[name].parameters(), strict=True)
            assert all(x.dtype == torch.float32 and torch.equal(x, y.half().float()) for x, y in pairs)


def test_what_no_file_can_be_made_of(tmp_path, tiny_base):
    parts = tiny.components()
    file = write_original(parts, tmp_path / "model.safetensors", {}, torch.float32)
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if "decoder.mid.attn" not in k}, tmp_path / "less.safetensors")
    save_file({"lora_unet.alpha": torch.ones(1)}, tmp_path / "lora.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(file.read_bytes()[:1000])
    (tmp_path / "model.ckpt").write_bytes(b"")
    for name, message in (
        ("less", r"less.safetensors \(vae\): the file lacks weights of AutoencoderKL$"),
        ("lora", "lora.safetensors holds no model in Stable Diffusion's original layout"),
        ("broken", "broken.safetensors: not readable as safetensors"),
    ):
        with pytest.raises(InputError, match=message):
            load_base(tmp_path / f"{name}.safetensors", config=str(tiny_base))
    with pytest.raises(InputError, match="init_from .*model.safetensors: one file does not say what it predicts"):
        load_unet(file, "epsilon")
    for own in ("[]", '{"index": []}', '{"scheduler": 1}', "{"):
        save_file(weights, tmp_path / "own.safetensors", {"jedi": own})
        with pytest.raises(InputError, match=r"own.safetensors: (its metadata 'jedi' is not as|not readable)"):
            load_base(tmp_path / "own.safetensors", config=str(tiny_base))
    for own in ({"sample_size": 0}, {"scheduler": {"_class_name": "UNet2DConditionModel"}}, {"scheduler": {}}):
        save_file(weights, tmp_path / "own.safetensors", {"jedi": json.dumps(own)})
        with pytest.raises(
            InputError, match=r"own.safetensors: ('sample_size' is 0|its scheduler is of class|None|'diff)"
        ):
            load_base(tmp_path / "own.safetensors", config=str(tiny_base))
    with pytest.raises(InputError, match=r"model.ckpt: a model in one file is a .safetensors file; a pickle can run"):
        load_base(tmp_path / "model.ckpt")


def test_settings_and_tokenizer_come_from_the_hub_or_its_cache(tmp_path, tiny_base, monkeypatch):
    file = write_original(tiny.components(in_channels=9), tmp_path / "model.safetensors", {"a": 1}, torch.float32)
    assert read_metadata(file) == {"a": 1}
    with pytest.raises(InputError, match=r"those of stable-diffusion-v1-5/stable-diffusion-inpainting, which neither"):
        config_folder(file)
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(tiny_base)
    )
    assert config_folder(file, revision="v2") == tiny_base == config_folder(file, "owner/name")
    patterns = ["*.json", "*.txt", "**/*.json", "**/*.txt"]
    name = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    assert asked[0] == (name, {"allow_patterns": patterns, "revision": "v2"}) and asked[1][0] == "owner/name"


def test_a_file_of_another_model_is_refused_by_name(tmp_path):
    weights = dict(original_weights(tiny.components()))
    weights = {name: value.contiguous() for name, value in weights.items()}
    weights["conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias"] = torch.zeros(1)
    save_file(weights, tmp_path / "refiner.safetensors")
    with pytest.raises(InputError, match="refiner.safetensors is what diffusers calls xl_refiner; JeDi takes Stable"):
        config_folder(tmp_path / "refiner.safetensors")
