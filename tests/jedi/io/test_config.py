"""Typed configuration: layers, and one clear sentence for every mistake."""

import re
from dataclasses import dataclass, field

import pytest
import yaml

from jedi.errors import InputError
from jedi.io import config as configs
from jedi.io.config import ConfigError
from jedi.training.config import TrainConfig

REQUIRED = ["base=b", "out=o", "data.path=d"]


@dataclass
class Inner:
    rate: float = 0.5
    names: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.rate > 1:
            raise InputError(f"inner.rate is at most 1, got {self.rate}")


@dataclass
class Outer:
    path: str
    seed: int = 0
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    extensions: list[str] = field(default_factory=list)


def test_defaults_then_file_then_overrides(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("path: here\nseed: 1\ninner: {rate: 1e-3, names: [a]}\n")
    config = configs.load(Outer, file, ["seed=2", "inner.names=[b, c]", "limit=null"])
    assert config == Outer("here", 2, None, Inner(0.001, ["b", "c"]))
    assert isinstance(config.inner, Inner)


def test_what_is_saved_loads_again(tmp_path):
    config = configs.load(Outer, None, ["path=ü", "inner.rate=0.25", "limit=3"])
    configs.save(config, tmp_path / "run" / "config.yaml")
    assert configs.load(Outer, tmp_path / "run" / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == configs.to_dict(config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "path is required"),
        (["path=x", "sead=1"], "unknown key 'sead'; did you mean 'seed'?"),
        (["path=x", "inner.rat=1"], "unknown key 'inner.rat'; did you mean 'inner.rate'?"),
        (["path=x", "rate=1"], "unknown key 'rate'; did you mean 'inner.rate'?"),
        (["path=x", "zzz=1"], "unknown key 'zzz'; known here: path, seed"),
        (["path=x", "seed=1.5"], "seed: Value '1.5'"),
        (["path=x", "inner.names=a"], "inner.names is a list, found 'a'"),
        (["path=x", "inner=3"], "inner is a section"),
        (["path=x", "inner.rate=2"], "inner.rate is at most 1, got 2.0"),
        (["path=x", "seed"], "expected key=value"),
        (["path=x", "[={}"], "override '[={}': expected key=value"),
        (["path=x", "inner..rate=1"], "expected key=value"),
        (["path=x", "seed=[1"], "override 'seed=[1'"),
    ],
)
def test_a_mistake_is_named(overrides, message):
    with pytest.raises(ConfigError) as error:
        configs.load(Outer, None, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("path: [x\n", "not readable as YAML"), ("- a\n", "found a list"), ("pth: x\n", "did you mean 'path'?")],
)
def test_a_mistake_in_the_file_names_the_file(tmp_path, text, message):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="a.yaml") as error:
        configs.load(Outer, file)
    assert message in str(error.value)
    with pytest.raises(ConfigError, match=r"no configuration file .*b.yaml"):
        configs.load(Outer, tmp_path / "b.yaml")


def test_extensions_are_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "jedi_test_good.py").write_text("here = 1\n")
    (tmp_path / "jedi_test_bad.py").write_text("import jedi_test_absent\n")
    assert configs.import_extensions(["jedi_test_good"])[0].here == 1
    with pytest.raises(ConfigError, match=r"no module .jedi_test_none."):
        configs.import_extensions(["jedi_test_none"])
    with pytest.raises(ModuleNotFoundError, match="jedi_test_absent"):  # the extension is there: its own error
        configs.import_extensions(["jedi_test_bad"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.betas=[0.9]", "optimizer.betas are two numbers"),
        ("optimizer.schedule=step", "optimizer.schedule"),
        ("conditioning.mutual_prob=1.5", "conditioning.mutual_prob is 1.5; it must be 0 to 1"),
        ("log.loggers=[tensorbord]", "tensorbord is unknown"),
        ("max_steps=0", "max_steps is 0; it must be 1 or more"),
        ("ema.decay=1", "ema.decay"),
        ("hardware.strategy=fsdp", "hardware.strategy is auto, or ddp"),
        ("hardware.strategy=deepspeed_stage_2", "hardware.strategy is auto, or ddp"),
        ("hardware.precision=16-true", "hardware.precision"),
    ],
)
def test_the_recipe_checks_its_ranges(override, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        configs.load(TrainConfig, None, [*REQUIRED, override])


def test_a_batch_is_cut_exactly_or_refused():
    config = configs.load(TrainConfig, None, [*REQUIRED, "batch_size=24", "micro_batch_size=4"])
    assert [config.accumulate(world) for world in (1, 2, 3)] == [6, 3, 2]
    with pytest.raises(ValueError, match="make it a multiple of 20"):
        config.accumulate(5)
    whole = configs.load(TrainConfig, None, [*REQUIRED, "batch_size=24"])
    assert [whole.accumulate(world) for world in (1, 8)] == [1, 1]
    with pytest.raises(ValueError, match="batch_size=24"):
        whole.accumulate(7)


@pytest.mark.parametrize(
    ("mutual", "modes"),
    [(0, ["one_way"]), (1, ["mutual"]), (0.5, ["one_way", "mutual"]), (0.8, ["mutual", "one_way"])],
)
def test_trained_modes_are_those_that_occur(mutual, modes):
    assert configs.load(TrainConfig, None, [*REQUIRED, f"conditioning.mutual_prob={mutual}"]).trained_modes == modes


def test_modes_of_an_extension_are_named():
    config = configs.load(TrainConfig, None, [*REQUIRED, "conditioning.modes=[third, one_way]"])
    assert config.trained_modes == ["third", "one_way"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_of_any_editor(tmp_path, encoding, end):
    (tmp_path / "a.yaml").write_bytes(f"path: ü{end}inner:{end}  names: [a]{end}".encode(encoding))
    assert configs.load(Outer, tmp_path / "a.yaml") == Outer("ü", inner=Inner(names=["a"]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"path: it\x92s", "a.yaml: not a text file in UTF-8 .*save it as UTF-8"),
        (b"path: x\n\tseed: 1\n", r'a.yaml: not readable as YAML: .*in ".*a\.yaml", line 2, column 1'),
    ],
)
def test_files_that_cannot_be_read_are_named_with_the_place(tmp_path, data, said):
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(InputError) as caught:
        configs.load(Outer, tmp_path / "a.yaml")
    assert re.search(said, str(caught.value).replace("\n", " "))
