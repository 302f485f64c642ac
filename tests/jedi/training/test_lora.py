"""LoRA and the training of a part of the UNet: what is trained, what a checkpoint holds, exact resuming."""

import copy
import json
import re
import shutil

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import train
from jedi.errors import InputError
from jedi.io.base import load_base
from jedi.io.config import load
from jedi.pipeline import JediPipeline
from jedi.text import EncodedText
from jedi.training import checkpoints
from jedi.training import export as exporting
from jedi.training.config import LoraSettings, NetworkConfig, TrainConfig, TrainDataConfig
from jedi.training.export import export
from jedi.training.load_run import load_run
from jedi.training.optimizer import make_optimizer
from jedi.training.trained import make_unet, merge_lora, trained
from jedi.unet import JointUNet
from tests import tiny
from tests.conftest import write_shard


def small_unet(in_channels: int = tiny.LATENT_CHANNELS) -> UNet2DConditionModel:
    """One level, width 8."""
    return UNet2DConditionModel(
        sample_size=tiny.LATENT_SIDE,
        in_channels=in_channels,
        out_channels=tiny.LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=tiny.TEXT_WIDTH,
        attention_head_dim=2,
    )


def settings(trainable=(), init_from=None, **lora) -> TrainConfig:
    return TrainConfig(
        base="base",
        out="run",
        data=TrainDataConfig("data"),
        init_from=init_from,
        network=NetworkConfig(trainable=list(trainable)),
        lora=LoraSettings(**lora),
    )


