"""The stage `segment`: whose masks are made, what becomes of them, and each kind of segmenter on the real classes."""

import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages import STAGES
from data_gen.stages.segment import Segment, SegmentSettings, clean
from data_gen.stages.segmenters import SEGMENTERS, make_segmenter
from jedi.io.config import ConfigError
from tests import tiny
from tests.data_gen.conftest import section
from tests.encoders import LAYERS, fill

GREEN, RED = (40, 160, 70), (210, 40, 40)


def configured(model="border", **settings):
    """Settings and context."""
    return SegmentSettings(model=model, **settings), Context("data", device="cpu")


def disc(box=(30, 20, 70, 60), size=(120, 80), speck=None) -> Image.Image:
    image = Image.new("RGB", size, GREEN)
    draw = ImageDraw.Draw(image)
    draw.ellipse(box, fill=RED)
    if speck:
        draw.rectangle(speck, fill=RED)
    return image


def made(images, key="train-00000001", masks=None, **changes) -> SubjectSet:
    return SubjectSet(
        key=key,
        subject={"id": "disc", "name": "cup", "class": "object"},
        captions=[f"a cup {i}" for i in range(len(images))],
        images=images,
        masks=masks or [None] * len(images),
        attributes=[{"member": i} for i in range(len(images))],
        licence="CC0-1.0",
        **changes,
    )


@pytest.fixture
def fixed(monkeypatch):
    """A kind of segmenter that answers with masks given, and keeps what it was asked."""

    def answering(*masks):
        asked, answers = [], iter(masks)

        class Fixed:
            uses_model, packages = False, ()

            def __init__(self, source, settings, context):
                pass

            def find(self, images, names):
                asked.append((len(images), list(names)))
                return [next(answers) for _ in images]

        monkeypatch.setitem(SEGMENTERS._parts, "fixed", Fixed)
        return asked

    return answering


def rectangle(box, size=(100, 100), value=255) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(value, box)
    return mask


GOOD = rectangle((20, 30, 60, 80))
PHOTO = Image.new("RGB", (100, 100), GREEN)


def test_rembg_leaves_the_number_of_threads_alone(tmp_path, monkeypatch):
    """Its numba sets OpenMP's to all cores, which is torch's where both found the same library (not on every machine,
    hence a stand-in); a process that was given one core must keep to it."""
    (tmp_path / "rembg").mkdir()
    (tmp_path / "rembg" / "__init__.py").write_text("import torch\ntorch.set_num_threads(7)\n")
    (tmp_path / "rembg" / "session_factory.py").write_text("new_session = None\n")
    (tmp_path / "rembg" / "sessions.py").write_text("sessions = {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    threads, stage = torch.get_num_threads(), Segment(*configured("rembg:no-such-session"))
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] == "rembg"]:
            del sys.modules[name]
        with pytest.raises(ConfigError, match="has no session 'no-such-session'"):
            stage.process([made([disc()])])
        assert sys.modules["rembg"].__file__ == str(tmp_path / "rembg" / "__init__.py")
    found = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert found == threads


def test_a_plain_background_gives_the_disc():
    """Within a pixel of the drawn one; what holds two colours is still one background; a speck and a hole go."""
    image = disc(speck=(100, 5, 102, 7))
    ImageDraw.Draw(image).rectangle((0, 50, 29, 79), fill=(60, 60, 200))
    ImageDraw.Draw(image).ellipse((45, 35, 55, 45), fill=GREEN)
    (one,) = Segment(*configured()).process([made([image, disc()])])
    for mask, described in zip(one.masks, one.attributes, strict=True):
        drawn = Image.new("L", image.size)
        ImageDraw.Draw(drawn).ellipse((30, 20, 70, 60), fill=255)
        a, b = np.asarray(mask) > 127, np.asarray(drawn) > 127
        assert (a & b).sum() / (a | b).sum() > 0.93
        assert np.abs(np.array(described["box"]) - (30, 20, 71, 61)).max() <= 1
        assert described["mask_share"] == pytest.approx(np.pi * 400 / 9600, abs=0.01)
    assert one.attributes[1]["member"] == 1
    assert one.provenance == {"segmenter": "border"}
    assert one.scores["mask_border"] == [0, 0]


