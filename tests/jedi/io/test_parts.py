"""One way in for the parts of a model: known classes, all weights, finite, float32, or one line that says why not."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

import sample
import train
from data_gen.models import load_pipeline
from jedi.captions import caption_length, encode_captions
from jedi.errors import InputError
from jedi.io.base import load_base, load_unet
from jedi.io.config import ConfigError
from jedi.io.parts import known_class, load_part
from jedi.pipeline import JediPipeline
from tests import tiny
from tests.data_gen.pipelines import context

KINDS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def with_weights(folder, part, change):
    """``folder``, its part's weights changed: a function of the dict of tensors."""
    (path,) = (folder / part).glob("*.safetensors")
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


def with_json(folder, file, **values):
    """``folder``, values of a JSON file changed; None removes one."""
    path = folder / file
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return folder


def without_two(weights):
    return dict(sorted(weights.items())[2:])


def with_another(weights):
    return weights | {"another.weight": torch.zeros(2)}


def of_another_shape(weights):
    return weights | {sorted(weights)[0]: torch.zeros(3, 3)}


def with_nan(weights):
    name = sorted(weights)[0]
    return weights | {name: weights[name].clone().fill_(float("nan"))}


@pytest.fixture
def base(tiny_base, tmp_path):
    """A copy of a base that may be changed."""
    return shutil.copytree(tiny_base, tmp_path / "base")


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of a model that may be changed."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.mark.parametrize("part", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_two, r"the weights do not fit \w+ as config.json describes it: \S+, \S+ \(2 in all\) missing$"),
        (with_another, r"another.weight \(1 in all\) not expected$"),
        (of_another_shape, r"(of another shape|expected shape.*\[3, 3\])"),
        (with_nan, r"not finite \(NaN or infinity\): \S+ \(1 in all\); get another copy$"),
    ],
)
def test_weights_that_do_not_fit_are_named(base, part, change, message, capfd):
    with_weights(base, part, change)
    with pytest.raises(InputError, match=message) as error:
        load_part(KINDS[part], base / part)
    assert str(error.value).startswith(f"{base / part}: ") and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # no report of the library's beside it


@pytest.mark.parametrize("part", KINDS)
def test_a_part_without_weights_is_said_once(base, part, caplog):
    """diffusers logged the fault too, so that a command said it twice."""
    next((base / part).glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"cannot be loaded: .*no file named"):
        load_part(KINDS[part], base / part)
    assert not caplog.records


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"guidance": ["plain"]}, r"'guidance' is \['plain'\]; it must be a text"),
        ({"num_inference_steps": 0}, "'num_inference_steps' is 0; it must be a whole number from 1"),
        ({"guidance_scale": -1}, "'guidance_scale' is -1; it must be a number from 0"),
        ({"image_guidance_scale": "2"}, "'image_guidance_scale' is '2'; it must be a number from 0"),
    ],
)
def test_what_a_model_samples_with_by_default_is_checked(model, defaults, message):
    """A list for a name was a TypeError in the middle of a request."""
    with_json(model, "model_index.json", sampling_defaults=defaults)
    with pytest.raises(InputError, match=message):
        JediPipeline.from_pretrained(model)


def test_what_a_model_says_of_itself_is_one_line_of_letters(model):
    """sample.py prints it: nothing of it may move a terminal's cursor."""
    with_json(model, "model_index.json", knows="drawings\x1b[2J\n")
    with pytest.raises(InputError, match=r"'knows' is 'drawings\\x1b\[2J\\n'; it must be null or a text of one line"):
        JediPipeline.from_pretrained(model)


def test_what_a_library_says_is_kept_where_it_needs_two_lines(base):
    with_json(base, "text_encoder/config.json", hidden_size=33)
    with pytest.raises(InputError, match=r"validator 'validate_architecture': ValueError: .*hidden size"):
        load_base(base)
    with_json(base, "text_encoder/config.json", hidden_size=tiny.TEXT_WIDTH, hidden_act="wavy")
    with pytest.raises(InputError, match=r"KeyError 'wavy'"):
        load_base(base)


