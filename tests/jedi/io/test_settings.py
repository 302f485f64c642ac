"""Numbers out of range, YAML that is none, in every schema: accepted within the field's range, or refused by name."""

import dataclasses
import random
import typing

import pytest
import yaml

import train
from data_gen import __main__ as data_gen
from data_gen.config import load_config, schema
from jedi.errors import InputError
from jedi.io.config import ConfigError, _fields, load
from jedi.io.ranges import Range
from jedi.training.config import TrainConfig
from jedi_toy.encoder import __main__ as encoder
from jedi_toy.encoder.config import EncoderConfig
from jedi_toy.tiny_base import __main__ as tiny_base
from jedi_toy.tiny_base.config import TinyBaseConfig

SCHEMAS = (TrainConfig, TinyBaseConfig, EncoderConfig, schema())
LONG = ["9" * 300, "-" + "9" * 300, "9" * 5000, "1" + "0" * 400]
NEVER = [*LONG, ".nan", "nan", ".inf", "-.inf", "[.nan]"]
NEVER += ["[1", "{a: 1}", "text", "[={}", "{", "'", "\x00", "&a [*a]", "="]
ODD = [*NEVER, "-1", "0", "1e12", "-1e12", "true", "a: b: c", "[[]]", "!!python/object:os.system x"]
LISTS = ["[1e12,1e12]", "[-1e12,1e12]", "[-1,1]", "[.nan,1]"]


def levels(schema) -> list[type]:
    """The schema without its sections, and each section, at any depth: what is checked together."""
    fields, found = [], []
    for field in dataclasses.fields(schema):
        kind = _fields(schema, ranges=True)[field.name]
        if dataclasses.is_dataclass(kind):
            found += levels(kind)
        else:
            fields.append((field.name, kind, field))
    if not found:
        return [schema]
    names = {name: getattr(schema, name) for name in ("__post_init__",) if schema is SCHEMAS[-1]}
    return [dataclasses.make_dataclass(schema.__name__, fields, namespace=names), *found]


def numbers(schema) -> dict[str, typing.Any]:
    """The numeric fields and their types."""
    return {name: kind for name, kind in _fields(schema, ranges=True).items() if {int, float} & set(atoms(kind))}


def atoms(kind) -> list:
    """The types and ranges that a type is made of."""
    parts = typing.get_args(kind)
    return [kind] if not parts else [atom for part in parts for atom in atoms(part)]


def needed(schema) -> list[str]:
    return [f"{x.name}=x" for x in dataclasses.fields(schema) if x.default is x.default_factory is dataclasses.MISSING]


def accepts(schema, key: str, text: str) -> bool:
    """Whether a value is accepted; all errors must be ours, name the key, and be fit to read."""
    try:
        load(schema, None, [*(x for x in needed(schema) if x != f"{key}=x"), f"{key}={text}"])
        return True
    except ConfigError as error:
        said = str(error)
    if key not in said or len(said) > 1000:
        pytest.fail(f"{schema.__name__}.{key}={text[:20]}: {said[:300]}")
    return False


@pytest.mark.parametrize(
    "schema",
    [pytest.param(schema, marks=() if schema is EncoderConfig else pytest.mark.slow) for schema in SCHEMAS],
    ids=lambda schema: schema.__name__,
)
def test_every_number_of_every_schema(schema):
    tried, passed, endless = 0, [], []
    for level in levels(schema):
        for key, kind in numbers(level).items():
            texts = [*ODD, *(LISTS if typing.get_origin(kind) is list else [])]
            accepted = {text for text in texts if accepts(level, key, text)}
            tried += len(texts)
            passed += [f"{level.__name__}.{key}={text[:20]}" for text in accepted.intersection([*NEVER, "[.nan,1]"])]
            endless += [f"{level.__name__}.{key}"] * (len(accepted & {"1e12", "-1e12", *LISTS[:2]}) > 1)
    print(f"{schema.__name__}: tried {tried}, mishandled {len(passed) + len(endless)}")
    assert not passed and not endless and tried > 500


