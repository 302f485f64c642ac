"""The worked example of docs/extending.md, run as it is written there."""

import json
import re
import subprocess

import pytest

from tests.data_gen.conftest import read_sets


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """The example's files, and the data set that its command makes."""
    text = (root / "docs" / "extending.md").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("example")
    for language, name in (("python", "my_data.py"), ("yaml", "stars.yaml")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
        (folder / name).write_text(block, encoding="utf-8")
        assert f"`{name}`" in text
    (command,) = re.findall(r"^```bash\n(.*?)\n```", text, re.M | re.S)
    (folder / "command").write_text(command)
    return folder


@pytest.mark.slow
def test_the_command_makes_the_data_set(folder, python, environment):
    command = (folder / "command").read_text().replace("python", python, 1)
    done = subprocess.run(command.split(), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sets = read_sets(folder / "data" / "stars" / "train")
    dropped = json.loads((folder / "data" / "stars" / "statistics.json").read_text())["splits"]["train"]["dropped"]
    assert list(dropped) == ["colourful below 62"] and len(sets) == 60 - dropped["colourful below 62"] > 10
    for one in sets:
        assert min(one["scores"]["colourful"]) >= 62 and one["subject"]["class"] == "star"
        assert all(image.size == (64, 64) for image in one["photos"])
    page = (folder / "data" / "stars" / "report" / "report.html").read_text()
    assert "Score colourful: both sides of min_score 62" in page
    again = subprocess.run(command.split(), cwd=folder, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and "data_gen:" not in again.stderr  # nothing was missing


def test_every_registry_of_the_table_exists(root):
    import importlib

    text = (root / "docs" / "extending.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `((?:data_gen|jedi)[\w.]*)\.([A-Z_]+)` \|", text)
    assert len(named) == 14
    for module, name in named:
        assert name in vars(importlib.import_module(module))
