"""train.py with sets of different n and size, and with several sources of data: resumed exactly, exported right."""

import json

import pytest
import yaml

import train
from jedi.training import data_module
from jedi.training.export import export
from tests import extensions, tiny
from tests.conftest import write_shard
from tests.jedi.test_sources import encoded, write_tar
from tests.test_train import assert_equal, state, write_recipe

WIDE = (2 * tiny.PIXELS, tiny.PIXELS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`a`: sets of 4, 3 and 2, most of them wide; `b`: sets of 3; `images`: single ones of any size."""
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "a" / "train", "00000", [3, 4] * 4, WIDE, seed=1)
    write_shard(folder / "a" / "train", "00001", [2] * 4, tiny.PIXELS, seed=2)
    write_shard(folder / "a" / "heldout", "00000", [3] * 4, WIDE, seed=3)
    write_shard(folder / "a" / "heldout", "00001", [3] * 2, tiny.PIXELS, seed=4)
    write_shard(folder / "b" / "train", "00000", [3] * 4, tiny.PIXELS, seed=5)
    members = {f"{i}.jpg": encoded((50 + 40 * (i % 2), 50), (20 * i, 0, 90), "JPEG") for i in range(10)}
    write_tar(folder / "images" / "0.tar", members | {f"{i}.txt": b"a colour" for i in range(10)})
    return folder


def launch(recipe, run, *options) -> int:
    return train.main(["--config", str(recipe), f"out={run}", *options])


@pytest.fixture
def seen(monkeypatch):
    """(step, n, (height, width)) of each batch that was trained on."""
    found, collate = [], data_module.collate

    def spy(sets):
        batch = collate(sets)
        shape = batch.images if batch.latents is None else batch.latents
        found.append((batch.step, batch.n, tuple(shape.shape[-2:])))
        return batch

    monkeypatch.setattr(data_module, "collate", spy)
    return found


@pytest.mark.slow
def test_several_sizes_and_sources_resume_exactly_and_are_exported(
    tmp_path, tiny_base, data, seen, capsys, monkeypatch, cache
):
    recipe = write_recipe(tmp_path, tiny_base, data / "a")
    values = yaml.safe_load(recipe.read_text())
    sources = [{"path": str(data / "a"), "weight": 4}, {"path": str(data / "b")}]
    sources += [{"path": str(data / "images"), "kind": "images"}]
    values["data"] |= {"sources": sources, "cache_latents": True, "set_size": 3}
    values |= {"conditioning": {"policy": "until_signal"}, "extensions": ["tests.extensions"]}
    values |= {"max_steps": 8, "validation": {"every_steps": 8, "sets": 4}, "checkpoints": {"every_steps": 3}}
    recipe.write_text(yaml.safe_dump(values))
    assert launch(recipe, tmp_path / "run") == 0
    whole = list(seen)
    assert [step for step, *_ in whole] == list(range(8))
    assert {n for _, n, _ in whole} == {1, 2, 3} and len({size for _, _, size in whole}) == 2
    out = capsys.readouterr()
    assert "66.7% of the steps from" in out.out + out.err

    seen.clear()
    monkeypatch.setenv(extensions.STEP, "4")
    monkeypatch.setenv(extensions.SIGNAL, "SIGTERM")
    assert launch(recipe, tmp_path / "stopped") == 143
    monkeypatch.delenv(extensions.SIGNAL)
    assert launch(recipe, tmp_path / "stopped") == 0
    assert list(dict.fromkeys(seen)) == whole  # the step after the signal had been read
    assert_equal(state(tmp_path / "stopped"), state(tmp_path / "run"))

    folder = tmp_path / "model"
    export(tmp_path / "run", folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert config["sample_size"] == [WIDE[1] // 4, WIDE[0] // 4]
    values["data"]["sources"][0]["weight"] = 3
    recipe.write_text(yaml.safe_dump(values))
    assert launch(recipe, tmp_path / "run", "max_steps=9") == 2
    assert "data.sources' weights was [4.0, 1.0, 1.0], is [3.0, 1.0, 1.0]" in capsys.readouterr().err


@pytest.mark.slow
def test_a_streamed_run_trains_stops_and_goes_on(tmp_path, tiny_base, data, capsys):
    """Sets and single images from one stream; the last steps come from the shard in which the run stands."""
    recipe = write_recipe(tmp_path, tiny_base, "unused")
    values = yaml.safe_load(recipe.read_text())
    values["data"] = {
        "stream": {
            "urls": [f"{data}/a/train/{{00000..00001}}.tar", f"{data}/images/*.tar"],
            "sizes": [list(WIDE), [tiny.PIXELS, tiny.PIXELS]],
            "samples_per_shard": 8,
        },
        "set_size": 3,
        "workers": 2,
    }
    values |= {"max_steps": 4, "checkpoints": {"every_steps": 2}}
    recipe.write_text(yaml.safe_dump(values))
    assert launch(recipe, tmp_path / "run") == 0
    assert "3 tars are streamed; a resumed run goes on at the beginning of a shard" in capsys.readouterr().err
    assert launch(recipe, tmp_path / "run", "max_steps=6") == 0
    assert json.loads((tmp_path / "run" / "done").read_text()) == {"step": 6}
    export(tmp_path / "run", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "unet" / "config.json").read_text())
    assert config["sample_size"] == [WIDE[1] // 4, WIDE[0] // 4]
    assert launch(recipe, tmp_path / "run", "max_steps=7", "data.stream.samples_per_shard=9") == 2
    assert "data fingerprint was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.stream.urls=[a.tar]"], "data.stream.sizes are [[width, height], ...] for what is streamed, got []"),
        (["data.stream={urls: [a.tar], sizes: [[8, 8]]}"], "data.set_size is required with data.stream"),
        (
            ["data.stream={urls: [a.tar], sizes: [[8, 8]]}", "data.cache_latents=true"],
            "data.stream goes with none of data.sources, data.cache_latents and data.cache_text",
        ),
        (
            [
                "data.stream={urls: [a.tar], sizes: [[8, 8]]}",
                "data.set_size=2",
                "data.path=''",
                "samples.every_steps=5",
            ],
            "data.path is required for held-out sets",
        ),
        (["data.path=''"], "data.path is required: put it into the YAML file or pass data.path=..."),
        (
            ["data.stream={urls: ['pipe:id'], sizes: [[8, 8]]}", "data.set_size=2"],
            "pipe:id: this would run a shell command; data.stream.allow_pipe=true allows it",
        ),
        (["data.sources=[{path: x, weight: 0}]"], "data.sources[0].weight is 0.0; it must be above 0"),
        (["data.sources=[{path: x, sizes: [[8]]}]"], "data.sources: sizes are [[width, height], ...], got [[8]]"),
        (["data.sources=[{path: x, kind: images}]"], "no source has sets, so give x its sizes"),
    ],
)
def test_sources_that_make_no_sense_are_refused_in_one_line(tmp_path, tiny_base, data, capsys, options, message):
    recipe = write_recipe(tmp_path, tiny_base, data / "a")
    assert launch(recipe, tmp_path / "run", *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py")]
    assert message in line
