"""Every configuration in configs/ is loaded as its own command loads it, and every name in it is looked up."""

import re
import shlex
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
from PIL import Image

import sample
from data_gen import __main__ as data_gen_command
from data_gen.config import load_config
from data_gen.plan import make_parts
from data_gen.samples import Item
from jedi.attention import ATTENTION_BACKENDS, ATTENTION_MODES
from jedi.conditioning import CONDITIONING_POLICIES
from jedi.io.base import load_base
from jedi.io.config import load
from jedi.io.hub import is_hub_name
from jedi.training.config import TrainConfig
from jedi.training.module import JointTraining
from jedi.training.trainer import choose_precision
from jedi_toy.encoder.config import EncoderConfig
from jedi_toy.tiny_base.config import TinyBaseConfig
from tests.paths import ROOT

CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))
SCHEMAS = {"train": TrainConfig, "data_gen": None, "base": TinyBaseConfig, "evaluation": EncoderConfig}
NAMES = [config.relative_to(ROOT / "configs").as_posix() for config in CONFIGS]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=NAMES)


def of_kind(kind: str) -> pytest.MarkDecorator:
    chosen = [config for config in CONFIGS if config.parent.name == kind]
    assert chosen
    return pytest.mark.parametrize("config", chosen, ids=lambda path: path.stem)


def header(config: Path) -> list[str]:
    lines = config.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]


def arguments(config: Path) -> list[str]:
    """What stands after the program's name in the command of the header."""
    (command,) = (line.removeprefix("Command:") for line in header(config) if line.startswith("Command:"))
    words = shlex.split(command)
    return words[words.index("--config") :]


def loaded(config: Path, *overrides: str):
    """The configuration through its real schema, with the overrides of its own command and these."""
    first, file, *more = arguments(config)
    assert first == "--config" and ROOT / file == config
    if config.parent.name == "data_gen":  # their extensions decide the schema
        return load_config(config, [*more, *overrides])
    return load(SCHEMAS[config.parent.name], config, [*more, *overrides])


@every_config
def test_a_configuration_says_what_it_is(config):
    """Each begins with what it is, the command, its cost, what to expect."""
    lines = header(config)
    assert lines, "a header: what it is, the command, its cost, what to expect"
    text = "\n".join(lines)
    assert len(lines[0]) > 20, "the first line says what it is"
    assert re.search(rf"python .*--config {config.relative_to(ROOT).as_posix()}", text), "the command"
    for word in ("Cost:", "Expect:"):
        assert re.search(rf"\b{word} \S", text), f"no '{word} ...' in the header"
    assert not re.search(r"\bX+\b", text)


def test_there_is_a_configuration_for_each_front_end():
    assert {config.parent.name for config in CONFIGS} == {*SCHEMAS, "sample"}


@of_kind("sample")
def test_a_request_is_one_that_sample_py_takes(config):
    settings = sample.settings_from(vars(sample.parser().parse_args(arguments(config))))
    asked = load(sample.Settings, config)
    assert (
        settings.prompts == asked.prompts and len(settings.captions) == len(asked.prompts) * asked.num_images_per_prompt
    )
    assert (ROOT / settings.references[0]).is_dir() and settings.out


@of_kind("data_gen")
def test_source_and_stages_are_there_and_fit(config, tmp_path):
    """As `plan` makes them: the constructors look up back ends, encoders, segmenters, filters and captioners. Those of
    the emoji source draw a set."""
    options = data_gen_command._parser().parse_args(["run", *arguments(config)])
    assert options.overrides == arguments(config)[2:]
    (tmp_path / "mug").mkdir()
    Image.new("RGB", (600, 600), "red").save(tmp_path / "mug" / "1.png")
    settings = loaded(config, *[f"{name}.path={tmp_path}" for name in ("folder", "syncd", "subjects200k")])
    assert settings.out == f"data/{config.stem}"
    parts = make_parts(settings)
    assert [name for name, _ in parts.stages] == settings.stages
    if settings.source == "emoji":
        one = next(parts.source.make([Item("train", 0)]))
        assert len(one.images) == settings.images_per_set and one.images[0].size == (settings.resolution,) * 2


@of_kind("train")
def test_a_recipe_builds_its_training(config, tiny_base):
    """Everything but the base and the weights to start from, which are of another size."""
    recipe = loaded(config)
    assert {recipe.network.attention} <= set(ATTENTION_BACKENDS)
    assert recipe.trained_modes and set(recipe.trained_modes) <= set(ATTENTION_MODES)
    JointTraining(replace(recipe, init_from=None), load_base(str(tiny_base)))  # weighting, rule, defaults
    largest = recipe.data.set_size or 4
    plan = CONDITIONING_POLICIES.get(recipe.conditioning.policy)(recipe.seed, 0, largest, recipe.conditioning)
    assert plan.mode in recipe.trained_modes
    assert recipe.accumulate(1) >= 1 and choose_precision(recipe.hardware)
    assert (recipe.validation.references or 0) < largest and (recipe.samples.references or 0) < largest


@of_kind("base")
def test_a_base_is_of_a_size_that_can_be(config):
    base = loaded(config)
    assert len(base.unet.attention) == len(base.unet.block_out_channels)
    assert all(width % base.unet.attention_heads == 0 for width in base.unet.block_out_channels)
    assert base.text.width % base.text.heads == 0 and min(base.vae.steps, base.text.steps, base.images) > 0


@of_kind("evaluation")
def test_an_encoder_is_of_a_size_that_can_be(config):
    encoder = loaded(config)
    assert encoder.steps > 0 and 0 < encoder.subject_width <= encoder.embedding


@pytest.mark.slow
def test_what_a_configuration_starts_from_is_what_another_one_makes():
    """Data, base and first weights: in the checkout, or the `out` of a configuration."""
    settings = {config: loaded(config) for config in CONFIGS if config.parent.name in SCHEMAS}
    made = {one.out for one in settings.values()}
    for config, one in settings.items():
        starts_from = [getattr(one, name, None) for name in ("data", "base", "init_from")]
        starts_from = [getattr(name, "path", name) for name in starts_from]  # train's `data` is a section
        for name in starts_from:
            assert not name or name in made or (ROOT / name).exists() or is_hub_name(name), config