def test_every_way_to_a_model_refuses_a_part_that_lacks_weights(base, model, tmp_path, shards, capsys):
    """Training went on with random numbers, other ones in each launch."""
    with_weights(base, "text_encoder", without_two)
    with_weights(model, "vae", without_two)
    with pytest.raises(InputError, match=r"base/text_encoder: .* missing"):
        load_base(base)
    with pytest.raises(InputError, match=r"model/vae: .* missing"):
        JediPipeline.from_pretrained(model)
    with pytest.raises(ConfigError, match=r"collage.model=.*base/text_encoder: .* missing"):
        load_pipeline("collage.model", str(base), "text2image", context())
    with pytest.raises(InputError, match=r"model/unet: .* missing"):
        load_unet(with_weights(model, "unet", without_two), "v_prediction")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"base: {base}\nout: {tmp_path / 'run'}\ndata:\n  path: {shards}\n")
    assert train.main(["--config", str(recipe)]) == 2
    assert sample.main(["--model", str(model), "--prompt", "a cat", "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["train.py", "sample.py"]
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_names_of_older_versions_go_on_loading(base):
    """Old CLIP files say text_model and have position_ids; old autoencoders have query, key, value, proj_attn."""
    ids = {"text_model.embeddings.position_ids": torch.arange(tiny.TEXT_LENGTH)[None]}
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        for new, old in older.items():
            name = name.replace(new, old)
        return name

    before = load_base(base)
    with_weights(base, "text_encoder", lambda x: {f"text_model.{name}": value for name, value in x.items()} | ids)
    with_weights(base, "vae", lambda x: {rename(name): value for name, value in x.items()})
    after = load_base(base)
    for part in ("text_encoder", "vae"):
        now = getattr(after, part).state_dict()
        assert all(torch.equal(value, now[name]) for name, value in getattr(before, part).state_dict().items())


BIN = {"unet": "diffusion_pytorch_model.bin", "vae": "diffusion_pytorch_model.bin", "text_encoder": "pytorch_model.bin"}


def test_a_folder_of_old_with_bin_files_only_is_loaded(base, tiny_base):
    for part, name in BIN.items():
        (path,) = (base / part).glob("*.safetensors")
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    found, expected = load_base(base), load_base(tiny_base)
    for part in BIN:
        weights = getattr(found, part).state_dict()
        assert all(torch.equal(weights[key], value) for key, value in getattr(expected, part).state_dict().items())


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("part", BIN)
def test_a_pickle_that_does_more_than_hold_tensors_is_refused(base, part, tmp_path):
    (path,) = (base / part).glob("*.safetensors")
    torch.save({"x": Payload(tmp_path / "called")}, path.with_name(BIN[part]))
    path.unlink()
    with pytest.raises(InputError, match=part):
        load_base(base)
    assert not (tmp_path / "called").exists()


def test_parts_are_float32_whatever_they_were_stored_in(base, model):
    """The text encoder stayed in float16 in a float32 training."""
    for folder in (base, model):
        for part in KINDS:
            with_weights(folder, part, lambda x: {name: value.half() for name, value in x.items()})
        with_json(folder, "text_encoder/config.json", dtype="float16")
    loaded, pipe = load_base(base), JediPipeline.from_pretrained(model)
    for part in KINDS:
        for owner in (loaded, pipe):
            assert {x.dtype for x in getattr(owner, part).parameters()} == {torch.float32}, part
    assert load_unet(model, "v_prediction").dtype == torch.float32
    halves = JediPipeline.from_pretrained(model, dtype=torch.bfloat16)
    assert {getattr(halves, part).dtype for part in KINDS} == {torch.bfloat16}


def test_a_tokenizer_that_does_not_know_its_length(base):
    """transformers then says 1e30: an OverflowError at the first caption."""
    with_json(base, "tokenizer/tokenizer_config.json", model_max_length=None)
    loaded = load_base(base)
    assert loaded.tokenizer.model_max_length > 1e29
    assert caption_length(loaded.tokenizer, loaded.text_encoder) == tiny.TEXT_LENGTH
    captions = encode_captions(loaded, ["a cat", "a " * 99]).embeds
    assert captions.shape == (2, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH)
    pipe = load_pipeline("collage.model", str(base), "text2image", context())
    assert pipe.tokenizer.model_max_length == tiny.TEXT_LENGTH


@pytest.mark.parametrize(
    "entry",
    [
        ["payload", "Payload"], ["os", "system"], ["diffusers", "payload"], ["transformers", "pipeline"],
        ["diffusers.pipelines", "DiffusionPipeline"], ["diffusers", "__loader__"], ["jedi.rng", "keyed_seed"],
        "payload", ["payload"], {"payload": 1}, None, [None, None], [["os"], "system"], ["diffusers", ["UNet"]],
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", ["scheduler", "unet"])
def test_nothing_is_imported_because_a_folder_says_so(base, model, part, entry, tmp_path, monkeypatch):
    (tmp_path / "payload.py").write_text("raise SystemExit('the payload ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for folder, load in ((base, load_base), (model, JediPipeline.from_pretrained)):
        index = json.loads((folder / "model_index.json").read_text()) | {part: entry}
        (folder / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(InputError, match=r"model_index\.json: .* is not a class of diffusers or transformers"):
            load(folder)


def test_nor_for_the_data_engine(base, tmp_path, monkeypatch):
    (tmp_path / "payload.py").write_text("raise SystemExit('the payload ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with_json(base, "model_index.json", safety_checker=["payload", "Payload"])
    with pytest.raises(ConfigError, match="'payload', 'Payload' is not a class of diffusers or transformers"):
        load_pipeline("collage.model", str(base), "text2image", context())


def test_parts_of_other_classes_than_ours_are_refused(base):
    assert known_class("stable_diffusion", "StableDiffusionSafetyChecker", "x").__name__.endswith("SafetyChecker")
    with_json(base, "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    with pytest.raises(InputError, match="vae is of class AutoencoderTiny; AutoencoderKL is needed"):
        load_base(base)


def test_a_tokenizer_that_does_not_fit_its_text_encoder(base):
    """Tokens that the text encoder does not know were an IndexError at the first caption that has them."""
    path = base / "tokenizer" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["a"] = 10**6
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"knows \d+ tokens, up to number 1000000, the text_encoder \d+;"):
        load_base(base)