@pytest.mark.parametrize("schema", SCHEMAS[:3], ids=lambda schema: schema.__name__)
def test_a_number_is_accepted_exactly_within_its_range(schema):
    draw, tried = random.Random(0), 0
    for level in levels(schema):
        for key, kind in numbers(level).items():
            (within,) = [atom for atom in atoms(kind) if isinstance(atom, Range)]
            alone = dataclasses.make_dataclass("Alone", [(key, kind)])
            for value in (0, 1, -1, 0.5, draw.uniform(-2, 2), draw.uniform(0, 1), draw.randint(0, 5000), 1e-12):
                value = int(value) if int in atoms(kind) else float(value)
                deep = str(kind).count("list[")  # of lists in lists
                text = "[" * deep + repr(value) + "]" * deep
                assert accepts(alone, key, text) == (value in within), (level, key, value)
                tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loss.gamma=-1", "loss.gamma is -1.0; it must be 0 or more"),
        ("conditioning.reference_weights=[1,.nan]", "conditioning.reference_weights[1] is nan; it must be 0 or more"),
        ("validation.every_steps=-1", "validation.every_steps is -1; it must be 0 or more"),
        ("ema.decay=1", "ema.decay is 1.0; it must be 0 to below 1"),
        ("optimizer.betas=[0.9,1]", "optimizer.betas[1] is 1.0; it must be 0 to below 1"),
        ("max_steps=" + "9" * 300, "max_steps is a whole number of more than 20 digits; it must be 1 or more"),
        ("sampling_defaults.x=.nan", "sampling_defaults.x is nan; it must be a finite number of at most 64 bits"),
    ],
)
def test_a_number_in_a_section_is_named_by_its_whole_key(setting, said):
    with pytest.raises(ConfigError) as error:
        load(TrainConfig, None, ["base=x", "out=x", "data.path=x", setting])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("augment.share=1.5", "augment.share is 1.5; it must be 0 to 1"),
        ("augment.edges.feather=-1", "augment.edges.feather is -1.0; it must be 0 to 64"),
        ("compose.share=-1", "compose.share is -1.0; it must be 0 to 1"),
        ("filter.identity.min_mean=1.5", "filter.identity.min_mean is 1.5; it must be -1 to 1"),
        ("collage.width=8", "collage.width is 8; it must be 16 to 8192"),
        ("collage.num_inference_steps=0", "collage.num_inference_steps is 0; it must be 1 to 1000"),
    ],
)
def test_a_number_of_a_part_of_the_data_engine_is_named_by_its_whole_key(setting, said):
    with pytest.raises(ConfigError) as error:
        load_config(None, ["out=x", "source=folder", setting])
    assert said in str(error.value)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "a: &a [*a]", "[" * 5000, "out: [1", "a: b: c", "x: [={}", "a: 1\na: 2", "- 1", "3", "\x00", "out: 'a",
     "out: !!python/object/apply:os.system [x]", "a: 1\n---\nb: 2", "out: *nowhere", "? [a]\n: 1", "out: ${nowhere}"],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_said_in_words(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load(TrainConfig, tmp_path / "x.yaml", ["base=x", "data.path=x"])
    assert "x.yaml" in str(error.value) or "nowhere" in str(error.value)


def test_an_error_of_yaml_says_where(tmp_path):
    (tmp_path / "x.yaml").write_text("out: x\nseed: [1\n")
    with pytest.raises(ConfigError, match=r"x\.yaml: not readable as YAML: while parsing.*line 2") as error:
        load(TrainConfig, tmp_path / "x.yaml")
    assert "line 3" in str(error.value)


COMMANDS = {train.main: [], tiny_base.main: [], encoder.main: [], data_gen.main: ["run"]}


@pytest.mark.parametrize("main", COMMANDS, ids=lambda main: main.__module__)
def test_a_command_prints_its_settings(main, capsys):
    assert main([*COMMANDS[main], "--print-config", "out=here", "seed=7"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    kind = {"train": TrainConfig, "data_gen.__main__": schema()}.get(main.__module__)
    assert (printed["out"], printed["seed"]) == ("here", 7)
    if kind:
        assert printed.keys() == _fields(kind).keys()
    if main is train.main:
        assert printed["base"] == "???" and printed["optimizer"]["lr"] == 1e-5


def test_what_is_printed_is_a_file_of_settings(tmp_path, capsys):
    given = ["base=x", "out=y", "data.path=z", "optimizer.lr=3e-4", "sampling_defaults={guidance_scale: 2}"]
    assert train.main(["--print-config", *given]) == 0
    (tmp_path / "x.yaml").write_text(capsys.readouterr().out)
    assert load(TrainConfig, tmp_path / "x.yaml") == load(TrainConfig, None, given)
    assert train.main(["--print-config", "optimizer.lrr=1"]) == 2
    assert "did you mean 'optimizer.lr'?" in capsys.readouterr().err
