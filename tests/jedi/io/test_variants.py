"""Which files of weights are read where several lie beside one another, here and on the hub."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from jedi.errors import InputError
from jedi.io.base import find_folder, load_base
from jedi.io.variants import choose, needed, weights
from jedi.pipeline import JediPipeline
from tests import tiny

NETWORKS = ("unet", "vae", "text_encoder")


def halved(folder: Path, part: str, variant: str = "fp16", keep: bool = False) -> None:
    """A part's weights in half precision, under a variant's name; the plain ones go, unless they are kept."""
    (path,) = (folder / part).glob("*.safetensors")
    halves = {name: value.half() for name, value in load_file(path).items()}
    save_file(halves, path.with_name(f"{path.stem}.{variant}.safetensors"), {"format": "pt"})
    if not keep:
        path.unlink()


@pytest.fixture
def base(tiny_base, tmp_path):
    """A copy of a base that may be changed."""
    return shutil.copytree(tiny_base, tmp_path / "base")


def is_half(part) -> bool:
    """Whether all numbers could have come from float16."""
    return all(torch.equal(value, value.half().float()) for value in part.parameters())


@pytest.mark.parametrize("halves", [NETWORKS, ("unet", "text_encoder"), ("vae",)])
def test_a_folder_with_fp16_files_only_or_in_some_parts(base, tiny_base, halves):
    for part in halves:
        halved(base, part)
    found, expected = load_base(base), load_base(tiny_base)
    for part in NETWORKS:
        pairs = zip(getattr(found, part).parameters(), getattr(expected, part).parameters(), strict=True)
        for value, wanted in pairs:
            assert value.dtype == torch.float32
            assert torch.equal(value, wanted.half().float() if part in halves else wanted)


def test_the_variant_is_a_choice_where_there_are_both(base):
    halved(base, "unet", keep=True)
    plain, half = load_base(base), load_base(base, variant="fp16")
    assert is_half(half.unet) and not is_half(plain.unet) and not is_half(half.vae)
    with pytest.raises(InputError, match=r"base has no weights of variant bf16; there: fp16, the plain one"):
        load_base(base, variant="bf16")


def test_shards_and_a_variant_in_shards(base, tiny_base):
    whole = load_base(tiny_base)
    whole.unet.save_pretrained(base / "unet", max_shard_size="300KB")
    (base / "unet" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    assert len(list((base / "unet").glob("diffusion_pytorch_model-*.safetensors"))) > 1
    found = load_base(base).unet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in whole.unet.state_dict().items())
    load_base(base).text_encoder.half().save_pretrained(base / "text_encoder", max_shard_size="10KB", variant="fp16")
    for path in (base / "text_encoder").glob("model.safetensors"):
        path.unlink()
    assert len(list((base / "text_encoder").glob("model.fp16-*.safetensors"))) > 1
    assert is_half(load_base(base).text_encoder)


def test_a_trained_model_with_fp16_files_only(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    for part in NETWORKS:
        halved(model, part)
    pipe = JediPipeline.from_pretrained(model)
    assert all(getattr(pipe, part).dtype == torch.float32 and is_half(getattr(pipe, part)) for part in NETWORKS)


OLD = ["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin", "config.json"]


@pytest.mark.parametrize(
    ("names", "variant", "chosen"),
    [
        (OLD, None, ("", "safetensors")),
        (OLD, "fp16", ("fp16", "safetensors")),
        (OLD, "bf16", ("", "safetensors")),
        (OLD[2:], None, ("", "bin")),
        (["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.fp16.bin"], None, ("fp16", "bin")),
        (["diffusion_pytorch_model.non_ema.safetensors"], None, ("non_ema", "safetensors")),
        (["model-00001-of-00002.fp16.safetensors"], None, ("fp16", "safetensors")),  # as older versions wrote it
        (["flax_model.msgpack", "openvino_model.bin", "model.onnx", "config.json"], None, None),
    ],
)
def test_what_is_read_of_several(names, variant, chosen):
    assert choose(names, variant) == chosen


def test_shards_are_told_from_variants():
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.fp16-00001-of-00001.bin"]
    assert weights(names) == {("", "safetensors"): names[:2], ("fp16", "bin"): names[2:]}
    files = [*names, "model.safetensors.index.json", "pytorch_model.bin.index.fp16.json", "config.json"]
    assert sorted(needed(files)) == sorted([*names[:2], "config.json", "model.safetensors.index.json"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands for the hub, OWNER/NAME in it; what was asked of it is recorded."""

    class Hub:
        folder, asked = tmp_path / "hub", []

    def list_repo_files(self, name, *, revision=None, token=None):
        Hub.asked.append(("files", name, revision, token))
        folder = Hub.folder / name
        if not folder.is_dir():
            raise huggingface_hub.errors.OfflineModeIsEnabled("the hub cannot be reached")
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def snapshot_download(name, *, revision=None, allow_patterns, local_files_only=False, cache_dir=None, **options):
        Hub.asked.append(("snapshot", name, revision, sorted(allow_patterns), local_files_only, options))
        if local_files_only and not (cache_dir and Path(cache_dir, name).is_dir()):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        for file in () if local_files_only else allow_patterns:
            if (Hub.folder / name / file).is_file():
                Path(cache_dir, name, file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Hub.folder / name / file, Path(cache_dir, name, file))
        return str(Path(cache_dir, name))

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return Hub