def randomised(unet: JointUNet) -> JointUNet:
    """With adapters that change something, which they don't at the start."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name or "conv_in" in name:
                parameter.normal_(std=0.3)
    return unet.eval()


def inputs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor, EncodedText]:
    channels = 2 * tiny.LATENT_CHANNELS + 1
    sample = torch.randn(2, n, channels, tiny.LATENT_SIDE, tiny.LATENT_SIDE)
    return sample, torch.tensor([300, 700]), EncodedText(torch.randn(2, n, 5, tiny.TEXT_WIDTH))


def test_adapters_and_new_input_channels_are_trained_and_nothing_else():
    unet = make_unet(small_unet(), settings(rank=2))
    names = set(trained(unet.unet))
    layers = {name.partition(".lora_")[0] for name in names if "lora" in name}
    expected = {
        f"{place}.transformer_blocks.0.{attention}.{layer}"
        for place in (
            "down_blocks.0.attentions.0",
            "mid_block.attentions.0",
            *(f"up_blocks.0.attentions.{i}" for i in (0, 1)),
        )
        for attention in ("attn1", "attn2")
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
    }
    assert layers == expected
    assert {name for name in names if "lora" not in name} == {"conv_in.weight", "conv_in.bias"}
    groups = make_optimizer(unet, settings().optimizer).param_groups
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in trained(unet).values()}
    inpainting = make_unet(small_unet(2 * tiny.LATENT_CHANNELS + 1), settings(rank=2))
    assert not [name for name in trained(inpainting) if "conv_in" in name]


def test_all_layers_can_have_adapters_and_a_seed_gives_the_same_ones():
    torch.manual_seed(0)
    base = small_unet()
    units = [make_unet(copy.deepcopy(base), settings(rank=2, target_modules=["all"])) for _ in range(2)]
    layers = {name.partition(".lora_")[0] for name in trained(units[0].unet) if "lora" in name}
    assert {"time_embedding.linear_1", "down_blocks.0.resnets.0.conv1", "conv_out"} < layers and "conv_in" not in layers
    state, other = (unit.state_dict() for unit in units)
    assert all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("rank", [2, None])
@pytest.mark.parametrize("mode", ["one_way", "mutual", "cached"])
def test_gradients_reach_what_is_trained_and_nothing_else(mode, rank):
    unet = randomised(make_unet(small_unet(), settings([] if rank else ["self_attention"], rank=rank)))
    sample, timestep, text = inputs()
    if mode == "cached":
        cache = unet.encode_references(sample[:, :2], text[:, :2])
        unet(sample[:, 2:], timestep, text[:, 2:], cache=cache).square().mean().backward()
    else:
        unet(sample, timestep, text, 2, mode)[:, 2:].square().mean().backward()
    gradients = {name: p.grad.abs().max() for name, p in unet.named_parameters() if p.grad is not None}
    assert gradients.keys() == trained(unet).keys()
    assert not [name for name, value in gradients.items() if not value > 0]


def test_references_train_the_adapters_through_the_cache_as_in_one_call():
    unet = randomised(make_unet(small_unet(), settings(rank=2)))
    sample, timestep, text = inputs()
    found = []
    for cached in (False, True):
        unet.zero_grad()
        if cached:
            cache = unet.encode_references(sample[:, :2], text[:, :2])
            prediction = unet(sample[:, 2:], timestep, text[:, 2:], cache=cache)
        else:
            prediction = unet(sample, timestep, text, 2)[:, 2:]
        prediction.square().mean().backward()
        found.append([p.grad.clone() for p in trained(unet).values()])
    for whole, cached in zip(*found, strict=True):
        torch.testing.assert_close(cached, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_adapters_are_coupled_as_the_weights_that_they_are_merged_into(mode):
    unet = randomised(make_unet(small_unet(), settings(rank=2, alpha=3, target_modules=["all"])))
    arguments = (*inputs(), 2, mode)
    with torch.no_grad():
        before = unet(*arguments)
        merge_lora(unet.unet)
        after = unet(*arguments)
    assert not [name for name in unet.state_dict() if "lora" in name or "base_layer" in name]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("trainable", "some", "others"),
    [
        (["attention"], "attn2.to_k.weight", "ff.net"),
        (["self_attention"], "attn1.to_q.weight", "attn2"),
        (["cross_attention"], "attn2.to_v.weight", "attn1"),
        (["transformers"], "ff.net.0.proj.weight", "resnets"),
        (["mid_block", "*.conv1.bias"], "up_blocks.0.resnets.0.conv1.bias", "conv2.bias"),
    ],
)
def test_a_part_of_the_unet_is_trained(trainable, some, others):
    names = set(trained(make_unet(small_unet(), settings(trainable)).unet))
    assert any(name.endswith(some) for name in names)
    assert not [name for name in names if others in name and "mid_block" not in trainable]
    assert {"conv_in.weight", "conv_in.bias"} < names


@pytest.mark.parametrize("trainable", [[], ["all"]])
def test_all_of_it_is_trained_unless_a_part_is_named(trainable):
    unet = make_unet(small_unet(), settings(trainable))
    assert trained(unet).keys() == dict(unet.named_parameters()).keys() and not settings(trainable).trains_part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": ["attention", "atention"]}, "network.trainable: 'atention' matches nothing"),
        ({"rank": 2, "target_modules": ["to_q", "to_out"]}, "lora.target_modules: .* ends in 'to_out'"),
    ],
)
def test_a_name_that_matches_nothing_is_named(options, message):
    with pytest.raises(InputError, match=message):
        make_unet(small_unet(), settings(**options))


def test_adapters_and_a_part_exclude_one_another():
    with pytest.raises(InputError, match="give one of the two"):
        settings(["attention"], rank=2)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Adapters of rank 2 on a very small base, sets of 3 and 4, dropout, an average, validation, samples."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    tiny.save_base(tiny.components() | {"unet": small_unet()}, folder / "base")
    write_shard(folder / "shards" / "train", "00000", [4, 3] * 4, tiny.PIXELS, seed=1)
    write_shard(folder / "shards" / "heldout", "00000", [4] * 2, tiny.PIXELS, seed=2)
    values = {
        "base": str(folder / "base"),
        "out": str(folder / "run"),
        "data": {"path": str(folder / "shards"), "workers": 0, "cache_latents": True},
        "max_steps": 3,
        "batch_size": 2,
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
        "optimizer": {"lr": 1e-2, "warmup_steps": 0},
        "conditioning": {"reference_weights": [1, 1, 1]},
        "ema": {"decay": 0.7},
        "validation": {"every_steps": 3, "sets": 2, "bins": 1},
        "samples": {"every_steps": 3, "subjects": 1, "prompts": 1, "steps": 1},
        "log": {"loggers": []},
        "hardware": {"accelerator": "cpu", "precision": "32-true"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


QUIET = ["validation.every_steps=0", "samples.every_steps=0"]


def launch(recipe, run, *options) -> int:
    return train.main(["--config", str(recipe), f"out={run}", *options])


def saved(run) -> dict:
    return torch.load(checkpoints.newest(run), weights_only=True)


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora_run") / "run"
    assert launch(recipe, folder) == 0
    return folder


def test_a_checkpoint_holds_what_is_trained(run, recipe):
    state = saved(run)
    unet = make_unet(small_unet(), load(TrainConfig, recipe))
    expected = {f"{prefix}{name}" for name in trained(unet) for prefix in ("unet.", "ema.module.")}
    assert state["state_dict"].keys() == expected
    assert len(state["optimizer_states"][0]["state"]) == len(trained(unet))
    best = checkpoints.load(checkpoints.find(run, "best"))["state_dict"]
    assert best.keys() == {name for name in expected if name.startswith("ema.")}
    assert (run / "samples" / "step-00000003.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["lora.rank=null", "network.trainable=[cross_attention]"]])
def test_a_run_resumes_exactly(recipe, run, tmp_path, options):
    whole = run
    if options:
        whole = tmp_path / "whole"
        assert launch(recipe, whole, *QUIET, *options) == 0
    for top in (1, 3):
        assert launch(recipe, tmp_path / "run", *QUIET, *options, f"max_steps={top}") == 0
    found, expected = saved(tmp_path / "run"), saved(whole)
    assert all(torch.equal(found["state_dict"][name], value) for name, value in expected["state_dict"].items())
    moments = expected["optimizer_states"][0]["state"]
    for i, of_one in found["optimizer_states"][0]["state"].items():
        assert all(torch.equal(of_one[name], moments[i][name]) for name in moments[i])


def test_the_weights_that_are_not_trained_must_be_there_again(recipe, run, tmp_path, capsys):
    folder = tmp_path / "base"
    torch.manual_seed(1)
    tiny.save_base(tiny.components() | {"unet": small_unet()}, folder)
    shutil.copytree(run, tmp_path / "run")
    assert launch(recipe, tmp_path / "run", f"base={folder}", "max_steps=4") == 2
    assert "the rest of base" in (line := capsys.readouterr().err) and "put the old one back" in line
    assert launch(recipe, tmp_path / "run", "lora.rank=4", "max_steps=4") == 2
    assert "lora.rank was 2, is 4" in capsys.readouterr().err
    assert launch(recipe, tmp_path / "run", "lora.rank=null", "network.trainable=[attention]", "max_steps=4") == 2
    assert "network.trainable was []" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_starts_from_a_run_of_adapters(recipe, run, tmp_path, capsys):
    """Merged; with adapters of its own, or in full; and goes on only while that one is there."""
    first = load_run(run).unet.state_dict()
    source = shutil.copytree(run, tmp_path / "first")
    options = [*QUIET, f"init_from={source}", "optimizer.lr=0", "max_steps=1"]
    assert launch(recipe, tmp_path / "full", *options, "lora.rank=null") == 0
    weights = saved(tmp_path / "full")["state_dict"]
    assert all(torch.equal(weights[f"unet.unet.{name}"], value) for name, value in first.items())
    assert launch(recipe, tmp_path / "lora", *options) == 0
    again = load_run(tmp_path / "lora").unet.state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not [name for name in saved(tmp_path / "lora")["state_dict"] if "conv_in" in name]  # it had grown before

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("first", "lora"):
        (tmp_path / name).rename(moved / name)
    assert load_run(moved / "lora").unet.state_dict().keys() == first.keys()
    (moved / "first").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="was trained on init_from"):
        load_run(moved / "lora")


def image(pipe) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    references = [Image.new("RGB", (tiny.PIXELS, tiny.PIXELS), colour) for colour in ("red", "blue")]
    call = {"prompt": "a cat", "references": references, "num_inference_steps": 2, "output_type": "latent"}
    return pipe(**call, generator=torch.Generator().manual_seed(0)).images


@pytest.mark.slow
def test_a_run_its_merged_export_and_base_with_lora_give_the_same_image(run, recipe, tmp_path):
    expected = image(load_run(run))
    merged = JediPipeline.from_pretrained(export(run, tmp_path / "merged"))
    assert torch.equal(image(merged), expected) and not [name for name in merged.unet.state_dict() if "lora" in name]
    assert exporting.main([str(run), str(tmp_path / "lora"), "--lora", "separate"]) == 0
    names = {"pytorch_lora_weights.safetensors", "conv_in.safetensors", "README.md"}
    assert {path.name for path in (tmp_path / "lora").iterdir()} == names
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "lora" / "README.md").read_text(), re.S)
    found: dict = {}
    exec(code.replace('"FOLDER"', repr(str(tmp_path / "lora"))), found)  # what the folder says of its use
    pipe = found["pipe"]
    torch.testing.assert_close(image(pipe), expected, rtol=1e-4, atol=1e-5)
    assert pipe.config.trained_modes == merged.config.trained_modes and pipe.config.max_trained_references == 2
    pipe.fuse_lora()
    torch.testing.assert_close(image(pipe), expected, rtol=1e-4, atol=1e-5)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()  # conv_in too
    base = JointUNet.from_base(load_base(load(TrainConfig, recipe).base).unet).unet.state_dict()
    assert base.keys() == pipe.unet.state_dict().keys()
    assert all(torch.allclose(base[name], value, atol=1e-6) for name, value in pipe.unet.state_dict().items())


def test_a_lora_of_diffusers_alone_reads_the_file(run, tmp_path):
    """Its scale is in the weights: alpha is the rank. conv_in is not known there."""
    export(run, tmp_path / "lora", lora="separate")
    with safe_open(tmp_path / "lora" / "pytorch_lora_weights.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        assert all(name.startswith("unet.") and ".lora" in name for name in file.keys())  # noqa: SIM118
    assert metadata["unet.r"] == metadata["unet.lora_alpha"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variant", "fp16"], "--lora separate writes a folder, without --single-file and --variant"),
        (["--single-file", "x.safetensors"], "without --single-file"),
    ],
)
def test_what_a_lora_has_no_place_for_is_refused(run, tmp_path, capsys, options, message):
    assert exporting.main([str(run), str(tmp_path / "lora"), "--lora", "separate", *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "lora").exists()


def test_a_conv_in_that_does_not_fit_is_refused(tiny_model, tmp_path):
    save_file({"weight": torch.zeros(2, 9, 3, 3), "bias": torch.zeros(2)}, tmp_path / "conv_in.safetensors")
    with pytest.raises(InputError, match=r"conv_in\.safetensors is not the conv_in of this model"):
        JediPipeline.from_pretrained(tiny_model).load_lora_weights(str(tmp_path))


@pytest.mark.slow
def test_the_same_of_sd_xl(recipe, tmp_path):
    base = tiny.save_base(tiny.xl_components(), tmp_path / "base", "StableDiffusionXLPipeline")
    assert launch(recipe, tmp_path / "run", f"base={base}", "max_steps=1", *QUIET) == 0
    folder = export(tmp_path / "run", tmp_path / "lora", lora="separate")
    pipe = JediPipeline.from_pipe(DiffusionPipeline.from_pretrained(base), trained_modes=["one_way", "mutual"])
    pipe.load_lora_weights(str(folder))
    torch.testing.assert_close(image(pipe), image(load_run(tmp_path / "run")), rtol=1e-4, atol=1e-5)