def test_masks_that_are_there_stay_unless_they_are_to_be_replaced(fixed):
    other = rectangle((0, 0, 30, 30))
    asked = fixed(other, other, other)
    given = made([PHOTO] * 2, masks=[GOOD, None])
    (one,) = Segment(*configured("fixed")).process([given])
    assert asked == [(1, ["cup"])]
    assert one.masks[0] is GOOD
    assert one.attributes[0]["box"] == [20, 30, 60, 80]
    assert one.attributes[1]["box"] == [0, 0, 30, 30]
    (one,) = Segment(*configured("fixed", replace=True)).process([given])
    assert [x["box"] for x in one.attributes] == [[0, 0, 30, 30]] * 2
    assert given.masks == [GOOD, None]
    assert given.attributes == [{"member": 0}, {"member": 1}]
    (one,) = Segment(*configured("fixed")).process([replace(given, masks=[GOOD, GOOD])])
    assert one.provenance == {}


def test_images_of_all_sets_share_batches(fixed):
    asked = fixed(*[GOOD] * 7)
    sets = [made([PHOTO] * n, f"train-{n:08d}") for n in (3, 4)]
    done = Segment(*configured("fixed", batch=5)).process(sets)
    assert [n for n, _ in asked] == [5, 2]
    assert [one.key for one in done] == ["train-00000003", "train-00000004"]
    assert Segment(*configured("fixed")).process([]) == []


@pytest.mark.parametrize(
    ("mask", "settings", "reason"),
    [
        (Image.new("L", (100, 100)), {}, "no subject found"),
        (rectangle((0, 0, 100, 100), value=120), {}, "no subject found"),
        (rectangle((20, 20, 30, 30)), {}, "subject smaller than 0.02 of the image"),
        (rectangle((1, 1, 99, 99)), {}, "subject larger than 0.9 of the image"),
        (rectangle((0, 0, 100, 70)), {}, "subject on more than 0.6 of the edge"),
        (rectangle((0, 0, 100, 70)), {"max_border": None}, None),
        (rectangle((20, 20, 30, 30)), {"share": [0.0, 1.0]}, None),
        (rectangle((20, 20, 60, 60), value=120), {"threshold": 0.4}, None),
    ],
)
def test_what_is_no_subject_drops_its_set(fixed, mask, settings, reason):
    fixed(GOOD, mask)
    (one,) = Segment(*configured("fixed", **settings)).process([made([PHOTO] * 2)])
    if reason is None:
        assert isinstance(one, SubjectSet)
    else:
        assert isinstance(one, Dropped)
        assert one.reason == reason
        assert one.scores["mask_share"][0] == 0.2
        assert one.scores == one.rejected.scores
        assert len(one.rejected.images) == 2


def test_an_image_alone_can_be_left_out(fixed):
    empty = Image.new("L", (100, 100))
    for masks, settings, changes, left in [
        ((GOOD, empty, GOOD), {}, {}, [0, 2]),
        ((GOOD, empty, empty), {}, {}, None),
        ((GOOD, empty, empty), {"min_images": 1}, {}, [0]),
        ((GOOD, empty, GOOD), {}, {"references": [2]}, [0, 2]),
        ((GOOD, empty, GOOD), {}, {"references": [1]}, None),
    ]:
        fixed(*masks)
        stage = Segment(*configured("fixed", drop_images=True, **settings))
        scores = {"text": [0.1, 0.2, 0.3], "identity": {"mean": 0.9}}
        (one,) = stage.process([made([PHOTO] * 3, scores=scores, **changes)])
        if left is None:
            assert isinstance(one, Dropped)
            assert one.reason == "no subject found"
            continue
        assert one.captions == [f"a cup {i}" for i in left]
        assert [x["member"] for x in one.attributes] == left
        assert one.scores["text"] == [scores["text"][i] for i in left]
        assert one.scores["identity"] == {"mean": 0.9}
        assert one.scores["mask_share"] == [0.2] * len(left)
        assert one.references == ([1] if changes else [])
        assert one.provenance["left_out"] == {"segment": {"no subject found": 3 - len(left)}}
        gone = [i for i in range(3) if i not in left]
        nothing = [0.0] * len(gone)
        texts = [scores["text"][i] for i in gone]
        assert one.scores["left_out"] == {"mask_share": nothing, "mask_border": nothing, "text": texts}