def test_a_name_of_the_hub_with_revision_and_variant(hub, tiny_base, tmp_path):
    there = shutil.copytree(tiny_base, hub.folder / "owner" / "name")
    halved(there, "unet", keep=True)
    (there / "safety_checker").mkdir()
    for name in ("safety_checker/model.safetensors", "pipeline.py", "v1-5-pruned.ckpt", "vae/pytorch_model.bin"):
        (there / name).touch()
    folder = find_folder("owner/name", "v2", "fp16", cache_dir=tmp_path / "cache", token="secret")
    assert is_half(load_base(folder, variant="fp16").unet)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in found and "vae/config.json" in found
    unwanted = {"pipeline.py", "v1-5-pruned.ckpt", "safety_checker/model.safetensors"}
    unwanted |= {"unet/diffusion_pytorch_model.safetensors", "vae/pytorch_model.bin"}
    assert not found & unwanted
    assert hub.asked[0] == ("files", "owner/name", "v2", "secret")
    assert hub.asked[1][1:3] == ("owner/name", "v2") and hub.asked[1][5] == {"token": "secret"}
    with pytest.raises(
        InputError, match="owner/name on the hub has no weights of variant bf16; there: fp16, the plain"
    ):
        find_folder("owner/name", variant="bf16", cache_dir=tmp_path / "cache")


def test_sd_xl_comes_with_both_of_its_text_encoders(hub, tmp_path):
    tiny.save_base(tiny.xl_components(), hub.folder / "owner" / "xl", "StableDiffusionXLPipeline")
    base = load_base(find_folder("owner/xl", cache_dir=tmp_path / "cache"))
    assert base.text_encoder_2 is not None and base.tokenizer_2 is not None


def test_without_the_hub_its_cache_is_enough(hub, tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "cache" / "owner" / "name")
    assert find_folder("owner/name", cache_dir=tmp_path / "cache") == tmp_path / "cache" / "owner" / "name"
    assert [asked[0] for asked in hub.asked] == ["files", "snapshot"]
    find_folder("owner/name", cache_dir=tmp_path / "cache", local_files_only=True)
    assert [asked[0] for asked in hub.asked] == ["files", "snapshot", "snapshot"]
    with pytest.raises(
        InputError, match="no folder a/b, and the model hub does not give it: the hub cannot be reached"
    ):
        find_folder("a/b", cache_dir=tmp_path / "cache")
