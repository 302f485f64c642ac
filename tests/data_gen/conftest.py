"""One small data set, made once for all tests here, and a reader of it that needs no code of ours."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_gen import run
from data_gen.config import DataConfig, load_config, schema_of
from jedi.report import page


def config_of(out, *extensions: str, **settings) -> DataConfig:
    """A configuration with sections as objects, of the schema that these extensions make."""
    schema = schema_of({"extensions": list(extensions)})
    return schema(out=str(out), extensions=list(extensions), **settings)


def section(name: str, *extensions: str, **values) -> Any:
    """A section of the configuration, checked as a YAML file is."""
    settings = {"out": "unused", "source": "folder", "extensions": list(extensions), name: values}
    return getattr(load_config(settings), name)


def small_config(out, **changes) -> DataConfig:
    settings = {"source": "emoji", "sets": 90, "heldout_sets": 30, "sets_per_unit": 24, "sets_per_shard": 40}
    settings |= {"workers": 1, "contact_sheet_rows": 6}
    return config_of(out, "jedi_toy.emoji", **{**settings, **changes})


def read_sets(folder: Path) -> list[dict]:
    """All sets of one split's folder, in order: the JSON, with `photos` and `masks` added."""
    samples = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
        for name in [name for name in files if name.endswith(".json")]:
            sample, key = json.loads(files[name]), name.removesuffix(".json")
            numbers = range(len(sample["captions"]))
            sample["photos"] = [Image.open(io.BytesIO(files[f"{key}.{i}.png"])) for i in numbers]
            found = [files.get(f"{key}.{i}.mask.png") for i in numbers]
            sample["masks"] = [None if data is None else Image.open(io.BytesIO(data)) for data in found]
            samples.append(sample)
    return samples


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by relative path; but for locks and the log of times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".lock")]
    kept = [path.relative_to(folder) for path in files]
    return {str(path): (folder / path).read_bytes() for path in kept if path.parts[0] != "logs"}


@pytest.fixture(scope="session", autouse=True)
def charts_are_drawn_once():
    """A chart that was drawn is not drawn again: of a small run, most of which is made many times here, that is a
    third. Runs in processes of their own draw all of theirs."""
    drawn, draw = {}, page.draw

    def remembered(chart):
        key = pickle.dumps(chart)
        if key not in drawn:
            drawn[key] = draw(chart)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "draw", remembered)
        yield


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> DataConfig:
    """A finished data set: 90 training and 30 held-out sets of 4 in 4 shards. Read only."""
    config = small_config(tmp_path_factory.mktemp("data_gen") / "small")
    run.run(config)
    return config