def test_specks_go_and_soft_edges_stay():
    mask = rectangle((20, 20, 80, 80), (200, 200))
    mask.paste(100, (18, 20, 20, 80))  # a soft edge
    mask.paste(100, (100, 20, 110, 30))  # haze, far from the part
    mask.paste(255, (150, 150, 160, 160))  # a speck
    mask.paste(255, (100, 100, 130, 130))  # a second part, a quarter as large
    cleaned = clean(mask, 0.5, 0.1)
    expected = rectangle((20, 20, 80, 80), (200, 200))
    expected.paste(100, (18, 20, 20, 80))
    expected.paste(255, (100, 100, 130, 130))
    assert np.array_equal(cleaned, expected)
    assert clean(mask, 0.5, 0.3).getbbox() == (18, 20, 80, 80)
    assert clean(rectangle((20, 20, 80, 80), value=90), 0.5, 0.1).getbbox() is None


def test_the_stage_says_what_it_needs():
    stage = STAGES.get("segment")(*configured())
    assert (stage.needs, stage.gives, stage.uses_model) == ({"images"}, {"masks"}, False)
    assert STAGES.get("segment")(*configured("sam:somewhere")).uses_model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("magic:x", "unknown segmenter 'magic'"),
        ("border:x", "no models to choose from"),
        ("clipseg", "clipseg:FOLDER_OR_HUB_NAME"),
        ("sam", "sam:FOLDER_OR_HUB_NAME"),
        ("rembg", "rembg:SESSION"),
        ("rembg:/not/there.onnx", "/not/there.onnx: no such file"),
        ("rembg:u2net=/not/there.onnx", "/not/there.onnx: no such file"),
    ],
)
def test_a_wrong_model_is_refused_when_the_stage_is_made(model, words):
    with pytest.raises(ConfigError, match="segment.model") as caught:
        Segment(*configured(model))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": ""}, "segment.model"),
        ({"threshold": 0}, "segment.threshold"),
        ({"share": [0.5, 0.1]}, "segment.share"),
        ({"share": [0.5]}, "segment.share"),
        ({"max_border": 1.1}, "segment.max_border"),
        ({"min_part": 2}, "segment.min_part"),
        ({"prompt": "click"}, "segment.prompt"),
        ({"batch": 0}, "segment.batch"),
        ({"min_images": 0}, "segment.min_images"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        section("segment", **settings)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for model, extra in (("rembg:u2net", "rembg"), ("border", "data")):
        with pytest.raises(ConfigError, match=rf"pip install 'jedi-diffusion\[{extra}\]'"):
            Segment(*configured(model))


def test_the_settings_load_no_torch(environment, root):
    code = "import sys, data_gen.stages.segment, data_gen.stages.filter, data_gen.hashes\n"
    code += "print([x for x in ('torch', 'scipy', 'transformers') if x in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# The real classes, small and with random weights: each output is compared with the library's own way to it.


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    folder = tmp_path_factory.mktemp("clipseg")
    words = tiny.tokenizer()
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPSegConfig(
        text_config={**LAYERS, **ends, "vocab_size": len(words), "max_position_embeddings": tiny.TEXT_LENGTH},
        vision_config={**LAYERS, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=12,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=16,
    )
    fill(CLIPSegForImageSegmentation(config)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    from transformers import SamConfig, SamModel

    folder = tmp_path_factory.mktemp("sam")
    vision = {
        "hidden_size": 24, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16, "num_pos_feats": 8, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [1],
    }  # fmt: skip
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    fill(SamModel(config)).save_pretrained(folder)
    return folder


IMAGES = [disc(), disc((10, 10, 40, 70), (60, 90)), disc((20, 20, 50, 50), (64, 64))]


def alike(ours, theirs, images=IMAGES):
    for mask, expected, image in zip(ours, theirs, images, strict=True):
        assert (mask.mode, mask.size) == ("L", image.size)
        assert np.abs(np.asarray(mask).astype(int) - np.asarray(expected)).max() <= 2
        assert np.asarray(mask).std() > 1


def test_clipseg_is_asked_for_the_name(clipseg):
    import torch
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessorPil

    names = ["a cup", "the red dog", "a cat"]
    segmenter = make_segmenter(*configured(f"clipseg:{clipseg}"))
    ours = segmenter.find(IMAGES, names)
    model = CLIPSegForImageSegmentation.from_pretrained(clipseg)
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    pixels = ViTImageProcessorPil(size={"height": 32, "width": 32}, **imagenet)(IMAGES, return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(clipseg)(
        ["a cup", "the red dog", "a cat"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits
    theirs = [
        Image.fromarray((255 * x.sigmoid()).round().byte().numpy()).resize(image.size, Image.Resampling.BILINEAR)
        for x, image in zip(logits, IMAGES, strict=True)
    ]
    alike(ours, theirs)
    alike(segmenter.find(IMAGES[:1], ["a cup"]), theirs[:1], IMAGES[:1])
    assert segmenter.find(IMAGES[:1], ["a dog"])[0].tobytes() != ours[0].tobytes()


@pytest.mark.parametrize("prompt", ["point", "box"])
def test_sam_is_asked_for_the_middle_and_gives_the_mask_it_trusts_most(sam, prompt):
    import torch
    from transformers import SamImageProcessorPil, SamModel, SamProcessor

    ours = make_segmenter(*configured(f"sam:{sam}", prompt=prompt)).find(IMAGES, ["a cup"] * 3)
    model = SamModel.from_pretrained(sam)
    processor = SamProcessor(SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}))
    theirs, chosen = [], []
    for image in IMAGES:
        width, height = image.size
        places = {"point": {"input_points": [[[width / 2, height / 2]]]}}
        places["box"] = {"input_boxes": [[[0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height]]]}
        inputs = processor(images=image, return_tensors="pt", **places[prompt])
        inputs = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
        with torch.no_grad():
            answer = model(**inputs)
        sizes, scaled = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        (masks,) = processor.post_process_masks(answer.pred_masks, sizes, scaled, binarize=False)
        chosen.append(int(answer.iou_scores[0, 0].argmax()))
        theirs.append((255 * masks[0, chosen[-1]].sigmoid()).round().byte().numpy())
    alike(ours, theirs)


@pytest.mark.parametrize("kind", ["clipseg", "sam"])
def test_a_model_that_cannot_be_had_is_named(kind, tmp_path, clipseg, sam):
    for folder in (tmp_path, {"clipseg": sam, "sam": clipseg}[kind]):
        stage = Segment(*configured(f"{kind}:{folder}"))
        with pytest.raises(ConfigError, match=f"segment.model={kind}:{folder}"):
            stage.process([made([disc()])])


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory):
    """A network of one layer: how much redder than green each pixel is; 320 pixels, or 1024, as the sessions ask."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    def write(side):
        kernel = helper.make_tensor("kernel", TensorProto.FLOAT, [1, 3, 1, 1], [1.0, -1.0, 0.0])
        shapes = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])]
        shapes.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, side, side]))
        nodes = [helper.make_node("Conv", ["x", "kernel"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
        graph = helper.make_graph(nodes, "red", shapes[:1], shapes[1:], [kernel])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path_factory.mktemp("onnx") / f"red_{side}.onnx"
        onnx.save(model, path)
        return path

    return write


@pytest.mark.slow
def test_rembg_runs_a_file_of_ours(onnx_model):
    pytest.importorskip("rembg")
    for source in (f"{onnx_model(1024)}", f"u2net={onnx_model(320)}"):
        stage = Segment(*configured(f"rembg:{source}"))
        plain = Image.new("RGB", (50, 50), GREEN)
        one, none = stage.process([made([disc(), disc((60, 10, 110, 60))]), made([plain, disc()], "train-00000002")])
        assert np.abs(np.array(one.attributes[0]["box"]) - (30, 20, 71, 61)).max() <= 1
        assert np.abs(np.array(one.attributes[1]["box"]) - (60, 10, 111, 61)).max() <= 1
        assert none.reason == "no subject found"


@pytest.mark.slow
def test_rembg_sessions_that_cannot_be_had_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("rembg")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    monkeypatch.setenv("REMBG_HOME", str(tmp_path))
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", offline)
    for source, words in [
        ("no-such-session", "isnet-general-use"),
        ("atlascloud", "sends the images to a service"),
        ("u2net", "rembg:u2net=/path/model.onnx"),
        (str(tmp_path / "broken.onnx"), "cannot load"),
    ]:
        with pytest.raises(ConfigError, match="segment.model") as caught:
            Segment(*configured(f"rembg:{source}")).process([made([disc()])])
        assert words in str(caught.value)
